"""Prometheus's rules and Grafana's dashboard, against the metrics that the gateway documents."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT
from tests.support.tools_available import needed

RULES = ROOT / "deploy" / "prometheus-rules.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
RULES_TEST = Path(__file__).with_name("prometheus-rules-test.yml")
PROMETHEUS = "apt-get install prometheus"
OWN = {"up", "instance", "job", "le"}  # Prometheus's own


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """(panel, expression), Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            filled = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            yield panel["title"], filled


def documented() -> tuple[set[str], set[str]]:
    """Metric names, histograms' series included, and label names of docs/observability.md."""
    table = (ROOT / "docs" / "observability.md").read_text().partition("<!-- table: metrics -->")[2]
    rows = [
        re.findall(r"`(\w+)`", row) for row in table.partition("<!-- end -->")[0].splitlines()[3:]
    ]
    names = {row[0] for row in rows}
    series = {f"{name}_{part}" for name in names for part in ("bucket", "count", "sum")}
    return names | series, {label for row in rows for label in row[1:]}


def words(expression: str) -> set[str]:
    """The metrics and labels in an expression: the words with an underscore, or before a comparison."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    return {w for w in re.findall(r"[a-z_:]+", plain) if "_" in w} - {"histogram_quantile"}


EXPRESSIONS = [(rule["alert"], rule["expr"]) for rule in rules()] + list(dashboard_expressions())


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[n for n, _ in EXPRESSIONS])
def test_every_metric_and_label_that_is_asked_for_exists(name: str, expression: str) -> None:
    metrics, labels = documented()
    assert words(expression) - metrics - labels - OWN == set()


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    assert [
        r["alert"] for r in rules() if set(r["annotations"]) != {"summary", "description"}
    ] == []
    assert {r["labels"]["severity"] for r in rules()} == {"warning", "critical"}


def test_prometheus_reads_the_rules() -> None:
    subprocess.run([needed("promtool", PROMETHEUS), "check", "rules", str(RULES)], check=True)


def test_each_alert_fires_in_its_trouble_and_in_none_else(tmp_path: Path) -> None:
    path = tmp_path / "test.yml"
    path.write_text(RULES_TEST.read_text().replace("RULES", str(RULES)))
    done = subprocess.run(
        [needed("promtool", PROMETHEUS), "test", "rules", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [
        {"record": f"panel:{n}", "expr": e} for n, (_, e) in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    subprocess.run([needed("promtool", PROMETHEUS), "check", "rules", str(path)], check=True)


def test_the_dashboard_has_distinct_panels_that_do_not_overlap_and_ask_the_chosen_source() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for p in places
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    sources = [panel["datasource"] for panel in panels] + [
        t["datasource"] for p in panels for t in p["targets"]
    ]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert {"datasource", "instance"} == {v["name"] for v in DASHBOARD["templating"]["list"]}
