"""One connection that sends request after request without waiting: no process keeps what it has not answered."""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.bridge import bridge_process, gunicorn_bridge
from tests.support.gateway import Gateway, gateway_process
from tests.support.memory import MEBIBYTE

FLOOD = 32 * MEBIBYTE
SECONDS = 2
ROOM = 24
"""MiB by which a process may grow; one that keeps what it is sent grows by 60 and more."""

LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LONG = b"X-Long: %s\r\n" % (b"a" * 4096)
REQUESTS = {
    "a page": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % LONG,
    "a refusal": b"GET /v1/batch/jobs?page=x HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % LONG,
    "an answer without a body": b"OPTIONS /v1/batch/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a head": b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def peak(pid: int) -> float:
    """The most memory that the process has had at a time, in MiB; `man 5 proc`, VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def flood(port: int, message: bytes, *, reading: bool) -> None:
    """Sends `message` again and again: FLOOD bytes, SECONDS seconds, until the peer ends it or takes nothing for a second."""
    data = memoryview(message * (MEBIBYTE // len(message)))
    left, offset = FLOOD, 0
    end = time.monotonic() + SECONDS
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setblocking(False)
        while left > 0 and time.monotonic() < end:
            readable, writable, _ = select.select([peer] if reading else [], [peer], [], 1)
            try:
                if readable and not peer.recv(MEBIBYTE):
                    return
                if not (readable or writable):
                    return
                if writable:
                    sent = peer.send(data[offset:])
                    left, offset = left - sent, (offset + sent) % len(data)
            except OSError:  # reset
                return


def growth(pid: int, port: int, message: bytes) -> float:
    """MiB by which the process grows while one connection after the other floods it."""
    before = peak(pid)
    for reading in (False, True):
        flood(port, message, reading=reading)
    return peak(pid) - before


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with gateway_process("http://127.0.0.1:9/v1", GATEWAY_LOG_LEVEL="error") as running:
        yield running


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_flood_of_requests_over_one_connection_does_not_grow_the_rest_service(
    gateway: Gateway, kind: str
) -> None:
    (worker,) = gateway.workers
    assert growth(worker, gateway.port, REQUESTS[kind]) < ROOM
    assert gateway.get("/livez").status_code == 200


@contextmanager
def one_process() -> Iterator[tuple[int, int]]:
    with bridge_process("http://127.0.0.1:9") as bridge:
        yield bridge.process.pid, bridge.port


@contextmanager
def one_worker() -> Iterator[tuple[int, int]]:
    with gunicorn_bridge("http://127.0.0.1:9", workers=1) as bridge:
        (worker,) = bridge.workers
        yield worker, bridge.port


@pytest.fixture(scope="module", params=[one_process, one_worker])
def bridge(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The process that answers, and its port: in either form of the bridge."""
    with request.param() as running:
        yield running


@pytest.mark.parametrize("kind", ["a page", "a head"])
def test_a_flood_of_requests_over_one_connection_does_not_grow_the_bridge(
    bridge: tuple[int, int], kind: str
) -> None:
    assert growth(*bridge, REQUESTS[kind]) < ROOM


def test_requests_behind_one_another_are_answered_by_the_bridge_or_end_the_connection(
    bridge: tuple[int, int],
) -> None:
    with socket.create_connection(("127.0.0.1", bridge[1]), 10) as peer:
        peer.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2 + LAST)
        answer = b"".join(iter(lambda: peer.recv(65536), b"")).lower()
    assert answer.count(b"http/1.1 200") in (1, 3)
    assert answer.count(b"connection: close") == 1


def test_requests_behind_one_another_are_answered_in_their_order(gateway: Gateway) -> None:
    ids = [f"number-{number}" for number in range(300)]
    lines = "".join(
        f"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {i}\r\n\r\n" for i in ids
    )
    with socket.create_connection(("127.0.0.1", gateway.port), 30) as peer:
        peer.sendall(lines.encode() + LAST)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert re.findall(r"x-request-id: (number-\d+)", answer.decode().lower()) == ids


def test_a_body_that_nobody_asks_for_does_not_stop_the_next_request(gateway: Gateway) -> None:
    """It is larger than what gunicorn lets wait."""
    body = b"x" * 400_000
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(first % len(body) + body + LAST)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    # Answered before the whole body was read, it may also end the connection, and says so.
    assert answer.count(b"HTTP/1.1 200") == 2 or b"connection: close" in answer.lower()


def test_a_head_that_does_not_end_is_refused_by_the_bridge(bridge: tuple[int, int]) -> None:
    pid, port = bridge
    before = peak(pid)
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        for _ in range(FLOOD // 8000):
            if select.select([peer], [], [], 0)[0]:
                break
            peer.sendall(b"X-More: %s\r\n" % (b"a" * 8000))
        assert peer.recv(65536).startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert peak(pid) - before < ROOM


@pytest.mark.parametrize("line", [b"x: aaaaaaaaaa\r\n" * 4096, b"a" * 65536])
def test_trailers_without_end_are_refused_by_the_bridge(
    bridge: tuple[int, int], line: bytes
) -> None:
    pid, port = bridge
    before = peak(pid)
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 10) as peer:
        peer.sendall(head + b"2\r\n{}\r\n0\r\nx: ")
        for _ in range(FLOOD // 65536):
            if select.select([peer], [], [], 0)[0]:
                break
            peer.sendall(line)
        assert peer.recv(65536).startswith(b"HTTP/1.1 4")
    assert peak(pid) - before < ROOM


def test_asking_for_the_head_of_a_page_is_no_warning_in_the_log(gateway: Gateway) -> None:
    assert gateway.request("HEAD", "/livez").content == b""
    gateway.get("/livez")
    assert not gateway.said("no-body response")
