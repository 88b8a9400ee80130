"""What hostile calls cost the bridge, as the operating system counts it; the shipped container is large enough for them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import repeat
from typing import Any

import pytest

from bench import work
from tests.mcp_bridge.hosting import served
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID
from tests.support.bridge import Bridge, gunicorn_bridge
from tests.support.memory import HOSTILE, MEBIBYTE, SIZE, Memory, container_limit, create, repeated

VERSION = "2026-07-28"
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}
MODERN = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call"}
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


class Measured:
    """A bridge of two workers, as its container has it, before a REST service of the tests' own."""

    def __init__(self, bridge: Bridge, rest: Rest) -> None:
        self.port = bridge.port
        self.pid = bridge.process.pid
        self.workers = bridge.workers
        self.rest = rest

    def call(
        self, arguments: bytes, modern: bool = True, tool: str = "create-batch-job"
    ) -> tuple[int, Any]:
        """Status and JSON of a call of a tool."""
        meta = json.dumps(META).encode() if modern else b"{}"
        headers = {**HEADERS, **({**MODERN, "Mcp-Name": tool} if modern else {})}
        message = b"".join(
            [
                b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"_meta": ',
                *(meta, b', "name": "%b", "arguments": ' % tool.encode(), arguments, b"}}"),
            ]
        )
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/mcp", message, headers)
            answer = connection.getresponse()
            return answer.status, json.load(answer)
        finally:
            connection.close()


@pytest.fixture(scope="module")
def bridge() -> Iterator[Measured]:
    rest = Rest().answers({"id": "1", "status": "QUEUED"})
    with served(rest) as rest_url, gunicorn_bridge(rest_url, workers=2, anew=True) as running:
        yield Measured(running, rest)


