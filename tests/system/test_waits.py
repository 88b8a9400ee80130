"""Waiting for the end of a job by `Prefer: wait`: a real gunicorn before a sandbox whose clock the tests move."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from service.waits import PACE
from tests.support.api import JOBS, job
from tests.support.gateway import Stack, gateway_process
from tests.support.processes import sandbox_process, wait_until

LONG = {"Prefer": "wait=40"}
FINAL = "SUCCESS"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A gateway of one worker and so few threads that waiting can take none."""
    limits = {"GATEWAY_CONNECT_TIMEOUT": 1, "GATEWAY_READ_TIMEOUT": 1}
    with (
        sandbox_process(speed=1) as sandbox,
        gateway_process(f"{sandbox.url}/v1", GATEWAY_THREADS=4, **limits) as gateway,
    ):
        yield Stack(gateway, sandbox)


@pytest.fixture
def path(stack: Stack) -> str:
    """That of a job that is over when the sandbox's clock has moved an hour."""
    stack.sandbox.reset()
    return created(stack)


def created(stack: Stack) -> str:
    answer = stack.gateway.post(JOBS, job())
    return f"{JOBS}/{answer.json()['id']}"


def waiting(stack: Stack, path: str, count: int = 1) -> list[Future[requests.Response]]:
    """So many callers that wait, each in a thread of its own, once the first look was made."""
    looks, others = len(looks_at(stack, path)), stack.gateway.inflight()
    pool = ThreadPoolExecutor(count)
    futures = [
        pool.submit(requests.get, stack.gateway.url + path, headers=LONG, timeout=60)
        for _ in range(count)
    ]
    pool.shutdown(wait=False)
    wait_until(lambda: len(looks_at(stack, path)) > looks)
    wait_until(lambda: stack.gateway.inflight() == others + count)
    return futures


def looks_at(stack: Stack, path: str) -> list[dict[str, Any]]:
    return stack.sandbox.ledger(method="GET", path=path)


def test_who_waits_gets_the_final_job_as_anybody_else_would(stack: Stack, path: str) -> None:
    (waiter,) = waiting(stack, path)
    stack.sandbox.advance(3600)
    answer = waiter.result()
    assert (answer.status_code, answer.json()["status"]) == (200, FINAL)
    assert answer.headers["Preference-Applied"] == "wait=40"
    assert answer.content == stack.gateway.get(path).content


def test_who_waits_in_vain_gets_the_latest_state_and_its_age(stack: Stack, path: str) -> None:
    answer = stack.gateway.get(path, headers={"Prefer": "respond-async, wait=2"})
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=2")
    assert answer.json()["status"] != FINAL
    assert int(answer.headers["Age"]) <= 2
    assert answer.content == stack.gateway.get(path).content


def test_who_waits_through_trouble_to_the_end_gets_what_was_seen_before_it_and_its_age(
    stack: Stack, path: str
) -> None:
    before = stack.gateway.get(path).content
    stack.sandbox.faults({"fault": "html-503", "match": {"path": path, "nth": 2}, "times": None})
    answer = stack.gateway.get(path, headers={"Prefer": "wait=3"})
    assert len(looks_at(stack, path)) > 2
    assert (answer.status_code, answer.content) == (200, before)
    assert int(answer.headers["Age"]) >= 2


def test_what_was_waited_for_is_in_the_log_and_in_no_duration(stack: Stack, path: str) -> None:
    before = durations(stack)
    answer = stack.gateway.get(path, headers={"Prefer": "wait=2"})
    own = f'"request_id":"{answer.headers["X-Request-ID"]}"'
    (line,) = wait_until(lambda: [line for line in stack.gateway.output if own in line])
    assert json.loads(line)["waited_seconds"] >= 2
    assert durations(stack) - before < 2


def durations(stack: Stack) -> float:
    """Seconds that all looks at jobs have taken."""
    start = "http_server_request_duration_seconds_sum"
    lines = stack.gateway.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[1]) for line in lines if line.startswith(start) and '{job-id}"' in line
    )


def metric(stack: Stack, name: str) -> float:
    lines = stack.gateway.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_who_hangs_up_waits_no_more_and_nobody_looks_for_him(stack: Stack, path: str) -> None:
    looks = metric(stack, "gateway_looks_total")
    with socket.create_connection(("127.0.0.1", stack.gateway.port)) as caller:
        caller.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=40\r\n\r\n".encode()
        )
        wait_until(lambda: metric(stack, "gateway_inflight_waits") == 1)
        assert metric(stack, "gateway_wait_places") == 1000
        assert metric(stack, "gateway_inflight_requests") == 1  # the one that asks
    wait_until(lambda: metric(stack, "gateway_inflight_waits") == 0)
    wait_until(lambda: stack.gateway.inflight() == 1)
    assert len(looks_at(stack, path)) == metric(stack, "gateway_looks_total") - looks


def test_trouble_of_the_upstream_loses_nobody(stack: Stack) -> None:
    stack.sandbox.reset()
    troubles: list[dict[str, Any]] = [
        {"fault": "html-503"},
        {"fault": "status", "status": 503, "body": "{}"},
        {"fault": "drop-before"},
        {"fault": "truncated"},
        {"fault": "rate-limited"},
        {"fault": "hang"},
    ]
    paths = [created(stack) for _ in troubles]
    waiters = [waiter for path in paths for waiter in waiting(stack, path, 10)]
    for path, trouble in zip(paths, troubles, strict=True):
        stack.sandbox.faults({**trouble, "match": {"path": path}, "times": 2})
    for path in paths:
        wait_until(lambda path=path: [row for row in looks_at(stack, path) if row["fault"]], 30)
    stack.sandbox.admin("DELETE", "/sandbox/faults")
    stack.sandbox.advance(3600)
    assert [waiter.result().json()["status"] for waiter in waiters] == [FINAL] * len(waiters)


def test_a_wait_for_what_is_not_there_ends_at_once(stack: Stack) -> None:
    answer = stack.gateway.get(f"{JOBS}/3fa85f64-5717-4562-b3fc-2c963f66afa6", headers=LONG)
    assert answer.status_code == 404
    assert "Preference-Applied" not in answer.headers


def test_a_thousand_waiters_for_ten_jobs_cost_a_look_for_each_job_and_interval(
    stack: Stack,
) -> None:
    stack.sandbox.reset()
    paths = [created(stack) for _ in range(10)]
    begun = time.monotonic()
    answers = asyncio.run(_many(stack.gateway.port, paths * 100))
    seconds = time.monotonic() - begun
    assert Counter(answers) == {200: 1000}
    for path in paths:
        assert len(looks_at(stack, path)) <= 2 + sum(
            1 for n in range(len(PACE)) if sum(PACE[: n + 1]) < seconds
        )


async def _many(port: int, paths: list[str]) -> list[int]:
    """The statuses of so many waits of four seconds, all at once."""

    async def one(path: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=4\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode())
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1])

    return await asyncio.gather(*map(one, paths))


def test_a_stop_answers_all_who_wait_within_a_second() -> None:
    with (
        sandbox_process(speed=1) as sandbox,
        gateway_process(f"{sandbox.url}/v1", GATEWAY_THREADS=4, WEB_CONCURRENCY=2) as gateway,
    ):
        own = Stack(gateway, sandbox)
        waiters = waiting(own, created(own), 200)
        os.kill(gateway.pid, signal.SIGTERM)
        answers = [waiter.result() for waiter in waiters]
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.elapsed.total_seconds() < 40 for answer in answers)
        gateway.process.wait(20)
