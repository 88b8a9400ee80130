"""What is written about speed is what the last run found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import report

FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:%|x\b|×|ms\b|us\b|µs\b|s\b|seconds|[KMG]i?B\b|/s\b|rps\b|times)"
)


def test_a_table_of_the_page_is_the_last_runs() -> None:
    assert [*report.stale(report.read(), report.DOCUMENT)] == []


def test_the_pages_own_words_state_no_figure() -> None:
    assert FIGURE.findall(report.outside_blocks(report.DOCUMENT)) == []


@pytest.mark.parametrize("name", ["comparison", "growth"])
def test_a_plot_is_there(name: str) -> None:
    assert (report.RESULTS / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_results_name_the_machine_and_what_ran() -> None:
    circumstances = report.circumstances(report.read())
    for said in ("CPUs", "connexion", "nginx", "rounds"):
        assert said in circumstances


def test_a_table_is_aligned_with_figures_to_the_right() -> None:
    assert report.table(("what", "ms"), [["ours", 1234.5], ["theirs", 0.25]]).splitlines() == [
        "| what   |    ms |",
        "|--------|------:|",
        "| ours   | 1,234 |",
        "| theirs |  0.25 |",
    ]


def test_a_document_gets_the_tables_that_it_asks_for(tmp_path: Path) -> None:
    results = json.loads(report.LATEST.read_text())
    document = tmp_path / "page.md"
    document.write_text(
        "before\n<!-- results: bars -->\nold\n<!-- end -->\n<!-- results: none -->\n<!-- end -->\n"
    )
    assert [*report.stale(results, document)] == ["bars", "none"]
    report.write_document(results, document)
    assert [*report.stale(results, document)] == []
    assert report.bars(results) in document.read_text()
    assert report.outside_blocks(document) == "before\n\n\n"
