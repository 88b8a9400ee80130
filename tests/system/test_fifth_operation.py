"""An operation that is added to a copy of the capability runs, with no change of Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from openapi.derive import OWN_OVERLAYS
from tests.support.addition import Addition, with_an_addition
from tests.support.gateway import Stack, gateway_process
from tests.support.processes import run
from tests.system.browser import visited


@pytest.fixture(scope="module")
def addition(tmp_path_factory: pytest.TempPathFactory) -> Addition:
    return with_an_addition(tmp_path_factory.mktemp("extended"))


@pytest.fixture(scope="module")
def extended(running_stack: Stack, addition: Addition) -> Iterator[Stack]:
    """The stack with a service that has the addition."""
    document = addition.capability.with_name("openapi.yaml")
    derive = [sys.executable, "-m", "openapi.derive", str(addition.capability)]
    overlaid = [*derive, "--overlay", str(OWN_OVERLAYS[0]), "--output", str(document)]
    run(overlaid).check_returncode()
    upstream = f"{running_stack.sandbox.url}/v1"
    with gateway_process(upstream, GATEWAY_OPENAPI=document) as gateway:
        yield Stack(gateway, running_stack.sandbox)


def test_it_does_upstream_what_it_says(extended: Stack, addition: Addition) -> None:
    created = extended.gateway.post(
        "/v1/batch/jobs", {"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {}}]}
    ).json()
    path = f"/v1/batch/jobs/{created['id']}"
    deleted = extended.gateway.request("DELETE", addition.path.format(**{"job-id": created["id"]}))
    assert (deleted.status_code, deleted.json()["deleted"]) == (200, True)
    assert [row["status"] for row in extended.sandbox.ledger(method="DELETE", path=path)] == [200]
    assert extended.gateway.get(path).status_code == 404


def test_it_is_in_the_published_document(extended: Stack, addition: Addition) -> None:
    paths = extended.gateway.get("/openapi.json").json()["paths"]
    assert paths[addition.path]["delete"]["operationId"] == addition.operation


def test_it_is_in_swagger_ui(extended: Stack, addition: Addition) -> None:
    assert f"DELETE {addition.path}" in visited(extended.gateway.url)["operations"]
