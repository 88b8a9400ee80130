"""The upstream client against real sockets that misbehave: limits hold, a create is sent once, nothing hangs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.upstream_connection import CancellableRequest, Deadline
from tests.support.api import credentials
from tests.support.upstreams import Behaviour, upstream

CREATE = {"endpoint": "/v1/ocr"}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def gateway(settings: Settings) -> Callable[..., TestClient]:
    """Makes a client of a gateway in front of a port."""

    def make(port: int, **changes: object) -> TestClient:
        own = {"upstream_url": f"http://127.0.0.1:{port}/v1"}
        app = create_app(replace(settings, **{**own, **changes}))
        return TestClient(app, base_url="http://127.0.0.1:8080")

    return make


def drip(data: bytes) -> Behaviour:
    def behave(peer: socket.socket, _nth: int) -> None:
        for byte in data:
            peer.sendall(bytes([byte]))
            time.sleep(0.05)

    return behave


def begin(head: bytes) -> Behaviour:
    def behave(peer: socket.socket, nth: int) -> None:
        peer.sendall(OK + head)
        drip(b" " * 400)(peer, nth)

    return behave


DRIPS = [
    pytest.param(drip(OK * 20), id="headers"),
    pytest.param(begin(b"Content-Length: 400\r\n\r\n"), id="body"),
    pytest.param(
        begin(b"Connection: close\r\nContent-Length: 400\r\n\r\n"),
        id="body over a connection that closes after it",
    ),
    pytest.param(begin(b"\r\n{}"), id="body without a length"),
]


@pytest.mark.parametrize("behave", DRIPS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_that_comes_a_byte_at_a_time_is_a_timeout_at_the_total_limit(
    method: str, behave: Behaviour, gateway: Callable[..., TestClient]
) -> None:
    assert_timeout(method, behave, partial(gateway, read_timeout=20, timeout=0.5))


SILENT = [
    pytest.param(lambda peer, _: peer.recv(1), id="at once"),
    pytest.param(
        lambda peer, _: (peer.sendall(OK + b"Content-Length: 99\r\n\r\n{"), peer.recv(1)),
        id="in the body",
    ),
]


@pytest.mark.parametrize("behave", SILENT)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_upstream_that_falls_silent_is_a_timeout_at_the_read_limit(
    method: str, behave: Behaviour, gateway: Callable[..., TestClient]
) -> None:
    assert_timeout(method, behave, partial(gateway, read_timeout=0.5, timeout=30))


def assert_timeout(method: str, behave: Behaviour, gateway: Callable[..., TestClient]) -> None:
    with upstream(behave) as (port, received):
        client = gateway(port)
        client.get("/livez")  # so that all of it is there
        begun = time.monotonic()
        answer = client.request(method, "/v1/batch/jobs", json=CREATE if method == "POST" else None)
        expected = "upstream-timeout" if method == "GET" else "create-outcome-unknown"
        assert (answer.status_code, answer.json()["type"]) == (504, f"/problems#{expected}")
        assert time.monotonic() - begun < 10  # it would be 20 without the limit
        assert len(received) == 1


FAULTS = [
    pytest.param(lambda peer, _: None, id="closed without an answer"),
    pytest.param(
        lambda peer, _: peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"),
        id="reset",
    ),
    pytest.param(lambda peer, _: peer.sendall(b"\x00garbage\r\n\r\n"), id="garbage"),
    pytest.param(
        lambda peer, _: peer.sendall(OK + b"Content-Length: 10\r\n\r\n{}"), id="truncated"
    ),
    pytest.param(
        lambda peer, _: peer.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}"),
        id="truncated chunk",
    ),
    pytest.param(
        lambda peer, _: peer.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
        id="compressed unasked",
    ),
]


@pytest.mark.parametrize("behave", FAULTS)
def test_a_create_whose_answer_is_lost_is_sent_once_and_said_to_be_unknown(
    behave: Behaviour, gateway: Callable[..., TestClient]
) -> None:
    with upstream(behave) as (port, received):
        answer = gateway(port).post("/v1/batch/jobs", json=CREATE)
        assert (answer.status_code, answer.json()["type"]) == (
            504,
            "/problems#create-outcome-unknown",
        )
        assert answer.json()["retryable"] is False
        assert len(received) == 1


def test_a_get_is_repeated_when_nothing_was_received(gateway: Callable[..., TestClient]) -> None:
    def behave(peer: socket.socket, nth: int) -> None:
        if nth == 3:
            peer.sendall(OK + b"Content-Length: 2\r\n\r\n{}")

    with upstream(behave) as (port, received):
        assert gateway(port).get("/v1/batch/jobs").status_code == 200
        assert len(received) == 3


def test_a_get_is_repeated_twice_at_most(gateway: Callable[..., TestClient]) -> None:
    with upstream(lambda peer, _: None) as (port, received):
        assert gateway(port).get("/v1/batch/jobs").status_code == 502
        assert len(received) == 3


@pytest.mark.parametrize(
    "head", [b"Content-Length: 2000000\r\n\r\n", b"\r\n"], ids=["announced", "unannounced"]
)
def test_an_answer_over_the_limit_is_refused(
    head: bytes, gateway: Callable[..., TestClient]
) -> None:
    with upstream(lambda peer, _: peer.sendall(OK + head + b" " * 2_000_000)) as (port, _):
        answer = gateway(port, max_answer=1_000_000).get("/v1/batch/jobs")
        assert (answer.status_code, answer.json()["type"]) == (
            502,
            "/problems#upstream-answer-too-large",
        )


def test_netrc_and_proxy_variables_do_not_touch_the_upstream_request(
    gateway: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: Settings,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with upstream(lambda peer, _: peer.sendall(OK + b"Content-Length: 2\r\n\r\n{}")) as (
        port,
        received,
    ):
        assert gateway(port).get("/v1/batch/jobs").status_code == 200
        assert f"Authorization: Bearer {credentials(settings)['token']}".encode() in received[0]


def test_cookies_of_the_upstream_are_not_kept(gateway: Callable[..., TestClient]) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        peer.sendall(OK + b"Set-Cookie: a=b\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    with upstream(behave) as (port, received):
        client = gateway(port)
        client.get("/v1/batch/jobs")
        client.get("/v1/batch/jobs")
        assert b"cookie" not in received[1].lower()


def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(
    gateway: Callable[..., TestClient], certificate: tuple[str, str]
) -> None:
    with upstream(
        lambda peer, _: peer.sendall(OK + b"Content-Length: 2\r\n\r\n{}"), certificate
    ) as (port, received):
        answer = gateway(0, upstream_url=f"https://localhost:{port}/v1").post(
            "/v1/batch/jobs", json=CREATE
        )
        assert (answer.status_code, answer.json()["type"]) == (
            502,
            "/problems#upstream-unreachable",
        )
        assert received == []


def test_a_certificate_of_the_configured_authority_is_trusted(
    gateway: Callable[..., TestClient], certificate: tuple[str, str]
) -> None:
    with upstream(
        lambda peer, _: peer.sendall(OK + b"Content-Length: 2\r\n\r\n{}"), certificate
    ) as (port, received):
        client = gateway(0, upstream_url=f"https://localhost:{port}/v1", ca_file=certificate[0])
        assert client.post("/v1/batch/jobs", json=CREATE).status_code == 200
        assert len(received) == 1


class Vanishing:
    """A connection whose socket is closed by its thread just after it was looked at."""

    def __init__(self, sock: socket.socket) -> None:
        self.request_under_way: CancellableRequest | None = None
        self._socks = iter([sock, None])

    @property
    def sock(self) -> socket.socket | None:
        return next(self._socks)


def test_a_request_is_cancelled_although_its_connection_is_closed_at_that_moment() -> None:
    ours, theirs = socket.socketpair()
    request = CancellableRequest(Deadline(60))
    request.attach(Vanishing(ours))  # type: ignore[arg-type]
    request.cancel()
    assert theirs.recv(1) == b""
    ours.close()
    theirs.close()
