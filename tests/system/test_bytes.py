"""Requests with bytes changed at random, with the sandbox as the witness: nothing but declared paths is ever asked of it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api import JOBS, job
from tests.support.gateway import Stack, gateway_process
from tests.support.processes import sandbox_process

ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
DECLARED = re.compile(rf"{JOBS}(/[0-9a-fA-F-]{{36}}(/cancel)?)?")
BODY = json.dumps(job()).encode()


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request that is right."""
    lines = [f"{line} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


REQUESTS = [
    request(f"GET {JOBS}?page_size=3&status=QUEUED"),
    request(f"GET {JOBS}/{ID}?inline=true"),
    request(f"POST {JOBS}/{ID}/cancel", "Content-Length: 0"),
    request(f"POST {JOBS}", f"Content-Length: {len(BODY)}", "Idempotency-Key: k", body=BODY),
    request(
        f"POST {JOBS}",
        "Transfer-Encoding: chunked",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    ),
]
PIECES = [
    *(b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b"\x0b", b"\x80", b"\xff", b":"),
    *(
        b"/",
        b"//",
        b"/..",
        b"%2e%2e",
        b"%2f",
        b"%00",
        b"%0d%0a",
        b"?",
        b"#",
        b";",
        b"\\",
        b"@",
        b"{",
    ),
    *(
        b"http://elsewhere",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"0\r\n\r\n",
    ),
    *(b"9" * 30, b"a" * 9000, REQUESTS[0], REQUESTS[2]),
]
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)),
    ),
    max_size=4,
)
"""Places, as shares of the whole; how many bytes are taken out there, and what is put in."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A gateway without nginx, and the sandbox behind it."""
    with (
        sandbox_process(speed=0) as sandbox,
        gateway_process(f"{sandbox.url}/v1") as gateway,
    ):
        yield Stack(gateway, sandbox)


def changed(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """`content` after the changes, one after the other."""
    for place, taken, put in changes:
        at = int(place * len(content))
        content = content[:at] + put + content[at + taken :]
    return content


LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PATIENCE = 0.3
"""Seconds without a byte after which the gateway is taken to wait for the rest of a request."""


def answered(port: int, content: bytes, patience: float = PATIENCE) -> bytes:
    """Everything that comes back for `content` and a last request that is right, if the gateway gets to read it as one."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        try:
            connection.sendall(content + LAST)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            pass
    return received


@settings(
    max_examples=200 if os.environ.get("CI") else 100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(sent=st.sampled_from(REQUESTS), changes=CHANGES)
def test_changed_bytes_are_answered_and_reach_declared_paths_only(
    stack: Stack, sent: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    received = answered(stack.gateway.port, changed(sent, changes))
    statuses = re.findall(rb"(?m)^HTTP/1\.[01] (\d+)", received)
    assert [status for status in statuses if not b"200" <= status < b"500"] == []
    asked = {row["path"] for row in stack.sandbox.ledger()}
    assert [path for path in asked if not DECLARED.fullmatch(path)] == []


def test_the_requests_arrive_when_nothing_is_changed(stack: Stack) -> None:
    stack.sandbox.reset()
    for content in REQUESTS:
        answered(stack.gateway.port, content, 10)
    arrived = {(row["method"], row["path"]) for row in stack.sandbox.ledger()}
    assert arrived == {
        ("GET", JOBS),
        ("GET", f"{JOBS}/{ID}"),
        ("POST", f"{JOBS}/{ID}/cancel"),
        ("POST", JOBS),
    }
