"""docs/reliability.md and docs/security.md prove nothing that is not tested: every test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"\[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")
ROW = re.compile(r"^\| (\d+) \|(.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", [PAGE, PAGE.with_name("security.md")], ids=lambda page: page.name)
def test_every_test_that_the_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    missing = [
        f"{file}::{name}"
        for name, file in named
        if not re.search(
            rf"^ *((async )?def {name}\(|{name} = )", (ROOT / file).read_text(), re.MULTILINE
        )
    ]
    assert named
    assert missing == []


def test_every_failure_of_the_table_has_its_proof() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert [number for number, row in rows if not NAMED.search(row)] == []
    assert [int(number) for number, _ in rows] == [*range(1, 50)]
