"""Large messages over HTTP: only the arguments of a call may be large, and what is under way is bounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcp_bridge import messages
from mcp_bridge.messages import LARGE, Messages, arguments
from serving import patience

Received = list[dict[str, Any]]
BULK = "x" * LARGE


def call(method: str = "tools/call", given: Any = None, **more: Any) -> bytes:
    params = {"name": "t", "arguments": {"a": 1} if given is None else given, **more}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


class Endpoint:
    """The SDK's place: what it received, and what of the arguments was put aside."""

    def __init__(self) -> None:
        self.body = b""
        self.taken: Any = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.body, taken = message["body"], arguments(scope)
        self.taken = None if taken is None else json.loads(bytes(taken))
        await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def post(app: Any, *chunks: bytes, ends: bool = True, **headers: str) -> tuple[int, Any]:
    """Status and JSON of the answer to a body in these chunks; when it does not end, it never goes on."""
    waiting = [
        {"type": "http.request", "body": chunk, "more_body": not ends or chunk is not chunks[-1]}
        for chunk in chunks
    ]
    sent: Received = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/mcp", "headers": named}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"] or b"null")


def exchange(*chunks: bytes, max_body: int = 1 << 24) -> tuple[int, Any, Endpoint]:
    async def asked() -> tuple[int, Any, Endpoint]:
        endpoint = Endpoint()
        return *await post(Messages(endpoint, max_body=max_body), *chunks), endpoint

    return asyncio.run(asked())


def test_a_small_message_is_handed_on_as_it_is() -> None:
    _, _, endpoint = exchange(call()[:9], call()[9:])
    assert (endpoint.body, endpoint.taken) == (call(), None)


def test_the_arguments_of_a_large_call_are_taken_out_of_it() -> None:
    message = call(given={"a": BULK, "b": [1]}, _meta={"traceparent": "x"})
    _, _, endpoint = exchange(message[:9], message[9:])
    params = json.loads(endpoint.body)["params"]
    assert params == {"name": "t", "arguments": {}, "_meta": {"traceparent": "x"}}
    assert endpoint.taken == {"a": BULK, "b": [1]}


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        (call("initialize", BULK), 413, -32600),
        (call(_meta={"a": BULK}), 413, -32600),
        (json.dumps([BULK]).encode(), 400, -32600),
        (call(given=BULK)[:-1], 400, -32700),
        (b'"' + b"\xff" * LARGE + b'"', 400, -32700),
        (b'{"params":' + b"[" * LARGE, 400, -32700),
    ],
    ids=["another method", "another member", "a batch", "no JSON", "no UTF-8", "too deep"],
)
def test_a_large_message_of_any_other_kind_is_refused(
    message: bytes, status: int, code: int
) -> None:
    answered, answer, endpoint = exchange(message)
    assert (answered, answer["error"]["code"], endpoint.body) == (status, code, b"")
    assert answer["error"]["message"].startswith("Nothing was sent: ")


def test_a_message_over_the_limit_is_handed_on_for_the_sdk_to_refuse() -> None:
    _, _, endpoint = exchange(b"x" * 60, b"x" * 60, b"x", max_body=100)
    assert endpoint.body == b"x" * 120


def test_messages_for_which_there_is_no_room_are_refused_until_others_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "ROOM", 10)

    async def asked() -> list[int]:
        endpoint = Endpoint()
        app = Messages(endpoint, max_body=10)
        endpoint.hold.clear()
        first = asyncio.create_task(post(app, b"x" * 6))
        await asyncio.sleep(0)
        refused, answer = await post(app, b"x" * 6)
        assert "too much is under way" in answer["error"]["message"]
        endpoint.hold.set()
        return [refused, (await first)[0], (await post(app, b"x" * 6))[0]]

    assert asyncio.run(asked()) == [503, 200, 200]


def test_a_message_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.01)

    async def asked() -> tuple[int, Any]:
        return await post(Messages(Endpoint(), max_body=100), b"x", ends=False)

    status, answer = asyncio.run(asked())
    assert (status, "too slowly" in answer["error"]["message"]) == (408, True)
