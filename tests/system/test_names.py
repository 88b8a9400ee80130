"""The upstream's name cannot be looked up, or its addresses do not answer: the caller is answered, and nothing is sent later."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from service import flask_dispatch
from tests.idempotency.conftest import door, settings_for
from tests.support.api import CREATE, JOBS, job, keyed
from tests.support.processes import wait_until
from tests.support.upstreams import upstream
from tests.system.hosts import MIDDLE, Token, gateway_on, hosts

HOST = "api.example"
LIMITS = {"GATEWAY_CONNECT_TIMEOUT": 1, "GATEWAY_READ_TIMEOUT": 3, "GATEWAY_TIMEOUT": 4}
FAR_ABOVE = 12
"""Seconds: three times the limit, and far below what the resolver takes."""


@contextmanager
def dead_resolver(folder: Path) -> Iterator[Path]:
    """A name server in the middle that takes every question and answers none: a resolv.conf that names it."""
    path = folder / "resolv.conf"
    path.write_text(f"nameserver {MIDDLE}\noptions timeout:30 attempts:1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((MIDDLE, 53))
        yield path


def timed(url: str, method: str, token: Token) -> tuple[float, requests.Response]:
    """One call: its seconds and its answer."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {token.text}"}
    body = job() if method == "POST" else None
    answer = requests.request(method, url, json=body, headers=headers, timeout=60)
    return time.monotonic() - began, answer


def test_a_name_server_that_never_answers_holds_no_request_beyond_its_limit(
    tmp_path: Path,
) -> None:
    token = Token(tmp_path)
    settings = {"GATEWAY_TOKENS_FILE": token.file, "GATEWAY_STORE": tmp_path / "keys.sqlite3"}
    with (
        hosts(2) as (host,),
        dead_resolver(tmp_path) as resolver,
        gateway_on(host, f"https://{HOST}/v1", resolver=resolver, **LIMITS, **settings) as address,
        ThreadPoolExecutor(20) as pool,
    ):
        url = f"http://{address}"
        methods = ["GET", "POST"] * 10
        calls = [pool.submit(timed, url + JOBS, method, token) for method in methods]
        while not all(call.done() for call in calls):
            assert requests.get(f"{url}/livez", timeout=5).status_code == 200
        answers = [call.result() for call in calls]
    assert {answer.json()["type"] for _, answer in answers} == {"/problems#upstream-timeout"}
    assert max(seconds for seconds, _ in answers) < FAR_ABOVE


class Resolver:
    """In the place of getaddrinfo: answers the `host` of a test once `answering` is set, everything else as ever."""

    def __init__(self) -> None:
        self.host = HOST
        self.addresses = ["127.0.0.1"]
        self.answering = threading.Event()
        self.at_once = 0  # questions that it answers before
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != self.host:
            return self._real(host, port, *args, **options)
        self.at_once -= 1
        if self.at_once < 0:
            self.answering.wait(60)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """A resolver that does not answer yet."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.answering.set()


@pytest.mark.parametrize("key", [None, "key"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_sent_for_a_caller_who_was_answered_while_a_name_was_looked_up(
    method: str,
    key: str | None,
    resolver: Resolver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(flask_dispatch, "GRACE", 0.1)
    resolver.host = "localhost"
    store = tmp_path / "keys.sqlite3"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://localhost:{listening.getsockname()[1]}/v1"
        client = door(settings_for(url, store, **dict.fromkeys(LIMITS, 1)))
        body = CREATE if method == "POST" else None
        answer = client.request(method, JOBS, json=body, headers=keyed(key) if key else {})
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems#upstream-timeout")
        assert answer.json()["retryable"] is True
        assert ("nothing was sent" in answer.json()["detail"]) is (method == "POST")
        resolver.answering.set()
        listening.settimeout(10)
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(1) == b""
    if method == "POST" and key:
        wait_until(lambda: not keys_in(store))


def keys_in(store: Path) -> int:
    """How many keys are in use."""
    with closing(sqlite3.connect(store)) as db:
        (count,) = db.execute("SELECT count(*) FROM record").fetchone()
        return int(count)


def test_a_lost_create_whose_search_looks_a_name_up_for_too_long_is_said_to_be_unknown(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flask_dispatch, "GRACE", 0.1)
    resolver.host, resolver.at_once = "localhost", 1
    with upstream(lambda _peer, _nth: None) as (port, received):
        settings = settings_for(f"http://localhost:{port}/v1", tmp_path / "keys", **LIMITS)
        answer = door(settings).post(JOBS, json=CREATE, headers=keyed())
        assert len(received) == 1
    assert (answer.status_code, answer.json()["retryable"]) == (504, True)
    assert answer.json()["type"] == "/problems#create-outcome-unknown"
    assert "same Idempotency-Key" in answer.json()["detail"]


def test_a_repeat_whose_search_looks_a_name_up_for_too_long_is_not_told_that_nothing_was_sent(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The create that it repeats was sent: a caller who made another one would have two."""
    monkeypatch.setattr(flask_dispatch, "GRACE", 0.1)
    resolver.host, resolver.at_once = "localhost", 10
    with upstream(lambda _peer, _nth: None) as (port, received):
        settings = settings_for(f"http://localhost:{port}/v1", tmp_path / "keys", **LIMITS)
        client = door(settings)
        client.post(JOBS, json=CREATE, headers=keyed())
        resolver.at_once = 0
        answer = client.post(JOBS, json=CREATE, headers=keyed())
        assert sum(request.startswith(b"POST") for request in received) == 1
    assert answer.json()["type"] == "/problems#create-outcome-unknown"
    assert "nothing was sent" not in answer.json()["detail"]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: who connects gets no answer."""
    with ExitStack() as open_sockets:
        listening = open_sockets.enter_context(closing(socket.socket()))
        listening.bind(("0.0.0.0", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(3):
            filling = open_sockets.enter_context(closing(socket.socket()))
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", port))
        yield port


def test_many_addresses_that_do_not_answer_take_no_longer_than_the_limit(
    resolver: Resolver, tmp_path: Path
) -> None:
    resolver.addresses = [f"127.0.0.{number}" for number in range(1, 21)]
    resolver.answering.set()
    with deaf_port() as port:
        settings = settings_for(f"https://{HOST}:{port}/v1", tmp_path / "keys.sqlite3", **LIMITS)
        began = time.monotonic()
        answer = door(settings).get(JOBS)
        seconds = time.monotonic() - began
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems#upstream-timeout")
    assert seconds < FAR_ABOVE


def test_the_next_address_is_tried_when_one_refuses(resolver: Resolver, tmp_path: Path) -> None:
    resolver.host, resolver.addresses = "localhost", ["127.0.0.2", "127.0.0.1"]
    resolver.answering.set()
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    with upstream(lambda peer, _nth: peer.sendall(ok)) as (port, received):
        settings = settings_for(f"http://localhost:{port}/v1", tmp_path / "keys.sqlite3", **LIMITS)
        assert door(settings).get(JOBS).status_code == 200
        assert len(received) == 1
