"""Results for people: tables on the terminal, and in docs/performance.md.

Results are JSON: `machine` (where and with what it ran, a text) and `tables` (by name, with `columns` and `rows`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.machine import ROOT
from bench.run import plain

LATEST = ROOT / "bench" / "results" / "latest.json"
DOCUMENT = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""What a page shows of the last run: one table, or the machine."""

Results = dict[str, Any]


def blocks(results: Results) -> dict[str, str]:
    """What a page may show, by the name of its block."""
    tables = {
        name: table(each["columns"], each["rows"]) for name, each in results["tables"].items()
    }
    return {"machine": results["machine"], **tables}


def filled(page: str, results: Results) -> str:
    """The page with the results in its blocks; one that this run does not have says so."""
    found = blocks(results)
    return BLOCK.sub(
        lambda block: f"{block[1]}\n{found.get(block[2], '(not in this run)')}\n\n{block[3]}", page
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it reads on a terminal too; columns of figures to the right."""
    texts = [
        [plain(each) if isinstance(each, float) else str(each) for each in row]
        for row in (columns, *rows)
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    figures = [
        bool(rows) and not any(isinstance(row[at], str) for row in rows)
        for at in range(len(columns))
    ]
    rule = [
        "-" * (width - right) + ":" * right for width, right in zip(widths, figures, strict=True)
    ]
    lines = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, figures, strict=True)
        ]
        for cells in (texts[0], rule, *texts[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
