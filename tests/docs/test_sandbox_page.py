"""docs/sandbox.md names every setting, fault, outcome and address of the admin API."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sandbox.app import create_app
from sandbox.config import Settings
from sandbox.faults import FAULT_TYPES
from sandbox.jobs import OUTCOMES
from tests.support.processes import ROOT

TEXT = (ROOT / "docs" / "sandbox.md").read_text()


def settings_rows() -> list[str]:
    """A table row for each setting: variable, default, help."""
    rows = []
    for item in fields(Settings):
        default = f"`{written(item.default)}`" if item.repr else "see above"
        choices = " or ".join(f"`{choice}`" for choice in item.metadata["choices"])
        text = item.metadata["help"] + (f" {choices}." if choices else "")
        rows.append(f"| `{item.metadata['env']}` | {default.replace('``', 'empty')} | {text} |")
    return rows


def written(default: object) -> object:
    """A default as somebody would write it into the environment."""
    return {True: "on", False: "off"}[default] if isinstance(default, bool) else default


def fault_rows() -> list[str]:
    """A table row for each type of fault: name, what it does, parameters with defaults."""
    rows = []
    for name, kind in FAULT_TYPES.items():
        params = ", ".join(f"`{key}={value}`" for key, value in kind.params.items())
        rows.append(f"| `{name}` | {kind.help} | {params} |")
    return rows


def outcome_rows() -> list[str]:
    """A table row for each value of the metadata member that chooses how a job ends."""
    return [f"| `{name}` | {text} |" for name, text in OUTCOMES.items()]


@pytest.mark.parametrize("row", [*settings_rows(), *fault_rows(), *outcome_rows()])
def test_a_table_row_says_what_the_code_says(row: str) -> None:
    assert row in TEXT.splitlines()


def test_no_table_row_is_about_something_that_is_gone() -> None:
    known = {row.split("`")[1] for row in (*settings_rows(), *fault_rows(), *outcome_rows())}
    tables = [part for part in TEXT.split("\n## ") if not part.startswith("What ")]
    rows = [row for part in tables for row in part.splitlines() if row.startswith("| `")]
    told = {row.split("`")[1] for row in rows} - {"sandbox_outcome"}
    assert {name for name in told if "/" not in name} == known


def test_every_address_of_the_admin_api_is_documented() -> None:
    rules = create_app().url_map.iter_rules()
    addresses = {
        f"| `{method} {rule.rule.replace('<', '{').replace('>', '}')}` |"
        for rule in rules
        if rule.endpoint.startswith("admin.")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    missing = {address for address in addresses if address not in TEXT}
    assert not missing
