"""docs/files.md says of files what the code does."""

from __future__ import annotations

import re

import pytest

from openapi.contract import Operation, load
from service import batch_file, file_access, streams, upload_form
from service.config import Settings
from service.problems import PROBLEMS
from serving.body_buffer import PIECE, SECONDS
from tests.docs.test_tables import ROOT, between, written

PAGE = (ROOT / "docs" / "files.md").read_text()
WORDS = " ".join(PAGE.split())


def passes(operation: Operation) -> str:
    if operation.body and operation.body.streamed:
        return "the body in pieces, as it came"
    return (
        "the answer in pieces, as it came"
        if operation.answer_streamed
        else "JSON, as of any other call"
    )


def test_every_operation_on_files_is_in_the_table_with_its_scope_and_what_passes() -> None:
    of_files = [each for each in load().operations.values() if each.files]
    rows = [
        f"| `{each.method} {each.path}` | `{each.scope}` | {passes(each)} |" for each in of_files
    ]
    found = between("files").search(PAGE)
    assert found
    head = ["| call | scope | what passes |", "|---|---|---|"]
    assert found[2] == written([*head, *rows])


def test_every_problem_and_setting_that_the_page_names_exists() -> None:
    kinds = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert kinds
    assert [kind for kind in kinds if kind not in PROBLEMS] == []
    known = {field.metadata.get("env") for field in Settings.__dataclass_fields__.values()}
    named = set(re.findall(r"\bGATEWAY_\w+", PAGE))
    assert named >= {
        "GATEWAY_MAX_FILE",
        "GATEWAY_TRANSFERS",
        "GATEWAY_FILE_PURPOSES",
        "GATEWAY_CHECK_FILES",
        "GATEWAY_SIGNED_URLS",
    }
    assert named <= known


@pytest.mark.parametrize(
    "said",
    [
        f"no part twice, no more than {upload_form.MAX_PARTS};",
        f"no field above {upload_form.MAX_FIELD >> 10} KiB",
        f"a line of more than {batch_file.MAX_LINE >> 20} MiB",
        f"more than {({2_000_000: 'two million'})[batch_file.MAX_CHECKED_LINES]} lines",
        f"up to {batch_file.MAX_COUNTED:,}: then",
        f"those over {batch_file.LONG >> 20} MiB share {batch_file.LONG_LINES.limit >> 20} MiB in a worker",
        f"The first {({100: 'hundred'})[batch_file.MAX_FAULTS]} faults",
        f"the latest {file_access.REMEMBERED:,} files",
        f"{SECONDS:g} s for each {PIECE / (1 << 20):g} MiB",
        f"some {streams.IN_HAND >> 10} KiB in hand",
        f"`GATEWAY_MAX_FILE`, {Settings.max_file >> 20} MiB",
        f"`GATEWAY_TRANSFERS`, {Settings.transfers} |",
    ],
)
def test_the_page_has_the_limits_of_the_code(said: str) -> None:
    assert said in WORDS
