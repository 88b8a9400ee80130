"""Lines of an answer that is text, picked out while it comes: nothing is kept but those that a result is to show."""

from __future__ import annotations

from mcp_bridge.shortening import beginning, compact, weigh

CUT_OFF = "…"
"""Ends a line that is not shown to its end."""


class Lines:
    """The `wanted` lines of a text, counted from 0, of which no more are kept than weigh about `limit` in JSON.

    `take` its pieces, the last one empty.
    """

    def __init__(self, wanted: range, limit: int) -> None:
        self.first = wanted.start
        self.kept: list[str] = []
        self.seen = 0
        """Lines that have come to their end."""
        self.cut = ""
        """What was left out of a line that is too long by itself."""
        self.replaced = False
        """Whether there were bytes that are no UTF-8."""
        self._wanted = wanted
        self._left = max(limit, 0)
        self._full = False  # a wanted line did not fit
        self._more = False
        self._line = bytearray()  # as much of it as could be shown
        self._size = 0  # bytes of it so far

    @property
    def next_from(self) -> int | None:
        """The line to go on with; None after the last one."""
        return self.first + len(self.kept) if self._more else None

    @property
    def short(self) -> bool:
        """Whether there was no room for all that is wanted."""
        return self._more and len(self.kept) < len(self._wanted)

    def take(self, piece: bytes) -> bool:
        """Reads the next piece; true when the text has ended, or no more of it is wanted."""
        if not piece:
            if self._size and not self._full:
                self._end_line()
            self._more = self._full
            return True
        at = self._skip(piece)
        while at < len(piece):
            if self._full or self.seen == self._wanted.stop or (self.kept and self._left <= 0):
                self._more = True
                return True
            end = piece.find(b"\n", at)
            stop = len(piece) if end < 0 else end
            self._size += stop - at
            room = self._left - len(self._line)  # a byte weighs 1 at least
            self._line += piece[at : min(stop, at + max(room, 0))]
            if end >= 0:
                self._end_line()
            elif self.kept and self._size > self._left:
                self._full = True  # its end need not be waited for
            at = stop + 1
        return False

    def _skip(self, piece: bytes) -> int:
        """Where in a piece the lines begin that are wanted; its length when they do not."""
        if self.seen >= self.first:
            return 0
        ends = piece.count(b"\n")
        if self.seen + ends < self.first:
            self.seen += ends
            self._size = len(piece) - piece.rfind(b"\n") - 1 + (0 if ends else self._size)
            return len(piece)
        rest = piece.split(b"\n", self.first - self.seen)[-1]
        self.seen, self._size = self.first, 0
        return len(piece) - len(rest)

    def _end_line(self) -> None:
        self.seen += 1
        if self.seen > self.first:
            self._keep()
        self._line.clear()
        self._size = 0

    def _keep(self) -> None:
        """Keeps the line, or as much of it as fits when it is the first one."""
        whole = len(self._line) == self._size
        text = self._line.removesuffix(b"\r").decode(errors="replace")
        shown = beginning(text, self._left)
        if shown != text or not whole:
            if self.kept:
                self._full = True
                return
            where = f"Line {self.first} is shortened to its first {len(shown)} characters"
            self.cut = f"{where}, of {self._size} bytes in all"
        self.replaced |= not self._line.startswith(shown.encode())
        self._left = 0 if self.cut else self._left - weigh(compact(shown)) - 2
        self.kept.append(shown + CUT_OFF if self.cut else shown)
