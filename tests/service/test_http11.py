"""What an upstream says beside an answer, or in place of one: nobody ever gets what was the answer to somebody else.

Expectations: RFC 9110 section 15.2 for interim answers, RFC 9112 for what an answer is and where it ends.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.upstream_connection import CancellableRequest, Deadline, PlainConnection
from tests.support.api import JOBS
from tests.support.upstreams import KEEP, Behaviour, Upstream

CREATE = {"endpoint": "/v1/ocr"}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"

Pair = tuple[TestClient, Upstream]


def page(number: int) -> bytes:
    """A whole answer that says whose it is."""
    body = b'{"number":%d}' % number
    return OK + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.fixture(scope="module", params=["http", "https"])
def both(
    request: pytest.FixtureRequest, settings: Settings, certificate: tuple[str, str]
) -> Iterator[Pair]:
    """A client of a gateway, and the upstream behind it; over TLS, and without."""
    yield from gateway(settings, certificate if request.param == "https" else None)


@pytest.fixture(scope="module")
def plain(settings: Settings) -> Iterator[Pair]:
    """As `both`, without TLS."""
    yield from gateway(settings)


def gateway(
    settings: Settings, certificate: tuple[str, str] | None = None, **changes: object
) -> Iterator[Pair]:
    upstream = Upstream(certificate)
    url = f"http{'s' if certificate else ''}://localhost:{upstream.port}/v1"
    own = {"upstream_url": url, "ca_file": certificate[0] if certificate else "", **changes}
    try:
        yield (
            TestClient(create_app(replace(settings, **own)), base_url="http://127.0.0.1:8080"),
            upstream,
        )
    finally:
        upstream.close()


def numbers(client: TestClient, calls: int) -> list[int]:
    """Whose answers so many callers get, one after the other."""
    answers = [client.get(JOBS) for _ in range(calls)]
    return [answer.json().get("number", answer.status_code) for answer in answers]


# Interim answers

INTERIM = {
    "hints": HINTS,
    "hints without headers": b"HTTP/1.1 103\r\n\r\n",
    "several kinds": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + HINTS,
    "an unknown one": b"HTTP/1.1 199 Who Knows\r\nContent-Type: text/html\r\n\r\n",
    "one that names a length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n",
    "one that would close": b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n",
    "a thousand": HINTS * 1000,
}


def hinting(interim: bytes) -> Behaviour:
    """Says `interim`, and its answer after that."""

    def behave(peer: socket.socket, nth: int) -> object:
        peer.sendall(interim)
        time.sleep(0.02)  # so that it comes by itself
        peer.sendall(page(nth))
        return KEEP

    return behave


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_every_caller_gets_its_own_answer_whatever_is_hinted_before(
    interim: bytes, both: Pair
) -> None:
    client, upstream = both
    upstream.behave(hinting(interim))
    assert numbers(client, 3) == [1, 2, 3]
    assert upstream.connections == [0, 0, 0]


def test_a_create_before_whose_answer_something_is_hinted_has_succeeded(both: Pair) -> None:
    client, upstream = both
    upstream.behave(hinting(HINTS))
    answer = client.post(JOBS, json=CREATE)
    assert (answer.status_code, answer.json()) == (200, {"number": 1})


@pytest.mark.parametrize("interim", [HINTS, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_hints_without_end_are_ended_by_the_limit(interim: bytes, settings: Settings) -> None:
    def behave(peer: socket.socket, _nth: int) -> None:
        while True:
            peer.sendall(interim)

    for client, upstream in gateway(settings, read_timeout=20, timeout=0.5):
        upstream.behave(behave)
        answer = client.get(JOBS)
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems#upstream-timeout")


# What is no answer

UNREADABLE = {
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 7\r\n\r\n{}",
    "a list of lengths": OK + b"Content-Length: 2, 7\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": OK + b"Content-Length: +2\r\n\r\n{}",
    "a length with an underscore": OK + b"Content-Length: 0_2\r\n\r\n{}",
    "a length in words": OK + b"Content-Length: two\r\n\r\n{}",
    "a length without end": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "no length at all": OK + b"Content-Length:\r\n\r\n{}",
    "a folded length": OK + b"Content-Length: 2\r\n 0\r\n\r\n{}",
    "a length and chunks": (
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "an unknown coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a coding twice": (
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "chunks in HTTP/1.0": (
        OK.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
    "a line without a colon": OK + b"no colon\r\nContent-Length: 2\r\n\r\n{}",
    "a space before a colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "a name that is none": OK + b"\xff: x\r\nContent-Length: 2\r\n\r\n{}",
    "no name": OK + b": x\r\nContent-Length: 2\r\n\r\n{}",
    "a mailbox's line": b"HTTP/1.1 200 OK\r\nFrom me\r\nContent-Length: 2\r\n\r\n{}",
    "a lone carriage return": OK + b"X: a\rContent-Length: 2\r\n\r\n{}",
    "two of them": OK + b"X: a\r\rContent-Length: 2\r\n\r\n{}",
    "a NUL": OK + b"X: a\0\r\nContent-Length: 2\r\n\r\n{}",
    "a folded line": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a folded first line": b"HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status with a sign": b"HTTP/1.1 +200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status in words": b"HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\n{}",
    "another version": OK.replace(b"1.1", b"2.0") + b"Content-Length: 2\r\n\r\n{}",
    "a line before it": b"\r\n" + OK + b"Content-Length: 2\r\n\r\n{}",
    "another language": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "too long a line": OK + b"X: " + b"x" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "too many lines": OK + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\n{}",
}

CHUNKS = {
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "all that is left": b"-1\r\n{}\r\n0\r\n\r\n",
    "a size with a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with a base": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size with an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "a size after a space": b" 2\r\n{}\r\n0\r\n\r\n",
    "a size that is none": b"zz\r\n{}\r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n0\r\n\r\n",
    "a size beyond all": b"1" * 40 + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk that is longer": b"2\r\n{} \r\n0\r\n\r\n",
    "a chunk without an end": b"2\r\n{}0\r\n\r\n",
    "a chunk with another end": b"2\r\n{}XX0\r\n\r\n",
    "a line feed alone after a size": b"2\n{}\r\n0\r\n\r\n",
    "a trailer without a colon": b"2\r\n{}\r\n0\r\nX\r\n\r\n",
}
UNREADABLE |= {
    name: OK + b"Transfer-Encoding: chunked\r\n\r\n" + said for name, said in CHUNKS.items()
}


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_answer_is_nobodys_and_neither_is_what_comes_after_it(
    said: bytes, plain: Pair
) -> None:
    client, upstream = plain

    def behave(peer: socket.socket, nth: int) -> object:
        peer.sendall(said if nth == 1 else page(nth))
        return KEEP

    upstream.behave(behave)
    (first,) = numbers(client, 1)  # asked again, or told that there was no answer
    assert first == 2 or (first, len(upstream.received)) == (502, 1)
    following = len(upstream.received) + 1
    assert numbers(client, 2) == [following, following + 1]
    assert upstream.connections.count(0) == 1


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=UNREADABLE)
def test_a_create_that_gets_no_answer_that_is_one_is_sent_once_and_said_to_be_unknown(
    said: bytes, plain: Pair
) -> None:
    client, upstream = plain
    upstream.behave(lambda peer, _: peer.sendall(said))
    answer = client.post(JOBS, json=CREATE)
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems#create-outcome-unknown")
    assert len(upstream.received) == 1


@pytest.mark.parametrize("said", [b"", b"Server: x", b"Server: x\r\n"])
def test_a_head_that_breaks_off_is_no_answer(said: bytes, plain: Pair) -> None:
    client, upstream = plain
    upstream.behave(lambda peer, _: peer.sendall(b"HTTP/1.1 204 No Content\r\n" + said))
    assert client.get(JOBS).status_code == 502


@pytest.mark.parametrize("status", [b"600", b"999", b"777 Fine"])
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("GET", (502, "/problems#upstream-bad-response")),
        ("POST", (504, "/problems#create-outcome-unknown")),
    ],
)
def test_a_status_that_http_does_not_have_is_a_bad_response(
    status: bytes, method: str, expected: tuple[int, str], plain: Pair
) -> None:
    client, upstream = plain
    said = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status
    upstream.behave(lambda peer, _: peer.sendall(said))
    answer = client.request(method, JOBS, json=CREATE if method == "POST" else None)
    assert (answer.status_code, answer.json()["type"]) == expected
    assert answer.json()["upstream_status"] == int(status[:3])


# What is one, however oddly it is written

READABLE = {
    "one length twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "spaces around a length": OK + b"Content-Length: \t 2 \t\r\n\r\n{}",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "chunks with all that they may have": (
        OK + b'Transfer-Encoding: Chunked\r\n\r\n0001 ; a="b"\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n'
    ),
    "no reason": OK.replace(b" OK", b"") + b"Content-Length: 2\r\n\r\n{}",
    "a reason in another language": OK.replace(b"OK", b"\xc3\xa4") + b"Content-Length: 2\r\n\r\n{}",
    "line feeds alone": (OK + b"Content-Length: 2\r\n\r\n{}").replace(b"\r", b""),
}


@pytest.mark.parametrize("said", READABLE.values(), ids=READABLE)
def test_an_answer_is_read_however_it_is_written_and_its_connection_kept(
    said: bytes, plain: Pair
) -> None:
    client, upstream = plain
    upstream.behave(saying(said))
    assert [client.get(JOBS).content for _ in range(2)] == [b"{}", b"{}"]
    assert upstream.connections == [0, 0]


def test_a_large_answer_in_many_chunks_comes_whole(both: Pair) -> None:
    client, upstream = both
    body = json.dumps({"data": ["x" * 1000] * 3000}).encode()
    pieces = [body[start : start + 999] for start in range(0, len(body), 999)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    upstream.behave(saying(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"))
    assert [client.get(JOBS).content == body for _ in range(2)] == [True, True]
    assert upstream.connections == [0, 0]


def saying(said: bytes) -> Behaviour:
    def behave(peer: socket.socket, _nth: int) -> object:
        peer.sendall(said)
        return KEEP

    return behave


# What comes after an answer

MORE = {
    "another answer": OK + b'Content-Length: 14\r\n\r\n{"number":666}',
    "the rest of one": b'{"number":666}',
    "a line's end": b"\r\n",
    "a hint": HINTS,
}


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_what_comes_with_an_answer_is_not_the_next_callers(more: bytes, both: Pair) -> None:
    client, upstream = both

    def behave(peer: socket.socket, nth: int) -> object:
        peer.sendall(page(nth) + more)
        return KEEP

    upstream.behave(behave)
    assert numbers(client, 3) == [1, 2, 3]
    assert upstream.connections == [0, 1, 2]


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_what_comes_with_an_answer_that_has_no_body_is_not_the_next_callers(
    more: bytes, both: Pair
) -> None:
    client, upstream = both

    def behave(peer: socket.socket, nth: int) -> object:
        empty = b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.sendall(empty + more if nth == 1 else page(nth))
        return KEEP

    upstream.behave(behave)
    assert numbers(client, 3) == [502, 2, 3]
    assert upstream.connections == [0, 1, 1]


@pytest.mark.parametrize("more", MORE.values(), ids=MORE)
def test_what_comes_while_a_connection_is_idle_is_not_the_next_callers(
    more: bytes, both: Pair
) -> None:
    client, upstream = both
    idle, said = threading.Event(), threading.Event()

    def behave(peer: socket.socket, nth: int) -> object:
        peer.sendall(page(nth))
        if nth == 1:
            assert idle.wait(10)
            peer.sendall(more)
            said.set()
        return KEEP

    upstream.behave(behave)
    assert numbers(client, 1) == [1]
    idle.set()
    assert said.wait(10)
    assert numbers(client, 2) == [2, 3]
    assert upstream.connections == [0, 1, 1]


@pytest.mark.parametrize("said", [page(666), b""], ids=["an answer", "the connection's end"])
def test_nothing_is_sent_over_a_connection_whose_other_side_spoke_first(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    connection = PlainConnection("upstream.example")
    connection.sock = ours
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    request = CancellableRequest(Deadline(60))
    request.begin()
    try:
        with pytest.raises(ConnectionAbortedError):
            connection.request("GET", "/")
        assert not request.sent
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    finally:
        request.end()
        connection.close()
        theirs.close()
