"""What a run finds: bars, met or not, and tables of figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.load import Sample
from bench.rounds import ratio


@dataclass(frozen=True)
class Bar:
    """One figure against its bar. `bound` is "at most", "at least" or empty: only reported.

    `of` says what the figure is, `ours` and `theirs` what it was made of, as people read it.
    """

    work: str
    peer: str
    of: str
    value: float
    bound: str = ""
    limit: float = 0.0
    unit: str = "x"
    ours: str = ""
    theirs: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if not self.bound:
            return None
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit


@dataclass
class Findings:
    """Everything that a run found, as it will be written."""

    bars: list[Bar] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def compare(
        self,
        work: str,
        peer: str,
        measure: str,
        ours: Sequence[Sample],
        theirs: Sequence[Sample],
        bound: str = "",
        limit: float = 0.0,
    ) -> None:
        """Adds the ratio of a measure (a field of Sample) between the gateway and a peer."""
        our, their = ([getattr(each, measure) for each in side] for side in (ours, theirs))
        self.bars.append(
            Bar(
                work, peer, MEASURES[measure][0], round(ratio(our, their), 3), bound, limit, "x",
                _said(measure, our), _said(measure, their),
            )
        )  # fmt: skip

    def hold(
        self, work: str, of: str, value: float, unit: str, bound: str = "", limit: float = 0.0
    ) -> None:
        """Adds a figure of the gateway's own."""
        self.bars.append(Bar(work, "", of, round(value, 3), bound, limit, unit))

    def table(self, name: str, title: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
        """Adds a table; the first column names, the others hold figures."""
        self.tables[name] = {"title": title, "columns": list(columns), "rows": [*rows]}

    def members(self) -> dict[str, Any]:
        """It all as JSON can hold it."""
        bars = [{**asdict(bar), "met": bar.met} for bar in self.bars]
        return {"bars": bars, "tables": self.tables, "skipped": self.skipped}


MEASURES = {
    "rate": ("answers/s", "/s"),
    "cpu": ("CPU/answer", "us"),
    "p50": ("p50", "ms"),
    "p99": ("p99", "ms"),
}
"""What a field of Sample is called, and its unit."""


def _said(measure: str, values: Sequence[float]) -> str:
    return f"{plain(statistics.median(values))} {MEASURES[measure][1]}"


def plain(value: float) -> str:
    """A figure with as many digits as it deserves."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
