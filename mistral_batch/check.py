"""What is wrong with a table's requests, found in one pass before anything is sent; and what they are, when nothing is.

Of each row no more is kept than a hash of its id and its number: 16 bytes.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator

import msgspec

from .lines import Lines
from .sources import Fault

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
    ids, numbers = array("q"), array("q")
    digest, size, count = hashlib.sha256(), 0, 0
    faults: list[Fault] = []
    for batch in lines.source.batches():
        read = lines.read(batch)
        ids.extend(map(hash, read.ids))
        numbers.extend(read.numbers)
        faults += read.faults[: MAX_FAULTS - len(faults)]
        count += len(read.faults)
        if read.lines:
            content = b"\n".join([*read.lines, b""])
            digest.update(content)
            size += len(content)
        if seen:
            for line in read.lines:
                seen(line)
    repeats = dict(sorted(_repeats(ids, numbers)))
    faults += _named(lines, dict(list(repeats.items())[:MAX_FAULTS]))
    count += len(repeats)
    told = sorted(faults, key=lambda fault: fault.number)[:MAX_FAULTS]
    return Checked(
        lines.source.name, lines.endpoint, lines.model, len(ids), size, digest.hexdigest(),
        told, count - len(told),
    )  # fmt: skip


def _repeats(ids: array[int], numbers: array[int]) -> Iterator[tuple[int, int]]:
    """The number of each row whose id an earlier one has, with that of the first one."""
    parts = 1 + len(ids) // AT_ONCE
    for part in range(parts):
        some = [each for each in ids if each % parts == part] if parts > 1 else ids
        if len(set(some)) == len(some):
            continue
        first: dict[int, int] = {}
        for each, number in zip(ids, numbers, strict=True):
            if each % parts == part and first.setdefault(each, number) != number:
                yield number, first[each]


def _named(lines: Lines, repeats: dict[int, int]) -> Iterator[Fault]:
    """The faults of rows that repeat another's id, for which the ids are read once more."""
    if not repeats:
        return
    unit = lines.source.unit
    for batch in lines.source.batches():
        read = lines.read(batch)
        for number, custom_id in zip(read.numbers, read.ids, strict=True):
            if number in repeats:
                what = f"custom_id {json.dumps(custom_id)} repeats that of {unit} {repeats[number]}"
                yield Fault(f"{unit} {number}", number, what)
