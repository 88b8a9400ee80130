"""An operation that is added to a copy of the capability runs, with no change of Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.gateway import Stack, gateway_process
from tests.support.processes import ROOT, run
from tests.system.browser import visited

OPENAPI = ROOT / "openapi"
NAME = "deletebatchjob"


@pytest.fixture(scope="module")
def extended(running_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack with a service that can also delete jobs, as Mistral's API can."""
    folder = tmp_path_factory.mktemp("extended")
    document = folder / "openapi.yaml"
    derive = [sys.executable, "-m", "openapi.derive", str(with_a_delete(folder))]
    overlaid = [*derive, "--overlay", str(OPENAPI / "overlay.yaml"), "--output", str(document)]
    run(overlaid).check_returncode()
    upstream = f"{running_stack.sandbox.url}/v1"
    with gateway_process(upstream, GATEWAY_OPENAPI=document) as gateway:
        yield Stack(gateway, running_stack.sandbox)


def with_a_delete(folder: Path) -> Path:
    """The project's capability with one more operation, consumed and exposed."""
    capability = yaml.safe_load((OPENAPI / "batch-batch-jobs.yaml").read_text(encoding="utf-8"))
    (consumed,), (rest, _) = (
        capability["capability"]["consumes"],
        capability["capability"]["exposes"],
    )
    consumed["resources"][1]["operations"].append({"name": NAME, "method": "DELETE"})
    rest["resources"][1]["operations"].append(
        {"method": "DELETE", "name": NAME, "call": f"{consumed['namespace']}.{NAME}"}
    )
    path = folder / "capability.yaml"
    path.write_text(yaml.safe_dump(capability), encoding="utf-8")
    return path


def test_it_does_upstream_what_it_says(extended: Stack) -> None:
    created = extended.gateway.post(
        "/v1/batch/jobs", {"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {}}]}
    ).json()
    path = f"/v1/batch/jobs/{created['id']}"
    deleted = extended.gateway.request("DELETE", path)
    assert (deleted.status_code, deleted.json()["deleted"]) == (200, True)
    assert [row["status"] for row in extended.sandbox.ledger(method="DELETE", path=path)] == [200]
    assert extended.gateway.get(path).status_code == 404


def test_it_is_in_the_published_document(extended: Stack) -> None:
    paths = extended.gateway.get("/openapi.json").json()["paths"]
    assert paths["/v1/batch/jobs/{job-id}"]["delete"]["operationId"] == NAME


def test_it_is_in_swagger_ui(extended: Stack) -> None:
    assert "DELETE /v1/batch/jobs/{job-id}" in visited(extended.gateway.url)["operations"]
