"""A call whose answer was lost is looked for, never sent blindly again; the sandbox's ledger is the witness."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import responses
from starlette.testclient import TestClient

from tests.idempotency.conftest import Clock, MakeGateway
from tests.support.api import (
    BLIND,
    CREATE,
    JOBS,
    LOST,
    LOST_BEFORE,
    creates,
    jobs,
    keyed,
    tag,
    without_recovery,
)
from tests.support.processes import Sandbox, sandbox_process, wait_until

pytestmark = pytest.mark.usefixtures("clock")

LEASE = 50
"""Seconds after which a call is certainly no longer under way: GATEWAY_TIMEOUT and what is kept for looking."""

SETTLE = 600

BROKEN = [
    LOST,
    {"fault": "drop-after", "reset": True},
    {"fault": "truncated"},
    {"fault": "garbage", "processed": True},
    {"fault": "html-502", "processed": True},
    {"fault": "html-503", "processed": True},
    {"fault": "html-504", "processed": True},
    {"fault": "status", "status": 500, "processed": True},
    {"fault": "status", "status": 503, "processed": True},
    {"fault": "status", "status": 408, "processed": True},
    {"fault": "status", "status": 200, "body": "[]", "processed": True},
    {"fault": "redirect", "processed": True},
    {"fault": "wrong-type"},
    {"fault": "invalid-json"},
    {"fault": "gzip"},
]
UNREADABLE = [
    *BROKEN,
    {"fault": "status", "status": 200, "body": "{}", "processed": True},
    {"fault": "status", "status": 200, "body": '{"id": null}', "processed": True},
    {"fault": "huge", "bytes": 1000, "processed": True},
]
"""Such answers say nothing about a job; the last three are whole, and pass where there is no key."""


@pytest.fixture
def client(gateway: MakeGateway) -> TestClient:
    return gateway()


def posting(fault: dict[str, Any]) -> dict[str, Any]:
    return {"match": {"method": "POST"}, **fault}


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].partition("#")[2]


@pytest.mark.parametrize("fault", UNREADABLE, ids=lambda fault: " ".join(map(str, fault.values())))
def test_a_keyed_create_whose_answer_cannot_be_read_is_found_within_the_same_request(
    client: TestClient, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    sandbox.faults(posting(fault))
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert (answer.status_code, answer.headers["Gateway-Reconciled"]) == (200, "true")
    assert [job["id"] for job in jobs(sandbox)] == [answer.json()["id"]]
    again = client.post(JOBS, json=CREATE, headers=keyed())
    assert (again.content, again.headers["Idempotency-Replayed"]) == (answer.content, "true")
    assert len(creates(sandbox)) == 1


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: " ".join(map(str, fault.values())))
def test_a_create_without_a_key_is_sent_once_and_the_problem_says_how_to_find_out(
    client: TestClient, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    sandbox.faults(posting(fault))
    answer = client.post(JOBS, json=CREATE)
    assert problem(answer) == (504, "create-outcome-unknown")
    assert answer.json()["retryable"] is False
    assert "list of jobs" in answer.json()["detail"]
    assert [entry["method"] for entry in sandbox.ledger()] == ["POST"]


def test_what_was_not_found_in_the_same_request_is_found_by_the_next_call(
    client: TestClient, sandbox: Sandbox
) -> None:
    sandbox.faults(LOST, BLIND)
    first = client.post(JOBS, json=CREATE, headers=keyed())
    assert problem(first) == (504, "create-outcome-unknown")
    assert first.json()["retryable"] is True
    sandbox.admin("DELETE", "/sandbox/faults")
    second = client.post(JOBS, json=CREATE, headers=keyed())
    assert (second.status_code, second.headers["Idempotency-Replayed"]) == (200, "true")
    assert [job["id"] for job in jobs(sandbox)] == [second.json()["id"]]
    assert len(creates(sandbox)) == 1


def test_a_job_that_is_late_in_the_list_is_found_once_it_is_there(gateway: MakeGateway) -> None:
    with sandbox_process(list_lag_seconds=3) as sandbox:
        client = gateway(f"{sandbox.url}/v1")
        sandbox.faults(LOST)
        answers: list[Any] = []

        def call() -> bool:
            answers.append(client.post(JOBS, json=CREATE, headers=keyed()))
            return bool(answers[-1].status_code == 200)

        wait_until(call)
        first, *others, last = answers
        assert problem(first) == (504, "create-outcome-unknown")
        assert {problem(answer) for answer in others} <= {(409, "outcome-still-unknown")}
        assert [job["id"] for job in jobs(sandbox)] == [last.json()["id"]]
        assert len(creates(sandbox)) == 1


def test_nothing_is_sent_again_before_the_settle_window_is_over(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults(LOST_BEFORE)
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 504
    for _ in range(6):
        answer = client.post(JOBS, json=CREATE, headers=keyed())
        assert problem(answer) == (409, "outcome-still-unknown")
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        clock.advance((LEASE + SETTLE) / 6 - 5)
    assert len(creates(sandbox)) == 1


def test_after_the_settle_window_it_is_sent_again_with_the_same_tag(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults(LOST_BEFORE)
    client.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(LEASE + SETTLE)
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert answer.status_code == 200
    first, second = creates(sandbox)
    assert tag(first) == tag(second) is not None
    assert [job["id"] for job in jobs(sandbox)] == [answer.json()["id"]]


def test_a_call_sent_again_that_is_lost_again_has_a_settle_window_of_its_own(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults({**LOST_BEFORE, "times": 2})
    client.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(LEASE + SETTLE)
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 504
    clock.advance(SETTLE - 10)
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 409
    assert len(creates(sandbox)) == 2


def test_a_refusal_of_the_call_sent_again_does_not_free_the_first_ones_key(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults(LOST_BEFORE, {"fault": "rate-limited", "match": {"method": "POST"}})
    client.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(LEASE + SETTLE)
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 429
    other = client.post(JOBS, json={**CREATE, "timeout_hours": 2}, headers=keyed())
    assert problem(other) == (422, "idempotency-key-reused")
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 200
    assert len({tag(create) for create in creates(sandbox)}) == 1


@pytest.mark.parametrize("processed", [True, False])
def test_while_not_all_jobs_can_be_looked_at_nothing_is_sent_again(
    client: TestClient,
    sandbox: Sandbox,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    processed: bool,
) -> None:
    monkeypatch.setattr("service.job_recovery.PAGE_SIZE", 2)
    monkeypatch.setattr("service.job_recovery.PAGES", 2)
    sandbox.faults(LOST if processed else LOST_BEFORE, BLIND)
    client.post(JOBS, json=CREATE, headers=keyed())
    sandbox.admin("DELETE", "/sandbox/faults")
    for _ in range(5):
        client.post(JOBS, json=CREATE)
    clock.advance(LEASE + SETTLE)
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert problem(answer) == (409, "outcome-still-unknown")
    assert len(creates(sandbox)) == 6


LISTS: dict[str, list[dict[str, Any]]] = {
    "shorter pages than asked for": [{"data": [{"id": "a"}], "total": 2}],
    "shorter pages, and no total": [{"data": [{"id": "a"}]}],
    "jobs without metadata": [
        {"data": [{"id": "a", "metadata": None}, {"id": "b", "metadata": 7}]}
    ],
}


@pytest.mark.parametrize("before", LISTS.values(), ids=LISTS)
def test_a_job_is_found_on_a_later_page_however_the_upstream_pages(
    gateway: MakeGateway, before: list[dict[str, Any]]
) -> None:
    upstream = "http://127.0.0.1:9/v1"
    sent: list[Any] = []

    def create(request: Any) -> tuple[int, dict[str, str], str]:
        sent.append(json.loads(request.body))
        return 502, {}, "<html></html>"

    def page(request: Any) -> tuple[int, dict[str, str], str]:
        number = int(request.params["page"])
        mine = {"id": "mine", "metadata": sent[0]["metadata"], "new": 1.50}
        pages = [*before, {"data": [mine], "total": 2}, {"data": []}]
        return 200, {}, json.dumps(pages[number])

    with responses.RequestsMock() as mistral:
        mistral.add_callback("POST", f"{upstream}/batch/jobs", create, content_type="text/html")
        mistral.add_callback("GET", f"{upstream}/batch/jobs", page, content_type="application/json")
        answer = gateway(upstream).post(JOBS, json=CREATE, headers=keyed())
    assert (answer.status_code, answer.json()["id"], answer.json()["new"]) == (200, "mine", 1.5)


HALF = rb'"model": "\ud83d",  "x": "\\ud83d\ud83d\ude00"'
"""Members with half of a surrogate pair, which is JSON (RFC 8259 section 8.2)."""


def test_a_job_with_half_of_a_surrogate_pair_is_recorded_and_replayed_byte_for_byte(
    gateway: MakeGateway,
) -> None:
    upstream = "http://127.0.0.1:9/v1"
    body = b'{"id": "mine", %s}' % HALF
    with responses.RequestsMock() as mistral:
        create = mistral.post(f"{upstream}/batch/jobs", body=body, content_type="application/json")
        client = gateway(upstream)
        answers = [client.post(JOBS, json=CREATE, headers=keyed()).content for _ in range(2)]
    assert (answers, create.call_count) == ([body, body], 1)


def test_a_lost_job_with_half_of_a_surrogate_pair_is_found_as_it_is_in_the_list(
    gateway: MakeGateway,
) -> None:
    upstream = "http://127.0.0.1:9/v1"
    job: list[bytes] = []

    def create(request: Any) -> tuple[int, dict[str, str], str]:
        metadata = json.dumps(json.loads(request.body)["metadata"]).encode()
        job.append(b'{"id": "mine", %s, "metadata": %s}' % (HALF, metadata))
        return 502, {}, "<html></html>"

    def page(request: Any) -> tuple[int, dict[str, str], bytes]:
        other = b'{"id": "other", %s}' % HALF
        return 200, {}, b'{"x": "\\udc00", "data": [%s,  %s], "total": 2}' % (other, job[0])

    with responses.RequestsMock() as mistral:
        mistral.add_callback("POST", f"{upstream}/batch/jobs", create, content_type="text/html")
        mistral.add_callback("GET", f"{upstream}/batch/jobs", page, content_type="application/json")
        answer = gateway(upstream).post(JOBS, json=CREATE, headers=keyed())
    assert (answer.status_code, answer.content) == (200, job[0])


@pytest.mark.parametrize(
    "page", [{}, {"data": None}, {"total": 0}, {"data": {}}, {"data": [7]}, []]
)
def test_a_list_of_another_form_proves_nothing(
    gateway: MakeGateway, clock: Clock, page: Any
) -> None:
    upstream = "http://127.0.0.1:9/v1"
    with responses.RequestsMock() as mistral:
        create = mistral.post(f"{upstream}/batch/jobs", status=502, body="<html></html>")
        mistral.get(f"{upstream}/batch/jobs", json=page)
        client = gateway(upstream)
        assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 504
        clock.advance(LEASE + SETTLE)
        assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 409
        assert create.call_count == 1


@pytest.mark.parametrize("hours", [-12, 12])
def test_a_job_is_found_although_the_gateways_clock_was_wrong_by_hours(
    client: TestClient, sandbox: Sandbox, clock: Clock, hours: int
) -> None:
    clock.advance(hours * 3600)
    sandbox.faults(LOST)
    answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert answer.status_code == 200


def test_a_clock_set_back_makes_waiting_longer_and_nothing_worse(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults(LOST_BEFORE)
    client.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(-3600)
    assert problem(client.post(JOBS, json=CREATE, headers=keyed())) == (
        409,
        "outcome-still-unknown",
    )
    assert len(creates(sandbox)) == 1


# The tag


def test_only_a_create_with_a_key_is_tagged_and_nothing_else_of_it_changes(
    client: TestClient, sandbox: Sandbox
) -> None:
    client.post(JOBS, json=CREATE)
    client.post(JOBS, json=CREATE, headers=keyed())
    plain, tagged = (json.loads(create["body"]) for create in creates(sandbox))
    assert plain == CREATE
    assert re.fullmatch("[0-9a-f]{40}", tagged["metadata"].pop("gw_op"))
    assert tagged == CREATE


@pytest.mark.parametrize("metadata", [{}, None, "left out"])
def test_a_create_without_metadata_of_its_own_can_be_tagged(
    client: TestClient, sandbox: Sandbox, metadata: Any
) -> None:
    body = {k: v for k, v in {**CREATE, "metadata": metadata}.items() if v != "left out"}
    assert client.post(JOBS, json=body, headers=keyed()).status_code == 200
    assert json.loads(creates(sandbox)[0]["body"])["metadata"].keys() == {"gw_op"}


def test_the_key_itself_does_not_leave_the_gateway(client: TestClient, sandbox: Sandbox) -> None:
    client.post(JOBS, json=CREATE, headers=keyed("my-own-key-1"))
    assert "my-own-key-1" not in json.dumps(sandbox.ledger())


def test_a_tag_cannot_be_guessed_from_the_key_nor_from_another_tag(
    client: TestClient, sandbox: Sandbox, clock: Clock
) -> None:
    for _ in range(2):
        client.post(JOBS, json=CREATE, headers=keyed())
        client.post(JOBS, json=CREATE, headers=keyed("key-2"))
        clock.advance(86401)
    assert len({tag(create) for create in creates(sandbox)}) == 4


def test_an_old_job_of_an_expired_key_is_not_taken_for_the_new_one(
    gateway: MakeGateway, sandbox: Sandbox, clock: Clock
) -> None:
    client = gateway(GATEWAY_KEY_EXPIRY=1)
    old = client.post(JOBS, json=CREATE, headers=keyed()).json()["id"]
    clock.advance(2 * LEASE + SETTLE + 1)
    sandbox.faults(LOST)
    assert client.post(JOBS, json=CREATE, headers=keyed()).json()["id"] != old


@pytest.mark.parametrize("key", [None, "key-1"])
@pytest.mark.parametrize("name", ["gw_op", "gw_", "gw_anything"])
def test_callers_cannot_set_the_gateways_own_metadata(
    client: TestClient, sandbox: Sandbox, key: str | None, name: str
) -> None:
    body = {**CREATE, "metadata": {name: "x"}}
    answer = client.post(JOBS, json=body, headers=keyed(key) if key else {})
    assert problem(answer) == (422, "validation-failed")
    assert answer.json()["errors"][0]["pointer"].startswith("/body/metadata")
    assert creates(sandbox) == []


def test_a_name_that_only_resembles_the_gateways_own_is_the_callers(client: TestClient) -> None:
    body = {**CREATE, "metadata": {"gw": "1", "GW_x": "2", "my_gw_x": "3"}}
    assert client.post(JOBS, json=body, headers=keyed()).status_code == 200


# No recovery in the contract


def test_without_a_recovery_a_lost_create_stays_unknown_and_is_never_sent_again(
    gateway: MakeGateway, sandbox: Sandbox, clock: Clock, tmp_path: Path
) -> None:
    client = gateway(GATEWAY_OPENAPI=without_recovery(tmp_path))
    sandbox.faults(LOST)
    first = client.post(JOBS, json=CREATE, headers=keyed())
    assert (problem(first), first.json()["retryable"]) == ((504, "create-outcome-unknown"), False)
    for _ in range(2):
        answer = client.post(JOBS, json=CREATE, headers=keyed())
        assert problem(answer) == (409, "outcome-still-unknown")
        assert (answer.json()["retryable"], "Retry-After" in answer.headers) == (False, False)
        clock.advance(86000)
    assert [entry["method"] for entry in sandbox.ledger()] == ["POST"]


def test_a_create_that_was_sent_without_a_tag_is_not_sent_again_when_the_contract_has_a_recovery(
    gateway: MakeGateway, sandbox: Sandbox, clock: Clock, tmp_path: Path
) -> None:
    sandbox.faults(LOST)
    untagged = gateway(GATEWAY_OPENAPI=without_recovery(tmp_path))
    untagged.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(LEASE + SETTLE + 1)
    answer = gateway().post(JOBS, json=CREATE, headers=keyed())
    assert problem(answer) == (409, "outcome-still-unknown")
    assert "list of jobs" in answer.json()["detail"]
    assert len(creates(sandbox)) == 1


def test_without_a_recovery_answers_are_replayed_and_bodies_stay_as_they_are(
    gateway: MakeGateway, sandbox: Sandbox, tmp_path: Path
) -> None:
    client = gateway(GATEWAY_OPENAPI=without_recovery(tmp_path))
    answers = [client.post(JOBS, json=CREATE, headers=keyed()) for _ in range(2)]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert [json.loads(create["body"]) for create in creates(sandbox)] == [CREATE]


# Cancelling


@pytest.mark.parametrize(
    "fault",
    [
        LOST_BEFORE,
        *(fault for fault in BROKEN if fault["fault"] != "redirect" and "body" not in fault),
    ],
    ids=lambda fault: " ".join(map(str, fault.values())),
)
def test_a_cancel_whose_answer_was_lost_is_sent_once_and_may_be_repeated_at_once(
    client: TestClient, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    job = client.post(JOBS, json=CREATE).json()["id"]
    sandbox.faults(posting(fault))
    lost = client.post(f"{JOBS}/{job}/cancel")
    assert (lost.is_success, lost.json()["retryable"]) == (False, True)
    assert len(sandbox.ledger(method="POST", path=f"{JOBS}/{job}/cancel")) == 1
    again = client.post(f"{JOBS}/{job}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "CANCELLATION_REQUESTED")
