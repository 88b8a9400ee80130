"""The picture of the last results, beside them; runs where matplotlib is: `python -m bench.plot RESULTS.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")

from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

COLOURS = {"gateway": "#e8590c", "bridge": "#e8590c", "gateway, with a key": "#ffa94d"}


def main(path: Path) -> None:
    """Draws CPU for each answer, what a large create takes, tool calls: the gateway and its peers."""
    tables = json.loads(path.read_text(encoding="utf-8"))["tables"]
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    # The title, then table, number in its second column, column and what ends the names of those that are drawn.
    plots = (
        ("Get a job, 32 clients: CPU per answer (µs)", "get_job", 32, "CPU us", ""),
        ("Create with 10,000 requests (ms)", "create", 10_000, "p50 ms", ""),
        ("MCP tool calls per second, 1 client", "mcp", 1, "answers/s", ", 2026-07-28"),
    )
    for axis, (title, name, number, column, end) in zip(axes, plots, strict=True):
        at = tables[name]["columns"].index(column)
        rows = [row for row in tables[name]["rows"] if row[1] == number and row[0].endswith(end)]
        values = {
            row[0].removesuffix(end): row[at] for row in sorted(rows, key=lambda row: -row[at])
        }
        colours = [COLOURS.get(each, "#adb5bd") for each in values]
        axis.bar_label(
            axis.barh([*values], [*values.values()], color=colours), fmt="{:,.0f}", padding=3
        )
        axis.set_title(title, loc="left", fontsize=10)
        axis.margins(x=0.15)
    figure.savefig(path.with_name("comparison.png"), dpi=130, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
