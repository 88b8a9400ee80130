"""Mistral's own Python client completes its whole batch life against the sandbox.

It lives in an environment of its own, since it is not a dependency of the project.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import sandbox_process
from tests.support.tools_available import tool_python

SCRIPT = Path(__file__).parent / "official_client.py"


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, object]]:
    """What the client found: a dict for each of its runs."""
    python = tool_python("mistralai-3")
    with sandbox_process(speed=200) as sandbox:
        done = subprocess.run(
            [python, SCRIPT, sandbox.url], capture_output=True, text=True, timeout=100
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", ["inline", "uploaded"])
def test_run_completes_and_gives_every_answer(
    report: dict[str, dict[str, object]], way: str
) -> None:
    assert report[way] == {
        "status": "SUCCESS",
        "responses": ["a", "b"],
        "request_errors": ["bad-object", "bad-string"],
        "response_errors": [],
    }


def test_its_models_accept_the_body_of_every_endpoint(report: dict[str, dict[str, object]]) -> None:
    assert set(report["bodies"].values()) == {"SUCCESS 1"}
    assert len(report["bodies"]) == 10


def test_files_can_be_uploaded_listed_read_and_deleted(
    report: dict[str, dict[str, object]],
) -> None:
    assert report["files"] == {
        "listed": True,
        "content": '{"body":{}}',
        "signed": True,
        "deleted": True,
    }
