"""The bridge over standard input and output: whatever a client writes is answered, and what was read before the end is too."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mcp_bridge.canonical import LARGE
from mcp_bridge.edge import RequestContext
from mcp_bridge.messages import SMALL
from mcp_bridge.stdio import Exchange, lines
from tests.mcp_bridge.hosting import served
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID
from tests.support.gateway import gateway_process
from tests.support.processes import ROOT, Sandbox, environment

HELLO = {
    "jsonrpc": "2.0",
    "id": "hello",
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
COMMAND = [sys.executable, "-m", "mcp_bridge", "--stdio"]


def call(id: Any, tool: str = "get-batch-job", **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments or {"job_id": JOB_ID}}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


def ping(id: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "ping"}


def answers(
    rest_url: str, *messages: Any, end: bytes = b"\n", **settings: Any
) -> list[dict[str, Any]]:
    """What is answered to these messages, or bytes, after which the input ends."""
    text = end.join(m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages)
    done = subprocess.run(
        COMMAND,
        input=text,
        capture_output=True,
        timeout=50,
        cwd=ROOT,
        check=False,
        env=environment(BRIDGE_REST_URL=rest_url, **settings),
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def codes(found: list[dict[str, Any]]) -> list[tuple[Any, int]]:
    """(id, code) of the errors among them."""
    return [(each["id"], each["error"]["code"]) for each in found if "error" in each]


@pytest.fixture(scope="module")
def rest_url() -> Iterator[str]:
    with served(Rest()) as url:
        yield url


def test_calls_that_are_piped_in_are_all_answered_and_creates_among_them_are_made(
    sandbox: Sandbox,
) -> None:
    job = {"endpoint": "/v1/chat/completions", "model": "m"}
    made = {**job, "requests": [{"custom_id": "1", "body": {"messages": []}}]}
    calls = [call(n, "list-batch-jobs", page=n) for n in range(8)]
    creates = [call(n, "create-batch-job", **made, metadata={"n": str(n)}) for n in (8, 9)]
    with gateway_process(f"{sandbox.url}/v1") as rest:
        found = answers(rest.url, HELLO, *calls, *creates)
    assert {each["id"]: each["result"].get("isError") for each in found} == {
        "hello": None,
        **dict.fromkeys(range(10), False),
    }
    assert len(sandbox.ledger(method="POST", path="/v1/batch/jobs")) == 2


NOT_UTF8 = (
    json.dumps(call(1, "create-batch-job", endpoint="/v1/ocr")).encode()[:-5] + b"\xff\xfe'}}}"
)
HALF = rb'{"jsonrpc":"2.0","id":"half","method":"tools/call","params":{"name":"get-batch-job","arguments":{"job_id":"\ud83d"}}}'
# line -> the id and the code of its error
REFUSED: list[tuple[Any, Any, int]] = [
    (b"hello?", None, -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"', None, -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"} trailing', None, -32700),
    (NOT_UTF8, None, -32700),
    (json.dumps(ping(1)).encode("utf-16").replace(b"\n", b""), None, -32700),
    (b"\0\0\0", None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', None, -32700),
    (b'{"jsonrpc":"2.0","id":"n","method":"ping","params":{"a":' + b"9" * 5000 + b"}}", "n", -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 90_000 + b"}", None, -32700),
    ([ping(1), ping(2)], None, -32600),
    (b"[]", None, -32600),
    (b"5", None, -32600),
    (b"null", None, -32600),
    (b"{}", None, -32600),
    *((ping(id), None, -32600) for id in (None, 1.5, True, False, {}, [1], 1.0)),
    ({**ping("old"), "jsonrpc": "1.0"}, "old", -32600),
    ({"id": "bare", "method": "ping"}, "bare", -32600),
    ({"jsonrpc": "2.0", "id": "no method"}, "no method", -32600),
    ({**ping("number"), "method": 5}, "number", -32600),
    ({**ping("list"), "params": [1]}, "list", -32602),
    ({**ping("unknown"), "method": "no/such"}, "unknown", -32601),
    (HALF, "half", -32700),
    (b'{"jsonrpc":"2.0","id":"half method","method":"p\\ud83d"}', "half method", -32700),
    (b'{"jsonrpc":"2.0","id":"half \\ud83d","method":"ping"}', None, -32700),
    ({**ping("both"), "error": {"code": 1, "message": "?"}}, "both", -32600),
    ({**ping("result too"), "result": {}}, "result too", -32600),
    (ping("x" * 1025), None, -32600),
]  # fmt: skip


NOTE = {"jsonrpc": "2.0", "method": "notifications/initialized"}
UNASKED = [
    NOTE,
    {**NOTE, "id": None},
    {"jsonrpc": "2.0", "id": 9, "result": {}},
    {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "?"}},
]


@pytest.fixture(scope="module")
def found(rest_url: str) -> list[dict[str, Any]]:
    """What is answered in one conversation: with a byte order mark before its first line, other line ends, and lines without a
    message.
    """
    hello = b"\xef\xbb\xbf" + json.dumps(HELLO).encode()
    bad = [line for line, _, _ in REFUSED]
    large = call("large", job_id="x" * 300_000)
    messages = [hello, b"", b" \t", *UNASKED, *bad, large, ping("last")]
    return answers(rest_url, *messages, end=b"\r\n", GATEWAY_MAX_BODY=100_000)


def test_a_byte_order_mark_is_skipped(found: list[dict[str, Any]]) -> None:
    assert found[0]["id"] == "hello" and "result" in found[0]


def test_a_line_that_is_no_good_message_or_too_long_is_answered_with_its_error(
    found: list[dict[str, Any]],
) -> None:
    expected = [(str(id), code) for _, id, code in REFUSED] + [("None", -32600)]
    assert sorted((str(id), code) for id, code in codes(found)) == sorted(expected)


def test_what_is_wrong_with_a_message_is_named(found: list[dict[str, Any]]) -> None:
    said = {each["id"]: each["error"]["message"] for each in found if "error" in each}
    assert "half of a surrogate pair" in said["half"]
    assert "a request and an answer at once" in said["both"]
    assert any(
        "at most 1024 bytes" in each["error"]["message"] for each in found if "error" in each
    )


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_of_the_arguments_of_a_call_that_is_not_small_the_sdk_sees_nothing(size: int) -> None:
    """As objects they would be a hundred times their size, and be made while nothing else is done."""
    line = json.dumps(call(1, requests=[{}] * size)).encode()

    async def read() -> tuple[Any, RequestContext]:
        with ThreadPoolExecutor(1) as reading:
            return await Exchange(0, 1, len(line), reading)._message(bytearray(line))

    message, context = asyncio.run(read())
    assert message.params == {"name": "get-batch-job", "arguments": {}}
    assert json.loads(bytes(context.arguments or b"")) == {"requests": [{}] * size}


def test_a_large_call_is_passed_on_as_it_came() -> None:
    rest = Rest().answers({"id": "1", "status": "QUEUED"})
    requests = [{"body": {"a": [{}] * 200_000}}]
    large = call("large", "create-batch-job", endpoint="/v1/ocr", requests=requests)
    with served(rest) as url:
        found = answers(url, HELLO, large)
    assert found[1]["result"]["structuredContent"]["id"] == "1"
    assert rest.last.json["requests"] == requests


def test_empty_lines_notifications_and_answers_of_the_client_are_not_answered(
    found: list[dict[str, Any]],
) -> None:
    assert {each["id"] for each in found if "result" in each} == {"hello", "last"}


def test_a_call_that_its_client_cancels_is_not_waited_for_at_the_end() -> None:
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    with served(Rest(hold=asyncio.Event())) as url:
        found = answers(url, HELLO, call(1), cancel, ping(2))
    assert [each["id"] for each in found] == ["hello", 2]


def test_it_ends_when_its_client_reads_no_more_though_the_input_stays_open() -> None:
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bridge:
        assert bridge.stdin and bridge.stdout
        bridge.stdout.close()
        bridge.stdin.write(json.dumps(HELLO).encode() + b"\n")
        bridge.stdin.flush()
        assert bridge.wait(40) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_without_an_input_or_an_output_it_does_not_start(closed: str) -> None:
    shell = ["sh", "-c", f'exec "$0" -m mcp_bridge --stdio {closed}', sys.executable]
    done = subprocess.run(
        shell, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("mcp_bridge: cannot start: ")


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([b"a\nb", b"c\n", b"d"], [b"a\n", b"bc\n", b"d"]),
        ([b"x" * 20, b"y\nz\n"], [b"x" * 6, b"z\n", b""]),
        ([b"a\rb\r\n"], [b"a\rb\r\n", b""]),
        ([], [b""]),
    ],
)
def test_lines_end_with_a_line_feed_and_keep_no_more_than_says_that_they_are_too_long(
    pieces: list[bytes], found: list[bytes]
) -> None:
    out, into = os.pipe()
    reading = lines(out, 5)
    seen: list[bytes] = []
    with os.fdopen(into, "wb", buffering=0) as pipe:
        for piece in pieces:
            pipe.write(piece)
    seen.extend(bytes(line) for line in reading)
    os.close(out)
    assert seen == found
