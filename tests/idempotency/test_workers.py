"""Fifty callers with one key, real workers that are killed: one job, and every success is it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.idempotency.redis_proxy import redis_proxy
from tests.idempotency.redis_server import redis_server
from tests.support.api import CREATE, JOBS, creates, jobs, keyed
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until

CALLERS = 50
LIMITS: dict[str, Any] = {
    "GATEWAY_CONNECT_TIMEOUT": 1,
    "GATEWAY_READ_TIMEOUT": 2,
    "GATEWAY_TIMEOUT": 3,
}
LEASE = 8  # seconds: the timeout, and five for what else a request may take
Start = Callable[..., list[Gateway]]


@pytest.fixture
def start(sandbox: Sandbox) -> Iterator[Start]:
    """Starts as many gateways as there are numbers, with so many workers each, on one store."""
    with ExitStack() as running:

        def gateways(store: Path | str, *numbers: int) -> list[Gateway]:
            return [
                running.enter_context(
                    gateway_process(
                        f"{sandbox.url}/v1", WEB_CONCURRENCY=number, GATEWAY_STORE=store, **LIMITS
                    )
                )
                for number in numbers
            ]

        yield gateways


class Callers:
    """Fifty threads that call one operation with one key until it succeeds, at one or several gateways."""

    def __init__(
        self, gateways: list[Gateway], path: str = JOBS, seconds: float = 3 * LEASE
    ) -> None:
        self.statuses: set[int | str] = set()
        self.ids: set[str] = set()
        self.firsts = 0
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CALLERS)
        turns = cycle(gateways)
        self._calls = [self._pool.submit(self._persist, next(turns)) for _ in range(CALLERS)]

    def finish(self) -> int:
        """Waits for them; how many have succeeded."""
        succeeded = sum(call.result(60) for call in self._calls)
        self._pool.shutdown()
        return succeeded

    def _persist(self, gateway: Gateway) -> bool:
        end = time.monotonic() + self._seconds
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < end:
                if self._call(session, gateway.url + self._path):
                    return True
                time.sleep(0.5)
        return False

    def _call(self, session: requests.Session, url: str) -> bool:
        try:
            answer = session.post(url, json=CREATE, headers=keyed("fifty"), timeout=20)
        except requests.ConnectionError:
            with self._lock:
                self.statuses.add("connection error")
            return False
        with self._lock:
            self.statuses.add(answer.status_code)
            if answer.ok:
                self.ids.add(answer.json()["id"])
                self.firsts += "Idempotency-Replayed" not in answer.headers
        return answer.ok


def slow_create(sandbox: Sandbox, *, processed: bool, seconds: float = 1.5) -> None:
    match = {"method": "POST"}
    sandbox.faults({"fault": "latency", "match": match, "seconds": seconds, "processed": processed})


def one_job_for_all(callers: Callers, sandbox: Sandbox) -> bool:
    succeeded = callers.finish()
    made = [job["id"] for job in jobs(sandbox)]
    return succeeded == CALLERS and callers.ids == set(made) and len(made) == 1


def test_fifty_callers_of_four_workers_get_one_job(
    start: Start, sandbox: Sandbox, store: Path
) -> None:
    slow_create(sandbox, processed=False, seconds=0.8)
    callers = Callers(start(store, 4))
    assert one_job_for_all(callers, sandbox)
    assert callers.statuses <= {200, 409}
    assert callers.firsts == 1
    assert len(creates(sandbox)) == 1


@pytest.mark.parametrize("processed", [True, False], ids=["carried out", "not yet carried out"])
def test_fifty_callers_get_one_job_although_all_workers_are_killed_while_it_is_made(
    start: Start, sandbox: Sandbox, store: Path, processed: bool
) -> None:
    # It is carried out after these seconds: long after the workers are killed, also where that takes its time.
    slow_create(sandbox, processed=processed, seconds=1.5 if processed else 8)
    gateways = start(store, 4)
    callers = Callers(gateways, seconds=(3 if processed else 1.5) * LEASE)
    wait_until(lambda: jobs(sandbox) if processed else creates(sandbox))
    before = gateways[0].workers
    gateways[0].kill_workers()
    if not processed:
        # The sandbox notices that its client is gone, and carries nothing out: the key stays unknown.
        callers.finish()
        assert jobs(sandbox) == []
        assert callers.ids == set()
    else:
        assert one_job_for_all(callers, sandbox)
    assert not set(before) & set(gateways[0].workers)
    assert callers.statuses <= {200, 409, "connection error"}
    assert "connection error" in callers.statuses
    assert len(creates(sandbox)) == 1


def test_workers_killed_again_and_again_make_no_second_job(
    start: Start, sandbox: Sandbox, store: Path
) -> None:
    slow_create(sandbox, processed=True)
    gateways = start(store, 4)
    callers = Callers(gateways)
    wait_until(lambda: jobs(sandbox))
    for _ in range(4):
        gateways[0].kill_workers()
        wait_until(lambda: len(gateways[0].workers) == 4)
        time.sleep(1)  # so that callers are under way again
    assert one_job_for_all(callers, sandbox)
    assert len(creates(sandbox)) == 1


def test_two_hosts_that_share_a_redis_make_one_job_although_one_is_killed(
    start: Start, sandbox: Sandbox, tmp_path: Path
) -> None:
    slow_create(sandbox, processed=True)
    with redis_server(tmp_path) as url:
        gateways = start(url, 2, 2)
        callers = Callers(gateways)
        wait_until(lambda: jobs(sandbox))
        for gateway in gateways:
            gateway.kill_workers()
        assert one_job_for_all(callers, sandbox)
        assert callers.statuses <= {200, 409, "connection error"}
    assert len(creates(sandbox)) == 1


def test_fifty_callers_of_two_hosts_get_one_job_although_redis_stands_still_for_longer_than_they_wait(
    start: Start, sandbox: Sandbox, tmp_path: Path
) -> None:
    with redis_server(tmp_path) as url, redis_proxy(url) as proxy:
        gateways = start(proxy.url, 2, 2)
        proxy.interfere("stopped", at=20)
        callers = Callers(gateways)
        wait_until(lambda: 503 in callers.statuses)
        proxy.stop_interfering()
        assert one_job_for_all(callers, sandbox)
        assert callers.statuses <= {200, 409, 503}
    assert len(creates(sandbox)) == 1


def test_a_key_holds_across_a_restart(start: Start, sandbox: Sandbox, store: Path) -> None:
    with gateway_process(f"{sandbox.url}/v1", WEB_CONCURRENCY=1, GATEWAY_STORE=store) as gateway:
        first = gateway.post(JOBS, CREATE, headers=keyed())
    (second,) = start(store, 1)
    again = second.post(JOBS, CREATE, headers=keyed())
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    assert len(creates(sandbox)) == 1
