"""The terminal: one writer for the stack's words, its processes' log lines and a progress bar."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import TextIO

from honcho.manager import SYSTEM_PRINTER_NAME  # type: ignore[import-untyped]
from honcho.printer import Message  # type: ignore[import-untyped]

_CELLS = 24
_HELD_LINES = 400


class Screen:
    """Says lines and shows one bar. Safe to use from several threads.

    On a terminal the bar stays the lowest line and is redrawn in place; elsewhere each change is a
    line of its own. It is also honcho's printer (`width`, `write`): with `hold`, log lines are held
    back until `release`, so that the first screen stays readable.
    """

    width = 0

    def __init__(self, output: TextIO = sys.stdout, *, hold: bool = False) -> None:
        self._output = output
        self._terminal = output.isatty()
        self._full, self._empty = "█░" if "utf" in (output.encoding or "").lower() else "#."
        self._lock = threading.RLock()
        self._bar = ""
        self._held: deque[str] | None = deque(maxlen=_HELD_LINES) if hold else None

    def say(self, line: str = "") -> None:
        """Shows one line."""
        with self._lock:
            self._put(f"{self._erasure()}{line}\n{self._bar if self._terminal else ''}")

    def progress(self, done: int, total: int, label: str) -> None:
        """Shows that `done` of `total` are done, if that is news."""
        full = _CELLS * done // total if total else 0
        counted = f"{done:>{len(str(total))}}/{total}  {label}"
        bar = (
            f"    {self._full * full}{self._empty * (_CELLS - full)}  {counted}"
            if self._terminal
            else f"    {counted}"
        )
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

    def release(self, *, show: bool = False) -> None:
        """Lets log lines through from now on; with `show`, also those held back so far."""
        with self._lock:
            held, self._held = self._held, None
            if show and held:
                for line in held:
                    self.say(line)

    def write(self, message: Message) -> None:
        """Takes what a process wrote; honcho's own remarks are dropped: the stack has its words."""
        if message.name == SYSTEM_PRINTER_NAME:
            return
        text = (
            message.data.decode("utf-8", "replace")
            if isinstance(message.data, bytes)
            else message.data
        )
        prefix = f"{message.name:<{self.width}} | "
        if self._terminal and message.colour:
            prefix = f"\033[{message.colour}m{prefix}\033[0m"
        with self._lock:
            for line in text.splitlines():
                if self._held is None:
                    self.say(prefix + line)
                else:
                    self._held.append(prefix + line)

    def _erasure(self) -> str:
        return "\r\033[2K" if self._bar and self._terminal else ""

    def _put(self, text: str) -> None:
        try:
            print(text, end="", file=self._output, flush=True)
        except OSError:
            # The reader has gone (`make run | head`). Stopping must not fail for that.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._output.fileno())