# Of either era alike: a message's arguments are taken out before anything asks for its version.
@pytest.mark.parametrize(
    ("kind", "modern"),
    [
        ("objects", True),
        ("objects", False),
        ("empty objects", True),
        ("numbers for objects", True),
        ("members", True),
    ],
)
def test_arguments_that_are_refused_take_no_more_than_twice_their_size(
    bridge: Measured, kind: str, modern: bool
) -> None:
    made, pointer, sentence = HOSTILE[kind]
    arguments = made(SIZE // 2)
    memory = Memory(bridge.workers)
    status, answer = bridge.call(arguments, modern)
    grown = memory.peak - memory.start
    said = answer["result"]["content"][0]["text"]
    place = pointer.lstrip("/").replace("/", ".")
    assert status == 200 and answer["result"]["isError"]
    assert said.startswith("Nothing was sent") and f"- {place} {sentence}" in said
    assert grown < 2 * len(arguments) + 16 * MEBIBYTE


def test_json_within_a_text_is_counted_before_it_is_read(bridge: Measured) -> None:
    requests = json.dumps(f"[{repeated(b'{}', SIZE // 2).decode()}]").encode()
    memory = Memory(bridge.workers)
    _, answer = bridge.call(b'{"endpoint": "/v1/ocr", "requests": %b}' % requests)
    grown = memory.peak - memory.start
    assert "- requests must be null or an array" in answer["result"]["content"][0]["text"]
    assert grown < 4 * len(requests) + 16 * MEBIBYTE


def test_four_at_once_stay_within_the_shipped_container_and_leave_nothing(bridge: Measured) -> None:
    kinds = ("objects", "empty objects", "members", "a long text")
    arguments = [HOSTILE[kind][0](SIZE) for kind in kinds]
    memory = Memory([bridge.pid, *bridge.workers])
    for _ in range(2):
        with ThreadPoolExecutor(4) as clients:
            answers = [*clients.map(bridge.call, arguments)]
        # A worker has room for two; the others are refused before all of them was sent.
        assert {200} <= {status for status, _ in answers} <= {200, 503}
    assert bridge.rest.arrived == []
    assert memory.peak < container_limit("mcp")
    assert memory.now < memory.start + 4 * SIZE


def test_ten_thousand_requests_are_passed_on_as_they_came(bridge: Measured) -> None:
    arguments = work.create_body(10_000)
    memory = Memory(bridge.workers)
    _, answer = bridge.call(arguments)
    grown = memory.peak - memory.start
    arrived = bridge.rest.arrived.pop()
    assert answer["result"]["structuredContent"]["id"] == "1"
    assert arrived.json["requests"] == json.loads(arguments)["requests"]
    assert grown < 5 * len(arguments)  # before the arguments stayed text it was seven times


@pytest.mark.parametrize(
    ("argument", "content"),
    [
        (b'{"file_text": "%b"}', "😀".encode() + b"x" * (SIZE // 2)),
        (b'{"file_lines": [%b]}', repeated(b'{"custom_id":"x","body":{"a":[1,2,3]}}', SIZE // 8)),
        (b'{"file_lines": [{"a": [%b]}]}', repeated(b"{}", SIZE // 2)),
    ],
    ids=["text", "objects", "an object of many"],
)
def test_a_file_to_upload_takes_a_few_times_its_size_and_not_what_it_is_as_objects(
    bridge: Measured, argument: bytes, content: bytes
) -> None:
    arguments = argument % content
    memory = Memory(bridge.workers)
    _, answer = bridge.call(arguments, tool="upload-file")
    grown = memory.peak - memory.start
    assert answer["result"]["structuredContent"]["id"] == "1"
    assert len(bridge.rest.arrived.pop().body) > len(content)
    # One such character makes four bytes of each, were the text built.
    assert grown < 4 * len(arguments) + 8 * MEBIBYTE


def test_a_file_that_is_read_takes_no_memory(bridge: Measured) -> None:
    bridge.rest.pieces = repeat(b"0123456\n" * 8192, 4096)  # 256 MiB
    memory = Memory(bridge.workers)
    arguments = json.dumps({"file_id": JOB_ID, "from": 32 << 20}).encode()
    try:
        _, answer = bridge.call(arguments, tool="read-file")
    finally:
        bridge.rest.pieces = ()
        bridge.rest.arrived.clear()
    grown = memory.peak - memory.start
    found = answer["result"]["structuredContent"]
    # Then comes the content of every answer.
    assert found["lines"] == ['{"id": "1", "status": "QUEUED"}'] and found["next_from"] is None
    assert grown < 8 * MEBIBYTE


@pytest.mark.parametrize("items", [b'{"a":1,"b":[2]}', b"[]"], ids=["objects", "lists"])
def test_an_answer_takes_a_few_times_its_size_and_not_what_it_is_as_objects(
    bridge: Bridge, items: bytes
) -> None:
    content = b'{"id": "1", "outputs": [%b]}' % repeated(items, SIZE)
    memory = Memory(bridge.workers)
    bridge.rest.answers(content)
    try:
        status, answer = bridge.call(create(b'{"body": {}}'))
    finally:
        bridge.rest.answers({"id": "1", "status": "QUEUED"}).arrived.clear()
    grown = memory.peak - memory.start
    assert status == 200 and len(json.dumps(answer)) < 200_000
    assert grown < 4 * len(content) + 16 * MEBIBYTE


def test_a_page_of_many_results_takes_a_few_times_their_size(bridge: Measured) -> None:
    body = b'{"choices":[{"finish_reason":"stop","message":{"content":"%b"}}]}' % (b"word " * 150)
    row = b'{"custom_id":"r","response":{"status_code":200,"body":%b},"error":null}' % body
    content = b'{"id":"1","status":"SUCCESS","outputs":[%b]}' % repeated(row, SIZE)
    bridge.rest.answers(content)
    memory = Memory(bridge.workers)
    try:
        arguments = json.dumps({"job_id": JOB_ID, "from": 1000}).encode()
        _, answer = bridge.call(arguments, tool="get-batch-job")
    finally:
        bridge.rest.answers({"id": "1", "status": "QUEUED"}).arrived.clear()
    grown = memory.peak - memory.start
    shown = answer["result"]["structuredContent"]
    assert shown["summary"]["succeeded"] > 30_000 and len(shown["outputs"]) > 20
    assert grown < 3 * len(content) + 16 * MEBIBYTE


def test_what_nobody_looks_at_is_not_built(bridge: Measured) -> None:
    arguments = create(b'{"body": {"a": [%b]}}' % repeated(b"{}", SIZE // 2))
    memory = Memory(bridge.workers)
    _, answer = bridge.call(arguments)
    grown = memory.peak - memory.start
    assert answer["result"]["structuredContent"]["id"] == "1"
    assert len(bridge.rest.arrived.pop().body) > SIZE // 2
    assert grown < 5 * len(arguments)


def test_twenty_calls_under_way_take_a_few_times_their_text_and_not_what_it_is_as_objects(
    bridge: Measured,
) -> None:
    arguments = create(b'{"body": {"a": [%b]}}' % repeated(b"{}", 240_000))
    arrived, loops = threading.Semaphore(0), []

    def arrive() -> None:
        loops.append(asyncio.get_running_loop())
        arrived.release()

    rest = bridge.rest
    rest.hold, rest.on_arrival = asyncio.Event(), arrive
    memory = Memory(bridge.workers)
    with ThreadPoolExecutor(20) as clients:
        answers = [clients.submit(bridge.call, arguments) for _ in range(20)]
        try:
            assert all(arrived.acquire(timeout=30) for _ in range(20))
            grown = memory.now - memory.start
        finally:
            loops[0].call_soon_threadsafe(rest.hold.set)
    assert {answer.result()[0] for answer in answers} == {200}
    rest.hold, rest.on_arrival = None, lambda: None
    rest.arrived.clear()
    assert grown < 20 * 6 * len(arguments) + 16 * MEBIBYTE  # as objects it was 140 MiB
