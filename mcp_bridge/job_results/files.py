"""Files of rows, a JSON text a line, taken apart while they come: rows that are held to be put in order, or are too many for that."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Collection, Iterator

import msgspec
from msgspec import Raw

from mcp_bridge.job_results.order import HeldRows
from mcp_bridge.job_results.places import Row, levelled
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.job_results.view import View
from mcp_bridge.rest_client import AnswerTooLarge
from mcp_bridge.shortening import MOST
from openapi.json_text import UNREADABLE, read_json

PORTION = 1 << 20
"""Bytes of lines that are read together, beside the event loop."""

SEEN = 200
"""Bytes that are kept of a line that is no JSON, or too long."""

_LINE = re.compile(rb"\S[^\n]*")  # what is empty costs no step of its own


class WholeLines:
    """Makes portions of whole lines of the pieces of a text. A line of more than `longest` bytes is cut to its beginning."""

    def __init__(self, feed: Callable[[bytes], Awaitable[bool]], longest: int) -> None:
        self.feed = feed
        self.longest = longest
        self._begun = bytearray()
        self._skipping = False  # the rest of a line that is too long

    async def take(self, piece: bytes) -> bool:
        """Takes the next piece, the last one empty; true when no more is wanted."""
        ended = not piece
        if self._skipping:
            _, found, piece = piece.partition(b"\n")
            self._skipping = not found
        self._begun += piece
        if len(self._begun) < PORTION and not ended:
            return False
        end = len(self._begun) if ended else self._begun.rfind(b"\n") + 1
        if not end and len(self._begun) > self.longest:
            self._skipping = True
            del self._begun[SEEN:]
            end = SEEN
        if not end:
            return ended
        lines = bytes(self._begun[:end])
        del self._begun[:end]
        return await self.feed(lines) or ended


class FileRows:
    """Rows of files of results: held up to `most` bytes, and beyond that only looked at, in the order of the files."""

    def __init__(self, view: View, most: int) -> None:
        self.view = view
        self.held: HeldRows | None = HeldRows(view.reader)
        self.page = view.page()
        self._most = most

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self.held.size if self.held else 0

    def take(self, lines: bytes, failed: bool | None) -> bool:
        """Reads some lines of a file, in which all rows `failed` if that is known."""
        for text in texts_in(lines):
            if self.held is None:
                self._look(self.view.reader.row(text, failed))
                continue
            self.held.add(text, failed)
            if self.held.size > self._most or len(self.held.texts) > MOST:
                rows, self.held = self.held, None
                for row in rows:
                    self._look(row)
        return False

    def _look(self, row: Row) -> None:
        self.view.groups.take(self.view.reader, row)
        self.page.take(row)


class InputIds:
    """Where in an input each id stands that is `wanted`: what a caller may put into a file has no bound."""

    def __init__(self, reader: ResultRows, wanted: Collection[str]) -> None:
        self.positions: dict[str, int] = {}
        self._reader = reader
        self._wanted = wanted
        self._seen = 0

    def take(self, lines: bytes) -> bool:
        """Reads some lines; true when no more are wanted."""
        for text in texts_in(lines):
            name = self._reader.id_text(self._reader.row(text, failed=False))
            if name is not None and name in self._wanted:
                self.positions.setdefault(name, self._seen)
            self._seen += 1
        return len(self.positions) == len(self._wanted)


def texts_in(lines: bytes) -> Iterator[Raw]:
    """The JSON text of each line that has something; of one that is no JSON its beginning, as a text."""
    for found in _LINE.finditer(lines):
        line = found[0].removeprefix(BOM_UTF8).strip()
        if line:
            try:
                yield _read(line)
            except (AnswerTooLarge, *UNREADABLE):
                yield Raw(msgspec.json.encode(line[:SEEN].decode(errors="replace")))


def _read(line: bytes) -> Raw:
    try:
        return read_json(line, Raw)
    except RecursionError:
        return read_json(levelled(line), Raw)
