"""Where rows come from: a JSONL, CSV or Parquet file, or a table in memory; read in batches, as often as it is wanted.

A batch is bounded in bytes, not only in rows, so that no table needs more memory for being long or wide. What is wrong with a single
row is noted in its batch; InputError is for a table that cannot be read at all.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import os
import re
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from .errors import InputError, MissingExtra

Row = dict[str, Any]

BLOCK = 1 << 20
"""Bytes of a file that are read at a time, but for a line that is longer."""

ROWS = 4_096
"""Rows of a batch, at most, where they are not read as bytes."""

MAX_LINE = 16 << 20
"""Bytes. No request is longer: a gateway reads lines of a file up to here, and inline requests take less."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading raises for what is not JSON, is nested too deeply, or has another shape."""

_SUFFIXES = ".jsonl, .ndjson, .csv, .tsv, each also with .gz, and .parquet"


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a row; `place` says where it is, for people."""

    place: str
    number: int
    what: str


class Batch:
    """Some rows in order. `first` is the number of the first one, from 1; `numbers` where each is: its line or row, from 1.

    `arrow` has the same rows with their types where the source has types (a `pyarrow.RecordBatch`), else None. `lines` has the
    rows as lines of JSON where they are, not yet read.
    """

    def __init__(
        self,
        first: int,
        rows: Sequence[Row | None] | None = None,
        arrow: Any = None,
        *,
        lines: list[bytes] | None = None,
        numbers: Sequence[int] | None = None,
        unit: str = "row",
        faults: Sequence[Fault] = (),
    ) -> None:
        self.first = first
        self.arrow = arrow
        self.lines = lines
        self.unit = unit
        self.found = list(faults)
        self._rows = rows
        size = next(len(each) for each in (rows, lines, arrow) if each is not None)
        self.numbers = range(first, first + size) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def rows(self) -> list[Row]:
        """The rows; InputError for one that cannot be read."""
        if self.faults:
            raise InputError(f"{self.faults[0].place}: {self.faults[0].what}")
        return cast("list[Row]", self._read())

    @property
    def faults(self) -> list[Fault]:
        """What is wrong with rows that cannot be read; `found` has those that are known without reading them."""
        self._read()
        return self.found

    def column(self, name: str) -> list[Any]:
        """The value of each row, None where it has none or cannot be read."""
        if self.arrow is not None and self._rows is None:
            return _values(self.arrow.column(name))
        return [row.get(name) if row else None for row in self._read()]

    def fault(self, index: int, what: str) -> Fault:
        """What is wrong with the row at `index`."""
        return _fault(self.unit, self.numbers[index], what)

    def _read(self) -> Sequence[Row | None]:
        if self._rows is None:
            self._rows = self._columns() if self.arrow is not None else self._decoded()
        return self._rows

    def _columns(self) -> list[Row]:
        names = self.arrow.schema.names
        columns = [_values(column) for column in self.arrow.columns]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _decoded(self) -> Sequence[Row | None]:
        rows: list[Row | None] = []
        for index, line in enumerate(self.lines or ()):
            try:
                rows.append(_decode_row(line))
            except UNREADABLE as error:
                rows.append(None)
                self.found.append(self.fault(index, reason(line, error)))
        return rows


class Source(Protocol):
    """A table, whose batches may be read again and again; InputError when it cannot be read, with the line."""

    name: str
    """A path, or what to call a table in memory."""
    columns: tuple[str, ...]
    """In order; of JSONL those of its first row that can be read (others may follow), empty when there is none."""
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
    if isinstance(table, str | os.PathLike):
        path = Path(table)
        suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
        if path.is_dir():
            raise InputError(f"{path} is a folder; give one file of it")
        if not path.exists():
            raise InputError(f"there is no file {path}")
        if suffix in ("jsonl", "ndjson"):
            return JsonLines(path)
        if suffix in ("csv", "tsv"):
            return CSV(path, "\t" if suffix == "tsv" else "")
        if suffix == "parquet" and path.suffix.lower() != ".gz":
            return Parquet(path)
        raise InputError(f"{path} has none of the suffixes that say what is in it: {_SUFFIXES}")
    if isinstance(table, list | tuple):
        return Rows(table)
    if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
        return ArrowTable(table)
    raise InputError(
        f"a {type(table).__name__} is no table; give a path, a list of dicts, or a data frame"
    )


class _File:
    """What files have in common."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def digest(self) -> str:
        """SHA-256 of the file as it is, in hex."""
        with _reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def _text(self) -> Iterator[BinaryIO]:
        """The file, unpacked, after its byte order mark; InputError for whatever cannot be read of it."""
        zipped = self.path.name.lower().endswith(".gz")
        with _reading(self.path), self.path.open("rb") as raw:
            file = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw
            begin = file.read(3)
            if begin[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
                raise InputError(f"{self.path} is UTF-16; write it in UTF-8")
            if begin[:2] == b"\x1f\x8b":
                raise InputError(f"{self.path} is packed by gzip; let its name end with .gz")
            if begin != BOM_UTF8:
                file.seek(0)
            yield file


class JsonLines(_File):
    """A file with an object a line; blank lines are passed over."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        head = next(self.batches(), None)
        rows = head._read() if head else ()  # as far as they can be read
        self.columns = tuple(next((row for row in rows if row), {}))

    def batches(self) -> Iterator[Batch]:
        """The lines, without spaces around them."""
        first, number = 1, 1
        with self._text() as file:
            while block := file.read(BLOCK):
                faults = []
                if block[-1:] != b"\n":
                    rest = file.readline(MAX_LINE)
                    block += rest
                    if len(rest) == MAX_LINE and rest[-1:] != b"\n":
                        block = block[: block.rfind(b"\n") + 1]
                        faults = [_too_long(number + block.count(b"\n"))]
                        while (piece := file.readline(BLOCK)) and piece[-1:] != b"\n":
                            pass
                lines = list(map(bytes.strip, block.split(b"\n")))
                if not lines[-1]:
                    lines.pop()
                numbers: Sequence[int] = range(number, number + len(lines))
                number += len(lines) + len(faults)
                if not all(lines):
                    numbers = [each for each, line in zip(numbers, lines, strict=True) if line]
                    lines = list(filter(None, lines))
                if lines or faults:
                    yield Batch(first, lines=lines, numbers=numbers, unit="line", faults=faults)
                first += len(lines)


class CSV(_File):
    """A file of comma separated values (RFC 4180), all of them text; its first line names the columns.

    It is separated by semicolons or tabs where that line has them and no comma.
    """

    def __init__(self, path: Path, separator: str = "") -> None:
        super().__init__(path)
        csv.field_size_limit(MAX_LINE)
        self.separator = separator
        self.columns: tuple[str, ...] = ()
        with self._text() as file:
            if not separator:
                head = file.readline(BLOCK)
                others = [each for each in (";", "\t") if each.encode() in head]
                self.separator = "," if b"," in head or not others else others[0]
        with self._text() as file:
            try:
                self.columns = tuple(
                    next(csv.reader(_texts(file, []), delimiter=self.separator), ())
                )
            except csv.Error as error:
                raise InputError(f"{path} line 1: {_said(error)}") from error
        check_names(self.name, self.columns)

    def batches(self) -> Iterator[Batch]:
        """The rows after the first line; one with more or fewer fields is a fault."""
        first = 1
        with self._text() as file:
            broken: list[Fault] = []  # lines that are not UTF-8
            reader = csv.reader(_texts(file, broken), delimiter=self.separator, strict=True)
            next(reader, None)
            more = True
            while more:
                rows: list[Row | None] = []
                numbers: list[int] = []
                faults: list[Fault] = []
                size = 0
                while len(rows) < ROWS and size < BLOCK:
                    line = reader.line_num + 1
                    what, fields = "", []
                    try:
                        fields = next(reader)
                    except StopIteration:
                        more = False
                        break
                    except csv.Error as error:
                        what = _said(error)
                    if broken:
                        line, what = broken[0].number, broken[0].what
                        broken.clear()
                    elif not what and not fields:
                        continue  # a blank line
                    elif not what and len(fields) != len(self.columns):
                        what = (
                            f"has {len(fields)} fields, but there are {len(self.columns)} columns"
                        )
                    size += sum(map(len, fields))
                    numbers.append(line)
                    if what:
                        faults.append(_fault("line", line, what))
                        rows.append(None)
                    else:
                        rows.append(dict(zip(self.columns, fields, strict=True)))
                if rows:
                    yield Batch(first, rows, numbers=numbers, unit="line", faults=faults)
                first += len(rows)


class _Arrow:
    """What sources with Arrow's types have in common."""

    unit = "row"

    def __init__(self, name: str, names: list[str]) -> None:
        self.name = name
        self.columns = tuple(names)
        check_names(name, self.columns)

    def batches(self) -> Iterator[Batch]:
        """The rows in record batches."""
        first = 1
        for batch in self._record_batches():
            if len(batch):
                yield Batch(first, arrow=batch)
            first += len(batch)

    def _record_batches(self) -> Iterator[Any]:
        raise NotImplementedError


class Parquet(_Arrow):
    """A Parquet file, of which no more is in memory than a batch and the pages that it is read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            rows = max(file.metadata.num_rows, 1)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            self.batch_size = max(1, min(ROWS, 8 * BLOCK * rows // max(size, 1)))
            super().__init__(str(path), file.schema_arrow.names)

    digest = _File.digest

    def _record_batches(self) -> Iterator[Any]:
        with self._open() as file:
            yield from file.iter_batches(self.batch_size, use_threads=False)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        arrow = _pyarrow("a Parquet file")
        parquet = _pyarrow("a Parquet file", "pyarrow.parquet")
        with _reading(self.path):
            try:
                with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=BLOCK) as file:
                    yield file
            except arrow.ArrowException as error:
                raise InputError(
                    f"{self.path} is no Parquet file that can be read: {error}"
                ) from error


class ArrowTable(_Arrow):
    """A table in memory, of whatever gives Arrow's C stream; it is taken once, since a stream may come only once."""

    def __init__(self, table: Any) -> None:
        arrow = _pyarrow("a data frame")
        self.table = arrow.table(table)
        # A pandas index that is no plain count of rows comes as a column of such a name.
        names = [each for each in self.table.column_names if not each.startswith("__index_level_")]
        super().__init__(f"the {type(table).__name__}", names)
        if len(names) < self.table.num_columns:
            self.table = self.table.select(names)

    def digest(self) -> str:
        """SHA-256 of the table in Arrow's stream format, however it is chunked."""
        arrow = _pyarrow("a data frame")
        hashed = hashlib.sha256()
        sink = arrow.PythonFile(_Sink(hashed), mode="w")
        with arrow.ipc.new_stream(sink, self.table.schema.remove_metadata()) as writer:
            for batch in self._record_batches():
                writer.write_batch(batch.replace_schema_metadata(None))
        return hashed.hexdigest()

    def _record_batches(self) -> Iterator[Any]:
        for start in range(0, self.table.num_rows, ROWS):
            yield from self.table.slice(start, ROWS).combine_chunks().to_batches()


class Rows:
    """A list of dicts; its columns are those of the first one (others may follow)."""

    unit = "row"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.name = "the list"
        self.table = rows
        odd = next((at for at, row in enumerate(rows, 1) if not isinstance(row, Mapping)), 0)
        if odd:
            raise InputError(
                f"row {odd} of the list is a {type(rows[odd - 1]).__name__}, not a dict"
            )
        self.columns = tuple(map(str, rows[0])) if rows else ()

    def batches(self) -> Iterator[Batch]:
        """The rows, as they are."""
        for start in range(0, len(self.table), ROWS):
            yield Batch(start + 1, self.table[start : start + ROWS])

    def digest(self) -> str:
        """SHA-256 of the rows as Python shows them, in hex."""
        hashed = hashlib.sha256()
        for row in self.table:
            hashed.update(repr(row).encode("utf-8", "backslashreplace"))
        return hashed.hexdigest()


class _Sink:
    """A file that is only hashed."""

    closed = False

    def __init__(self, hashed: Any) -> None:
        self.hashed = hashed

    def write(self, content: bytes) -> int:
        self.hashed.update(content)
        return len(content)

    def flush(self) -> None: ...

    def close(self) -> None: ...


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


def reason(line: bytes, error: Exception) -> str:
    """What is wrong with a line of JSON whose reading raised one of UNREADABLE."""
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8, at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        if "truncated" in text and re.search(rb"\\u[dD][89a-fA-F]", line):
            return "is not JSON: it has half of a surrogate pair, which is no character"
        if b"NaN" in line or b"Infinity" in line:
            return "has NaN or Infinity, which are no JSON"
        return f"is not JSON: {text.removeprefix('JSON is malformed: ')}"
    what, _, path = text.partition(" - at `$")
    member = path.rstrip("`").removeprefix(".")
    if what.startswith("Object missing required field"):
        return f"{member}.{what.split('`')[1]} is missing".removeprefix(".")
    if what.startswith("Expected `") and ", got `" in what:
        wanted, got = what.removeprefix("Expected `").rstrip("`").split("`, got `")
        return f"{member} must be {_names(wanted)}, is {_names(got)}".strip()
    if "length >= 1" in what:
        return f"{member} is empty"
    return f"{member}: {what}".removeprefix(": ")


_WORDS = {"str": "text", "int": "a number", "float": "a number", "bool": "a boolean"}
_WORDS |= {"object": "an object", "array": "an array"}


def _names(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind, kind) for kind in kinds.split(" | "))


