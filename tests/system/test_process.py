"""The process: how it starts, refuses to start, reloads and ends, and what it does when a client leaves."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from tests.support.api import JOBS
from tests.support.gateway import (
    Gateway,
    Stack,
    failed_start,
    gateway_environment,
    gateway_process,
)
from tests.support.processes import Sandbox, wait_until

CREATE = {"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {}}]}
UPSTREAM = "http://127.0.0.1:9/v1"


@pytest.fixture
def own(stack: Stack) -> Iterator[Stack]:
    """The sandbox with a service that the test may end."""
    with gateway_process(f"{stack.sandbox.url}/v1", WEB_CONCURRENCY=2) as gateway:
        yield Stack(gateway, stack.sandbox)


def arrived(sandbox: Sandbox, method: str, number: int = 1) -> Callable[[], list[dict[str, Any]]]:
    """A condition: so many requests are at the sandbox."""

    def rows() -> list[dict[str, Any]]:
        found = sandbox.ledger(method=method, path=JOBS)
        return found if len(found) >= number else []

    return rows


# Starting


def test_without_a_key_it_ends_with_one_line_that_names_the_variable_and_a_way_without() -> None:
    ended = failed_start(gateway_environment(key=None))
    assert (ended.returncode, len(ended.stdout.splitlines())) == (2, 1)
    assert "MISTRAL_AI_API_KEY" in ended.stdout
    assert "make run" in ended.stdout


def test_a_key_file_that_is_missing_ends_it_with_one_line_that_names_it(tmp_path: Path) -> None:
    missing = tmp_path / "key"
    ended = failed_start(gateway_environment(UPSTREAM, None, MISTRAL_AI_API_KEY_FILE=missing))
    assert (ended.returncode, len(ended.stdout.splitlines())) == (2, 1)
    assert str(missing) in ended.stdout


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        store = tmp_path / "store"
        ended = failed_start(gateway_environment(UPSTREAM, GATEWAY_PORT=port, GATEWAY_STORE=store))
    assert ended.returncode != 0
    assert str(port) in ended.stdout
    assert "Traceback" not in ended.stdout


# Ending and reloading


def test_calls_in_flight_are_answered_before_it_ends(own: Stack) -> None:
    own.sandbox.faults({"fault": "latency", "seconds": 2, "times": 5})
    with ThreadPoolExecutor(5) as clients:
        calls = [clients.submit(own.gateway.get, JOBS) for _ in range(5)]
        wait_until(arrived(own.sandbox, "GET", 5))
        own.gateway.process.terminate()
        assert [call.result().status_code for call in calls] == [200] * 5
    assert own.gateway.process.wait(10) == 0


def test_an_idle_connection_does_not_hold_up_the_end(own: Stack) -> None:
    with socket.create_connection(("127.0.0.1", own.gateway.port)) as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        assert own.gateway.end(30) == 0  # 55 is the limit that would be used up


def test_a_reload_under_load_loses_no_request(own: Stack) -> None:
    gateway, statuses, over = own.gateway, [], threading.Event()
    persistent = requests.Session()
    persistent.trust_env = False
    # RFC 9112 section 9.3.1: a server may close a kept connection, and clients repeat a GET then.
    persistent.mount("http://", HTTPAdapter(max_retries=Retry(1)))

    def load(session: requests.Session) -> None:
        while not over.is_set():
            statuses.append(session.get(gateway.url + JOBS, timeout=30).status_code)

    with ThreadPoolExecutor(3) as clients:
        sessions = (gateway.session, gateway.session, persistent)
        calls = [clients.submit(load, session) for session in sessions]
        try:
            wait_until(lambda: len(statuses) > 20)
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: gateway.said("Booting worker") == 4 and gateway.said("Worker exiting") == 2
            )
            reloaded = len(statuses)
            wait_until(lambda: len(statuses) > reloaded + 20)
            # A signal is lost on a worker that is still coming up.
            wait_until(lambda: gateway.said("ASGI server listening") == 4)
        finally:
            over.set()
        for call in calls:
            call.result()
    persistent.close()
    assert set(statuses) == {200}


# Clients that leave


def leave(gateway: Gateway, request: bytes, there: Callable[[], Any]) -> float:
    """Sends a request, and leaves once it is upstream; when that was."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(request)
        wait_until(there)
    return time.time()


def test_a_client_that_leaves_a_get_ends_it_upstream_too(stack: Stack) -> None:
    stack.sandbox.faults({"fault": "latency", "seconds": 30})
    request = f"GET {JOBS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    left = leave(stack.gateway, request, arrived(stack.sandbox, "GET"))
    closed = wait_until(lambda: stack.sandbox.ledger(method="GET")[0]["client_closed_at"])
    assert closed - left < 10


def test_a_client_that_leaves_a_create_does_not_stop_it(stack: Stack) -> None:
    stack.sandbox.faults({"fault": "latency", "seconds": 1})
    body = json.dumps(CREATE).encode()
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    leave(stack.gateway, head.encode() + body, arrived(stack.sandbox, "POST"))
    (row,) = wait_until(
        lambda: [r for r in stack.sandbox.ledger(method="POST") if r["outcome"] != "open"]
    )
    assert (row["status"], row["client_closed_at"]) == (200, None)
    assert stack.gateway.get(f"{JOBS}/{row['job_id']}").status_code == 200
