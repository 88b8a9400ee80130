"""Bytes that two servers could read differently, sent through nginx, with the sandbox as the witness of what got through.

Each case hides a second request, a create that nothing else sends. It must never be carried out: only what nginx itself
took for a request may arrive, and only as that. Expectations: RFC 9112 sections 6 and 11.2.
"""

from __future__ import annotations

import json

import pytest

from tests.support.api import JOBS, job
from tests.support.processes import Sandbox
from tests.system.front import Front

BODY = json.dumps(job("smuggled")).encode()
HIDDEN = (
    f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n"
).encode() + BODY
CHUNKED_END = b"0\r\n\r\n"


def post(*headers: bytes, body: bytes = b"", path: str = JOBS) -> bytes:
    """A request with exactly these headers."""
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: localhost", *headers, b"", b""]
    return b"\r\n".join(lines) + body


LENGTH = b"Content-Length: %d" % (len(CHUNKED_END) + len(HIDDEN))
CASES = {
    "length and chunks": post(b"Transfer-Encoding: chunked", LENGTH, body=CHUNKED_END + HIDDEN),
    "chunks and length": post(LENGTH, b"Transfer-Encoding: chunked", body=CHUNKED_END + HIDDEN),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(HIDDEN), body=HIDDEN),
    "a signed length": post(b"Content-Length: +%d" % len(HIDDEN), body=HIDDEN),
    "a length with an underscore": post(b"Content_Length: %d" % len(HIDDEN), body=b""),
    "a space before the colon": post(b"Content-Length : %d" % len(HIDDEN), body=HIDDEN),
    "chunks by another name": post(b"Transfer-Encoding: xchunked", body=CHUNKED_END + HIDDEN),
    "chunks twice": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=CHUNKED_END + HIDDEN
    ),
    "chunks in a folded line": post(b"X: 1", b" Transfer-Encoding: chunked", LENGTH, body=HIDDEN),
    "a vertical tab in the coding": post(b"Transfer-Encoding:\x0bchunked", body=CHUNKED_END + HIDDEN),
    "a bad chunk length": post(b"Transfer-Encoding: chunked", body=b"0x\r\n\r\n" + HIDDEN),
    "a chunk longer than it says": post(
        b"Transfer-Encoding: chunked", body=b"1\r\n{}" + HIDDEN + CHUNKED_END
    ),
    "a request in a path": post(path=f"{JOBS}%20HTTP/1.1%0d%0a%0d%0a" + "x"),
    "a line feed in a header": post(b"X: a\nContent-Length: 0", LENGTH, body=HIDDEN),
    "a NUL in a header": post(b"X: a\x00b", LENGTH, body=HIDDEN),
    "two hosts": post(b"Host: elsewhere", LENGTH, body=HIDDEN),
    "a body of a reading request": b"GET /problems HTTP/1.1\r\nHost: localhost\r\n" + LENGTH + b"\r\n\r\n"
    + CHUNKED_END + HIDDEN,
    "an upgrade to HTTP/2": post(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings",
                                 b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", LENGTH, body=HIDDEN),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_request_hidden_in_another_is_never_carried_out(
    nginx: Front, sandbox: Sandbox, case: str
) -> None:
    nginx.raw(CASES[case] + b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert creates(sandbox) == []
    # and the connections behind nginx are in step: the next answer belongs to the next request
    assert nginx.request("GET", f"{JOBS}?page_size=7").json()["data"] == []
    assert [row["query"] for row in sandbox.ledger(path=JOBS)] == ["page_size=7"]


def creates(sandbox: Sandbox) -> list[str]:
    """The bodies of the creates that arrived."""
    return [row["body"] for row in sandbox.ledger(method="POST")]


def test_a_create_sent_in_the_same_bytes_but_openly_arrives(nginx: Front, sandbox: Sandbox) -> None:
    nginx.raw(HIDDEN.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
    assert len(creates(sandbox)) == 1
