"""The bytes of a file: in memory while they are few, else in a temporary file without a name, which ends with the process however that ends."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from tempfile import TemporaryFile

PIECE = 1 << 18
"""Bytes that are read at once."""

IN_MEMORY = 1 << 16
"""Bytes of a file that need no file of the system."""

_BLANK = re.compile(rb"\n\s")
"""Where a line that may be blank starts."""


class TooLarge(Exception):
    """The content is beyond its limit."""


class Spool:
    """Bytes that are first written, then read by any number of threads at once; up to `in_memory` of them need no disk."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.size = 0
        self._in_memory = in_memory
        self._memory = bytearray()
        self._disk = -1  # a file descriptor, once there is one

    def __del__(self) -> None:
        if self._disk >= 0:
            os.close(self._disk)

    def write(self, piece: bytes) -> None:
        """Adds bytes. Raises OSError when the disk is full."""
        self.size += len(piece)
        if self._disk < 0 and self.size <= self._in_memory:
            self._memory += piece
            return
        if self._disk < 0:
            with TemporaryFile() as file:
                self._disk = os.dup(file.fileno())
            piece = bytes(self._memory) + piece
            self._memory.clear()
        while piece:
            piece = piece[os.write(self._disk, piece) :]

    def seek(self, offset: int) -> None:
        """What who parses a form does at the end of writing; what is written can be read at once."""

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; fewer at the end."""
        if self._disk < 0:
            return bytes(self._memory[start : start + size])
        return os.pread(self._disk, size, start)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `stop` (None: the end), piece by piece."""
        stop = self.size if stop is None else stop
        while start < stop and (piece := self.read(start, min(PIECE, stop - start))):
            yield piece
            start += len(piece)


class Content(Spool):
    """The bytes of a file, of which is known what their hash is and how many lines they have; no more than `limit`, unless None."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self._limit = limit
        self._hash = hashlib.sha256()
        self._lines, self._blank = 0, True

    @property
    def sha256(self) -> str:
        """The hexadecimal hash of all that was written."""
        return self._hash.hexdigest()

    @property
    def lines(self) -> int:
        """How many lines are not blank."""
        return self._lines + (not self._blank)

    def write(self, piece: bytes) -> None:
        """Adds bytes. Raises TooLarge, and OSError when the disk is full."""
        if self._limit is not None and self.size + len(piece) > self._limit:
            raise TooLarge
        super().write(piece)
        self._hash.update(piece)
        self._count(piece)

    def places(self) -> Iterator[tuple[int, bytes]]:
        """Each line, without its end, and where it starts."""
        start = 0
        begun: list[bytes] = []
        for piece in self.pieces():
            *ended, rest = piece.split(b"\n")
            for end in ended:
                line = b"".join([*begun, end])
                yield start, line
                start, begun = start + len(line) + 1, []
            begun.append(rest)
        if line := b"".join(begun):
            yield start, line

    def _count(self, piece: bytes) -> None:
        """Counts lines that are not blank; the last one may go on in the next piece."""
        ends = piece.count(b"\n")
        if ends and not self._blank and not _BLANK.search(piece):  # nearly always, and quick
            self._lines, self._blank = self._lines + ends, piece.endswith(b"\n")
            return
        first, *others = piece.split(b"\n")
        self._blank = self._blank and not first.strip()
        if others:
            *others, last = others
            self._lines += (not self._blank) + sum(map(bool, map(bytes.strip, others)))
            self._blank = not last.strip()
