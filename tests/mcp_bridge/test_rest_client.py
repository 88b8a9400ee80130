"""The REST service's client, before a server that says byte for byte what a test wants.

Expectations: RFC 9112 for what an answer is, RFC 9110 for what may be sent twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trustme

from mcp_bridge import rest_client
from mcp_bridge.rest_client import (
    Answer,
    AnswerTooLarge,
    NoAnswer,
    NotSent,
    RestClient,
    RestRequest,
    Take,
)
from serving.body_buffer import Reservation
from tests.support.processes import ROOT

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b""  # in place of an answer: the connection ends
HANG = b"HANG"  # in place of an answer: nothing is said
KEY = {"Idempotency-Key": "k-1"}


class Server:
    """Answers each request with the next of `answers`, bytes in pieces of `piece`, or bytes and what comes then.

    That is "close", "reset", or what is said when `go` is set.
    """

    def __init__(self, *answers: bytes | tuple[bytes, bytes], piece: int = 1 << 20) -> None:
        self.answers = list(answers)
        self.piece = piece
        self.arrived: list[tuple[int, bytes]] = []  # number of the connection, request
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        number = self.connections
        try:
            while request := await _request(reader):
                self.arrived.append((number, request))
                self.asked.set()
                answer = self.answers.pop(0)
                said, then = answer if isinstance(answer, tuple) else (answer, b"")
                if said == CLOSE:
                    break
                if said == HANG:
                    await reader.read()
                    break
                for start in range(0, len(said), self.piece):
                    writer.write(said[start : start + self.piece])
                    await writer.drain()
                if then == b"reset":  # RFC 9293's RST: nothing is left to linger for
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                if then in (b"close", b"reset"):
                    break
                if then:
                    await self.go.wait()
                    writer.write(then)
        except OSError:
            pass
        finally:
            self.hung_up.set()
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        return head + await reader.readexactly(int(length[1]) if length else 0)
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def connected(
    server: Server,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    timeout: float = 10,
    max_answer: int = 1 << 20,
) -> AsyncIterator[RestClient]:
    """A client of `server`, which listens until the block ends."""
    listening = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else "localhost" if tls else host
    try:
        url = f"http{'s' if tls else ''}://{name}:{port}/"
        async with RestClient(url, "", timeout, max_answer) as client:
            yield client
    finally:
        listening.close()


async def ask(
    client: RestClient,
    method: str = "GET",
    headers: Mapping[str, str] = {},
    content: bytes = b"",
    take: Take | None = None,
) -> Answer:
    request = RestRequest(method, "/v1/x?y=1", headers, content)
    reservation = Reservation(client.budget)
    try:
        return await client.send(request, reservation, take)
    finally:
        reservation.release()


async def test_a_request_is_sent_as_it_is() -> None:
    server = Server(OK)
    async with connected(server) as client:
        target = "/v1/a%2Fb%2e%3f?x=%20%c3%a9&y=a+b&z"
        request = RestRequest("POST", target, {"X-A": "b c"}, b"\r\nbody")
        await client.send(request, Reservation(client.budget))
        host = client.url.removeprefix("http://").encode()
    ((_, arrived),) = server.arrived
    head, body = arrived.split(b"\r\n\r\n", 1)
    assert body == b"\r\nbody"
    assert head.split(b"\r\n") == [
        b"POST %b HTTP/1.1" % target.encode(), b"Host: " + host, b"X-A: b c", b"Content-Length: 6"
    ]  # fmt: skip


ANSWERS: dict[str, tuple[Any, int, bytes]] = {
    "length": (OK, 200, b"ok"),
    "no body": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n{\r\n\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n",
        200, b"{\r\n}",
    ),
    "until the end": ((b"HTTP/1.1 200 OK\r\n\r\na\r\n\r\nb", b"close"), 200, b"a\r\n\r\nb"),
    "HTTP/1.0": ((b"HTTP/1.0 404 No\r\nContent-Type: x\r\n\r\nno", b"close"), 404, b"no"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b""),
    "others before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, b"ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_read_however_it_ends_and_comes(name: str, piece: int) -> None:
    said, status, body = ANSWERS[name]
    async with connected(Server(said, piece=piece)) as client:
        answer = await ask(client)
    assert (answer.status, answer.content) == (status, body)
    assert "link" not in answer.headers and "x" not in answer.headers


async def test_an_answer_is_taken_as_it_comes() -> None:
    said = b"HTTP/1.1 302 Found\r\nLocation: /v1/y\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"
    server = Server(said, OK)
    async with connected(server) as client:
        answer = await ask(client)
        assert (answer.status, answer.headers["location"], answer.content) == (302, "/v1/y", b"ok")
        await ask(client)
    assert b"Cookie" not in server.arrived[1][1]


@pytest.mark.parametrize("name", ["length", "chunks", "no body", "204", "others before"])
async def test_a_connection_is_kept_for_the_next_request(name: str) -> None:
    server = Server(ANSWERS[name][0], OK)
    async with connected(server) as client:
        await ask(client)
        assert (await ask(client)).content == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "said", [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK.replace(b"1.1", b"1.0")]
)
async def test_a_connection_that_says_that_it_ends_is_not_used_again(said: bytes) -> None:
    server = Server(said, OK)
    async with connected(server) as client:
        assert (await ask(client)).content == b"ok"
        assert (await ask(client)).content == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    "more",
    [b"garbage\r\n\r\n", b"\0", OK, OK[:20], b"HTTP/1.1 103 Early Hints\r\n\r\n", b"ok"],
)
async def test_what_comes_with_an_answer_is_no_later_request_s_answer(more: bytes) -> None:
    server = Server(OK + more, OK.replace(b"ok", b"OK"))
    async with connected(server) as client:
        with suppress(NoAnswer):
            assert (await ask(client)).content == b"ok"
        assert (await ask(client)).content == b"OK"


@pytest.mark.parametrize("turns", [0, 3])
@pytest.mark.parametrize("part", [slice(None), slice(20), slice(1)], ids=["all", "half", "a byte"])
async def test_what_came_unasked_while_the_loop_did_something_else_is_no_later_request_s_answer(
    turns: int, part: slice
) -> None:
    server = Server(OK, OK.replace(b"ok", b"OK"))
    async with connected(server) as client:
        await ask(client)
        (kept,) = idle(client)
        serving = server.writers[0].get_extra_info("socket")
        os.write(serving.fileno(), OK.replace(b"ok", b"no")[part])
        readable, _, _ = select.select([kept.get_extra_info("socket")], [], [], 10)
        assert readable
        for _ in range(turns):  # in which the loop reads it
            await asyncio.sleep(0)
        assert (await ask(client)).content == b"OK"
    assert server.connections == 2


class TestAnAnswerIsGivenToNobodyElse:
    """The REST service repeats the X-Request-ID of a request in its answer (docs/observability.md)."""

    @pytest.mark.parametrize("told", [b"X-Request-ID: another\r\n", b""], ids=["another", "none"])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_when_it_has_another_request_s_id(self, told: bytes, method: str) -> None:
        server = Server(OK.replace(b"OK\r\n", b"OK\r\n" + told), _told(b"r-2"))
        async with connected(server) as client:
            with pytest.raises(NoAnswer, match="another request"):
                await ask(client, method, {"X-Request-ID": "r-1"})
            assert not idle(client)
            assert (await ask(client, headers={"X-Request-ID": "r-2"})).content == b"ok"
        assert server.connections == 2

    async def test_when_answers_are_one_behind(self) -> None:
        server = Server(_told(b"r-1") + _told(b"r-1"), _told(b"r-2"), _told(b"r-3"))
        answered = []
        async with connected(server) as client:
            for number in (1, 2, 3):
                with suppress(NoAnswer):
                    headers = {"X-Request-ID": f"r-{number}"}
                    answer = await ask(client, headers=headers)
                    assert answer.headers["x-request-id"] == f"r-{number}"
                    answered.append(number)
        assert answered[0] == 1 and 3 in answered

    async def test_when_a_proxy_fails_without_one(self) -> None:
        """The failure is told, and its connection not used again."""
        server = Server(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n", _told(b"r-2"))
        async with connected(server) as client:
            assert (await ask(client, headers={"X-Request-ID": "r-1"})).status == 502
            assert (await ask(client, headers={"X-Request-ID": "r-2"})).status == 200
        assert server.connections == 2

    async def test_when_it_stands_on_a_new_connection(self, monkeypatch: Any) -> None:
        server = Server(OK)
        serve = server.serve

        async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK.replace(b"ok", b"NO"))
            await writer.drain()
            await serve(reader, writer)

        create = rest_client._Connector._create_connection

        async def until_it_spoke(*arguments: Any) -> Any:
            protocol = await create(*arguments)
            select.select([protocol.transport.get_extra_info("socket")], [], [], 10)  # type: ignore[union-attr]
            return protocol

        monkeypatch.setattr(rest_client._Connector, "_create_connection", until_it_spoke)
        server.serve = speaks  # type: ignore[method-assign]
        async with connected(server) as client:
            with pytest.raises(NotSent):
                await ask(client, "POST")
        assert not server.arrived


def _told(request_id: bytes) -> bytes:
    return OK.replace(b"OK\r\n", b"OK\r\nX-Request-ID: " + request_id + b"\r\n")


class TestALargeAnswer:
    LARGE = rest_client.LARGE + 1

    @pytest.mark.parametrize("announced", [True, False])
    async def test_is_not_read_beyond_the_limit(self, announced: bool) -> None:
        length = b"Content-Length: 99999\r\n" if announced else b""
        server = Server((b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + b"x" * 1001, HANG))
        async with connected(server, max_answer=1000) as client:
            with pytest.raises(AnswerTooLarge, match=r"more than 1000 bytes$"):
                await ask(client)
            assert not idle(client)
            server.go.set()

    async def test_that_is_no_success_is_not_read_beyond_a_smaller_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest_client, "MAX_FAILURE", 10)
        failure = b"HTTP/1.1 400 No\r\nContent-Length: 11\r\n\r\n" + b"x" * 11
        async with connected(Server(failure)) as client:
            answer = await ask(client)
        assert (answer.status, answer.content) == (400, b"")

    async def test_takes_of_the_memory_for_all_until_it_is_released(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest_client, "MEMORY", self.LARGE)
        large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.LARGE
        server = Server(*[large + b"x" * self.LARGE] * 3)
        async with connected(server, max_answer=self.LARGE) as client:
            reservation = Reservation(client.budget)
            await client.send(RestRequest("GET", "/", {}), reservation)
            with pytest.raises(NoAnswer, match="memory"):
                await ask(client)
            reservation.release()
            assert len((await ask(client)).content) == self.LARGE
            assert client.budget.reserved == 0


class TestAnAnswerThatIsHandedOn:
    """In pieces, for as long as they are wanted."""

    async def test_is_told_piece_by_piece_and_then_that_it_ended(self) -> None:
        taken: list[bytes] = []
        async with connected(Server(OK + OK, OK, piece=1)) as client:
            answer = await ask(client, take=lambda piece: bool(taken.append(piece)))
        assert b"".join(taken) == b"ok" and taken[-1] == b""
        assert (answer.status, answer.content) == (200, b"")

    async def test_may_be_larger_than_any_that_is_read_whole(self) -> None:
        size = 3 << 20
        taken = 0

        def take(piece: bytes) -> bool:
            nonlocal taken
            taken += len(piece)
            assert len(piece) <= 1 << 18 and client.budget.reserved == 0
            return False

        said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        async with connected(Server(said), max_answer=100) as client:
            await ask(client, take=take)
        assert taken == size

    async def test_ends_with_its_connection_when_there_is_enough(self) -> None:
        endless = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 70_000
        server = Server((endless, b"more"), OK)
        async with connected(server) as client:
            await ask(client, take=lambda piece: True)
            assert idle(client) == []
            assert (await ask(client)).content == b"ok"
        assert [number for number, _ in server.arrived] == [1, 2]

    @pytest.mark.parametrize(
        "answer",
        [
            (OK[:-1], b"close"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"close"),
            (b"HTTP/1.1 200 OK\r\n\r\nok", b"reset"),
        ],
        ids=["length", "chunks", "reset"],
    )
    async def test_that_breaks_off_is_none(self, answer: tuple[bytes, bytes]) -> None:
        server = Server(answer)
        async with connected(server) as client:
            with pytest.raises(NoAnswer, match="before the end of its answer"):
                await ask(client, take=lambda piece: not piece)
        assert len(server.arrived) == 1

    async def test_that_breaks_off_after_what_was_wanted_is_one(self) -> None:
        async with connected(Server((OK[:-1], b"close"))) as client:
            assert (await ask(client, take=lambda piece: True)).status == 200

    async def test_that_falls_silent_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rest_client, "SILENCE", 0.05)
        server = Server((OK[:-1], b"never"))
        async with connected(server, timeout=600) as client:
            with pytest.raises(NoAnswer, match=r"nothing for 0\.05 seconds"):
                await asyncio.wait_for(ask(client, take=lambda piece: not piece), 30)
            assert idle(client) == []
            server.go.set()

    async def test_has_the_time_of_any_other(self) -> None:
        server = Server((OK[:-1], b"never"))
        async with connected(server, timeout=0.05) as client:
            with pytest.raises(NoAnswer, match=r"within 0\.05 seconds"):
                await ask(client, take=lambda piece: not piece)
            server.go.set()

    async def test_is_read_whole_when_it_is_no_success(self) -> None:
        failed = OK.replace(b"200 OK", b"404 Not Found")
        async with connected(Server(failed)) as client:
            answer = await ask(client, take=lambda piece: True)
        assert (answer.status, answer.content) == (404, b"ok")


async def test_no_more_connections_are_kept_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest_client, "MAX_KEPT", 2)
    server = Server(*[OK] * 4, piece=1)
    async with connected(server) as client:
        await asyncio.gather(*(ask(client) for _ in range(4)))
        assert (server.connections, len(idle(client))) == (4, 2)


def idle(client: RestClient) -> list[Any]:
    """The transports of the connections that are kept."""
    connector: Any = client.sessions[0].connector
    kept = [each for conns in connector._conns.values() for each, _ in conns]
    return [each.transport for each in kept if each.is_connected()]


async def test_an_answer_before_all_of_a_request_was_sent_is_read_and_ends_the_connection() -> None:
    ended = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        with suppress(ConnectionError):
            while await reader.read(1 << 20):
                pass
        ended.set()
        writer.close()

    server = Server()
    server.serve = refuse  # type: ignore[method-assign]
    async with connected(server) as client:
        answer = await ask(client, "POST", content=b"x" * (32 << 20))
        assert answer.status == 413 and not idle(client)
        await asyncio.wait_for(ended.wait(), 10)


class TestAConnectionThatEndsWithoutAnAnswer:
    @pytest.mark.parametrize(
        ("method", "headers"), [("GET", {}), ("POST", KEY), ("POST", {"idempotency-key": "k"})]
    )
    async def test_has_a_request_that_may_be_repeated_sent_once_more_on_a_new_one(
        self, method: str, headers: dict[str, str]
    ) -> None:
        server = Server(OK, CLOSE, OK, CLOSE, CLOSE)
        async with connected(server) as client:
            await ask(client)
            assert (await ask(client, method, headers, b"{}")).content == b"ok"
            with pytest.raises(NoAnswer):
                await ask(client, method, headers, b"{}")
        (_, sent), (_, again) = server.arrived[1:3]
        assert sent == again.replace(b"Connection: close\r\n", b"")
        assert [number for number, _ in server.arrived] == [1, 1, 2, 3, 4]

    async def test_of_a_service_that_then_is_gone_does_not_mean_that_nothing_was_sent(
        self, monkeypatch: Any
    ) -> None:
        server = Server(OK, CLOSE)
        async with connected(server) as client:
            await ask(client)
            exchange = client._exchange

            async def without_new_connections(session: Any, *arguments: Any) -> Any:
                if session is client.sessions[1]:
                    raise NotSent("nothing answers")
                return await exchange(session, *arguments)

            monkeypatch.setattr(client, "_exchange", without_new_connections)
            with pytest.raises(NoAnswer):
                await ask(client, "POST", KEY, b"{}")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_may_have_done_what_has_no_key(self, method: str) -> None:
        server = Server(OK, CLOSE)
        async with connected(server) as client:
            await ask(client)
            with pytest.raises(NoAnswer):
                await ask(client, method)
        assert len(server.arrived) == 2

    async def test_before_the_next_request_is_not_used_for_it(self) -> None:
        server = Server((OK, b"close"), OK)
        async with connected(server) as client:
            await ask(client)
            await server.hung_up.wait()
            assert (await ask(client, "POST")).content == b"ok"


async def test_an_answer_that_breaks_off_has_nothing_sent_again() -> None:
    server = Server(OK, (OK[:-1], b"close"))
    async with connected(server) as client:
        await ask(client)
        with pytest.raises(NoAnswer):
            await ask(client, headers=KEY)
    assert len(server.arrived) == 2


def test_a_connection_is_kept_for_less_time_than_servers_keep_theirs() -> None:
    config = (ROOT / "service" / "gunicorn_conf.py").read_text(encoding="utf-8")
    served = re.search(r"^keepalive = (\d+)", config, re.MULTILINE)
    assert served and int(served[1]) > rest_client.KEPT_SECONDS


async def test_no_more_requests_are_under_way_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest_client, "MAX_CONNECTIONS", 1)
    server = Server(OK, OK, OK, piece=1)
    async with connected(server) as client:
        await asyncio.gather(*(ask(client) for _ in range(3)))
    assert server.connections == 1


async def test_a_request_waits_for_others_for_a_part_of_its_time_and_is_then_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest_client, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(rest_client, "WAITING", 0.0001)
    server = Server()
    async with connected(server, timeout=600) as client, client.slots:
        with pytest.raises(NotSent, match="too many"):
            await asyncio.wait_for(ask(client, "POST"), 30)
    assert server.connections == 0


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        bytes(range(256)) * 4,
    ],
)
async def test_what_is_no_answer_fails_as_that_and_ends_the_connection(said: bytes) -> None:
    server = Server(said, OK)
    async with connected(server) as client:
        with pytest.raises(NoAnswer):
            await ask(client)
        await asyncio.wait_for(server.hung_up.wait(), 10)
        assert (await ask(client)).content == b"ok"


@pytest.mark.parametrize(
    "said",
    [
        OK[:9],
        OK[:30],
        OK[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_is_none(said: bytes) -> None:
    async with connected(Server((said, b"close"))) as client:
        with pytest.raises(NoAnswer):
            await ask(client, "POST")


async def test_an_answer_without_a_length_that_ends_with_a_reset_is_none() -> None:
    """A reset is no end (RFC 9112 section 8): what came may be the half of it."""
    async with connected(Server((b"HTTP/1.1 200 OK\r\n\r\n{}", b"reset"))) as client:
        with pytest.raises(NoAnswer, match="before the end"):
            await ask(client, "POST")


async def test_a_late_answer_ends_the_wait_and_the_connection() -> None:
    server = Server(HANG)
    async with connected(server, timeout=0.05) as client:
        with pytest.raises(NoAnswer, match=r"within 0\.05 seconds"):
            await ask(client)
        await asyncio.wait_for(server.hung_up.wait(), 10)


async def test_a_cancelled_request_ends_its_connection() -> None:
    server = Server(HANG)
    async with connected(server) as client:
        asking = asyncio.ensure_future(ask(client))
        await server.asked.wait()
        asking.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 10)
        assert not idle(client)


async def test_closing_ends_what_is_kept() -> None:
    server = Server(OK)
    async with connected(server) as client:
        await ask(client)
        await client.__aexit__()
        await asyncio.wait_for(server.hung_up.wait(), 10)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_carry_another(value: str) -> None:
    server = Server()
    async with connected(server) as client:
        with pytest.raises(NotSent):
            await ask(client, headers={"X-A": value})
    assert not server.arrived


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://nowhere.invalid"])
async def test_a_server_that_is_not_there_is_told_as_that(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def unless_nowhere(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", unless_nowhere)
    async with RestClient(url, "", 10) as client:
        with pytest.raises(NotSent):
            await ask(client)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1", "http://", "http://a:70000"])
async def test_what_is_no_address_is_told_as_that(url: str) -> None:
    async with RestClient(url, "", 10) as client:
        with pytest.raises(NotSent):
            await ask(client)


async def test_a_name_that_no_thread_looks_up_is_told_as_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with RestClient("http://nowhere.invalid", "", 10) as client:
        with monkeypatch.context() as patch, pytest.raises(NotSent):
            patch.setattr(threading.Thread, "start", none_left)
            await ask(client)


async def test_an_address_of_version_6_is_reached() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = Server(OK)
    async with connected(server, "::1") as client:
        assert (await ask(client)).content == b"ok"
    assert b"\r\nHost: [::1]:" in server.arrived[0][1]


class TestOverTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def tls(self, authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
        return context

    async def test_connections_are_made_and_kept(
        self, authority: trustme.CA, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        server = Server(OK, OK)
        async with connected(server, tls=tls) as client:
            await ask(client)
            assert (await ask(client, "POST", content=b"x" * 2_000_000)).content == b"ok"
        assert server.connections == 1

    async def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
        self, tls: ssl.SSLContext
    ) -> None:
        server = Server(OK)
        async with connected(server, tls=tls) as client:
            with pytest.raises(NotSent):
                await ask(client)
        assert not server.arrived

    async def test_a_server_that_does_not_shake_hands_is_given_up_in_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rest_client, "CONNECT_SECONDS", 0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with RestClient(f"https://127.0.0.1:{silent.getsockname()[1]}", "", 10) as client:
                with pytest.raises(NotSent):
                    await ask(client)
