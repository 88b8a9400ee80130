"""Where rows come from: a JSONL, CSV or Parquet file, or a table in memory; read in batches, as often as it is wanted.

A batch is bounded in bytes, not only in rows, so that no table needs more memory for being long or wide. What is wrong with a single
row is noted in its batch; InputError is for a table that cannot be read at all.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .errors import InputError

Row = dict[str, Any]

BLOCK = 1 << 18
"""Bytes of a file that are read at a time, but for a line that is longer. A processor's cache has them while they are looked at."""

ROWS = 4_096
"""Rows of a batch, at most, where they are not read as bytes."""

FEW = 128
"""Rows of which lines are made at a time, at most: their bytes are known only then, as one long text may be in all of them."""

MAX_LINE = 16 << 20
"""Bytes. No request is longer: a gateway reads lines of a file up to here, and inline requests take less."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading raises for what is not JSON, is nested too deeply, or has another shape."""

SUFFIXES = ".jsonl, .ndjson, .csv and .tsv, each also with .gz, and .parquet"


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a row; `place` says where it is, for people: "line 12" or "row 12"."""

    place: str
    number: int
    what: str


class Batch:
    """Some rows in order. `first` is the number of the first one, from 1; `numbers` says where each is: its line or row, from 1.

    The rows are given in one of these forms: dicts; `arrow`, with the types of a source that has types (a `pyarrow.RecordBatch`);
    `columns`, the values of each column; `lines` of JSON that were not read. What of them is looked at is made then.
    """

    def __init__(
        self,
        first: int,
        rows: list[Row] | None = None,
        arrow: Any = None,
        *,
        columns: Mapping[str, Sequence[Any]] | None = None,
        lines: list[bytes] | None = None,
        numbers: Sequence[int] | None = None,
        unit: str = "row",
        found: Sequence[Fault] = (),
    ) -> None:
        self.first = first
        self.arrow = arrow
        self.lines = lines
        self.unit = unit
        self.found = list(found)
        """What is known to be wrong with rows before they are read."""
        self._rows = rows
        self._columns = columns
        if numbers is None:
            size = next(len(each) for each in (rows, lines, arrow) if each is not None)
            numbers = range(first, first + size)
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def rows(self) -> list[Row]:
        """The rows; InputError for one that cannot be read."""
        if self.faults:
            raise InputError(f"{self.faults[0].place}: {self.faults[0].what}")
        return self.read()

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with rows that cannot be read."""
        if self.lines is not None:
            self.read()
        return self.found

    def column(self, name: str) -> Sequence[Any]:
        """The value of each row, None where it has none or cannot be read."""
        if self._columns is not None:
            return self._columns[name]
        if self.arrow is not None:
            from .arrow import values_of

            return values_of(self.arrow.column(name))
        return [row.get(name) for row in self.read()]

    def read(self) -> list[Row]:
        """The rows, of which one that cannot be read is empty."""
        if self._rows is None:
            if self.lines is not None:
                self._rows = self._decoded(self.lines)
            else:
                names = self._columns if self._columns is not None else self.arrow.schema.names
                columns = zip(*map(self.column, names), strict=True)
                self._rows = [dict(zip(names, values, strict=True)) for values in columns]
        return self._rows

    def part(self, start: int, stop: int) -> Batch:
        """The rows from the index `start` to before `stop`."""
        cut = slice(start, stop)
        numbers = self.numbers
        begin = numbers[start] if start else 0
        end = numbers[stop] if stop < len(self) else math.inf
        rows = self.read() if self.lines is not None else self._rows
        columns = self._columns
        return Batch(
            self.first + start,
            None if rows is None else rows[cut],
            None if self.arrow is None else self.arrow[cut],
            columns=columns and {name: values[cut] for name, values in columns.items()},
            numbers=numbers[cut],
            unit=self.unit,
            found=[fault for fault in self.found if begin <= fault.number < end],
        )

    def fault(self, index: int, what: str) -> Fault:
        """What is wrong with the row at `index`."""
        return fault_at(self.unit, self.numbers[index], what)

    def _decoded(self, lines: list[bytes]) -> list[Row]:
        text = b"\n".join(lines)
        try:
            check_utf8(text)
            rows = _rows_decoder.decode_lines(text)
            if len(rows) == len(lines) and are_braced(lines):
                return rows
        except UNREADABLE:
            pass  # line by line, to say which
        rows = []
        for index, line in enumerate(lines):
            try:
                check_utf8(line)
                rows.append(_rows_decoder.decode(line))
            except UNREADABLE as error:
                rows.append({})
                self.found.append(self.fault(index, reason(line, error)))
        return rows


