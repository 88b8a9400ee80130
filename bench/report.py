"""Results for people: tables on the terminal, and the tables of documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from bench.run import plain

RESULTS = ROOT / "bench" / "results"
LATEST = RESULTS / "latest.json"
DOCUMENT = ROOT / "docs" / "performance.md"
"""A page with blocks `<!-- results: NAME -->` that hold what the last run found."""

Results = dict[str, Any]
_BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def read(path: Path = LATEST) -> Results:
    """The results of the last run."""
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it reads on a terminal too."""
    texts = [columns, *([_cell(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [
        all(not isinstance(cell, str) for cell in column) for column in zip(*rows, strict=True)
    ]
    lines = [
        " | ".join(
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(line, widths, right, strict=True)
        )
        for line in texts
    ]
    rule = "|".join(
        "-" * (width + 1) + (":" if numeric else "-")
        for width, numeric in zip(widths, right, strict=True)
    )
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


def _cell(cell: Any) -> str:
    return str(cell) if isinstance(cell, str | int) else plain(cell)


def bars(results: Results) -> str:
    """The table of bars."""
    rows = [
        [
            bar["work"],
            bar["peer"],
            bar["of"],
            f"{plain(bar['value'])} {bar['unit']}".strip(),
            f"{bar['bound']} {plain(bar['limit'])}".strip() if bar["bound"] else "",
            {True: "met", False: "NOT MET", None: "reported"}[bar["met"]],
            f"{bar['ours']} / {bar['theirs']}" if bar["ours"] else "",
        ]
        for bar in results["bars"]
    ]
    head = ("work", "against", "of", "ours/theirs", "bar", "", "medians")
    return table(head, rows)


def circumstances(results: Results) -> str:
    """Where and with what it ran, in two sentences."""
    machine = results["machine"]
    chosen = ("connexion", "flask", "requests", "gunicorn", "mcp")
    theirs = ("fastapi", "httpx", "aiohttp", "starlette", "uvicorn", "fastmcp")
    plan = "quick" if results["plan"]["quick"] else "full"
    litellm = machine["litellm"].get("litellm")
    versions = [
        f"{name} {machine['gateway'][name]}" for name in chosen if name in machine["gateway"]
    ]
    versions += [f"{name} {machine['peers'][name]}" for name in theirs if name in machine["peers"]]
    versions += [f"litellm {litellm}"] if litellm else []
    return (
        f"A {plan} run, {machine['when']}, {results['plan']['rounds']} rounds, on {machine['cpus']} CPUs ({machine['cpu']}),"
        f" {machine['memory_gib']} GiB, {machine['system']}, load {machine['load_before']} before it began.\n"
        f"Python {machine['python']}, {', '.join(versions)}, nginx {machine['nginx']}, wrk {machine['wrk']}."
    )


def text(results: Results) -> str:
    """All of it, for the terminal."""
    found = blocks(results)
    shown = [found.pop("machine"), found.pop("bars")]
    return "\n\n".join([*shown, *(f"{name}\n\n{each}" for name, each in found.items())])


def blocks(results: Results) -> dict[str, str]:
    """What the page shows, by the name of its block."""
    tables = {
        name: table(each["columns"], each["rows"]) for name, each in results["tables"].items()
    }
    skipped = [f"- Not in this run: {each}." for each in results["skipped"]]
    said = "\n".join([circumstances(results), *skipped])
    return {**tables, "bars": bars(results), "machine": said}


def write_document(results: Results, path: Path) -> None:
    """Writes the results into the document's blocks; one that this run does not have is emptied."""
    found = blocks(results)

    def filled(match: re.Match[str]) -> str:
        content = found.get(match[2], "(not in this run)")
        return f"{match[1]}\n{content}\n\n{match[4]}"

    path.write_text(_BLOCK.sub(filled, path.read_text(encoding="utf-8")), encoding="utf-8")


def stale(results: Results, path: Path) -> Iterator[str]:
    """Names of the document's blocks that say something else than the results."""
    found = blocks(results)
    for match in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        if match[3].strip() != found.get(match[2], "(not in this run)").strip():
            yield match[2]


def outside_blocks(path: Path) -> str:
    """The document's own words: what no run wrote."""
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))
