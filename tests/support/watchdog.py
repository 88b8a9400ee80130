"""`watchdog.py MARK`: waits for the end of its standard input, then kills every process that has MARK in its environment.

The plugin `leftovers` starts one for each process that runs tests, and alone holds the other end of its input: so what tests
started ends with them, also when they were killed. It is in a session of its own, and does nothing where there is no /proc.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATIENCE = 10.0
"""Seconds for which it kills what comes after those that it killed."""


def marked(mark: str) -> Iterator[int]:
    """The processes that have `mark` in the environment that they were started with, but those that have ended."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end = time.monotonic() + PATIENCE
    while (pids := [*marked(sys.argv[1])]) and time.monotonic() < end:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
