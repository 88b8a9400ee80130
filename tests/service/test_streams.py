"""Bytes between the event loop and a thread: a bounded number in hand, and who is too slow is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service import streams
from service.problems import Problem
from service.streams import IN_HAND, CallerLeft, IncomingBody, OutgoingAnswer, TooSlow
from serving import body_buffer

pytestmark = pytest.mark.anyio


@pytest.fixture
def thread() -> Any:
    with ThreadPoolExecutor(1) as pool:
        yield lambda call: asyncio.get_running_loop().run_in_executor(pool, call)


def sender(*pieces: bytes, then: dict[str, Any] | None = None) -> Callable[[], Awaitable[Any]]:
    """An ASGI `receive` of these pieces, and of `then` in place of the end."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append(then or {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    return receive


def incoming(length: int | None = None, limit: int = 1 << 30) -> IncomingBody:
    headers = [] if length is None else [(b"content-length", str(length).encode())]
    return IncomingBody({"type": "http", "headers": headers}, limit, "GATEWAY_MAX_FILE")


async def test_a_body_comes_through_whole_and_in_order(thread: Any) -> None:
    body, pieces = incoming(), [bytes([n]) * 100_000 for n in range(100)]
    taking = thread(lambda: b"".join(body))
    await body.fill(sender(*pieces))
    assert await taking == b"".join(pieces)
    assert body.complete


async def test_no_more_than_the_limit_and_a_piece_is_in_hand(thread: Any) -> None:
    body, came = incoming(), 0

    async def receive() -> Any:
        nonlocal came
        came += 1 << 16
        return {"type": "http.request", "body": bytes(1 << 16), "more_body": came < 10 * IN_HAND}

    filling = asyncio.ensure_future(body.fill(receive))
    await asyncio.sleep(0.05)
    assert came <= IN_HAND + (1 << 16)  # nobody took any of it
    total = await thread(lambda: sum(map(len, body)))
    await filling
    assert total == came == 10 * IN_HAND


async def test_a_body_that_breaks_off_is_not_complete(thread: Any) -> None:
    body = incoming()
    taking = thread(lambda: list(body))
    await body.fill(sender(b"abc", then={"type": "http.disconnect"}))
    with pytest.raises(Problem, match="malformed-request"):
        await taking
    assert not body.complete


async def test_a_body_that_nobody_fills_any_more_breaks_off(thread: Any) -> None:
    body = incoming()

    async def receive() -> Any:
        await asyncio.Event().wait()

    filling = asyncio.ensure_future(body.fill(receive))
    taking = thread(lambda: list(body))
    await asyncio.sleep(0)
    filling.cancel()
    with pytest.raises(Problem, match="The body broke off"):
        await taking


async def test_a_body_that_is_announced_too_large_is_refused_unread() -> None:
    with pytest.raises(Problem, match="content-too-large") as refused:
        incoming(length=101, limit=100)
    assert "100 bytes (GATEWAY_MAX_FILE)" in refused.value.detail


async def test_a_body_that_grows_too_large_is_refused(thread: Any) -> None:
    body = incoming(limit=100)
    taking = thread(lambda: list(body))
    await body.fill(sender(bytes(60), bytes(60)))
    with pytest.raises(Problem, match="content-too-large"):
        await taking
    assert not body.complete


async def test_who_sends_too_slowly_is_told_so(
    thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.05)
    body = incoming()

    async def receive() -> Any:
        await asyncio.Event().wait()

    filling = asyncio.ensure_future(body.fill(receive))
    with pytest.raises(Problem, match="request-timeout"):
        await thread(lambda: list(body))
    filling.cancel()


async def test_an_upstream_that_takes_a_body_too_slowly_is_named_and_not_the_caller(
    thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SECONDS", 0.05)
    body, slow = incoming(), threading.Event()

    def send() -> None:
        for _ in body:
            slow.wait(0.1)

    taking = thread(send)
    filling = asyncio.ensure_future(body.fill(sender(b"a", b"b")))
    with pytest.raises(Problem, match="upstream-timeout"):
        await taking
    await filling


async def collected(answer: OutgoingAnswer) -> bytes:
    return b"".join([piece async for piece in answer])


async def test_an_answer_comes_through_whole_and_in_order(thread: Any) -> None:
    answer = OutgoingAnswer()

    def put() -> None:
        for n in range(100):
            answer.put(bytes([n]) * 100_000)
        answer.end()

    putting = thread(put)
    assert await collected(answer) == b"".join(bytes([n]) * 100_000 for n in range(100))
    await putting


async def test_an_answer_waits_for_who_reads_it(thread: Any) -> None:
    answer, put = OutgoingAnswer(), 0

    def write() -> None:
        nonlocal put
        while put < 10 * IN_HAND:
            answer.put(bytes(1 << 16))
            put += 1 << 16
        answer.end()

    writing = thread(write)
    await asyncio.sleep(0.05)
    assert put <= IN_HAND + (1 << 16)
    assert len(await collected(answer)) == 10 * IN_HAND
    await writing


async def test_an_answer_that_nobody_wants_any_more_ends_its_thread(thread: Any) -> None:
    answer = OutgoingAnswer()

    def write() -> None:
        while True:
            answer.put(bytes(1 << 16))

    writing = thread(write)
    pieces: AsyncIterator[bytes] = aiter(answer)
    await anext(pieces)
    answer.give_up()
    with pytest.raises(CallerLeft):
        await writing


async def test_who_reads_too_slowly_is_given_up(
    thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SECONDS", 0.05)
    answer = OutgoingAnswer()

    def write() -> None:
        while True:
            answer.put(bytes(1 << 16))

    with pytest.raises(TooSlow):
        await thread(write)
