"""Where the rows go: a JSONL, CSV or Parquet file, standard output, or a table in memory; a file is whole, or as it was before."""

from __future__ import annotations

import csv
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from .errors import InputError, MissingExtra
from .join import Join
from .runs import NotWritten, written

GROUP = 32 << 20
"""Bytes of Arrow's that make a row group of Parquet, about."""


def examine(out: Path | None, table: str | os.PathLike[str] | None = None) -> None:
    """InputError when rows cannot be written to `out`, as far as that can be known before; `table` is what they are read from."""
    if out is None:
        return
    suffix = out.suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"{out}: rows are written to {', '.join(_WRITERS)} by the name's suffix")
    if suffix == ".parquet":
        _pyarrow("a Parquet file")
    try:
        target = out.resolve()
        if not target.parent.is_dir():
            raise InputError(f"{out} cannot be written: there is no folder {target.parent}")
        if target.exists() and not target.is_file():
            raise InputError(f"{out} is {'a folder' if out.is_dir() else 'no file'}; name a file")
        if table is not None and Path(table).exists() and target == Path(table).resolve():
            raise InputError(
                f"{out} is the table itself; name another file, which will have its columns too"
            )
        probe = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error


def write(out: Path | None, rows: Join) -> None:
    """Writes the rows to a file, by its suffix, or as JSONL to standard output. InputError as for `examine`, NotWritten."""
    if out is None:
        with _standard_output() as file:
            _write_jsonl(file, rows)
        return
    examine(out, rows.lines.source.name)
    with written(out.resolve()) as file:  # of a link, where it leads to
        _WRITERS[out.suffix.lower()](file, rows)


def table(rows: Join) -> Any:
    """The rows as a `pyarrow.Table`; MissingExtra."""
    arrow = _pyarrow("a table")
    kinds: dict[str, str] = {}
    while (batches := list(_batches(rows, kinds)))[-1] is None:
        pass
    return arrow.Table.from_batches(batches)


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        # Else Python would fail once more when it ends, with what is still to be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise NotWritten(f"standard output took not all rows: {error.strerror}") from error


def _write_jsonl(file: BinaryIO, rows: Join) -> None:
    for joined in rows:
        lines = joined.lines or map(_encode, joined.rows)  # JSON stays as it was written
        for line, values in zip(lines, zip(*joined.columns.values(), strict=True), strict=True):
            begin = line[:-1].rstrip()
            new = _encode(dict(zip(joined.columns, values, strict=True)))
            file.write(b"%b%b%b\n" % (begin, b"" if begin == b"{" else b",", new[1:]))


def _write_csv(file: BinaryIO, rows: Join) -> None:
    # A field is quoted when it has a character of the line end, and one with a lone CR has to be.
    line = csv.writer(_Echo(), lineterminator="\r\n").writerow
    names = rows.table_columns
    file.write(_line(line([*names, *rows.new_columns])))
    for joined in rows:
        new = zip(*joined.columns.values(), strict=True)
        file.writelines(
            _line(line([_cell(each) for each in (*map(row.get, names), *values)]))
            for row, values in zip(joined.rows, new, strict=True)
        )


def _write_parquet(file: BinaryIO, rows: Join) -> None:
    arrow = _pyarrow("a Parquet file")
    kinds: dict[str, str] = {}
    try:
        while not _write_groups(file, _batches(rows, kinds)):
            file.seek(0)
            file.truncate()
    except arrow.ArrowException as error:
        raise NotWritten(f"Parquet cannot hold the rows: {error}; write them as .jsonl") from error


def _write_groups(file: BinaryIO, batches: Iterator[Any]) -> bool:
    """Writes record batches, several to a row group; False when a column turns out to be of another type than it began."""
    import pyarrow
    from pyarrow import parquet

    writer: Any = None
    group: list[Any] = []
    with ExitStack() as opened:
        for batch in batches:
            if batch is None:
                return False
            if writer is None:
                writer = opened.enter_context(parquet.ParquetWriter(file, batch.schema))
            group.append(batch)
            if sum(each.nbytes for each in group) > GROUP:
                writer.write_table(pyarrow.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pyarrow.Table.from_batches(group))
    return True


_WRITERS: dict[str, Callable[[BinaryIO, Join], None]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def _batches(rows: Join, kinds: dict[str, str]) -> Iterator[Any]:
    """The rows as record batches, whose columns without a type get that of their values so far: `kinds`, of an earlier reading too.

    None, once all were read, when a column needed another type after its first batch: with `kinds` as they are then all will fit.
    """
    import pyarrow

    fits = True
    for joined in rows:
        batch = joined.arrow
        columns = joined.columns
        if batch is None:
            old = {name: [row.get(name) for row in joined.rows] for name in rows.table_columns}
            columns = old | columns
        for name, values in columns.items():
            known = kinds.get(name)
            kinds[name] = _kind(values, known or "")
            fits = fits and (known is None or _TYPES[known] == _TYPES[kinds[name]])
        if not fits:
            continue
        schema = pyarrow.schema([]) if batch is None else batch.schema
        arrays = [] if batch is None else batch.columns
        for name, values in columns.items():
            array = _array(values, kinds[name])
            schema = schema.append(pyarrow.field(name, array.type))
            arrays.append(array)
        yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)
    if not fits:
        yield None


_TYPES = {
    "": "string",
    "json": "string",
    "str": "string",
    "bool": "bool",
    "int": "int64",
    "float": "double",
    "floats": "list",
}
"""What the kinds of values are in Arrow: whatever has not one kind is text, which of all but texts is JSON."""


def _kind(values: list[Any], known: str) -> str:
    """The kind of all values that there are, and of those that are `known`; empty when there are none yet."""
    kinds = {type(value).__name__ for value in values}
    if "list" in kinds:
        lists = (value for value in values if isinstance(value, list))
        plain = all({*map(type, each)} <= {int, float} for each in lists)
        kinds = kinds - {"list"} | {"floats" if plain else "json"}
    if "int" in kinds:
        whole = (value for value in values if type(value) is int)
        kinds |= set() if all(-(1 << 63) <= each < 1 << 63 for each in whole) else {"json"}
    kinds = (kinds | {known}) - {"", "NoneType"}
    if kinds == {"int", "float"}:
        return "float"
    (kind,) = kinds if len(kinds) == 1 else {"json" if kinds else ""}
    return kind if kind in _TYPES else "json"


def _array(values: list[Any], kind: str) -> Any:
    import pyarrow

    if _TYPES[kind] == "string":
        values = [value if value is None else _text(value) for value in values]
    type_ = pyarrow.list_(pyarrow.float64()) if kind == "floats" else _TYPES[kind]
    return pyarrow.array(values, type_)


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text


def _line(text: str) -> bytes:
    return text[:-2].encode() + b"\n"


def _cell(value: Any) -> str:
    """A value in a CSV file: a text as it is, nothing as an empty one, all else as in JSON, dates and the like without quotation marks."""
    if isinstance(value, str):
        return value
    text = _text(value)
    if text[:1] == '"':
        return str(json.loads(text))
    return "" if text == "null" else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _plain(value: Any) -> Any:
    """What JSON has for numpy's values, and for what is in nobody's list."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


_encode = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number").encode


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra(what, "tables") from error
    return pyarrow
