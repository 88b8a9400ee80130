"""The upstream's name cannot be looked up, or its addresses do not answer: no request waits longer than its limit."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from service.config import Settings
from service.names import MOST, Name
from service.pool import NoThread
from service.request_context import open_context
from service.translation import Inputs, fill
from service.upstream import Upstream
from service.upstream_connection import WATCH, Exchange
from service.upstream_key import Key
from tests.deploy.gateways import JOBS, job
from tests.deploy.hosts import MIDDLE, Token, gateway_on, hosts
from tests.idempotency.conftest import door, settings_for

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
    assert {answer.json()["type"] for _, answer in answers} == {"/problems#upstream-unreachable"}
    assert max(seconds for seconds, _ in answers) < FAR_ABOVE


class Resolver:
    """In the place of getaddrinfo: answers a name of the test's once `answering` is set, everything else as ever."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.answering = threading.Event()
        self.asked = 0
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != HOST:
            return self._real(host, port, *args, **options)
        self.asked += 1
        self.answering.wait(60)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """A resolver that does not answer yet."""
    resolver = Resolver(["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.answering.set()


def test_a_stuck_lookup_is_left_behind_and_the_next_one_succeeds(resolver: Resolver) -> None:
    name = Name(HOST)
    with pytest.raises(TimeoutError):
        name.addresses(0.01)
    resolver.answering.set()
    assert name.addresses(10) == ["127.0.0.1"]


def test_those_who_need_a_name_at_once_wait_for_one_lookup(resolver: Resolver) -> None:
    name = Name(HOST)
    with ThreadPoolExecutor(20) as pool:
        found = [pool.submit(name.addresses, 30) for _ in range(20)]
        resolver.answering.set()
        assert [each.result() for each in found] == [["127.0.0.1"]] * 20
    assert resolver.asked < 20


def test_a_dead_resolver_holds_only_so_many_threads(resolver: Resolver) -> None:
    name = Name(HOST)
    for _ in range(2 * MOST):
        with pytest.raises(TimeoutError):
            name.addresses(0.01)
    assert resolver.asked == MOST


def test_an_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "getaddrinfo")
    assert [Name(host).addresses(1) for host in ("127.0.0.1", "[::1]")] == [["127.0.0.1"], ["::1"]]


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
    resolver: Resolver, certificate: tuple[str, str], tmp_path: Path
) -> None:
    resolver.addresses = [f"127.0.0.{number}" for number in range(1, 21)]
    resolver.answering.set()
    with deaf_port() as port:
        settings = settings_for(f"https://{HOST}:{port}/v1", tmp_path / "keys.sqlite3", **LIMITS)
        began = time.monotonic()
        answer = door(settings).get(JOBS)
        seconds = time.monotonic() - began
    assert (answer.status_code, answer.json()["type"]) == (502, "/problems#upstream-unreachable")
    assert seconds < FAR_ABOVE


def test_the_next_address_is_tried_when_one_refuses(
    resolver: Resolver, certificate: tuple[str, str], tmp_path: Path
) -> None:
    resolver.addresses = ["127.0.0.2", "127.0.0.1"]
    resolver.answering.set()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        settings = settings_for(f"https://{HOST}:{port}/v1", tmp_path / "keys.sqlite3", **LIMITS)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(door(settings).get, JOBS)
            listening.settimeout(10)
            connection, peer = listening.accept()
            connection.close()
            assert peer[0] == "127.0.0.1"
            for _ in range(2):  # a GET's repeats
                listening.accept()[0].close()
            call.result()


def test_a_system_that_has_no_thread_to_give_is_asked_again_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    asked = Name("localhost")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        for _ in range(MOST + 1):
            with pytest.raises(OSError, match="thread"):
                asked.addresses(1)
    assert asked.addresses(5)


def test_a_call_whose_upstream_nobody_can_look_up_is_told_that_the_gateway_is_busy(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    settings = replace(settings, upstream_url="http://localhost:9/v1")
    listing = fill(settings.contract.operations["listbatchjobs"], Inputs())
    WATCH.start()
    open_context()
    with monkeypatch.context() as patch, pytest.raises(NoThread):
        patch.setattr(threading.Thread, "start", none_left)
        Upstream(settings, Key(settings)).send(listing, Exchange())
