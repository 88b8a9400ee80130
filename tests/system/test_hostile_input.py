"""Hostile bytes over the wire against gunicorn: a 4xx, never a 500, and only known paths ever reach the upstream.

What is refused by a running application is tested with the service; here are the server's parser, limits and framing.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse

import pytest

from service.request_reader import BODIES
from tests.support.api import JOBS
from tests.support.gateway import Stack, gateway_process
from tests.support.processes import Sandbox, wait_until

ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
CREATE = json.dumps({"endpoint": "/v1/ocr", "model": "m", "requests": [{"body": {}}]}).encode()
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
KNOWN = re.compile(rf"/v1/batch/jobs(/{UUID}(/cancel)?)?")
LIMIT = 2 * 1024


class Connection:
    """A raw connection to the service."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def send(self, data: bytes) -> Connection:
        """Sends what it can; the service may have answered and closed before the end."""
        with suppress(OSError):
            self.socket.sendall(data)
        return self

    def answer(self, method: str = "POST") -> tuple[int, bytes]:
        """(status, body) of one answer."""
        response = HTTPResponse(self.socket, method=method)
        response.begin()
        return response.status, response.read()

    def rest(self) -> bytes:
        """Everything until the service closes."""
        chunks = []
        while chunk := self.socket.recv(65536):
            chunks.append(chunk)
        return b"".join(chunks)


@pytest.fixture
def connection(stack: Stack) -> Iterator[Connection]:
    """A connection, the witness behind it being as new."""
    opened = Connection(stack.gateway.port)
    yield opened
    opened.socket.close()


