"""`python -m openapi.derive` as a process: what it writes, where, and how it ends."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from openapi.capability import read
from openapi.contract import DEFAULT_DOCUMENT
from openapi.derive import derive, render
from tests.support import processes

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "tests" / "openapi" / "capabilities" / "library.yaml"

OVERLAY = """\
overlay: 1.1.0
info: {title: A test's, version: '1'}
actions:
- target: $.info
  update: {title: Overlaid}
- target: $.paths['/nowhere']
  remove: true
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, "-m", "openapi.derive", *map(str, arguments)])


def test_the_committed_document_is_what_the_capability_and_its_overlay_give():
    checked = run("--check")

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_check_of_a_stale_document_fails_with_a_diff_and_leaves_it(tmp_path):
    stale = tmp_path / "openapi.yaml"
    stale.write_text(DEFAULT_DOCUMENT.read_text().replace("openapi: 3.0.3", "openapi: 3.0.2"))
    before = stale.read_bytes()

    checked = run("--output", stale, "--check")

    assert checked.returncode == 1
    assert "-openapi: 3.0.2\n+openapi: 3.0.3\n" in checked.stdout
    assert stale.read_bytes() == before


def test_check_of_a_document_that_was_never_written_fails(tmp_path):
    checked = run(LIBRARY, "--output", tmp_path / "none.yaml", "--check")

    assert checked.returncode == 1
    assert "+openapi: 3.0.3\n" in checked.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_against_what_cannot_be_read_names_it(tmp_path):
    (tmp_path / "other").write_bytes(b"\xff")

    checked = run(LIBRARY, "--output", tmp_path / "other", "--check")

    assert checked.returncode == 2
    assert re.fullmatch(rf"{re.escape(str(tmp_path))}/other: cannot be read: .*\n", checked.stderr)


def test_check_of_what_is_only_printed_is_a_usage_error():
    checked = run(LIBRARY, "--check")

    assert checked.returncode == 2
    assert "--check needs --output FILE" in checked.stderr


def test_a_capability_alone_is_printed():
    printed = run(LIBRARY)

    assert printed.returncode == 0
    assert printed.stdout == run(LIBRARY, "--output", "-").stdout
    assert yaml.load(printed.stdout, yaml.CSafeLoader)["info"]["title"] == "Library — Loans"


def test_the_document_says_that_it_is_derived_and_by_which_command(tmp_path):
    output = tmp_path / "library.openapi.yaml"

    assert run(LIBRARY, "--output", output).returncode == 0
    first, second = output.read_text(encoding="utf-8").splitlines()[:2]
    assert first == ("# Derived, do not edit. Written by: python -m openapi.derive library.yaml")
    assert second == "openapi: 3.0.3"


def test_the_same_files_elsewhere_give_the_same_bytes(tmp_path):
    elsewhere = shutil.copy(LIBRARY, tmp_path)

    assert run(LIBRARY).stdout == run(elsewhere).stdout


def test_the_text_reads_back_as_the_document_without_aliases(every_capability):
    document = derive(read(every_capability))
    text = render(document, "a test")

    assert yaml.load(text, yaml.CSafeLoader) == document
    assert not [
        event for event in yaml.parse(text, yaml.CSafeLoader) if isinstance(event, yaml.AliasEvent)
    ]


def test_long_text_is_folded_and_text_of_several_lines_stays_as_lines():
    text = render({"long": "word " * 40 + "end", "lines": "one\n\ntwo\n"}, "a test")

    assert "long: >-\n  word word" in text
    assert "lines: |\n  one\n\n  two\n" in text


def test_an_action_that_matches_nothing_is_named_and_nothing_is_written(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(OVERLAY)

    refused = run(LIBRARY, "--overlay", overlay, "--output", tmp_path / "out.yaml")

    assert refused.returncode == 2
    assert refused.stderr == (
        f"{overlay}: actions[1] (target $.paths['/nowhere']): matches nothing\n"
    )
    assert not (tmp_path / "out.yaml").exists()


def test_several_overlays_are_applied_in_their_order(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(OVERLAY.replace("/nowhere", "/v1/loans"))
    two.write_text(OVERLAY.replace("$.paths['/nowhere']", "$.info[?@ == 'Overlaid']"))

    printed = run(LIBRARY, "--overlay", one, "--overlay", two)

    assert printed.returncode == 0, printed.stderr
    assert "--overlay one.yaml --overlay two.yaml\n" in printed.stdout
    document = yaml.load(printed.stdout, yaml.CSafeLoader)
    assert "/v1/loans" not in document["paths"]
    assert "title" not in document["info"]


def test_an_overlay_is_applied_and_named_in_the_header(tmp_path):
    overlay = tmp_path / "small.yaml"
    overlay.write_text(OVERLAY.replace("/nowhere", "/v1/loans"))

    printed = run(LIBRARY, "--overlay", overlay)

    assert printed.stdout.startswith(
        "# Derived, do not edit. Written by: python -m openapi.derive library.yaml"
        " --overlay small.yaml\n"
    )
    document = yaml.load(printed.stdout, yaml.CSafeLoader)
    assert document["info"]["title"] == "Overlaid"
    assert "/v1/loans" not in document["paths"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("naftiko: [", "line 1, column 11: not YAML"),
        ("naftiko: x", "file: 'info' is missing"),
        (LIBRARY.read_text(encoding="utf-8").replace("mapping: $.", "mapping: $.x", 1),
         "capability.exposes[0].resources[0].operations[0].outputParameters[0].mapping: a mapping"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_derived_ends_in_one_line_with_file_place_and_reason(
    tmp_path, text, line
):
    source = tmp_path / "broken.yaml"
    source.write_text(text, encoding="utf-8")

    refused = run(source)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"{source}: {line}")
    assert refused.stderr.count("\n") == 1


def test_a_file_that_does_not_exist_ends_in_one_line(tmp_path):
    refused = run(tmp_path / "none.yaml")

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{tmp_path / 'none.yaml'}: file: cannot be read: ")
    assert refused.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_ends_in_one_line(tmp_path):
    refused = run(LIBRARY, "--output", tmp_path)

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"{tmp_path}: cannot be written: ")
    assert refused.stderr.count("\n") == 1
