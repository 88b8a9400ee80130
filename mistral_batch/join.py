"""A row for every row of the table, in its order, with what became of it: its answer, or why it has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from .chunks import content
from .errors import InputError, ResultsError
from .lines import Lines
from .results import Found, Results, id_of
from .runs import Run
from .sources import UNREADABLE, Batch, Row
from .summary import Summary
from .takes import Take, default

PREFIX = "batch_"
"""Before the name of a new column when the table has one of that name."""

SIZE = 8 << 20
"""Bytes of results that are given at a time, about."""


@dataclass(frozen=True)
class Joined:
    """Rows of `batch` from the one at `start`, and the values of the new columns for each: what was taken, error and attempt."""

    batch: Batch
    start: int
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def rows(self) -> list[Row]:
        """The rows as the table has them."""
        return self.batch.rows[self.start : self.start + len(self)]

    @property
    def lines(self) -> list[bytes] | None:
        """The rows as the JSON that they were read from, None when they were not."""
        lines = self.batch.lines
        return None if lines is None else lines[self.start : self.start + len(self)]

    @property
    def arrow(self) -> Any:
        """The rows as a `pyarrow.RecordBatch`, None when the table has no types."""
        return None if self.batch.arrow is None else self.batch.arrow.slice(self.start, len(self))


class Join:
    """The rows of `lines`, which are those of `run`, with what `takes` find in their answers; may be read again and again.

    New columns are those of `takes` (by default what an answer of the endpoint is about), `error` (a text, None when there is an
    answer) and `attempt`, from which what is shown is: the last answer, else the last error. `summary` is filled meanwhile.

    Reading raises ResultsError for results that are broken or belong to no row, or two of which belong to one row; and InputError when
    the table's rows are not those of the run, or a column is taken twice.
    """

    def __init__(
        self,
        run: Run,
        lines: Lines,
        takes: Sequence[Take] = (),
        summary: Summary | None = None,
        digest: str = "",
    ) -> None:
        """With `digest` the table is read only as long as its content is of that SHA-256."""
        self.digest = digest
        self.run = run
        self.lines = lines
        self.takes = list(takes) or default(lines.endpoint)
        self.summary = Summary() if summary is None else summary
        twice = [name for name, count in Counter(t.name for t in self.takes).items() if count > 1]
        if twice:
            raise InputError(f"--take has several columns named {', '.join(map(repr, twice))}")

    @cached_property
    def table_columns(self) -> list[str]:
        """The table's columns, each that any row has."""
        source = self.lines.source
        names = dict.fromkeys(source.columns)
        for batch in () if source.all_columns else source.batches():
            rows = batch.rows if batch.lines is None else map(_members, batch.lines)
            try:
                names.update(dict.fromkeys(name for row in rows for name in row))
            except UNREADABLE as error:
                raise InputError(
                    f"{source.name} has a line that cannot be read: {error}"
                ) from error
        return list(names)

    @cached_property
    def new_columns(self) -> list[str]:
        """The new columns, in order, none of which is the table's."""
        names = dict.fromkeys(self.table_columns)
        new = []
        for name in [*(take.name for take in self.takes), "error", "attempt"]:
            free = name
            while free in names:
                free = PREFIX + free
            names[free] = None
            new.append(free)
        return new

    def _check_digest(self) -> None:
        source, name = self.lines.source, self.run.manifest.name
        if self.digest and source.digest() != self.digest:
            raise InputError(
                f"{source.name} has changed since {name} was made of it: bring it back, or run it anew;"
                " what it asked before is not bought twice"
            )

    def __iter__(self) -> Iterator[Joined]:
        self._check_digest()
        self.summary.clear()
        wanted = [*(take.name for take in self.takes), "error", "attempt"]
        pairs = zip(wanted, self.new_columns, strict=True)
        self.summary.renamed = {name: free for name, free in pairs if name != free}
        with Results(self.run) as results:
            for batch in self.lines.source.batches():
                ids = self.lines.ids(batch)
                start = 0
                while start < len(ids):
                    joined = self._joined(batch, ids, start, results)
                    yield joined
                    start += len(joined)
            if not results.over:
                raise InputError(f"{self.lines.source.name} has fewer rows than were sent")
        self._check_digest()

    def _joined(self, batch: Batch, ids: list[str], start: int, results: Results) -> Joined:
        """The rows from `start` on, as many as have SIZE bytes of results."""
        summary, paths = self.summary, [take.of for take in self.takes]
        names = self.new_columns
        taken: list[list[Any]] = [[] for _ in self.takes]
        errors: list[str | None] = []
        attempts: list[int] = []
        usage = summary.usage
        end = results.size + SIZE
        for index in range(start, len(ids)):
            found = results.of(ids[index])
            if found is None:
                raise InputError(
                    f"row {batch.first + index} of {self.lines.source.name} asks {ids[index]!r},"
                    f" which {self.run.manifest.name} has not sent there: the table is another one"
                )
            outcome = found.outcome
            for name, count in outcome.usage.items():
                usage[name] = usage.get(name, 0) + count
            if outcome.error:
                summary.fail(outcome.error, ids[index], found.again)
                summary.missing += found.missing
                errors.append(outcome.error)
                for values in taken:
                    values.append(None)
            else:
                errors.append(None)
                for name, path, values in zip(names, paths, taken, strict=False):
                    value = path(outcome.answer)
                    values.append(value)
                    if value is None:
                        summary.nothing[name] += 1
            attempts.append(found.attempt)
            if results.size > end:
                break
        summary.rows += len(errors)
        summary.answered = summary.rows - summary.failed
        return Joined(batch, start, dict(zip(names, [*taken, errors, attempts], strict=True)))


def again(run: Run, everything: bool = False) -> Iterator[bytes]:
    """The request lines of what has no answer and may get one when it is sent again, in order; with `everything` of all without one.

    ResultsError as for Join, and when there are results that are still to come; ChunkDamaged.
    """
    if not run.finished:
        raise ResultsError(
            f"{run.manifest.name} is not over; nothing can be sent again until it is"
        )
    for line, found in _found(run):
        if found and found.outcome.error and (everything or found.again):
            yield line.rstrip(b"\n")


def answered(run: Run) -> tuple[int, int]:
    """How many requests a run has, and how many of them have an answer. ResultsError as for Join; ChunkDamaged."""
    wells = [bool(found and not found.outcome.error) for _, found in _found(run)]
    return len(wells), sum(wells)


def _found(run: Run) -> Iterator[tuple[bytes, Found | None]]:
    """Each request line, in order, with what became of it."""
    with Results(run) as results:
        for chunk in run.manifest.attempts[0].chunks:
            with content(run, chunk).open("rb") as lines:
                for line in lines:
                    yield line, results.of(id_of(line))


_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
