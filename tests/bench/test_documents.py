"""What is written about speed is what the last run found."""

from __future__ import annotations

import json
import re
from typing import Any

from bench import report

FIGURE = re.compile(
    r"\d[\d.,]*\s?(?:%|x\b|×|ms\b|us\b|µs\b|s\b|seconds|[KMG]i?B\b|/s\b|rps\b|times)"
)
PAGE = report.DOCUMENT.read_text(encoding="utf-8")
LATEST: dict[str, Any] = json.loads(report.LATEST.read_text(encoding="utf-8"))


def test_the_page_shows_every_table_of_the_last_run_as_it_was() -> None:
    assert report.filled(PAGE, LATEST) == PAGE
    assert {block[2] for block in report.BLOCK.finditer(PAGE)} >= {*report.blocks(LATEST)}


def test_the_pages_own_words_state_no_figure() -> None:
    assert FIGURE.findall(report.BLOCK.sub("", PAGE)) == []


def test_the_picture_is_there() -> None:
    picture = report.LATEST.with_name("comparison.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_results_name_the_machine_and_what_ran() -> None:
    for said in ("CPUs", "connexion", "nginx", "rounds"):
        assert said in LATEST["machine"]


def test_a_table_is_aligned_with_figures_to_the_right() -> None:
    rows = [["ours", 1000, 1234.5], ["theirs", 1, 0.25]]
    assert report.table(("what", "clients", "ms"), rows).splitlines() == [
        "| what   | clients |    ms |",
        "| ------ | ------: | ----: |",
        "| ours   |    1000 | 1,234 |",
        "| theirs |       1 |  0.25 |",
    ]


def test_a_page_gets_the_tables_that_it_asks_for() -> None:
    page = (
        "before\n<!-- results: bars -->\nold\n<!-- end -->\n<!-- results: none -->\n<!-- end -->\n"
    )
    filled = report.filled(page, LATEST)
    assert report.blocks(LATEST)["bars"] in filled
    assert "old" not in filled
    assert "(not in this run)" in filled
    assert report.filled(filled, LATEST) == filled
