"""What a caller with a key sees, through the HTTP door, with the sandbox's ledger as witness.

The header's meaning: draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from access.token_file import make_token
from service.config import Settings
from service.idempotency import RESERVE
from tests.idempotency.conftest import Clock, MakeGateway
from tests.support.api import CREATE, JOBS, creates, jobs, keyed, keyed_cancel
from tests.support.processes import Sandbox, wait_until


@pytest.fixture
def client(gateway: MakeGateway) -> TestClient:
    return gateway()


def test_the_second_call_gets_the_first_ones_answer_and_sends_nothing(
    client: TestClient, sandbox: Sandbox
) -> None:
    first = client.post(JOBS, json=CREATE, headers=keyed())
    second = client.post(JOBS, json=CREATE, headers=keyed())
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert len(creates(sandbox)) == 1


def test_answers_say_until_when_the_key_is_remembered(client: TestClient) -> None:
    answers = [client.post(JOBS, json=CREATE, headers=keyed()) for _ in range(2)]
    first, second = (answer.headers["Idempotency-Expires"] for answer in answers)
    assert first == second
    left = parsedate_to_datetime(first) - datetime.now(UTC)
    assert 86390 < left.total_seconds() <= 86400


def test_a_replay_says_how_old_it_is(client: TestClient, clock: Clock) -> None:
    first = client.post(JOBS, json=CREATE, headers=keyed())
    clock.advance(90)
    second = client.post(JOBS, json=CREATE, headers=keyed())
    assert "Age" not in first.headers and 90 <= int(second.headers["Age"]) < 120


def test_a_replay_says_which_request_it_answers(client: TestClient) -> None:
    headers = {**keyed(), "X-Request-ID": "the-second"}
    client.post(JOBS, json=CREATE, headers=keyed())
    assert client.post(JOBS, json=CREATE, headers=headers).headers["X-Request-ID"] == "the-second"


def test_the_drafts_quoted_key_and_the_bare_one_are_the_same(
    client: TestClient, sandbox: Sandbox
) -> None:
    client.post(JOBS, json=CREATE, headers=keyed("8e03978e-40d5"))
    answer = client.post(JOBS, json=CREATE, headers=keyed('"8e03978e-40d5"'))
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert len(creates(sandbox)) == 1


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b'""'],
        [b"two words"],
        [b"a\tb"],
        ["ä".encode()],
        [b"x" * 256],
        [b"a", b"b"],
        [b"a", b"a"],
    ],
    ids=ascii,
)
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(
    client: TestClient, sandbox: Sandbox, values: list[bytes]
) -> None:
    headers = [(b"idempotency-key", value) for value in values]
    answer = client.post(JOBS, json=CREATE, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"
    assert creates(sandbox) == []


@pytest.mark.parametrize("key", ["x", "x" * 255, '"', "a\"b'c;d=e,f", "~!@#$%^&*()"])
def test_every_key_of_visible_characters_works(
    client: TestClient, sandbox: Sandbox, key: str
) -> None:
    answers = [client.post(JOBS, json=CREATE, headers=keyed(key)) for _ in range(2)]
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert len(creates(sandbox)) == 1


def test_a_key_means_nothing_where_repeating_does_no_harm(client: TestClient) -> None:
    answers = [client.get(JOBS, headers=keyed("two words")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "Idempotency-Replayed" not in answers[1].headers


SAME = (
    '{"endpoint": "/v1/ocr", "requests": [{"body": {"a": 1}}], "metadata": {"made": "by a test"}}',
    '{"metadata":{"made":"by a test"},"endpoint":"/v1/ocr","requests":[ {"body":{"a":1}} ]}',
)


@pytest.mark.parametrize("body", SAME)
def test_the_same_json_in_another_order_or_spacing_is_another_call(
    client: TestClient, body: str
) -> None:
    client.post(JOBS, json=CREATE, headers=keyed())
    headers = {**keyed(), "Content-Type": "application/json"}
    again = client.post(JOBS, content=body, headers=headers)
    assert (again.status_code, again.json()["type"]) == (422, "/problems#idempotency-key-reused")


OTHERS: list[dict[str, Any]] = [
    {**CREATE, "requests": [{"body": {"a": 2}}]},
    {**CREATE, "requests": [{"body": {"a": [1]}}]},
    {**CREATE, "requests": [{"body": {"a": 1}}, {"body": {"a": 1}}]},
    {**CREATE, "metadata": {"made": "by another"}},
    {**CREATE, "metadata": None},
    {**CREATE, "timeout_hours": 24},
]


def test_a_key_that_another_version_keeps_is_not_said_to_be_another_request_s(
    client: TestClient, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("service.idempotency._FORM", "")
        client.post(JOBS, json=CREATE, headers=keyed())
    again = client.post(JOBS, json=CREATE, headers=keyed())
    assert (again.status_code, again.json()["type"]) == (409, "/problems#outcome-still-unknown")
    assert len(creates(sandbox)) == 1


@pytest.mark.parametrize("other", OTHERS, ids=json.dumps)
def test_another_body_under_the_same_key_is_refused(
    client: TestClient, sandbox: Sandbox, other: dict[str, Any]
) -> None:
    client.post(JOBS, json=CREATE, headers=keyed())
    answer = client.post(JOBS, json=other, headers=keyed())
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems#idempotency-key-reused")
    assert len(creates(sandbox)) == 1


def test_a_body_of_ten_thousand_requests_is_told_from_one_that_differs_in_the_last(
    client: TestClient,
) -> None:
    rows = [{"custom_id": str(number), "body": {"n": number}} for number in range(10_000)]
    large = {**CREATE, "requests": rows}
    client.post(JOBS, json=large, headers=keyed())
    assert client.post(JOBS, json=large, headers=keyed()).status_code == 200
    rows[-1] = {"custom_id": "9999", "body": {"n": 0}}
    assert client.post(JOBS, json=large, headers=keyed()).status_code == 422


def test_a_key_holds_for_one_path_not_for_another(
    gateway: MakeGateway, sandbox: Sandbox, tmp_path: Path
) -> None:
    client = gateway(GATEWAY_OPENAPI=keyed_cancel(tmp_path))
    one, two = (client.post(JOBS, json=CREATE).json()["id"] for _ in range(2))
    _first, again = (client.post(f"{JOBS}/{one}/cancel", headers=keyed()) for _ in range(2))
    assert again.headers["Idempotency-Replayed"] == "true"
    assert client.post(f"{JOBS}/{two}/cancel", headers=keyed()).status_code == 422
    assert len(sandbox.ledger(method="POST", path=f"{JOBS}/{one}/cancel")) == 1


def test_a_key_of_one_operation_is_free_for_another(gateway: MakeGateway, tmp_path: Path) -> None:
    client = gateway(GATEWAY_OPENAPI=keyed_cancel(tmp_path))
    job = client.post(JOBS, json=CREATE, headers=keyed()).json()["id"]
    answer = client.post(f"{JOBS}/{job}/cancel", headers=keyed())
    assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)


def test_two_callers_may_use_the_same_key(
    gateway: MakeGateway, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    tokens = [make_token(name, ["jobs:write"], file=file)[0] for name in ("one", "two")]
    client = gateway(GATEWAY_TOKENS_FILE=file)
    bodies = [CREATE, OTHERS[0]]
    answers = [
        client.post(JOBS, json=body, headers={**keyed(), "Authorization": f"Bearer {token}"})
        for token, body in zip(tokens, bodies, strict=True)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(jobs(sandbox)) == 2


def test_what_was_created_at_one_upstream_is_not_replayed_for_another(
    gateway: MakeGateway, sandbox: Sandbox
) -> None:
    here = gateway().post(JOBS, json=CREATE, headers=keyed())
    there = gateway(f"{sandbox.url.replace('127.0.0.1', 'localhost')}/v1")
    answer = there.post(JOBS, json=CREATE, headers=keyed())
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.json()["id"] != here.json()["id"]


def test_a_call_while_the_first_is_under_way_is_told_to_come_again(
    gateway: MakeGateway, sandbox: Sandbox
) -> None:
    sandbox.faults({"fault": "latency", "match": {"method": "POST"}, "seconds": 2.0})
    one, two = gateway(), gateway()
    two.get("/livez")  # so that it is there before the first call has ended
    with ThreadPoolExecutor() as pool:
        first = pool.submit(one.post, JOBS, json=CREATE, headers=keyed())
        wait_until(lambda: creates(sandbox))
        early = two.post(JOBS, json=CREATE, headers=keyed())
        other = two.post(JOBS, json=OTHERS[0], headers=keyed())
    # Whether its worker was killed cannot be told from here: until its time is over.
    assert early.status_code == 409
    assert 2 < int(early.headers["Retry-After"]) <= Settings.timeout + RESERVE
    assert early.json()["type"] == "/problems#idempotency-in-progress"
    assert other.status_code == 422
    assert first.result().status_code == 200
    assert len(creates(sandbox)) == 1


REFUSALS = [
    {"fault": "status", "status": 422, "body": '{"detail": "no such model"}'},
    {"fault": "status", "status": 400},
    {"fault": "payment-required"},
    {"fault": "unauthorized"},
    {"fault": "forbidden"},
    *(
        {"fault": "rate-limited", "retry_after": form}
        for form in ("seconds", "date", "huge", "absent", "garbage")
    ),
    {"fault": "html-502", "status": 429},
    {"fault": "html-502", "status": 413},
]


@pytest.mark.parametrize("fault", REFUSALS, ids=lambda fault: " ".join(map(str, fault.values())))
def test_a_refusal_frees_the_key_also_for_a_corrected_body(
    client: TestClient, sandbox: Sandbox, fault: dict[str, Any]
) -> None:
    sandbox.faults(fault)
    refused = client.post(JOBS, json=CREATE, headers=keyed())
    assert refused.status_code >= 400
    corrected = client.post(JOBS, json=OTHERS[0], headers=keyed())
    assert (corrected.status_code, "Idempotency-Replayed" in corrected.headers) == (200, False)
    assert len(jobs(sandbox)) == 1


def test_a_failure_before_anything_was_sent_frees_the_key(
    gateway: MakeGateway, sandbox: Sandbox, closed_port: int
) -> None:
    unreachable = gateway(f"http://127.0.0.1:{closed_port}/v1").post(
        JOBS, json=CREATE, headers=keyed()
    )
    assert unreachable.json()["type"] == "/problems#upstream-unreachable"
    corrected = gateway(f"http://127.0.0.1:{closed_port}/v1").post(
        JOBS, json=OTHERS[0], headers=keyed()
    )
    assert corrected.json()["type"] == "/problems#upstream-unreachable"


def test_a_request_that_breaks_the_contract_does_not_use_up_its_key(
    client: TestClient, sandbox: Sandbox
) -> None:
    assert client.post(JOBS, json={"endpoint": "ocr"}, headers=keyed()).status_code == 422
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 200


def test_a_key_that_has_expired_is_new_and_its_record_is_gone(
    client: TestClient, sandbox: Sandbox, clock: Clock, store: Path
) -> None:
    first = client.post(JOBS, json=CREATE, headers=keyed())
    client.post(JOBS, json=CREATE, headers=keyed("key-2"))
    clock.advance(86401)
    second = client.post(JOBS, json=OTHERS[0], headers=keyed())
    assert second.status_code == 200
    assert second.json()["id"] != first.json()["id"]
    assert len({create["body"] for create in creates(sandbox)}) == 3
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*) FROM record").fetchone() == (1,)
    db.close()


def test_a_key_is_not_forgotten_while_its_call_is_under_way_however_short_the_expiry(
    gateway: MakeGateway, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.faults({"fault": "latency", "match": {"method": "POST"}, "seconds": 2.0})
    one, two = (gateway(GATEWAY_KEY_EXPIRY=1) for _ in range(2))
    two.get("/livez")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(one.post, JOBS, json=CREATE, headers=keyed())
        wait_until(lambda: creates(sandbox))
        clock.advance(10)
        assert two.post(JOBS, json=CREATE, headers=keyed()).status_code == 409
    assert first.result().status_code == 200
    assert len(creates(sandbox)) == 1
