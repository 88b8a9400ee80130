"""What is wrong with a table's requests, found in one pass before anything is sent; and what they are, when nothing is.

Of each row no more is kept than a hash of its id, 8 bytes, and more than its place only where lines are blank or at fault.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from .lines import Lines
from .sources import Fault, fault_at

MAX_FAULTS = 100
"""How many faults are told; more are counted."""

AT_ONCE = 1 << 20
"""Ids that are compared at a time, which takes some 100 MB."""


class Checked(msgspec.Struct):
    """What a check found. `size` is in bytes, with line ends; `digest` the SHA-256 of all request lines; `more` faults were not told."""

    name: str
    endpoint: str
    model: str
    requests: int
    size: int
    digest: str
    faults: list[Fault]
    more: int = 0


def check(lines: Lines, seen: Callable[[bytes], object] | None = None) -> Checked:
    """All faults of the rows, the first ones told; `seen` is given every good line. InputError for a table that cannot be read on."""
    ids = _Ids()
    digest, size, count = hashlib.sha256(), 0, 0
    faults: list[Fault] = []
    for batch in lines.batches():
        read = lines.read(batch)
        ids.add(read.ids, read.numbers)
        faults += read.faults[: MAX_FAULTS - len(faults)]
        count += len(read.faults)
        content = b"\n".join([*read.lines, b""])
        digest.update(content)
        size += len(content)
        if seen:
            for line in read.lines:
                seen(line)
    repeats = dict(sorted(ids.repeats()))
    faults += _told(lines, dict(islice(repeats.items(), MAX_FAULTS)))
    told = sorted(faults, key=lambda fault: fault.number)[:MAX_FAULTS]
    more = count + len(repeats) - len(told)
    terms = (lines.source.name, lines.endpoint, lines.model)
    return Checked(*terms, len(ids.hashes), size, digest.hexdigest(), told, more)


class _Ids:
    """The ids of all rows, as hashes of 64 bits: of a million, that two are alike though the ids are not has a chance of 1 in 30 million."""

    def __init__(self) -> None:
        self.hashes = array("q")
        self._starts: list[int] = []
        self._numbers: list[Sequence[int]] = []

    def add(self, ids: list[str], numbers: Sequence[int]) -> None:
        """Notes the ids of the next rows, and where these are."""
        self._starts.append(len(self.hashes))
        self._numbers.append(numbers)
        self.hashes.extend(map(hash, ids))

    def repeats(self) -> Iterator[tuple[int, int]]:
        """The number of each row whose id an earlier one has, with that of the first one."""
        parts = 1 + len(self.hashes) // AT_ONCE
        for part in range(parts):
            some = [h for h in self.hashes if h % parts == part] if parts > 1 else self.hashes
            if len(set(some)) == len(some):
                continue
            first: dict[int, int] = {}
            for index, each in enumerate(self.hashes):
                if each % parts == part and first.setdefault(each, index) != index:
                    yield self._number(index), self._number(first[each])

    def _number(self, index: int) -> int:
        at = bisect_right(self._starts, index) - 1
        return self._numbers[at][index - self._starts[at]]


def _told(lines: Lines, repeats: dict[int, int]) -> Iterator[Fault]:
    """The faults of rows that repeat an earlier one's id; the rows are read once more for it."""
    unit = lines.source.unit
    for batch in lines.batches() if repeats else ():
        read = lines.read(batch)
        for number, custom_id in zip(read.numbers, read.ids, strict=True):
            if number in repeats:
                what = f"custom_id {json.dumps(custom_id)} repeats that of {unit} {repeats[number]}"
                yield fault_at(unit, number, what)
