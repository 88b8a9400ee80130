"""Whether a file of batch requests can be run, found out while it passes: lines of JSON, each with its own `custom_id`.

A file is read in blocks of whole lines, and of each line no more is kept than a hash of its id: 9 bytes. What Mistral is not known
to refuse passes: a byte order mark, CRLF, blank lines, members beside the two, a last line without its end.

For speed, a block is decoded in one call of msgspec's, and read line by line only when that fails: 1,000,000 lines of 300 bytes
take 1.3 s, line by line 3.4 s (timed in a loop).
"""

from __future__ import annotations

import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from operator import itemgetter

import msgspec

from openapi.json_text import UNREADABLE, check_utf8, read_json
from serving.body_buffer import MemoryBudget, OutOfMemory, Reservation

from .problems import Overloaded

MAX_FAULTS = 100
"""How many faults are told; more are counted."""

MAX_COUNTED = 10_000
"""How many faults are counted. After so many nothing more of a file is read."""

MAX_LINE = 16 << 20
"""Bytes. A longer line is a fault of its own: it would have to be held whole."""

MAX_CHECKED_LINES = 2_000_000
"""Lines whose ids are compared with each other, 18 MB of hashes. Mistral runs a million requests at a time."""

LOOKED_AT = 10_000
"""Bytes of a line that are looked at for words that say what is wrong with it."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BUCKETS = 255
_NO_BUCKET = 255
"""Of a line without an id."""
_FIRST, _LAST, _BEFORE_LAST = map(itemgetter, (0, -1, -2))
_OPENING, _CLOSING, _CR = map(set, (b"{", b"}", b"\r"))


LONG = 1 << 20
"""Bytes of a line from which on its memory is counted."""

LONG_LINES = MemoryBudget(4 * MAX_LINE, 2 * LONG)
"""The process's: for two of the longest lines at a time, or more that are shorter."""


class _Object(msgspec.Struct):
    """Any JSON object, whose members are read past."""


class _Line(msgspec.Struct):
    custom_id: str
    body: _Object


