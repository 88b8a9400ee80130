"""Writing lines without ever making a request wait for the reader of a pipe, or for a disk.

While a destination takes nothing, lines above the queue's limit are dropped and counted; the count is written as soon
as lines can be.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .batches import Batches

Stream = int | Path
"""A file descriptor, or a file that is opened for appending and found again after it was moved away."""

Line = bytes | Callable[[], bytes]
"""A line, or what makes it when it is written; that must not fail."""

MAX_WAITING = 4096
"""Lines that may wait; each has at most `logs.MAX_LINE` bytes."""

_RETRY = 0.05


class Lines:
    """A destination of lines. Any thread may `put`; safe to make before a fork.

    `lost` makes the line that tells how many were dropped. Raises OSError when a file cannot be opened.
    """

    def __init__(self, destination: Stream, lost: Callable[[int], bytes]) -> None:
        self.destination = destination
        self.dropped = 0
        self._lost = lost
        self._lock = threading.Lock()
        self._file = destination if isinstance(destination, int) else _open(destination)
        self._batches: Batches[Line] = Batches("lines", self._write_batch)

    def put(self, line: Line) -> None:
        """Has `line`, which ends with a line feed, written soon; drops it when too many wait."""
        if len(self._batches) >= MAX_WAITING:
            self._drop(1)
        else:
            self._batches.put(line)

    def flush(self, seconds: float) -> None:
        """Waits until all lines are written, `seconds` at most."""
        self._batches.flush(seconds)

    def _write_batch(self, lines: list[Line]) -> None:
        dropped = self.dropped
        try:
            self._write(
                b"".join(line if isinstance(line, bytes) else line() for line in lines)
                + (self._lost(dropped) if dropped else b"")
            )
        except OSError:  # nobody reads, or the disk is full
            self._drop(len(lines))
        else:
            self._drop(-dropped)

    def _drop(self, count: int) -> None:
        if count:
            with self._lock:
                self.dropped += count

    def _write(self, content: bytes) -> None:
        if isinstance(self.destination, Path) and not _same(self.destination, self._file):
            os.close(self._file)
            self._file = _open(self.destination)
        rest = memoryview(content)
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
            except BlockingIOError:  # another process made the shared pipe non-blocking
                time.sleep(_RETRY)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _same(path: Path, file: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False
