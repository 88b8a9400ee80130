"""An answer that comes before its request was read to its end arrives: the rest is read and thrown away."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from serving import lingering
from serving.lingering import Lingering
from tests.support.api import JOBS
from tests.support.bridge import bridge_process, gunicorn_bridge
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox
from tests.support.tools_available import tool_python

WRITER, READER = "mbg_writer", "mbg_reader"
LARGE = b'{"a":"' + b"x" * (4 << 20) + b'"}'
JSON = {"Content-Type": "application/json"}
KNOWN = {"Authorization": f"Bearer {WRITER}"}
TIMES = 40  # of which, when servers do not linger, five or more are not read

# kind of problem -> the request, with a body over GATEWAY_MAX_BODY that is never read
REFUSED: dict[str, dict[str, Any]] = {
    "content-too-large": {"method": "POST", "url": JOBS, "headers": JSON | KNOWN},
    "unauthenticated": {"method": "GET", "url": JOBS, "headers": JSON},
    "insufficient-scope": {"method": "POST", "url": JOBS, "headers": {**JSON, "Authorization": f"Bearer {READER}"}},
    "unsupported-media-type": {"method": "POST", "url": JOBS, "headers": {"Content-Type": "multipart/form-data; boundary=x"} | KNOWN},
    "not-found": {"method": "POST", "url": "/v1/nowhere", "headers": JSON | KNOWN},
    "method-not-allowed": {"method": "PUT", "url": JOBS, "headers": JSON | KNOWN},
    "misdirected-request": {"method": "POST", "url": JOBS, "headers": {**JSON, "Host": "evil.example"}},
    "cross-origin": {"method": "POST", "url": JOBS, "headers": {**JSON, "Origin": "https://evil.example"}},
    "validation-failed": {"method": "GET", "url": f"{JOBS}?page=x", "headers": JSON | KNOWN},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that lets WRITER create and upload, and READER only read."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    reads = ["jobs:read", "files:read"]
    scopes = {WRITER: [*reads, "jobs:write", "files:write"], READER: reads}
    lines = [
        {"name": token, "sha256": sha256(token.encode()).hexdigest(), "scopes": scopes[token]}
        for token in scopes
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def gateway(tokens: Path, running_sandbox: Sandbox) -> Iterator[Gateway]:
    limits = dict.fromkeys(("GATEWAY_MAX_BODY", "GATEWAY_MAX_FILE"), 1 << 20)
    settings = {"GATEWAY_TOKENS_FILE": tokens, "GATEWAY_LOG_LEVEL": "error", **limits}
    with gateway_process(f"{running_sandbox.url}/v1", **settings) as running:
        yield running


async def outcomes(base_url: str, request: dict[str, Any]) -> list[str]:
    """What TIMES clients, eight at a time, each on a connection of its own, make of the answers."""
    found = []
    places = asyncio.Semaphore(8)
    # Made once: it takes longer than the request.
    shared = {"base_url": base_url, "verify": ssl.create_default_context(), "trust_env": False}

    async def ask() -> None:
        async with places, httpx2.AsyncClient(**shared, timeout=60) as client:
            try:
                answer = await client.request(**request, content=LARGE)
                found.append(answer.json()["type"].rpartition("#")[2])
            except httpx2.TransportError as error:
                found.append(type(error).__name__)

    async with anyio.create_task_group() as tasks:
        for _ in range(TIMES):
            tasks.start_soon(ask)
    return found


@pytest.mark.parametrize("kind", REFUSED)
def test_every_refusal_of_a_request_that_is_not_read_is_read_by_its_client(
    gateway: Gateway, kind: str
) -> None:
    assert asyncio.run(outcomes(gateway.url, REFUSED[kind])) == [kind] * TIMES


def test_mistrals_own_client_reads_every_refusal_and_nothing_was_uploaded(
    gateway: Gateway, sandbox: Sandbox
) -> None:
    """Its async client sends a body to the end before it looks for an answer."""
    client = Path(__file__).with_name("refused_client.py")
    command = [tool_python("mistralai-3"), str(client), gateway.url, WRITER, READER, str(TIMES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "create": {"content-too-large": TIMES},
        "scope": {"insufficient-scope": TIMES},
        "purpose": {"validation-failed": TIMES},
        "purpose of a small file": {"validation-failed": TIMES},
        "size": {"content-too-large": TIMES},
        "line": {"validation-failed": TIMES},
    }
    assert sandbox.admin("GET", "/sandbox/state")["files"] == 0


def test_the_bridge_is_read_too_when_it_refuses_and_closes() -> None:
    async def refused(url: str) -> list[int]:
        headers = {"Connection": "close", "Content-Type": "application/json"}
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            answers = [await client.post(url, content=LARGE, headers=headers) for _ in range(20)]
        return [answer.status_code for answer in answers]

    with bridge_process("http://127.0.0.1:9", GATEWAY_MAX_BODY=1 << 20) as bridge:
        assert asyncio.run(refused(bridge.url)) == [413] * 20


UNREADABLE = {
    "no request": (b"HELLO\r\n\r\n", 400),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
    "no length that is one": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a compressed body": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "two codings": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    "an unknown coding": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x, chunked\r\n\r\n", 501),
    "another version": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x07" * 300 + b"\r\n\r\n", 400),
    "a long URL": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "a URL without an end": (b"GET /" + b"a" * 140_000, 414),
    "a long header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 140_000, 431),
}  # fmt: skip


@pytest.fixture(scope="module")
def ports(gateway: Gateway) -> Iterator[dict[str, int]]:
    with bridge_process(gateway.url) as one, gunicorn_bridge(gateway.url, 1) as other:
        yield {"REST": gateway.port, "bridge": one.port, "bridge of workers": other.port}


@pytest.mark.parametrize("server", ["REST", "bridge", "bridge of workers"])
@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_request_is_refused_by_a_problem_document_without_a_word_of_it(
    what: str, server: str, ports: dict[str, int]
) -> None:
    sent, status = UNREADABLE[what]
    with socket.create_connection(("127.0.0.1", ports[server]), 10) as peer:
        peer.sendall(sent)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/problem+json\r\n" in head
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("/problems#malformed-request", status)
    assert f"X-Request-ID: {problem['request_id']}".encode() in head
    assert b"aaaa" not in body and b"localhost" not in body


def test_what_gunicorn_cannot_read_is_answered_although_more_is_sent(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        for _ in range(20):
            peer.sendall(b"\0" * 65536)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 414")


def test_a_body_that_the_bridge_cannot_read_is_refused_once_and_without_a_traceback() -> None:
    message = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
    with bridge_process("http://127.0.0.1:9") as bridge:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", bridge.port), 10) as peer:
                peer.sendall(message)
                answer = b"".join(iter(lambda: peer.recv(65536), b""))
            assert answer.count(b"HTTP/1.1 ") == 1
    assert "Traceback" not in "".join(bridge.output)


def test_the_body_of_a_request_for_an_upgrade_is_no_request_to_the_bridge() -> None:
    """httptools reads the body of such a request as the next one."""
    hidden = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = (
        b"POST /livez HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    )
    with (
        bridge_process("http://127.0.0.1:9") as bridge,
        socket.create_connection(("127.0.0.1", bridge.port), 10) as peer,
    ):
        peer.sendall(head)
        answer = peer.recv(65536)
        peer.sendall(hidden)
        answer += b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_the_bridge_ends_a_connection_whose_request_it_answered_unread() -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000000000\r\n\r\n"
    with (
        bridge_process("http://127.0.0.1:9") as bridge,
        socket.create_connection(("127.0.0.1", bridge.port), 10) as peer,
    ):
        peer.sendall(head)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


class Transport(asyncio.Transport):
    """What is done to a connection."""

    unsent = 0  # bytes of the answer

    def __init__(self) -> None:
        super().__init__()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        if not self.ended.done():
            self.ended.set_result("aborted")


def test_a_client_that_falls_silent_is_left_and_one_that_sends_on_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "SILENCE", 0.2)

    async def lingered() -> tuple[bool, str]:
        transport = Transport()
        end = Lingering(transport)
        for _ in range(4):
            await asyncio.sleep(0.1)
            end.discard(1)
        return transport.ended.done(), await asyncio.wait_for(transport.ended, 10)

    assert asyncio.run(lingered()) == (False, "aborted")


def test_a_client_that_reads_its_answer_slowly_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "SILENCE", 0.05)
    monkeypatch.setattr(lingering, "LONGEST", 0.1)

    async def lingered() -> tuple[bool, str]:
        transport = Transport()
        transport.unsent = 1
        end = Lingering(transport)
        await asyncio.sleep(0.3)
        end.stop()
        cut = transport.ended.done()
        transport.unsent = 0
        return cut, await asyncio.wait_for(transport.ended, 10)

    assert asyncio.run(lingered()) == (False, "aborted")


@pytest.mark.parametrize(("limit", "value"), [("LONGEST", 0.2), ("MOST", 1000)])
def test_a_client_that_never_stops_sending_is_left(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(lingering, limit, value)
    monkeypatch.setattr(lingering, "SILENCE", 0.1)

    async def lingered() -> str:
        transport = Transport()
        end = Lingering(transport)
        while not transport.ended.done():
            end.discard(100)
            await asyncio.sleep(0.01)
        return transport.ended.result()

    assert asyncio.run(asyncio.wait_for(lingered(), 10)) == "aborted"
