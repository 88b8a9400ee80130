"""A Redis whose answers do not come: who is told that nothing was sent gets the job by repeating, and there is never a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from starlette.testclient import TestClient

from service import idempotency, redis_store, retry_queue
from tests.idempotency.conftest import door, settings_for
from tests.idempotency.redis_proxy import FORMS, RedisProxy, redis_proxy
from tests.idempotency.redis_server import redis_server
from tests.support.api import CREATE, JOBS, creates, jobs, keyed
from tests.support.processes import Sandbox, wait_until

NOW, CLAIM, CONFIRMATION, OUTCOME = 1, 2, 3, 4
"""The operations of a create, in their order."""

LATE = ["late", "twice", "stopped"]
"""The forms in which Redis carries out what nobody waits for any more."""

PATIENCE = 60
"""Seconds in which fifty who ask at once are all answered, on a busy machine too."""

LIMITS = {"GATEWAY_CONNECT_TIMEOUT": 1, "GATEWAY_READ_TIMEOUT": 2, "GATEWAY_TIMEOUT": 3}


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """All times are shorter, in their order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_store, "BUSY", 0.2)
        patch.setattr(idempotency, "UNCONFIRMED", 0.5)
        patch.setattr(retry_queue, "PAUSE", 0.05)
        yield


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def running_proxy(redis_url: str) -> Iterator[RedisProxy]:
    with redis_proxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: RedisProxy, redis_url: str) -> Iterator[RedisProxy]:
    """Before a Redis that knows no key."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    yield running_proxy
    running_proxy.stop_interfering()
    wait_until(nothing_is_owed)


@pytest.fixture(scope="module")
def client(running_sandbox: Sandbox, running_proxy: RedisProxy) -> TestClient:
    """Of a gateway whose way to Redis is the proxy."""
    return host(running_sandbox, running_proxy.url)


@pytest.fixture(scope="module")
def other_host(running_sandbox: Sandbox, redis_url: str) -> TestClient:
    """Of a gateway with a way of its own to the same Redis."""
    return host(running_sandbox, redis_url)


def host(sandbox: Sandbox, store: str) -> TestClient:
    made = door(settings_for(f"{sandbox.url}/v1", store, **LIMITS))
    made.get(JOBS)  # it is put together for its first request
    return made


def nothing_is_owed() -> bool:
    return all(thread.name != "store-retries" for thread in threading.enumerate())


def create(client: TestClient) -> Any:
    return client.post(JOBS, json=CREATE, headers=keyed())


def repeated(client: TestClient, refusals: list[int] | None = None) -> Any:
    """The first success; until then nothing but "repeat", which `refusals` gets the status of, with a pause after each."""

    def ask() -> Any:
        answer = create(client)
        assert answer.status_code in (200, 409, 503), answer.text
        if not answer.is_success and refusals is not None:
            refusals.append(answer.status_code)
            time.sleep(0.5)
        return answer if answer.is_success else None

    return wait_until(ask, PATIENCE)


def nothing_was_sent(answer: Any, sandbox: Sandbox) -> bool:
    said = (answer.status_code, answer.json()["type"].partition("#")[2])
    return said == (503, "idempotency-store-unavailable") and creates(sandbox) == []


def one_job(sandbox: Sandbox, *answers: Any) -> bool:
    made = [job["id"] for job in jobs(sandbox)]
    return len(creates(sandbox)) == 1 and made == [answers[0].json()["id"]] and same(*answers)


def same(*answers: Any) -> bool:
    return len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("operation", [NOW, CLAIM, CONFIRMATION])
def test_who_is_told_that_nothing_was_sent_gets_the_job_by_repeating(
    client: TestClient, proxy: RedisProxy, sandbox: Sandbox, operation: int, form: str
) -> None:
    proxy.interfere(form, operation)
    assert nothing_was_sent(create(client), sandbox)
    proxy.stop_interfering()
    made = repeated(client)
    assert "Idempotency-Replayed" not in made.headers
    assert one_job(sandbox, made, create(client))


@pytest.mark.parametrize("form", FORMS)
def test_an_outcome_whose_recording_is_not_answered_is_told_and_kept(
    client: TestClient, proxy: RedisProxy, sandbox: Sandbox, form: str
) -> None:
    proxy.interfere(form, OUTCOME)
    made = create(client)
    proxy.stop_interfering()
    assert made.status_code == 200
    assert one_job(sandbox, made, repeated(client))


@pytest.mark.parametrize("form", LATE)
@pytest.mark.parametrize("operation", [CLAIM, CONFIRMATION])
def test_what_redis_carries_out_late_changes_nothing_for_who_came_meanwhile(
    client: TestClient,
    other_host: TestClient,
    proxy: RedisProxy,
    sandbox: Sandbox,
    operation: int,
    form: str,
) -> None:
    proxy.interfere(form, operation)
    assert nothing_was_sent(create(client), sandbox)
    if form == "stopped":  # for the other host too
        proxy.stop_interfering()
    made = repeated(other_host)
    proxy.stop_interfering()
    wait_until(nothing_is_owed)
    assert one_job(sandbox, made, create(client), create(other_host))


@pytest.mark.parametrize("form", FORMS)
def test_a_refusal_frees_the_key_although_redis_did_not_answer_just_then(
    client: TestClient, proxy: RedisProxy, sandbox: Sandbox, form: str
) -> None:
    sandbox.faults({"fault": "rate-limited", "match": {"method": "POST"}})
    proxy.interfere(form, OUTCOME)
    assert create(client).status_code == 429
    proxy.stop_interfering()
    made = repeated(client)
    assert len(creates(sandbox)) == 2
    assert [job["id"] for job in jobs(sandbox)] == [made.json()["id"]]


def test_fifty_callers_of_two_hosts_get_one_job_although_redis_does_not_answer_one_of_them(
    client: TestClient, other_host: TestClient, proxy: RedisProxy, sandbox: Sandbox
) -> None:
    proxy.interfere("lost", CONFIRMATION)
    refusals: list[int] = []
    with ThreadPoolExecutor(50) as pool:
        calls = [
            pool.submit(repeated, (client, other_host)[number % 2], refusals)
            for number in range(50)
        ]
        # One whose claim is there, and its confirmation lost, may have the key until Redis answers it.
        wait_until(lambda: refusals.count(503) >= 50, PATIENCE)
        proxy.stop_interfering()
        answers = [call.result() for call in calls]
    assert one_job(sandbox, *answers)
