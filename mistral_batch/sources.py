"""Where rows come from: a JSONL, CSV or Parquet file, or a table in memory; read in batches, as often as it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """Some rows in order. `first` is the number of the first one, from 1; `places` says where each is, for people: "line 12" or "row 12".

    `arrow` has the same rows with their types where the source has types (a `pyarrow.RecordBatch`), else None.
    """

    first: int
    rows: list[Row]
    arrow: Any = None


class Source(Protocol):
    """A table, whose batches may be read again and again; InputError when it cannot be read, with the line."""

    name: str
    """A path, or what to call a table in memory."""
    columns: tuple[str, ...]
    """In order; of JSONL those of its first row (others may follow)."""
    unit: str
    """What a row is called where it is: "line" or "row"."""

    def batches(self) -> Iterator[Batch]:
        """All rows, from the first."""

    def digest(self) -> str:
        """SHA-256 of the content, in hex."""


def open_source(table: Any) -> Source:
    """The source of a path (by suffix: .jsonl, .ndjson, .csv, .tsv, .parquet, with .gz where text) or of a table (Arrow's C stream)."""
    raise NotImplementedError
