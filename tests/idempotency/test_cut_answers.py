"""An answer that is cut at any of its bytes loses no job and makes no second one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.idempotency.conftest import Clock, door, settings_for
from tests.idempotency.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.api import CREATE, JOBS, creates, jobs, keyed
from tests.support.processes import Sandbox

Line = tuple[TestClient, FaultProxy, Sandbox]
numbers = count()
# Half of what CI tries: each is a create that is looked for.
EXAMPLES = 100 if os.environ.get("CI") else 50


@pytest.fixture(scope="module")
def line(running_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    store = tmp_path_factory.mktemp("cuts") / "keys.sqlite3"
    with fault_proxy(running_sandbox.url) as proxy, pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("service.upstream_connection.monotonic", clock.monotonic)
        patch.setattr("service.idempotency.time", clock)
        client = door(settings_for(proxy.url, store))
        yield client, proxy, running_sandbox


def a_create(line: Line, fault: Fault | None, key: str | None) -> tuple[int, str | None]:
    """The status of a create that meets `fault`, and its job's id; the proxy knows afterwards how long the answer was."""
    client, proxy, sandbox = line
    sandbox.reset()
    proxy.strike(fault)
    answer = client.post(JOBS, json=CREATE, headers=keyed(key) if key else {})
    return answer.status_code, answer.json().get("id")


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), form=st.sampled_from(["close", "reset"]))
def test_a_create_with_a_key_is_found_wherever_its_answer_is_cut(
    line: Line, where: float, form: str
) -> None:
    _, proxy, sandbox = line
    a_create(line, None, None)
    fault = Fault("cut", form, at=int(where * proxy.answer_bytes))
    status, job = a_create(line, fault, f"cut-{next(numbers)}")
    assert (status, [job]) == (200, [made["id"] for made in jobs(sandbox)])
    assert len(creates(sandbox)) == 1


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), form=st.sampled_from(["close", "reset"]))
def test_a_create_without_a_key_is_sent_once_wherever_its_answer_is_cut(
    line: Line, where: float, form: str
) -> None:
    _, proxy, sandbox = line
    a_create(line, None, None)
    at = int(where * proxy.answer_bytes)
    status, job = a_create(line, Fault("cut", form, at=at), None)
    (made,) = jobs(sandbox)
    assert (status, job) in ((504, None), (200, made["id"]))
    assert status == 504 or at >= proxy.answer_bytes - 2
    assert len(creates(sandbox)) == 1
