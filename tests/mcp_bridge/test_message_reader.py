"""Messages over HTTP: only the arguments of a call may be large, and what is under way is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mcp_bridge import message_reader
from mcp_bridge.canonical import LARGE
from mcp_bridge.edge import Edge, current
from mcp_bridge.message_reader import MessageReader
from mcp_bridge.messages import SMALL
from serving import body_buffer

Received = list[dict[str, Any]]


def call(method: str = "tools/call", given: Any = None, **more: Any) -> bytes:
    params = {"name": "t", "arguments": {"a": 1} if given is None else given, **more}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


class Sdk:
    """In place of the SDK's application: what it received, and what of the arguments was put aside."""

    def __init__(self) -> None:
        self.body = b""
        self.taken: Any = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.body, taken = message["body"], current().arguments
        self.taken = None if taken is None else json.loads(bytes(taken))
        await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def made(sdk: Sdk, max_body: int) -> Edge:
    reading = ThreadPoolExecutor(1)
    return Edge(MessageReader(sdk, max_body=max_body, reading=reading), None)


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


def exchange(*chunks: bytes, max_body: int = 1 << 24) -> tuple[int, Any, Sdk]:
    async def asked() -> tuple[int, Any, Sdk]:
        sdk = Sdk()
        return *await post(made(sdk, max_body), *chunks), sdk

    return asyncio.run(asked())


def test_a_small_message_is_handed_on_as_it_is() -> None:
    _, _, sdk = exchange(call()[:9], call()[9:])
    assert (sdk.body, sdk.taken) == (call(), None)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_the_arguments_of_a_call_that_is_not_small_are_taken_out_of_it(size: int) -> None:
    message = call(given={"a": "x" * size, "b": [1]}, _meta={"traceparent": "x"})
    _, _, sdk = exchange(message[:9], message[9:])
    params = json.loads(sdk.body)["params"]
    assert params == {"name": "t", "arguments": {}, "_meta": {"traceparent": "x"}}
    assert sdk.taken == {"a": "x" * size, "b": [1]}


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("made", "status", "code"),
    [
        (lambda bulk: call("initialize", bulk), 413, -32600),
        (lambda bulk: call(_meta={"a": bulk}), 413, -32600),
        (lambda bulk: json.dumps([bulk]).encode(), 400, -32600),
        (lambda bulk: call(given=bulk)[:-1], 400, -32700),
        (lambda bulk: b'"' + b"\xff" * len(bulk) + b'"', 400, -32700),
        (lambda bulk: b'{"params":' + b"[" * len(bulk), 400, -32700),
    ],
    ids=["another method", "another member", "a batch", "no JSON", "no UTF-8", "too deep"],
)
def test_any_other_message_that_is_not_small_is_refused(
    made: Callable[[str], bytes], status: int, code: int, size: int
) -> None:
    answered, answer, sdk = exchange(made("x" * size))
    assert (answered, answer["error"]["code"], sdk.body) == (status, code, b"")
    assert answer["error"]["message"].startswith("Nothing was sent: ")


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
@pytest.mark.parametrize(
    ("message", "id", "code", "words"),
    [
        ({"params": {"a": "\ud83d"}}, 7, -32700, "half of a surrogate pair"),
        ({"id": "\ude00"}, None, -32700, "half of a surrogate pair"),
        ({"error": {"code": 1, "message": "?"}}, 7, -32600, "a request and an answer at once"),
        ({"result": {}}, 7, -32600, "a request and an answer at once"),
        ({"id": "x" * 1023}, None, -32600, "at most 1024 bytes"),
    ],
)
def test_what_is_wrong_with_a_message_is_named_with_its_id(
    message: dict[str, Any], id: Any, code: int, words: str, size: int
) -> None:
    whole = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", **message}
    id = None if code == -32700 and size == LARGE else id  # where it is not looked for
    status, answer, sdk = exchange(b" " * size + json.dumps(whole).encode())
    assert (status, answer["id"], answer["error"]["code"], sdk.body) == (400, id, code, b"")
    assert words in answer["error"]["message"]


def test_a_message_over_the_limit_is_refused() -> None:
    status, answer, sdk = exchange(b"x" * 60, b"x" * 60, b"x", max_body=100)
    assert (status, "GATEWAY_MAX_BODY" in answer["error"]["message"], sdk.body) == (413, True, b"")


def test_messages_for_which_there_is_no_room_are_refused_until_others_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    note = b'{"jsonrpc":"2.0","method":"x"}'
    monkeypatch.setattr(message_reader, "MEMORY", len(note) + 4)

    async def asked() -> list[int]:
        sdk = Sdk()
        app = made(sdk, len(note) + 4)
        sdk.hold.clear()
        first = asyncio.create_task(post(app, note))
        await asyncio.sleep(0)
        refused, answer = await post(app, note)
        assert "too much is under way" in answer["error"]["message"]
        sdk.hold.set()
        return [refused, (await first)[0], (await post(app, note))[0]]

    assert asyncio.run(asked()) == [503, 200, 200]


def test_a_message_that_comes_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_buffer, "SECONDS", 0.01)

    async def asked() -> tuple[int, Any]:
        return await post(made(Sdk(), 100), b"x", ends=False)

    status, answer = asyncio.run(asked())
    assert (status, "too slowly" in answer["error"]["message"]) == (408, True)