_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line; lines are counted from 1."""

    line: int
    reason: str


class BatchFile:
    """The check of one file: `feed` it piece by piece, then `end` it."""

    def __init__(self) -> None:
        self.count = 0
        """Faults, told or not."""
        self.lines = 0
        """Lines so far; blank ones count, as editors count them."""
        self.requests = 0
        self.doubts: set[str] = set()
        """What Mistral may or may not take, in words that follow `the file`."""
        self._faults: list[Fault] = []
        self._rest: list[bytes] = []  # the beginning of a line whose end has not come
        self._size = 0  # of the rest
        self._skipping = False  # within a line that is too long
        self._memory = Reservation(LONG_LINES)  # of a long line
        self._unreadable = False  # the whole file, as its beginning says
        # Hashes lie in many small arrays, which can grow without much memory besides; where the hash of each line is says
        # which line each hash is of.
        self._hashes = [array("q") for _ in range(_BUCKETS)]
        self._buckets = bytearray()  # one for each line

    def feed(self, piece: bytes) -> None:
        """The next bytes of the file."""
        if self.hopeless or self.lines >= MAX_CHECKED_LINES:
            self._rest, self._size = [], 0
            if not self.hopeless:
                self.doubts.add(f"has more than {MAX_CHECKED_LINES} lines, which were not checked")
            return
        end = piece.rfind(b"\n") + 1
        if not end or self._unreadable:
            self._keep(piece)
            return
        self._rest.append(piece[:end])
        block, self._rest, self._size = b"".join(self._rest), [], 0
        if self._skipping:
            self._skipping = False
            block = block[block.index(b"\n") + 1 :]
            self._pass()
        self._block(block)
        self._memory.release()
        self._keep(piece[end:])

    def end(self) -> list[Fault]:
        """The first faults in the order of their lines, no more than MAX_FAULTS; `count` is that of all."""
        if self._skipping:
            self._pass()
        elif self._size:
            self.doubts.add("has a last line without its end")
            self._block(b"".join(self._rest))
        self._rest = []
        if not self.requests and not self.count:
            self._fault(1, "The file has no requests: it is empty.")
        for line, first in nsmallest(MAX_FAULTS, self._repeated()):
            self._faults.append(Fault(line, f"custom_id repeats that of line {first}."))
        return sorted(self._faults, key=lambda fault: fault.line)[:MAX_FAULTS]

    @property
    def hopeless(self) -> bool:
        """True when it has so many faults that no more are looked for."""
        return self.count >= MAX_COUNTED

    def let_go(self) -> None:
        """Ends the check; its memory can go."""
        self._memory.release()

    def _reserve(self, size: int) -> None:
        """Has memory for a line of this size, of which there is a copy while it is read. Raises Overloaded without it."""
        try:
            self._memory.resize(2 * size)
        except OutOfMemory as error:
            raise Overloaded("Too many files with long lines are under way.") from error

    def _keep(self, piece: bytes) -> None:
        if self._skipping or not piece:
            return
        self._rest.append(piece)
        self._size += len(piece)
        if self._size > MAX_LINE:
            self._fault(self.lines + 1, f"The line is longer than {MAX_LINE} bytes.")
            self._rest, self._size, self._skipping = [], 0, True
            self._memory.release()
        self._reserve(self._size)

    def _block(self, block: bytes) -> None:
        """Reads whole lines."""
        if not self.lines and block.startswith(_UTF_16):
            self._fault(1, "The file is UTF-16; write it in UTF-8.")
            self._skipping = self._unreadable = True
            return
        if not self.lines and block.startswith(BOM_UTF8):
            block = block[len(BOM_UTF8) :]
            self.doubts.add("begins with a byte order mark")
        if b"\r" in block and b"\r\n" in block:  # one byte is found ten times as fast
            self.doubts.add("has lines that end with CR LF")
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        requests = _requests(block) if _are_braced(lines) else []
        if len(requests) == len(lines):
            self._note([each.custom_id for each in requests])
        else:
            for line in lines:
                self._line(line)

    def _line(self, line: bytes) -> None:
        """Reads one line by itself."""
        if line.strip():
            try:
                check_utf8(line)
                self._note([read_json(line, _Line).custom_id])
                return
            except UNREADABLE as error:
                told = len(self._faults) < MAX_FAULTS
                self._fault(self.lines + 1, _reason(line, error) if told else "")
        else:
            self.doubts.add("has blank lines")
        self._pass()

    def _note(self, ids: list[str]) -> None:
        """Notes the ids of the next lines, which are requests."""
        self.requests += len(ids)
        self.lines += len(ids)
        if self.lines > MAX_CHECKED_LINES:
            return
        hashes, buckets = self._hashes, self._buckets
        for each in map(hash, ids):
            bucket = each % _BUCKETS
            buckets.append(bucket)
            hashes[bucket].append(each)

    def _pass(self) -> None:
        """Counts a line that has no id."""
        self.lines += 1
        if self.lines <= MAX_CHECKED_LINES:
            self._buckets.append(_NO_BUCKET)

    def _fault(self, line: int, reason: str) -> None:
        self.count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(Fault(line, reason))

    def _repeated(self) -> Iterator[tuple[int, int]]:
        """Lines whose id an earlier one has, and the first that has it, in any order; each is counted."""
        for bucket, hashes in enumerate(self._hashes):
            if len(set(hashes)) == len(hashes):
                continue
            first: dict[int, int] = {}
            line = 0
            for each in hashes:
                line = self._buckets.index(bucket, line) + 1
                if first.setdefault(each, line) != line:
                    self.count += 1
                    yield line, first[each]


def _are_braced(lines: list[bytes]) -> bool:
    """Whether each line begins and ends with a brace: valid JSON then has at least one object on each, and none across lines."""
    try:
        ends = set(map(_LAST, lines))
        if ends == _CR:
            ends = set(map(_BEFORE_LAST, lines))
        return ends == _CLOSING and set(map(_FIRST, lines)) == _OPENING
    except IndexError:  # a blank line
        return False


def _requests(block: bytes) -> list[_Line]:
    """The requests in whole lines; none where one cannot be read."""
    try:
        check_utf8(block)
        return _decoder.decode_lines(block)
    except UNREADABLE:
        return []


def _reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line that could not be read."""
    if isinstance(error, UnicodeDecodeError):
        return f"It is not UTF-8, at byte {error.start}."
    if isinstance(error, RecursionError):
        return "It is nested too deeply."
    if not isinstance(error, msgspec.ValidationError):
        if re.search(rb"[:,\[]\s*-?(NaN|Infinity)\b", line[:LOOKED_AT]):
            return "NaN and Infinity are no JSON."
        return f"It is not JSON: {str(error).removeprefix('JSON is malformed: ')}."
    missing = re.search("required field `(.*)`", str(error))
    if missing:
        return f"{missing[1]} is missing."
    wrong = re.search(r"Expected `(\w+)`, got `(\w+)`(?: - at `\$\.(\w+))?", str(error))
    if wrong is None:
        return f"{error}."
    wanted, got, member = wrong.groups()
    return f"{member or 'It'} must be {_NAMES.get(wanted, wanted)}, is {_NAMES.get(got, got)}."


_NAMES = {"str": "text", "int": "a number", "float": "a number", "bool": "a boolean"}
_NAMES |= {"object": "an object", "array": "an array"}