class Source(Protocol):
    """A table, whose batches may be read again and again; InputError when it cannot be read, with the line."""

    name: str
    """A path, or what to call a table in memory."""
    columns: tuple[str, ...]
    """In order; empty when there are no rows that can be read."""
    all_columns: bool
    """False when these are only those of the first row that can be read, and others may have more or fewer."""
    unit: str
    """What a row is called where it is: "line" or "row"."""

    def batches(self) -> Iterator[Batch]:
        """All rows, from the first."""

    def digest(self) -> str:
        """SHA-256 of the content, in hex."""


def open_source(table: Any) -> Source:
    """The source of a path (by suffix: .jsonl, .ndjson, .csv, .tsv, .parquet, with .gz where text) or of a table in memory.

    Such a table is a list of dicts, or whatever gives Arrow's C stream: of pyarrow, pandas, polars, duckdb and others.
    """
    from . import arrow, text_files

    if isinstance(table, str | os.PathLike):
        path = Path(table)
        if path.is_dir():
            raise InputError(f"{path} is a folder; give one file of it")
        if not path.exists():
            raise InputError(f"there is no file {path}")
        name = path.name.lower()
        suffix = Path(name.removesuffix(".gz")).suffix
        if suffix in (".jsonl", ".ndjson"):
            return text_files.JsonLines(path)
        if suffix in (".csv", ".tsv"):
            return text_files.CSV(path, "\t" if suffix == ".tsv" else "")
        if suffix == ".parquet" and name.endswith(suffix):
            return arrow.Parquet(path)
        raise InputError(f"the name of {path} does not say what is in it; known are {SUFFIXES}")
    if isinstance(table, list | tuple):
        return Rows(table)
    if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
        return arrow.ArrowTable(table)
    raise InputError(
        f"a {type(table).__name__} is no table; give a path, a list of dicts, or a data frame"
    )


class Rows:
    """A list of dicts."""

    unit = "row"
    all_columns = False

    def __init__(self, rows: Sequence[Row]) -> None:
        self.name = "the list"
        self.table = rows
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise InputError(f"row {number} of the list is a {type(row).__name__}, not a dict")
        self.columns = tuple(map(str, rows[0])) if rows else ()

    def batches(self) -> Iterator[Batch]:
        """The rows, as they are."""
        for start in range(0, len(self.table), ROWS):
            yield Batch(start + 1, list(self.table[start : start + ROWS]))

    def digest(self) -> str:
        """SHA-256 of the rows as Python shows them, in hex."""
        hashed = hashlib.sha256()
        for row in self.table:
            hashed.update(repr(row).encode("utf-8", "backslashreplace"))
        return hashed.hexdigest()


def check_names(name: str, columns: Sequence[str]) -> None:
    """InputError for columns that have no name, or one name for several."""
    for number, column in enumerate(columns, 1):
        if not column.strip():
            raise InputError(
                f"{name}: column {number} has no name"
                " (pandas writes its index so; index=False leaves it out)"
            )
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{name} has several columns named {', '.join(map(repr, twice))}")


def fault_at(unit: str, number: int, what: str) -> Fault:
    """What is wrong with a line or row."""
    return Fault(f"{unit} {number}", number, what)


def check_utf8(text: bytes) -> None:
    """Raises UnicodeDecodeError; msgspec does not look inside what it passes over."""
    if not text.isascii():
        text.decode()


_FIRST, _LAST = itemgetter(0), itemgetter(-1)


def are_braced(lines: list[bytes]) -> bool:
    """Whether each line begins and ends with a brace: valid JSON then has at least one object on each, and none across lines."""
    return set(map(_FIRST, lines)) == {ord("{")} and set(map(_LAST, lines)) == {ord("}")}


def reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line of JSON whose reading raised one of UNREADABLE."""
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8, at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if re.search(rb"[:,\[]\s*-?(NaN|Infinity)\b", line):
            return "has NaN or Infinity, which are no JSON"
        if re.search(rb"\\u[dD][89a-fA-F]", line):
            return "is not JSON: it may end too early, or have half of a surrogate pair"
        return f"is not JSON: {text.removeprefix('JSON is malformed: ')}"
    what, _, path = text.partition(" - at `$")
    member = path.rstrip("`").removeprefix(".")
    if missing := re.search("required field `(.*)`", what):
        return f"{member}.{missing[1]} is missing".removeprefix(".")
    if wrong := re.search("Expected `(.*)`, got `(.*)`", what):
        return f"{member} must be {_named(wrong[1])}, is {_named(wrong[2])}".lstrip()
    return f"{member} is empty" if "length >= 1" in what else f"{member} {what}".lstrip()


_WORDS = {"str": "text", "int": "a number", "float": "a number", "bool": "a boolean"}
_WORDS |= {"object": "an object", "array": "an array"}


def _named(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))


_rows_decoder = msgspec.json.Decoder(dict[str, Any])