def _decode_row(line: bytes) -> Row:
    line.isascii() or line.decode()  # msgspec does not look at the names of members
    return _row_decoder.decode(line)


_row_decoder = msgspec.json.Decoder(dict[str, Any])


def _fault(unit: str, number: int, what: str) -> Fault:
    return Fault(f"{unit} {number}", number, what)


def _too_long(number: int) -> Fault:
    return _fault("line", number, f"is longer than {MAX_LINE} bytes")


def _texts(file: BinaryIO, broken: list[Fault]) -> Iterator[str]:
    """The lines as text; `broken` is told of each that is not UTF-8."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
        if len(line) == MAX_LINE and line[-1:] != b"\n":
            raise InputError(f"line {number} is longer than {MAX_LINE} bytes")
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            broken.append(_fault("line", number, f"is not UTF-8, at byte {error.start + 1}"))
            yield line.decode(errors="replace")


def _said(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "has a quotation mark that is never closed"
    if "new-line" in text:
        return "has a CR that ends no line; lines end with LF or CR LF"
    return f"is no CSV: {text}"


def _values(column: Any) -> list[Any]:
    """A column's values in Python; of times so much as Python's own hold, which is microseconds."""
    arrow = _pyarrow("a table")
    kind = column.type
    try:
        if getattr(kind, "unit", "") == "ns":
            if arrow.types.is_timestamp(kind):
                short = arrow.timestamp("us", kind.tz)
            else:
                short = arrow.type_for_alias(str(kind).replace("ns", "us"))
            column = column.cast(short, safe=False)
        return cast("list[Any]", column.to_pylist())
    except (ValueError, OverflowError) as error:
        raise InputError(f"a column of {kind} has values that cannot be read: {error}") from error


def _pyarrow(what: str, module: str = "pyarrow") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(what, "tables") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """InputError for what the system or gzip says of a file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
