"""The tables in the README say what the code says. `UPDATE_DOCS=1 pytest tests/docs/test_tables.py` writes them anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest

import mcp_bridge.config
import mistral_batch.config
import service.config
from openapi.contract import load
from service.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def operations() -> list[str]:
    rows = [
        f"| `{o.method} {o.path}` | `{o.id}` | {f'`{o.tool.name}`' if o.tool else ''} | {o.summary} |"
        for o in load().operations.values()
    ]
    return ["| REST | operation | MCP tool | what |", "|---|---|---|---|", *rows]


def problems() -> list[str]:
    rows = [
        f"| `{slug}` | {kind.status_shown} | {kind.source} | {kind.title} |"
        for slug, kind in PROBLEMS.items()
    ]
    return ["| problem | status | source | what happened |", "|---|---|---|---|", *rows]


def settings() -> list[str]:
    rows: dict[str, str] = {}
    for module in (service.config, mcp_bridge.config, mistral_batch.config):
        for field in fields(module.Settings):
            if "env" in field.metadata:
                rows.setdefault(
                    field.metadata["env"],
                    f"| `{field.metadata['env']}` | {shown(field.default)} | {field.metadata['help']} |",
                )
    return ["| setting | default | meaning |", "|---|---|---|", *rows.values()]


def shown(default: object) -> str:
    if isinstance(default, Path) or str(default).startswith(str(ROOT)):
        return f"`{Path(str(default)).relative_to(ROOT)}`"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return "loopback names" if "localhost" in default else ",".join(default)
    if isinstance(default, float):
        return f"{default:g}"
    return f"{default}"


TABLES = {"operations": operations, "problems": problems, "settings": settings}


def between(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def written(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_readme_says_what_the_code_says(name: str) -> None:
    text = README.read_text()
    expected = written(TABLES[name]())
    if os.environ.get("UPDATE_DOCS"):
        README.write_text(between(name).sub(lambda match: match[1] + expected + match[3], text))
        text = README.read_text()
    found = between(name).search(text)
    assert found, f"the README has no table {name}"
    assert found[2] == expected, "UPDATE_DOCS=1 pytest tests/docs/test_tables.py writes it anew"


def test_a_call_of_the_sdks_that_no_operation_answers_is_said_to_be_refused() -> None:
    text = (ROOT / "docs" / "clients.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| `batch.jobs.delete`"))
    deletes = [o.path for o in load().operations.values() if o.method == "DELETE"]
    assert ("405" in row) == ("/v1/batch/jobs/{job-id}" not in deletes), "docs/clients.md: " + row


@pytest.mark.parametrize(
    "document", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_every_row_of_a_table_has_a_cell_for_each_column(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    cells = [
        [len(re.findall(r"(?<!\\)\|", re.sub("`[^`]*`", "", row))) for row in table.splitlines()]
        for table in tables
    ]
    assert [table for table, counts in zip(tables, cells, strict=True) if len({*counts}) > 1] == []


@pytest.mark.parametrize(
    "document", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
