"""Sources with Arrow's types: a Parquet file, or a table in memory. pyarrow is loaded when one is opened."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, cast

from .errors import InputError, MissingExtra
from .sources import BLOCK, FEW, ROWS, Batch, check_names
from .text_files import File, reading


class _Arrow:
    """What such sources have in common."""

    unit = "row"
    all_columns = True

    def __init__(self, name: str, names: list[str]) -> None:
        self.name = name
        self.columns = tuple(names)
        check_names(name, self.columns)

    def batches(self) -> Iterator[Batch]:
        """The rows in record batches."""
        first = 1
        for batch in _gathered(self._record_batches()):
            yield Batch(first, arrow=batch)
            first += len(batch)

    def _record_batches(self) -> Iterator[Any]:
        """All rows, `FEW` at a time."""
        raise NotImplementedError


class Parquet(_Arrow):
    """A Parquet file, of which no more is in memory than a batch and the pages that it is read from."""

    digest = File.digest

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            rows = max(file.metadata.num_rows, 1)
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            size = sum(group.total_byte_size for group in groups)
            self.batch_size = max(1, min(FEW, 16 * BLOCK * rows // max(size, 1)))
            super().__init__(str(path), file.schema_arrow.names)

    def _record_batches(self) -> Iterator[Any]:
        with self._open() as file:
            yield from file.iter_batches(self.batch_size, use_threads=False)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        arrow = _module("pyarrow", "a Parquet file")
        parquet = _module("pyarrow.parquet", "a Parquet file")
        with reading(self.path):
            try:
                with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=BLOCK) as file:
                    yield file
            except arrow.ArrowException as error:
                raise InputError(f"{self.path} is no Parquet that can be read: {error}") from error


class ArrowTable(_Arrow):
    """A table in memory, of whatever gives Arrow's C stream; it is taken once, since a stream may come only once."""

    def __init__(self, table: Any) -> None:
        self.arrow = _module("pyarrow", "a data frame")
        name = f"the {type(table).__name__}"
        try:
            # polars 1 gives texts as views by the stream, which pyarrow 26 can neither take nor write to Parquet.
            given = table.to_arrow() if hasattr(table, "to_arrow") else table
            self.table = self.arrow.table(given)
        except (self.arrow.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"{name} cannot be taken as Arrow's table: {error}") from error
        super().__init__(name, self.table.column_names)

    def digest(self) -> str:
        """SHA-256 of the table in Arrow's stream format, however it is chunked."""
        hashed = hashlib.sha256()
        sink = self.arrow.PythonFile(_Sink(hashed), mode="w")
        with self.arrow.ipc.new_stream(sink, self.table.schema.remove_metadata()) as writer:
            for batch in self._record_batches():
                with suppress(self.arrow.ArrowNotImplementedError):  # of some types
                    # a copy, since the part of a larger one may be written in another way
                    batch = batch.take(self.arrow.array(range(len(batch))))
                writer.write_batch(batch.replace_schema_metadata(None))
        return hashed.hexdigest()

    def _record_batches(self) -> Iterator[Any]:
        for start in range(0, self.table.num_rows, FEW):
            yield from self.table.slice(start, FEW).combine_chunks().to_batches()


def _gathered(batches: Iterable[Any]) -> Iterator[Any]:
    """Record batches put together to some megabytes, as they are in memory: a file's bytes do not say that of texts that repeat."""
    arrow = _module("pyarrow", "a table")
    held: list[Any] = []
    for batch in chain(batches, [None]):
        rows, size = sum(map(len, held)), sum(each.nbytes for each in held)
        if held and (batch is None or rows + len(batch) > ROWS or size + batch.nbytes > 16 * BLOCK):
            yield from arrow.Table.from_batches(held).combine_chunks().to_batches()
            held = []
        if batch is not None and len(batch):
            held.append(batch)


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


def values_of(column: Any) -> list[Any]:
    """An array's values in Python; of times as much as Python's own hold, which is microseconds."""
    arrow = _module("pyarrow", "a table")
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


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(what, "tables") from error
