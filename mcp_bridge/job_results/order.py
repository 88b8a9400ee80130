"""Rows of results that are held in memory, in an order that is the same whenever and from wherever they come.

By input where that is known; otherwise by id, numbers in it by their value; those without an id last. Equal ones by content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import groupby

import msgspec
from msgspec import Raw

from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results.places import Row
from mcp_bridge.job_results.rows import ResultRows

NUMBERS = 20
"""Numbers of an id that count by their value; the sorting key of one with thousands would be several times its size."""

_NUMBER = re.compile(r"0*([0-9]+)")


class HeldRows:
    """All rows of a job, as they came until they are sorted. Of each no more is kept than its text, its id and whether it failed."""

    def __init__(self, reader: ResultRows) -> None:
        self.reader = reader
        self.texts: list[Raw] = []
        self.size = 0
        """Bytes of the texts, and characters of the ids."""
        self._failed = bytearray()
        self._ids: list[str | None] = []
        self._order: list[int] | None = None

    def add(self, text: Raw, failed: bool | None = None) -> None:
        """Takes one more row."""
        row = self.reader.row(text, failed)
        self.texts.append(text)
        name = self.reader.id_text(row)
        self.size += len(text) + len(name or "")
        self._failed.append(bool(row.failed))
        self._ids.append(name)

    def add_all(self, texts: Iterable[Raw]) -> None:
        """Takes rows of which it is not known whether they failed."""
        for text in texts:
            self.add(text)

    @property
    def ids(self) -> frozenset[str]:
        """All ids there are, until the rows are sorted."""
        return frozenset(name for name in self._ids if name is not None)

    def sort(self, positions: Mapping[str, int] | None = None) -> None:
        """Puts them in order, that of the input when its ids are known with their `positions`."""
        known = positions or {}
        keys = [_key(name, known) for name in self._ids]
        order: list[int] = []
        for _, alike in groupby(sorted(range(len(keys)), key=keys.__getitem__), keys.__getitem__):
            several = [*alike]
            if len(several) > 1:
                several.sort(key=lambda index: (self._ids[index] or "", _digest(self.texts[index])))
            order += several
        self._order = order
        self._ids.clear()

    def __iter__(self) -> Iterator[Row]:
        for index in range(len(self.texts)) if self._order is None else self._order:
            yield self.reader.row(self.texts[index], bool(self._failed[index]))


def _key(name: str | None, positions: Mapping[str, int]) -> str:
    if name is None:
        return "2"
    position = positions.get(name)
    return f"0{position:012}" if position is not None else f"1{natural(name)}"


def natural(name: str) -> str:
    """A text that sorts as the name does when the numbers in it count by their value: r2 before r10."""
    return _NUMBER.sub(_numbered, name, count=NUMBERS)


def _numbered(found: re.Match[str]) -> str:
    digits = found[1]
    return f"0{len(digits):07}{digits}"


def _digest(text: Raw) -> bytes:
    """The same for rows that mean the same, however they are written, unless they are large."""
    content = bytes(text)
    if len(text) < LARGE:
        with suppress(ValueError, RecursionError, OverflowError):  # a number that is too large, say
            content = msgspec.json.encode(msgspec.json.decode(text), order="sorted")
    return blake2b(content, digest_size=16).digest()
