"""Connections to the REST service, before a server that says byte for byte what a test wants.

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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trustme

from mcp_bridge import rest_client
from mcp_bridge.rest_client import Connections

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b""  # in place of an answer: the connection ends
HANG = b"HANG"  # in place of an answer: nothing is said
KEY = {"Idempotency-Key": "k-1"}
LIMITS = httpx2.Timeout(10).as_dict()


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
    server: Server, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Connections]:
    """Connections to `server`, which listens until the block ends."""
    listening = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else "localhost" if tls else host
    try:
        async with Connections(f"http{'s' if tls else ''}://{name}:{port}") as connections:
            yield connections
    finally:
        listening.close()


async def ask(
    connections: Connections,
    method: str = "GET",
    limits: dict[str, Any] = LIMITS,
    **more: Any,
) -> httpx2.Response:
    url = connections.url.join("/v1/x?y=1")
    request = httpx2.Request(method, url, extensions={"timeout": limits}, **more)
    async with asyncio.timeout(10):
        answer = await connections.handle_async_request(request)
        await answer.aread()
    return answer


async def test_a_request_is_sent_as_it_is() -> None:
    server = Server(OK)
    async with connected(server) as connections:
        await ask(connections, "POST", headers={"X-A": "b c"}, content=b"\r\nbody")
        host = connections.url.netloc
    ((_, request),) = server.arrived
    head, body = request.split(b"\r\n\r\n", 1)
    assert body == b"\r\nbody"
    assert head.split(b"\r\n") == [
        b"POST /v1/x?y=1 HTTP/1.1", b"Host: " + host, b"X-A: b c", b"Content-Length: 6"
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
    async with connected(Server(said, piece=piece)) as connections:
        answer = await ask(connections)
    assert (answer.status_code, answer.content) == (status, body)
    assert "link" not in answer.headers and "x" not in answer.headers


async def test_white_space_around_a_header_s_value_is_no_part_of_it() -> None:
    said = b"HTTP/1.1 200 OK\r\nX-A: \t b c \t\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    async with connected(Server(said)) as connections:
        answer = await ask(connections)
    assert (answer.headers["x-a"], answer.headers["x-empty"]) == ("b c", "")


async def test_the_answer_to_head_has_no_body_whatever_length_it_names() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", OK)
    async with connected(server) as connections:
        assert (await ask(connections, "HEAD")).headers["content-length"] == "5"
        assert (await ask(connections)).content == b"ok"


@pytest.mark.parametrize("name", ["length", "chunks", "no body", "204", "others before"])
async def test_a_connection_is_kept_for_the_next_request(name: str) -> None:
    server = Server(ANSWERS[name][0], OK)
    async with connected(server) as connections:
        await ask(connections)
        assert (await ask(connections)).content == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"1.1", b"1.0"),
        OK + b"more",
        OK + OK,
        OK + b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_a_connection_that_says_more_or_that_it_ends_is_not_used_again(said: bytes) -> None:
    server = Server(said, OK)
    async with connected(server) as connections:
        assert (await ask(connections)).content == b"ok"
        assert (await ask(connections)).content == b"ok"
    assert server.connections == 2


async def test_what_comes_unasked_is_no_later_request_s_answer() -> None:
    server = Server((OK, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"), OK)
    async with connected(server) as connections:
        await ask(connections)
        server.go.set()
        await server.hung_up.wait()
        assert (await ask(connections)).content == b"ok"


@pytest.mark.parametrize(
    "more",
    [b"garbage\r\n\r\n", b"\0", OK, OK[:20], b"HTTP/1.1 103 Early Hints\r\n\r\n", b"ok"],
)
async def test_what_comes_with_an_answer_is_no_later_request_s_answer(more: bytes) -> None:
    server = Server(OK + more, OK.replace(b"ok", b"OK"))
    async with connected(server) as connections:
        assert (await ask(connections)).content == b"ok"
        assert (await ask(connections)).content == b"OK"
    assert server.connections == 2


async def test_what_came_unasked_while_the_loop_did_something_else_is_no_later_request_s_answer() -> (
    None
):
    server = Server(OK, OK.replace(b"ok", b"OK"))
    async with connected(server) as connections:
        await ask(connections)
        (kept,) = connections.kept
        serving = server.writers[0].get_extra_info("socket")
        os.write(serving.fileno(), OK.replace(b"ok", b"no"))
        readable, _, _ = select.select([kept.transport.get_extra_info("socket")], [], [], 10)
        assert readable  # and the loop has had no turn in which to read it
        assert (await ask(connections)).content == b"OK"
    assert server.connections == 2


async def test_a_name_that_no_thread_looks_up_is_told_as_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with Connections("http://nowhere.invalid") as connections:
        with monkeypatch.context() as patch, pytest.raises(httpx2.ConnectError):
            patch.setattr(threading.Thread, "start", none_left)
            await ask(connections)


async def test_a_connection_with_unsent_rest_of_a_request_is_not_used_again() -> None:
    refused = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        refused.set()
        writer.close()

    server = Server()
    server.serve = refuse  # type: ignore[method-assign]
    async with connected(server) as connections:
        answer = await ask(connections, "POST", content=b"x" * (32 << 20))
        assert answer.status_code == 413 and not connections.kept
        await asyncio.wait_for(refused.wait(), 10)


class TestAKeptConnectionThatEnds:
    @pytest.mark.parametrize(
        ("method", "headers"), [("GET", {}), ("POST", KEY), ("POST", {"idempotency-key": "k"})]
    )
    async def test_unanswered_has_a_request_that_may_be_repeated_sent_again_on_a_new_one(
        self, method: str, headers: dict[str, str]
    ) -> None:
        server = Server(OK, CLOSE, OK)
        async with connected(server) as connections:
            await ask(connections)
            assert (await ask(connections, method, headers=headers)).content == b"ok"
        (_, sent), (_, again) = server.arrived[1:]
        assert sent == again
        assert [number for number, _ in server.arrived] == [1, 1, 2]

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
    async def test_unanswered_may_have_done_what_has_no_key(self, method: str) -> None:
        server = Server(OK, CLOSE)
        async with connected(server) as connections:
            await ask(connections)
            with pytest.raises(httpx2.ReadError):
                await ask(connections, method)
        assert len(server.arrived) == 2

    async def test_within_an_answer_has_nothing_sent_again(self) -> None:
        server = Server(OK, (OK[:20], b"close"))
        async with connected(server) as connections:
            await ask(connections)
            with pytest.raises(httpx2.ReadError):
                await ask(connections)
        assert len(server.arrived) == 2

    async def test_before_the_next_request_is_not_used_for_it(self) -> None:
        server = Server((OK, b"close"), OK)
        async with connected(server) as connections:
            await ask(connections)
            await until(lambda: connections.kept[0].transport.is_closing())
            assert (await ask(connections, "POST")).content == b"ok"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def test_a_new_connection_that_ends_unanswered_has_nothing_sent_again() -> None:
    server = Server(CLOSE)
    async with connected(server) as connections:
        with pytest.raises(httpx2.ReadError):
            await ask(connections, headers=KEY)
    assert len(server.arrived) == 1


async def test_a_connection_is_kept_for_less_time_than_servers_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = open_text("gunicorn.conf.py")
    served = re.search(r"^keepalive = (\d+)", config, re.MULTILINE)
    assert served and int(served[1]) > rest_client.KEPT_SECONDS
    monkeypatch.setattr(rest_client, "KEPT_SECONDS", -1)
    server = Server(OK, OK)
    async with connected(server) as connections:
        await ask(connections)
        await ask(connections)
    assert server.connections == 2


def open_text(name: str) -> str:
    from tests.processes import ROOT

    return (ROOT / name).read_text(encoding="utf-8")


async def test_no_more_connections_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_client, "MAX_KEPT", 1)
    server = Server(OK, OK, OK)
    async with connected(server) as connections:
        await asyncio.gather(*(ask(connections) for _ in range(3)))
        assert len(connections.kept) == 1


class TestNoMoreConnectionsThanTheLimit:
    @pytest.fixture(autouse=True)
    def one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rest_client, "MAX_CONNECTIONS", 1)

    async def test_are_open_at_once(self) -> None:
        server = Server(OK, OK, OK, piece=1)
        async with connected(server) as connections:
            await asyncio.gather(*(ask(connections) for _ in range(3)))
        assert server.connections == 1

    async def test_are_waited_for_longer_than_the_limit_of_time(self) -> None:
        server = Server(HANG, OK)
        async with connected(server) as connections:
            first = asyncio.ensure_future(ask(connections))
            await server.asked.wait()
            with pytest.raises(httpx2.PoolTimeout):
                await ask(connections, limits={**LIMITS, "pool": 0.01})
            first.cancel()
            await asyncio.wait([first])
            assert (await ask(connections)).content == b"ok"


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
    async with connected(server) as connections:
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(connections)
        await asyncio.wait_for(server.hung_up.wait(), 10)
        assert (await ask(connections)).content == b"ok"


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
    async with connected(Server((said, b"close"))) as connections:
        with pytest.raises(httpx2.ReadError):
            await ask(connections)


async def test_an_answer_without_a_length_ends_with_its_connection_s_end_and_not_with_a_reset() -> (
    None
):
    server = Server((b"HTTP/1.1 200 OK\r\n\r\n{}", b"reset"))
    async with connected(server) as connections:
        with pytest.raises(httpx2.ReadError):
            await ask(connections)


async def test_a_late_answer_ends_the_wait_and_the_connection() -> None:
    server = Server(HANG)
    async with connected(server) as connections:
        with pytest.raises(httpx2.ReadTimeout):
            await ask(connections, limits={**LIMITS, "read": 0.05})
        await asyncio.wait_for(server.hung_up.wait(), 10)


async def test_a_cancelled_request_ends_its_connection() -> None:
    server = Server(HANG)
    async with connected(server) as connections:
        asking = asyncio.ensure_future(ask(connections))
        await server.asked.wait()
        asking.cancel()
        await asyncio.wait_for(server.hung_up.wait(), 10)
        assert not connections.kept


async def test_closing_ends_what_is_kept() -> None:
    server = Server(OK)
    async with connected(server) as connections:
        await ask(connections)
        await connections.aclose()
        await asyncio.wait_for(server.hung_up.wait(), 10)


@pytest.mark.parametrize("name", ["X-A", "Authorization"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_carry_another(name: str, value: str) -> None:
    server = Server()
    async with connected(server) as connections:
        with pytest.raises(httpx2.LocalProtocolError):
            await ask(connections, headers={name: value})
    assert server.connections == 0


async def test_nobody_but_the_server_of_the_url_is_asked() -> None:
    server = Server(OK)
    async with connected(server) as connections:
        request = httpx2.Request("GET", "http://elsewhere.invalid/")
        assert (await connections.handle_async_request(request)).status_code == 200


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
    async with Connections(url) as connections:
        with pytest.raises(httpx2.ConnectError):
            await ask(connections)


async def test_only_http_is_spoken() -> None:
    async with Connections("ftp://127.0.0.1") as connections:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await ask(connections)


async def test_an_address_of_version_6_is_reached() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = Server(OK)
    async with connected(server, "::1") as connections:
        assert (await ask(connections)).content == b"ok"
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
        self, authority: trustme.CA, tls: ssl.SSLContext
    ) -> None:
        server = Server(OK, OK)
        async with connected(server, tls=tls) as connections:
            assert connections.tls
            authority.configure_trust(connections.tls)
            await ask(connections)
            assert (await ask(connections, "POST", content=b"x" * 2_000_000)).content == b"ok"
        assert server.connections == 1

    async def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
        self, tls: ssl.SSLContext
    ) -> None:
        server = Server(OK)
        async with connected(server, tls=tls) as connections:
            with pytest.raises(httpx2.ConnectError):
                await ask(connections)
        assert not server.arrived

    async def test_a_server_that_does_not_shake_hands_is_given_up_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with Connections(f"https://127.0.0.1:{silent.getsockname()[1]}") as connections:
                with pytest.raises(httpx2.ConnectTimeout):
                    await ask(connections, limits={**LIMITS, "connect": 0.05})
