"""docs/observability.md names every metric and every field, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.edge import IDEMPOTENCY, SHED
from telemetry.metrics import REGISTRY, page
from tests.telemetry.test_requests import FIELDS

TEXT = (Path(__file__).parents[2] / "docs/observability.md").read_text()


def table(name: str) -> list[list[str]]:
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found
    return [
        [cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()[2:]
    ]


def families() -> list[list[str]]:
    suffix = {"counter": "_total"}
    return [
        [f"`{family.name}{suffix.get(family.type, '')}`", family.type, family.documentation]
        for family in text_string_to_metric_families(page("0").decode())
        if not family.name.endswith("_created")
    ]


def test_the_metrics_table_is_the_page() -> None:
    rows = [[name, kind, meaning] for name, kind, _, meaning in table("metrics")]
    assert sorted(rows) == sorted(families())


@pytest.mark.parametrize("row", table("metrics"), ids=lambda row: row[0])
def test_the_metrics_table_names_the_labels(row: list[str]) -> None:
    known = {
        f"`{collector._name}{'_total' if collector._type == 'counter' else ''}`": collector._labelnames
        for collector in set(REGISTRY._names_to_collectors.values())
    } | {"`gateway_build_info`": ("version", "python")}
    assert tuple(re.findall(r"`(\w+)`", row[2])) == known[row[0]]


def test_the_field_tables_are_what_lines_have() -> None:
    optional = {"upstream_status", "upstream_seconds", "waited_seconds", "problem", "idempotency"}
    optional.add("path")
    assert {name.strip("`") for name, _ in table("log fields")} == FIELDS | optional
    assert [name for name, _ in table("audit fields")] == ["`id`", "`request_bytes`"]


def test_fixed_words_are_all_named() -> None:
    for word in (*IDEMPOTENCY, *SHED.values()):
        assert f"`{word}`" in TEXT
