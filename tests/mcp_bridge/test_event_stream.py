"""Progress over HTTP: a stream of events for a call that asked for it, and JSON for all others.

Expectations: MCP 2026-07-28 and 2025-11-25, "Streamable HTTP" and "Progress"; the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from mcp_bridge import event_stream, waiting
from mcp_bridge.app import create_app
from mcp_bridge.config import Settings
from mcp_bridge.event_stream import EventStream, accepts
from tests.mcp_bridge.hosting import served
from tests.mcp_bridge.rest import Rest
from tests.mcp_bridge.test_transport import HEADERS, LEGACY, META, message
from tests.support.api import JOB_ID

ERAS = [HEADERS, LEGACY]
RUNNING = {"status": "RUNNING", "total_requests": 9}


class Job(Rest):
    """A job of which one request more is done at each look, until all nine are."""

    looks = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            state = {"status": "SUCCESS"} if self.looks >= 9 else {}
            self.answers({**RUNNING, **state, "completed_requests": min(self.looks, 9)})
            self.looks += 1
        await super().__call__(scope, receive, send)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PACE", (0.01,))


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Job, str]]:
    rest = Job()
    with served(rest) as rest_url, served(create_app(Settings(rest_url=rest_url))) as url:
        yield rest, url


@pytest.fixture
def rest(running: tuple[Job, str]) -> Job:
    rest, _ = running
    rest.looks = 0
    return rest


@pytest.fixture
def url(rest: Job, running: tuple[Job, str]) -> str:
    return running[1]


def call(token: Any = "t", tool: str = "get-batch-job", **given: Any) -> dict[str, Any]:
    meta = META if token is None else {**META, "progressToken": token}
    return message(name=tool, arguments={"job_id": JOB_ID, "wait": 45, **given}, _meta=meta)


def answered(url: str, body: Any, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        return over(connection, body, headers)
    finally:
        connection.close()


def over(
    connection: http.client.HTTPConnection, body: Any, headers: dict[str, str]
) -> tuple[dict[str, str], bytes]:
    connection.request("POST", "/mcp", json.dumps(body), headers)
    response = connection.getresponse()
    return {name.lower(): value for name, value in response.getheaders()}, response.read()


def events(content: bytes) -> list[Any]:
    """The data of each event of a stream."""
    blocks = [block for block in content.decode().split("\n\n") if block]
    assert all(block.startswith(("event: message\ndata: ", ": ")) for block in blocks)
    return [json.loads(block.partition("data: ")[2]) for block in blocks if block[0] != ":"]


@pytest.mark.parametrize("token", ["t", "", 0, 7])
@pytest.mark.parametrize("headers", ERAS)
def test_a_call_with_a_progress_token_is_answered_by_a_stream_that_ends_with_its_result(
    token: Any, headers: dict[str, str], url: str
) -> None:
    told, content = answered(url, call(token), headers)
    assert told["content-type"] == "text/event-stream"
    assert told["x-accel-buffering"] == "no" and "no-transform" in told["cache-control"]
    *notes, result = events(content)
    assert [note["method"] for note in notes] == ["notifications/progress"] * 9
    assert [note["params"] for note in notes][3] == {
        "progressToken": token,
        "progress": 3,
        "total": 9,
        "message": "RUNNING: 3 of 9 requests done",
    }
    assert result["id"] == 1 and result["result"]["structuredContent"]["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("body", "accept"),
    [
        (call(None), "application/json, text/event-stream"),
        (call(1.5), "application/json, text/event-stream"),
        (call(), "application/json"),
        (call(), "*/*"),
        (call(), "application/json, text/event-stream;q=0"),
        (call(wait=0), "application/json, text/event-stream"),
        (call(tool="list-batch-jobs"), "application/json, text/event-stream"),
        (call(tool="get-batch-job", job_id="?"), "application/json, text/event-stream"),
        (call(tool="nothing"), "application/json, text/event-stream"),
    ],
    ids=["no token", "fraction", "JSON alone", "anything", "q=0", "no wait", "another tool", "refused", "unknown"],
)  # fmt: skip
@pytest.mark.parametrize("headers", ERAS)
def test_every_other_call_is_answered_in_json(
    body: Any, accept: str, headers: dict[str, str], url: str
) -> None:
    name = body["params"]["name"]
    routed = {**headers, "Mcp-Name": name} if "Mcp-Name" in headers else headers
    told, content = answered(url, body, {**routed, "Accept": accept})
    assert told["content-type"] == "application/json"
    assert {"result", "error"} & set(json.loads(content))


@pytest.mark.parametrize("headers", ERAS)
def test_a_client_of_http_1_0_which_knows_no_chunks_is_answered_in_json(
    headers: dict[str, str], rest: Job, url: str
) -> None:
    body = json.dumps(call()).encode()
    own = {**headers, "Content-Length": str(len(body)), "Host": url.removeprefix("http://")}
    head = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    host, _, port = own["Host"].partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"POST /mcp HTTP/1.0\r\n{head}\r\n".encode() + body)
        answer = connection.makefile("rb").read()
    told, _, content = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in told.lower()
    assert json.loads(content)["result"]["structuredContent"]["status"] == "SUCCESS"


@pytest.mark.parametrize("headers", ERAS)
def test_a_job_that_is_over_at_once_is_answered_in_json(
    headers: dict[str, str], rest: Job, url: str
) -> None:
    rest.looks = 9
    told, content = answered(url, call(), headers)
    assert told["content-type"] == "application/json"
    assert json.loads(content)["result"]["structuredContent"]["status"] == "SUCCESS"


@pytest.mark.parametrize("headers", ERAS)
def test_a_connection_is_kept_after_a_stream(headers: dict[str, str], rest: Job, url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    kinds = []
    for _ in range(3):
        rest.looks = 7
        kinds.append(over(connection, call(), headers)[0]["content-type"])
        kinds.append(over(connection, call(None), headers)[0]["content-type"])
        assert connection.sock is not None
    connection.close()
    assert kinds == ["text/event-stream", "application/json"] * 3


@pytest.mark.parametrize("headers", ERAS)
def test_a_failure_after_progress_is_the_last_event(
    headers: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "AT_ONCE", 0.0)

    async def seen(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.looks += 1
            self.answers(RUNNING if self.looks < 3 else {"title": "Gone"}, 200 if self.looks < 3 else 404)  # fmt: skip
        await Rest.__call__(self, scope, receive, send)

    monkeypatch.setattr(Job, "__call__", seen)
    told, content = answered(url, call(), headers)
    assert told["content-type"] == "text/event-stream"
    assert events(content)[-1]["result"]["isError"] is True


@pytest.mark.parametrize("headers", ERAS)
def test_hanging_up_within_a_stream_cancels_the_call_of_the_rest_service(
    headers: dict[str, str],
) -> None:
    """The head of a stream is no end of an answer: leaving still cancels."""
    held, hung_up = threading.Event(), threading.Event()

    class Holding(Job):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if self.looks == 2:
                self.hold = asyncio.Event()
                self.on_arrival = held.set
            await super().__call__(scope, receive, send)

    rest = Holding(on_hang_up=hung_up.set)
    with served(rest) as rest_url, served(create_app(Settings(rest_url=rest_url))) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        connection.request("POST", "/mcp", json.dumps(call()), headers)
        response = connection.getresponse()
        assert response.readline() == b"event: message\n"
        assert held.wait(10)
        connection.close()
        response.close()
        assert hung_up.wait(10)  # the call itself would last 45 seconds


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("application/json,Text/Event-Stream; q=0.5", True),
        ("text/event-stream; q=0", False),
        ("text/event-stream;q=0.0, application/json", False),
        ("text/*", False),
        ("*/*", False),
        ("application/json", False),
        ("application/x-text/event-stream", False),
        ("", False),
    ],
)
def test_a_stream_is_for_who_names_it(accept: str, taken: bool) -> None:
    assert accepts(Headers({"accept": accept})) is taken


def streamed(*steps: Any, ping: float = 60.0) -> list[bytes]:
    """What is sent of an answer; a step is a message of ASGI, or a number to notify."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b"HEAD"))

    async def answer() -> None:
        stream = EventStream(send)
        for step in steps:
            if isinstance(step, int):
                await stream.notify("n", {"a": step})
            elif isinstance(step, float):
                while len(sent) < step:
                    await asyncio.sleep(0)
            else:
                await stream.send({"type": f"http.response.{step[0]}", **step[1]})
        stream.close()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    previous, event_stream.PING = event_stream.PING, ping
    try:
        asyncio.run(answer())
    finally:
        event_stream.PING = previous
    return sent


START = ("start", {"status": 400, "headers": []})


def test_an_answer_in_pieces_is_one_event_and_its_line_breaks_are_spaces() -> None:
    body = {"body": b'{\n"a":', "more_body": True}
    sent = streamed(1, START, ("body", body), ("body", {"body": b"\r\n1}"}))
    assert sent[0] == b"HEAD" and sent[-1] == b'event: message\ndata: { "a":  1}\n\n'
    assert len(sent) == 3


def test_without_anything_to_tell_an_answer_is_as_it_is() -> None:
    assert streamed(START, ("body", {"body": b"{}\n"})) == [b"HEAD", b"{}\n"]


def test_a_stream_that_says_nothing_says_that_it_lives() -> None:
    sent = streamed(1, 5.0, START, ("body", {"body": b"{}"}), ping=0.0)
    assert set(sent[2:-1]) == {b": \n\n"} and sent[-1].startswith(b"event: message")
