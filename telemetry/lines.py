"""Writing lines without ever making a request wait for the reader of a pipe, or for a disk.

Lines are queued, and one daemon thread a destination writes them, many at a time. While the destination takes nothing,
lines above the queue's limit are dropped and counted; whoever watches is told at once, and the count is written as soon as
lines can be.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .shared import SharedNumber

Stream = int | Path
"""A file descriptor, or a file that is opened for appending and found again after it was moved away."""

Line = bytes | Callable[[], bytes]
"""A line, or what makes it when it is written; that must not fail."""

MAX_WAITING = 4096
"""Lines that may wait; each has at most `logs.MAX_LINE` bytes."""

GATHER = 0.02
"""Seconds for which the thread lets lines gather: waking it for each would cost more than writing."""

LAST_WORDS = 1.0
"""Seconds that a process which ends waits for its lines to be taken."""

TRY_AGAIN = 5.0
"""Seconds after which a destination that took nothing is tried again, though no new line came."""

_RETRY = 0.05


class Lines:
    """A destination of lines. Any thread may `put`. Safe to make before a fork: a child begins with an empty queue.

    `lost` makes the line that tells how many were dropped. `watch` is called, by any thread, with how many lines were lost
    just now, and with 0 when lines were written. Raises OSError when a file cannot be opened.
    """

    def __init__(
        self,
        destination: Stream,
        lost: Callable[[int], bytes],
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.destination = destination
        self._lost = lost
        self._watch = watch
        self._file = destination if isinstance(destination, int) else _open(destination)
        # 1 while the destination ends within a line that a full disk cut, whichever process wrote that.
        self._cut = SharedNumber()
        self._cut.value = _ends_within_line(destination)
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self.dropped = 0
        self._waiting: deque[Line] = deque()
        self._gathering = False
        self._writing = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, line: Line) -> None:
        """Has `line`, which ends with a line feed, written soon; drops it when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
            self._watch(1)
            return
        self._waiting.append(line)
        if not self._gathering:
            self._gathering = True
            self._wake.set()
        if self._thread is None:
            self._start()

    def flush(self, seconds: float) -> None:
        """Waits until all lines are written, `seconds` at most."""
        end = time.monotonic() + seconds
        if self._waiting and self._thread is None:
            self._start()
        while (self._waiting or self._writing) and time.monotonic() < end:
            time.sleep(GATHER / 4)

    def _start(self) -> None:
        """Starts the thread. When the system has none to give, the lines wait for the next that comes, which tries again."""
        with self._lock, contextlib.suppress(RuntimeError):
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="lines", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while True:
            self._wake.wait(TRY_AGAIN if self.dropped else None)
            time.sleep(GATHER)
            self._wake.clear()
            self._writing = True
            self._gathering = False  # before the queue is emptied: who puts after that wakes us
            self._write_waiting()
            self._writing = False

    def _write_waiting(self) -> None:
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [line if isinstance(line, bytes) else line() for line in waiting]
        dropped = self.dropped
        told = [self._lost(dropped)] if dropped else []
        if not lines and not told:
            return
        written = self._write(lines + told)
        if written == len(lines) + len(told):
            self._drop(-dropped)
            self._watch(0)
        elif lost := max(0, len(lines) - written):
            self._drop(lost)
            self._watch(lost)

    def _drop(self, count: int) -> None:
        if count:
            with self._lock:
                self.dropped += count

    def _write(self, lines: list[bytes]) -> int:
        """How many lines were written whole: fewer than all when nobody reads, or the disk is full."""
        start = content = b""
        written = 0
        with contextlib.suppress(OSError):
            self._find_again()
            start = b"\n" if self._cut.value else b""
            content = start + b"".join(lines)
            while written < len(content):
                try:
                    written += os.write(self._file, memoryview(content)[written:])
                except BlockingIOError:  # another process made the shared pipe non-blocking
                    time.sleep(_RETRY)
        cut = not content[:written].endswith(b"\n")
        if written and (cut or start):
            self._cut.value = cut
        ends = itertools.accumulate((len(line) for line in lines), initial=len(start))
        return sum(end <= written for end in itertools.islice(ends, 1, None))

    def _find_again(self) -> None:
        """Opens the file anew when it was moved away. OSError when it cannot be."""
        if isinstance(self.destination, Path) and not _same(self.destination, self._file):
            opened = _open(self.destination)
            # In one step: a number that were free for a moment would soon be somebody else's socket.
            os.dup2(opened, self._file, inheritable=False)
            os.close(opened)
            self._cut.value = 0.0


_all: weakref.WeakSet[Lines] = weakref.WeakSet()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _ends_within_line(destination: Stream) -> bool:
    """Whether a full disk has cut what was written to a file last, as far as can be told."""
    with contextlib.suppress(OSError):
        if isinstance(destination, Path) and stat.S_ISREG(destination.stat().st_mode):
            with destination.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() != b"\n"
    return False


def _same(path: Path, file: int) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False


def _flush_all() -> None:
    for lines in list(_all):
        lines.flush(LAST_WORDS)


def _begin_in_child() -> None:
    for lines in list(_all):
        lines._begin()  # the parent's thread does not exist here, and its lines are the parent's


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_begin_in_child)
