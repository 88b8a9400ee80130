"""The terminal: one writer for the stack's words, its processes' log lines and a progress bar."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from typing import TextIO

_CELLS = 24
_BUFFERED_LINES = 400
_COLOURS = {"sandbox": 36, "rest": 33, "mcp": 35}


class Screen:
    """Says lines and shows one bar. Safe to use from several threads.

    On a terminal the bar stays the lowest line and is redrawn in place; elsewhere each change is a line of its own. With
    `buffer_logs`, log lines wait until `release`, so that the first screen stays readable.
    """

    def __init__(self, output: TextIO = sys.stdout, *, buffer_logs: bool = False) -> None:
        self._output = output
        self._terminal = output.isatty()
        self._full, self._empty = "█░" if "utf" in (output.encoding or "").lower() else "#."
        self._lock = threading.RLock()
        self._bar = ""
        self._buffer: deque[str] | None = deque(maxlen=_BUFFERED_LINES) if buffer_logs else None

    def say(self, line: str) -> None:
        """Shows one line."""
        with self._lock:
            self._put(f"{self._erasure()}{line}\n{self._bar if self._terminal else ''}")

    def progress(self, done: int, total: int, label: str) -> None:
        """Shows that `done` of `total` are done, if that is news."""
        full = _CELLS * done // total if total else 0
        cells = f"{self._full * full}{self._empty * (_CELLS - full)}  " if self._terminal else ""
        bar = f"    {cells}{done:>{len(str(total))}}/{total}  {label}"
        with self._lock:
            if bar != self._bar:
                self._put(f"{self._erasure()}{bar}" if self._terminal else f"{bar}\n")
                self._bar = bar

    def end_progress(self) -> None:
        """Leaves the bar as it stands; what is said next comes below it."""
        with self._lock:
            if self._bar and self._terminal:
                self._put("\n")
            self._bar = ""

    def log(self, name: str, line: str) -> None:
        """Shows a line that the process `name` wrote, or buffers it."""
        text = f"{name:<7} | "
        if self._terminal:
            text = f"\033[{_COLOURS.get(name, 0)}m{text}\033[0m"
        with self._lock:
            if self._buffer is None:
                self.say(text + line)
            else:
                self._buffer.append(text + line)

    def release(self, *, show: bool = False) -> None:
        """Lets log lines through from now on; with `show`, also those buffered so far."""
        with self._lock:
            lines, self._buffer = self._buffer or (), None
            for line in lines if show else ():
                self.say(line)

    def _erasure(self) -> str:
        return "\r\033[2K" if self._bar and self._terminal else ""

    def _put(self, text: str) -> None:
        try:
            print(text, end="", file=self._output, flush=True)
        except OSError:
            # The reader has gone (`make run | head`): all stops, which must not fail for that once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._output.fileno())
            os.kill(os.getpid(), signal.SIGTERM)