def head(line: str, *fields: str) -> bytes:
    """A request's head with a Host."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode("latin-1")


def create(*fields: str) -> bytes:
    """The head of a create, its framing given."""
    return head(f"POST {JOBS}", "Content-Type: application/json", *fields)


def chunked(*chunks: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def reached(sandbox: Sandbox) -> list[str]:
    """What came through to the upstream."""
    return [f"{row['method']} {row['path']}" for row in sandbox.ledger()]


# Bodies


def test_a_body_announced_over_the_limit_is_refused_before_any_of_it_is_sent(
    connection: Connection,
) -> None:
    status, body = connection.send(create("Content-Length: 1073741824")).answer()
    assert (status, json.loads(body)["type"]) == (413, "/problems#content-too-large")


def test_a_body_that_grows_over_the_limit_is_refused_while_it_is_sent(
    connection: Connection, stack: Stack
) -> None:
    connection.send(create("Transfer-Encoding: chunked"))
    mebibyte = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    for _ in range(40):  # and never the end
        connection.send(mebibyte)
    status, body = connection.answer()
    assert (status, json.loads(body)["type"]) == (413, "/problems#content-too-large")
    assert reached(stack.sandbox) == []


def test_a_body_in_chunks_is_taken(connection: Connection, stack: Stack) -> None:
    data = chunked(*(CREATE[i : i + 7] for i in range(0, len(CREATE), 7)))
    status, _ = connection.send(create("Transfer-Encoding: chunked") + data).answer()
    assert (status, reached(stack.sandbox)) == (200, [f"POST {JOBS}"])


def test_a_body_that_breaks_off_reaches_nobody(connection: Connection, stack: Stack) -> None:
    connection.send(create(f"Content-Length: {len(CREATE)}") + CREATE[:-1])
    connection.socket.shutdown(socket.SHUT_WR)
    assert not connection.rest().startswith(b"HTTP/1.1 2")
    assert reached(stack.sandbox) == []


def test_large_bodies_that_do_not_end_take_no_more_than_their_memory(stack: Stack) -> None:
    upstream = f"{stack.sandbox.url}/v1"
    # Parts of a large body: however those that are refused make room for others, none is left for a whole one.
    part = (1 << 20) // 3
    with (
        gateway_process(upstream, WEB_CONCURRENCY=1, GATEWAY_MAX_BODY=1 << 20) as gateway,
        ExitStack() as sockets,
    ):
        for _ in range(4 * BODIES):
            unending = Connection(gateway.port)
            sockets.enter_context(unending.socket)
            unending.send(create(f"Content-Length: {1 << 20}") + b" " * part)
        wait_until(lambda: _answer_of_a_large_create(gateway.port) == 503)
        small = Connection(gateway.port)
        with small.socket:
            small.send(create(f"Content-Length: {len(CREATE)}") + CREATE)
            assert small.answer()[0] == 200
        sockets.close()
        wait_until(lambda: _answer_of_a_large_create(gateway.port) == 200)


def _answer_of_a_large_create(port: int) -> int:
    body = CREATE.ljust(1 << 20)
    large = Connection(port)
    with large.socket:
        return large.send(create(f"Content-Length: {len(body)}") + body).answer()[0]


# Framing: what two servers in a row could read differently


SMUGGLED = f"POST {JOBS}/{ID}/cancel HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            create("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
            id="length and chunks",
        ),
        pytest.param(
            create("Content-Length: 5", "Content-Length: 5") + b"{   }" + SMUGGLED,
            id="length twice",
        ),
        pytest.param(
            create("Content-Length: 5", "Content-Length: 0") + b"{   }" + SMUGGLED,
            id="two lengths",
        ),
        pytest.param(create("Content-Length: +5") + b"{   }" + SMUGGLED, id="signed length"),
        pytest.param(
            create("Transfer-Encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED, id="unknown coding"
        ),
        pytest.param(
            create("Transfer-Encoding : chunked") + b"0\r\n\r\n" + SMUGGLED, id="space before colon"
        ),
        pytest.param(
            create("Transfer-Encoding: chunked") + b"5\n{   }\n0\n\n" + SMUGGLED,
            id="bare LF, chunk",
        ),
        pytest.param(head(f"GET {JOBS}").replace(b"\r\n", b"\n"), id="bare LF"),
        pytest.param(head(f"GET {JOBS}", "X-A: b\x00c"), id="NUL in a header"),
        pytest.param(head(f"GET {JOBS}", "X-A: b", " folded"), id="folded header"),
        pytest.param(head(f"GET {JOBS}", "X-A: " + "b" * 1_000_000), id="a header of 1 MB"),
        pytest.param(head(f"GET {JOBS}", *(f"X-{n}: b" for n in range(500))), id="500 headers"),
        pytest.param(head(f"GET {JOBS}?a={'b' * 20_000}"), id="an address of 20 KB"),
        pytest.param(head(f"GE\x00T {JOBS}"), id="NUL in the method"),
        pytest.param(f"GET {JOBS} HTTP/9.9\r\nHost: localhost\r\n\r\n".encode(), id="HTTP/9.9"),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_or_is_out_of_bounds_is_refused_and_ends_the_connection(
    request_bytes: bytes, connection: Connection, stack: Stack
) -> None:
    received = connection.send(request_bytes).rest()
    assert re.match(rb"HTTP/1\.[01] (4\d\d|50[15]) ", received)
    assert received.count(b"HTTP/1.") == 1
    assert reached(stack.sandbox) == []


# Addresses


@pytest.mark.parametrize(
    "target",
    [
        *(f"{JOBS}/..", f"{JOBS}/../files", f"{JOBS}/%2e%2e", f"{JOBS}/%2e%2e%2ffiles"),
        *(f"{JOBS}/{ID}%2f..%2f..%2ffiles", f"{JOBS}/..%2ffiles", f"{JOBS}/%252e%252e"),
        *(f"{JOBS}/%c0%ae%c0%ae", f"{JOBS}/{ID}/..", f"{JOBS}/./{ID}", f"/{JOBS}", f"{JOBS}//{ID}"),
        *(f"{JOBS}/{ID}%00", f"{JOBS}/{ID}%0d%0aX-A:%20b", f"{JOBS}/{ID}%3finline=true"),
        *(f"{JOBS}/{ID}%23", f"{JOBS}/{ID};x", f"{JOBS}/{ID}\\..", f"{JOBS}/{ID}%5c..", f"{JOBS}/"),
        *(f"{JOBS}/{ID}/", f"{JOBS}/{ID}%20", f"{JOBS}/*", f"{JOBS}/٧", "*", "v1/batch/jobs"),
        *(f"{JOBS}/{ID}\t", f"{JOBS}/{'a' * 7000}", "/v1/models", "/v1", "/V1/batch/jobs"),
    ],
)
def test_an_address_outside_the_contract_never_reaches_the_upstream(
    target: str, connection: Connection, stack: Stack
) -> None:
    received = connection.send(
        f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    ).rest()
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", received), received[:200]
    assert reached(stack.sandbox) == []


def test_an_absolute_address_does_not_choose_the_upstream(
    connection: Connection, stack: Stack
) -> None:
    request = head(f"GET http://evil.example{JOBS}", "Connection: close")
    received = connection.send(request).rest()
    assert re.match(rb"HTTP/1\.[01] (200|4\d\d) ", received), received[:200]
    assert set(reached(stack.sandbox)) <= {f"GET {JOBS}"}


def test_whatever_was_asked_only_known_paths_reached_the_upstream(stack: Stack) -> None:
    for target in (JOBS, f"{JOBS}/{ID}", f"{JOBS}/{ID.upper()}", f"{JOBS}/%37{ID[1:]}"):
        stack.gateway.get(target)
    stack.gateway.post(f"{JOBS}/{ID}/cancel")
    paths = {row["path"] for row in stack.sandbox.ledger()}
    assert len(paths) >= 3
    assert [path for path in paths if not KNOWN.fullmatch(path.lower())] == []


# Other ways to speak HTTP


def test_http_1_0_is_answered_and_closed(connection: Connection) -> None:
    received = connection.send(f"GET {JOBS} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()).rest()
    assert re.match(rb"HTTP/1\.[01] 200 ", received)
    assert received.endswith(b'"total":0}')


def test_pipelined_requests_are_answered_in_their_order(
    connection: Connection, stack: Stack
) -> None:
    asked = (JOBS, f"{JOBS}/{ID}", "/livez", "/nowhere", JOBS)
    connection.send(b"".join(head(f"GET {path}") for path in asked[:-1]))
    received = connection.send(head(f"GET {JOBS}", "Connection: close")).rest()
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"404", b"200", b"404", b"200"]


def test_a_request_after_a_refused_body_is_not_read_from_that_body(
    connection: Connection, stack: Stack
) -> None:
    received = connection.send(
        head(f"POST {JOBS}", "Content-Type: text/plain", f"Content-Length: {len(SMUGGLED)}")
        + SMUGGLED
        + head("GET /livez", "Connection: close")
    ).rest()
    assert re.findall(rb"HTTP/1\.1 (\d+)", received)[0] == b"415"
    assert reached(stack.sandbox) == []


def test_an_answer_before_its_request_was_read_says_that_the_connection_ends(
    connection: Connection,
) -> None:
    announced = head(f"POST {JOBS}", "Content-Type: text/plain", "Content-Length: 10")
    received = connection.send(announced).rest()
    assert received.startswith(b"HTTP/1.1 415") and b"\r\nConnection: close\r\n" in received


def test_an_answer_to_a_request_that_was_read_says_nothing_of_the_connection(
    connection: Connection,
) -> None:
    refused = head(f"POST {JOBS}", "Content-Type: text/plain", "Content-Length: 2") + b"no"
    received = connection.send(refused + head("GET /livez", "Connection: close")).rest()
    assert [*re.findall(rb"HTTP/1\.1 (\d+)", received)] == [b"415", b"200"]
    assert b"Connection: close" not in received.partition(b"HTTP/1.1 200")[0]


@pytest.mark.parametrize("target", [JOBS, f"{JOBS}/{ID}", "/docs", "/openapi.json", "/nowhere"])
def test_a_head_request_gets_headers_and_no_byte_of_a_body(
    target: str, connection: Connection
) -> None:
    received = connection.send(head(f"HEAD {target}", "Connection: close")).rest()
    header, _, body = received.partition(b"\r\n\r\n")
    assert re.search(rb"(?i)content-length: [1-9]", header)
    assert body == b""


# Logs


def test_no_hostile_request_makes_a_long_log_line(stack: Stack) -> None:
    before, long = len(stack.gateway.output), "x" * 7000
    for request in (
        head(f"GET {JOBS}/{long}"),
        head(f"GET {JOBS}?{long}={long[:500]}"),
        head(f"GET {JOBS}", f"X-Request-ID: {long}", f"traceparent: {long[:900]}"),
        head(f"GET {JOBS}", f"User-Agent: {long}"),
        head(f"{long} {JOBS}"),
        head(f"GET {JOBS}", f"Host: {long}"),
        create("Content-Length: 9000") + b'["' + b"y" * 8996 + b'"]',
        create("Content-Length: 9000") + b"\xff" * 9000,
    ):
        opened = Connection(stack.gateway.port)
        assert opened.send(request).answer()[0] < 500, request[:60]
        opened.socket.close()
    stack.gateway.get(JOBS, headers={"X-Request-ID": "the-last-one"})
    wait_until(lambda: stack.gateway.said("the-last-one"))
    lines = stack.gateway.output[before:]
    assert [line[:300] for line in lines if len(line.encode()) > LIMIT] == []
