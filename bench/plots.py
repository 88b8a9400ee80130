"""Plots of the last results as PNG, beside them; runs where matplotlib is: `python -m bench.plots RESULTS.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")

from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

COLOURS = {"gateway": "#e8590c", "bridge": "#e8590c", "gateway, with a key": "#ffa94d"}
OTHERS = ("#495057", "#1971c2", "#2f9e44", "#9c36b5", "#868e96", "#c2255c", "#0c8599")

Results = dict[str, Any]


def main(path: Path) -> None:
    """Draws everything that the results hold."""
    results = json.loads(path.read_text(encoding="utf-8"))
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    for name, draw in (("comparison", comparison), ("growth", growth)):
        figure = draw(results)
        figure.savefig(path.with_name(f"{name}.png"), dpi=130, facecolor="white")


def comparison(results: Results) -> Any:
    """CPU per answer, what a large create takes, tool calls: the gateway and its peers."""
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    tables = results["tables"]
    rows = tables["get_job"]["rows"]
    at_32 = {row[0].removesuffix(", 32 clients"): row[4] for row in rows if ", 32 " in row[0]}
    _bars(axes[0], "Get a job, 32 clients: CPU per answer (µs)", at_32)
    creates = tables["create"]["rows"]
    largest = max(row[1] for row in creates)
    taken = {row[0]: row[2] for row in creates if row[1] == largest}
    _bars(axes[1], f"Create with {largest:,} requests (ms)", taken)
    tools = tables["mcp"]["rows"]
    modern = {row[0].split(",")[0]: row[1] for row in tools if "2026-07-28, 1 " in row[0]}
    _bars(axes[2], "MCP tool calls per second, 1 client", modern)
    return figure


def _bars(axes: Any, title: str, values: dict[str, float]) -> None:
    names = sorted(values, key=lambda name: values[name], reverse=True)
    colours = [COLOURS.get(name, "#adb5bd") for name in names]
    drawn = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_title(title, loc="left", fontsize=10)
    axes.margins(x=0.15)


def growth(results: Results) -> Any:
    """How cost grows with the body, the clients, the upstream's latency and the remembered keys."""
    figure, axes = pyplot.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    tables = results["tables"]
    _lines(axes[0], "Create: ms by inline requests", tables["create"]["rows"], 1, 2, axes[0].loglog)
    clients = tables["growth_clients"]["rows"]
    _lines(axes[1], "Get a job: answers/s by clients", clients, 1, 2, axes[1].semilogx)
    delays = tables["growth_delay"]["rows"]
    _lines(axes[2], "p50 (ms) by the upstream's latency (ms)", delays, 1, 3, axes[2].plot)
    records = [
        ["gateway", int(row[0].split()[0].replace(",", "")), row[4]]
        for row in tables["growth_records"]["rows"]
    ]
    _lines(axes[3], "Keyed create: CPU (µs) by remembered keys", records, 1, 2, axes[3].plot)
    for each in axes:
        each.set_ylim(bottom=None if each is axes[0] else 0)
    return figure


def _lines(
    axes: Any, title: str, rows: list[list[Any]], x: int, y: int, draw: Callable[..., Any]
) -> None:
    others = iter(OTHERS)
    for name in dict.fromkeys(row[0] for row in rows):
        own = sorted((row[x], row[y]) for row in rows if row[0] == name)
        colour = COLOURS.get(name) or next(others)
        draw(*zip(*own, strict=True), "o-", color=colour, label=name, markersize=3)
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=7)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
