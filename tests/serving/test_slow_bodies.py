"""Bodies that announce much and send little hold no memory, and nobody else up."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.types import Message

from service.request_reader import BODIES
from serving import body_buffer
from serving.body_buffer import BodyTooSlow, MemoryBudget, Reservation, pieces, receive_body
from tests.support.api import JOBS
from tests.support.asgi import call
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox

JSON = {"Content-Type": "application/json"}
LIMIT = 4 << 20
HEAD = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def gateway(running_sandbox: Sandbox) -> Iterator[Gateway]:
    with gateway_process(f"{running_sandbox.url}/v1", GATEWAY_MAX_BODY=LIMIT) as running:
        yield running


def test_bodies_that_announce_the_most_and_trickle_do_not_keep_others_from_sending(
    gateway: Gateway, sandbox: Sandbox
) -> None:
    message = f"{HEAD}Content-Length: {LIMIT}\r\n\r\n".encode() + b"{" + b" " * 300_000
    body = {"messages": [{"role": "user", "content": "x" * (2 << 20)}]}
    create = {"endpoint": "/v1/chat/completions", "model": "m", "requests": [{"body": body}]}
    with ExitStack() as trickling:
        for _ in range(2 * BODIES):
            peer = socket.create_connection(("127.0.0.1", gateway.port), 10)
            trickling.enter_context(peer).sendall(message)
        assert gateway.get("/livez").status_code == 200  # what was sent before is being read
        assert gateway.post(JOBS, create).status_code == 200


def test_a_body_in_tiny_chunks_is_refused_and_costs_nobody_else_a_turn(gateway: Gateway) -> None:
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head + b"1\r\n \r\n" * 43_000)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_body_in_chunks_of_a_line_is_taken(gateway: Gateway, sandbox: Sandbox) -> None:
    line = json.dumps({"body": {"messages": [{"role": "user", "content": "x" * 30}]}})
    parts = ['{"endpoint": "/v1/chat/completions", "model": "m", "requests": [', line]
    parts += [f",{line}"] * 6000 + ["]}"]
    answer = gateway.post(JOBS, data=(part.encode() for part in parts), headers=JSON)
    assert answer.status_code == 200


def content(sent: list[bytes], pause: float, limit: int = 1 << 20) -> bytes:
    """The body that is `sent` in pieces, each after a pause in seconds."""
    scope = {"type": "http", "headers": []}
    left = list(sent)

    async def receive() -> Message:
        await asyncio.sleep(pause)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def read() -> bytes:
        return bytes(await receive_body(scope, receive, limit, Reservation(MemoryBudget(limit))))

    return asyncio.run(read())


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.1)
    with pytest.raises(BodyTooSlow):
        content([b"x"] * 1000, 0.01)


def test_a_large_body_may_take_as_long_as_it_comes_at_the_least_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes several times as long as a body without bytes may."""
    monkeypatch.setattr(body_buffer, "SECONDS", 0.5)
    monkeypatch.setattr(body_buffer, "PIECE", 100)
    assert content([b"x" * 100] * 20, 0.1) == b"x" * 2000


def test_what_came_fast_is_no_time_for_what_comes_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.2)
    monkeypatch.setattr(body_buffer, "PIECE", 100)
    with pytest.raises(BodyTooSlow):
        content([b"x" * 100_000] + [b"x"] * 1000, 0.01)


def test_a_piece_that_comes_just_when_the_time_is_over_is_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gunicorn waits by asyncio.wait_for, which lets a result win over a cancellation in Python 3.11."""
    monkeypatch.setattr(body_buffer, "SECONDS", 0.05)
    monkeypatch.setattr(body_buffer, "PIECE", 1)

    async def read() -> None:
        loop = asyncio.get_running_loop()

        async def receive() -> Message:
            piece = loop.create_future()
            loop.call_later(0.05, piece.set_result, b"x")
            loop.call_soon(time.sleep, 0.1)  # so that both are due in one turn
            body = await asyncio.wait_for(piece, 10)
            return {"type": "http.request", "body": body, "more_body": True}

        scope = {"type": "http", "headers": []}
        await receive_body(scope, receive, 1 << 20, Reservation(MemoryBudget(1 << 20)))

    with pytest.raises(BodyTooSlow):
        asyncio.run(read())


def test_a_body_that_falls_silent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.1)
    with pytest.raises(BodyTooSlow):
        content([b"x"], 60)


def test_a_slow_body_is_answered_408_and_can_be_sent_again(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.1)
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "9"}

    async def silence() -> Message:
        return await asyncio.get_running_loop().create_future()

    status, content = asyncio.run(call(app, "POST", JOBS, headers, receive=silence))
    problem = json.loads(content)
    assert (status, problem["type"]) == (408, "/problems#request-timeout")
    assert problem["retryable"] is True


def test_what_is_done_between_two_pieces_is_no_time_of_the_sender_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body that is sent on as it comes waits for its receiver."""
    monkeypatch.setattr(body_buffer, "SECONDS", 0.05)

    async def read() -> int:
        left = [b"x"] * 3

        async def receive() -> Message:
            return {"type": "http.request", "body": left.pop(), "more_body": bool(left)}

        size = 0
        async for piece in pieces({"type": "http", "headers": []}, receive, 10):
            size += len(piece)
            await asyncio.sleep(0.06)
        return size

    assert asyncio.run(read()) == 3


def test_what_has_come_is_counted_and_not_what_was_announced() -> None:
    budget = MemoryBudget(100)
    headers = [(b"content-length", b"90")]

    async def receive() -> Message:
        assert budget.reserved in (0, 10)
        return {"type": "http.request", "body": b"x" * 10, "more_body": budget.reserved == 0}

    scope = {"type": "http", "headers": headers}
    assert len(asyncio.run(receive_body(scope, receive, 100, Reservation(budget)))) == 20
    assert budget.reserved == 20
