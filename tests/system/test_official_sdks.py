"""Mistral's official SDKs work through the gateway with nothing changed but their server URL.

Each runs in an environment of its own and prints what it saw; the jobs it finds are the sandbox's demonstration set.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from openapi.contract import load
from tests.support.gateway import Stack
from tests.support.once import once
from tests.support.processes import ROOT
from tests.support.tools_available import needed, needed_package, tool_python

SDKS = Path(__file__).with_name("sdks")
Report = dict[str, dict[str, Any]]
# The capability has no such operation, but it may be added.
JOBS_CAN_BE_DELETED = load().find("DELETE", "/v1/batch/jobs/1")[0] is not None

# What the upstream does, by the metadata filter `fault` of the list that asks for it -> what the SDK must report.
FAULTS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "rate-limited": ({"fault": "rate-limited"}, [429, "upstream"]),
    "payment-required": ({"fault": "payment-required"}, [402, "upstream"]),
    "status-500": ({"fault": "status", "status": 500}, [500, "upstream"]),
    "status-503": ({"fault": "status", "status": 503}, [503, "upstream"]),
    "html-502": ({"fault": "html-502"}, [502, "upstream"]),
    "html-503": ({"fault": "html-503"}, [502, "upstream"]),
    "unauthorized": ({"fault": "unauthorized"}, [502, "upstream"]),
    "drop-before": ({"fault": "drop-before"}, [502, "upstream"]),
}


def python(tool: str) -> list[str]:
    return [tool_python(tool), str(SDKS / "python_client.py")]


def typescript() -> list[str]:
    needed_package("@mistralai/mistralai")
    return [needed("node", "install Node.js"), str(SDKS / "typescript_client.mjs")]


COMMANDS = {
    "Python mistralai 3": lambda: python("mistralai-3"),
    "Python mistralai 2": lambda: python("mistralai-2"),
    "Python mistralai 1": lambda: python("mistralai-1"),
    "TypeScript @mistralai/mistralai 2": typescript,
}


@pytest.fixture(scope="module", params=COMMANDS)
def report(
    request: pytest.FixtureRequest, running_stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    """What one SDK saw."""
    command = COMMANDS[request.param]()
    name = re.sub(r"\W+", "-", request.param)
    found: Report = once(tmp_path_factory, name, lambda: seen_by(command, running_stack))
    return found


def seen_by(command: list[str], running_stack: Stack) -> Report:
    running_stack.sandbox.reset()
    running_stack.sandbox.demo()
    for name, (fault, _) in FAULTS.items():
        rule = {**fault, "match": {"query": f"fault={name}$|fault={name}&"}, "times": None}
        running_stack.sandbox.faults(rule)
    made = {"endpoint": "/v1/conversations", "requests": [{"body": {}}], "agent_id": "ag:1 & more"}
    named = running_stack.gateway.post("/v1/batch/jobs", {**made, "metadata": {"name": "agent's"}})
    assert named.status_code == 200
    looks = looks_of(running_stack)
    done = subprocess.run(
        [*command, running_stack.gateway.url, *FAULTS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: Report = json.loads(done.stdout)
    found["waits"] = {"looks": looks_of(running_stack) - looks}
    return found


def looks_of(running_stack: Stack) -> float:
    """How many looks the gateway has made for those that wait for a final state."""
    lines = running_stack.gateway.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("gateway_looks_total")).split()[1])


def test_a_job_is_created_read_listed_and_cancelled(report: Report) -> None:
    others = ("inline", "waited")
    life = {name: value for name, value in report["life"].items() if name not in others}
    assert life == {
        "created": ["QUEUED", "mistral-small-latest", {"made": "by the SDK"}],
        "same": True,
        "cancelled": "CANCELLATION_REQUESTED",
        "listed": True,
    }


def test_results_come_inline_when_asked_for(report: Report) -> None:
    assert report["life"]["inline"] == {"without": None, "results": 12, "answered": 7}


def test_a_job_can_be_waited_for(report: Report) -> None:
    assert report["life"]["waited"] == ["SUCCESS", "CANCELLATION_REQUESTED"]
    assert report["waits"]["looks"] >= 2  # so the gateway has heeded both


@pytest.mark.parametrize(
    ("filter", "names"),
    {
        "page, page_size": ["stopped", "stopping", "under-way"],
        "model": ["under-way", "all-broken"],
        "agent_id": ["agent's"],
        "metadata": ["stopping", "stopped", "labels", "too-slow"],
        "metadata of two": ["labels"],
        "created_after aware": ["bad-input", "all-broken", "half-broken"],
        "created_after naive": ["bad-input", "all-broken", "half-broken"],
        "created_by_me": ["stopped"],
        "status": ["bad-input", "too-slow"],
        "order_by": ["half-broken", "all-broken", "bad-input"],
    }.items(),
)
def test_a_list_filter_finds_the_jobs_that_match(
    report: Report, filter: str, names: list[str]
) -> None:
    # JavaScript's Date knows no moment without a zone.
    if filter == "created_after naive" and filter not in report["filters"]:
        return
    assert report["filters"][filter] == names


def test_the_total_counts_all_pages(report: Report) -> None:
    assert report["filters"]["total"] == 4


@pytest.mark.parametrize(
    ("failure", "seen"),
    {
        "contract broken": [422, "gateway"],
        "no uuid": [422, "gateway"],
        "unknown job": [404, "upstream"],
        "unknown job cancelled": [404, "upstream"],
        "job deleted": [404, "upstream"] if JOBS_CAN_BE_DELETED else [405, "gateway"],
        "signed URL": [404, "gateway"],
        "payment required": [402, "upstream"],
        "unknown file": [404, "gateway"],
        "unknown file downloaded": [404, "gateway"],
        "bad line uploaded": [422, "gateway"],
        "other purpose uploaded": [422, "gateway"],
        **{name: seen for name, (_, seen) in FAULTS.items()},
    }.items(),
)
def test_a_failure_arrives_as_the_sdks_own_error_with_its_status_and_source(
    report: Report, failure: str, seen: list[Any]
) -> None:
    if report["failures"][failure] is not False:  # False: this version knows no such call
        assert report["failures"][failure] == seen


def test_a_file_is_uploaded_read_listed_and_deleted(report: Report) -> None:
    """The Python SDKs send the purpose first, the TypeScript SDK sends it after the file."""
    assert report["files"] == {
        "uploaded": ["été 1.jsonl", "batch", True, 3],
        "retrieved": [True, "été 1.jsonl", False],
        "downloaded": True,
        "listed": True,
        "deleted": [True, True],
        "left": 0,
    }


def test_every_call_for_jobs_and_files_is_in_the_documentation(report: Report) -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    table = re.search(r"<!-- table: sdk calls -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert table
    documented = {*re.findall(r"`((?:batch\.jobs|files)\.\w+)`", table[1])}
    assert {*report["calls"]} <= documented
    assert documented - {*report["calls"]} <= {"batch.jobs.delete"}  # which version 1 has not
