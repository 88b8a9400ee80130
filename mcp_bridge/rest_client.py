"""Connections to the REST service, as a transport for requests of httpx2's.

httpx2's own pool asks the operating system about every idle connection for every request, which is half of what a
tool call costs; here it is asked about the one that is used. HTTP/1.1 to one server, requests and answers whole;
httptools reads the answers, as it reads what comes to uvicorn.
"""

from __future__ import annotations

import asyncio
import re
import select

import httptools
import httpx2

from mcp_bridge.tools import KEY_HEADER

MAX_CONNECTIONS = 512
MAX_KEPT = 64
KEPT_SECONDS = (
    30.0  # less than servers keep them: gunicorn.conf.py says 75, and so does nginx's default
)
MAX_HEAD = 64 << 10  # bytes of status line and headers

_Answer = tuple[int, list[tuple[bytes, bytes]], bytes]  # status, headers, body
_SAFE = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1
_UNFIT = re.compile(rb"[\r\n\0]")  # what would begin another header


class Connections(httpx2.AsyncBaseTransport):
    """Requests to the server of one URL, on connections that are kept for the next ones; for one event loop.

    Of httpx2's `timeout`, in seconds: `pool` limits the wait for one of MAX_CONNECTIONS, `connect` that for a new one
    to stand (name, TCP and TLS), `read` that from a request to its whole answer. `write` is part of `read`.

    A request is sent twice in one case: a kept connection ended without any byte of an answer, most likely closed
    by the server just before, and the request is safe, or has an idempotency key by which the service knows a
    repeat. It is sent again on a new connection. Any other may have been executed, and fails with ReadError.

    A request that is late or cancelled ends its connection, by which the service learns of it.

    httpx2's ConnectError, ConnectTimeout, PoolTimeout, LocalProtocolError and UnsupportedProtocol mean that nothing
    was sent; after ReadError, ReadTimeout and RemoteProtocolError a request may have been executed.
    """

    def __init__(self, url: str) -> None:
        self.url = httpx2.URL(url)
        https = self.url.scheme == "https"
        self.tls = httpx2.create_ssl_context(trust_env=False) if https else None
        self.room = asyncio.Semaphore(MAX_CONNECTIONS)
        self.kept: list[_Connection] = []  # the one used last comes last

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, with its body; also to a request whose URL names another server, which is not asked."""
        message = _written(request)
        limits = request.extensions.get("timeout", {})
        await self._enter(limits.get("pool"))
        try:
            if kept := self._take():
                try:
                    return await self._exchange(kept, request, message, limits.get("read"))
                except _Unanswered:
                    if request.method not in _SAFE and KEY_HEADER not in request.headers:
                        raise
            new = await self._connect(limits.get("connect"))
            return await self._exchange(new, request, message, limits.get("read"))
        finally:
            self.room.release()

    async def aclose(self) -> None:
        """Ends the connections that are idle."""
        while self.kept:
            self.kept.pop().transport.abort()

    async def _enter(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.room.acquire()
        except TimeoutError as error:
            raise httpx2.PoolTimeout("all connections are in use") from error

    def _take(self) -> _Connection | None:
        """The kept connection that was used last, which is the likeliest to be open still; None without any."""
        oldest = asyncio.get_running_loop().time() - KEPT_SECONDS
        while self.kept:
            connection = self.kept.pop()
            if connection.used >= oldest and connection.silent():
                return connection
            connection.transport.abort()
        return None

    async def _connect(self, seconds: float | None) -> _Connection:
        if self.url.scheme not in ("http", "https"):
            raise httpx2.UnsupportedProtocol("the URL must begin with http:// or https://")
        host = self.url.raw_host.decode()
        port = self.url.port or (443 if self.tls else 80)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(_Connection, host, port, ssl=self.tls)
        except TimeoutError as error:
            raise httpx2.ConnectTimeout("no connection in time") from error
        except OSError as error:  # ssl's errors are, too
            raise httpx2.ConnectError("no connection") from error
        except RuntimeError as error:  # there is no thread to look up the name
            raise httpx2.ConnectError("no thread") from error
        return connection

    async def _exchange(
        self,
        connection: _Connection,
        request: httpx2.Request,
        message: list[bytes],
        seconds: float | None,
    ) -> httpx2.Response:
        try:
            return await connection.exchange(message, request.method == "HEAD", seconds)
        finally:
            if connection.reusable and len(self.kept) < MAX_KEPT:
                self.kept.append(connection)
            else:  # also after a failure or a cancellation: what comes later is no request's answer
                connection.transport.abort()


def _written(request: httpx2.Request) -> list[bytes]:
    """A request with its body as on the wire; LocalProtocolError for one that would be more than one request."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    if any(_UNFIT.search(line) for line in lines):
        raise httpx2.LocalProtocolError("a header has a line break in it")
    return [b"\r\n".join([*lines, b"", b""]), request.content]


class _Unanswered(httpx2.ReadError):
    """The connection ended without any byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection, with one exchange on it at a time.

    asyncio calls what is named after connections and data, httptools what begins with `on_`. `reusable` while nothing
    speaks against another exchange; `used` is when the last one ended, in the loop's seconds.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.answer: asyncio.Future[_Answer] | None = None  # None: nothing was asked
        self.reusable = False
        self.used = 0.0
        self.received = 0  # bytes, in this exchange
        self.head_ended = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []

    async def exchange(
        self, message: list[bytes], only_head: bool, seconds: float | None
    ) -> httpx2.Response:
        """The answer to `message`, without a body when `only_head`; `seconds` None waits for ever."""
        loop = asyncio.get_running_loop()
        self.answer = loop.create_future()
        self.only_head = only_head
        self.received, self.head_ended, self.reusable = 0, False, False
        late = None
        if seconds is not None:
            late = loop.call_later(seconds, self._fail, httpx2.ReadTimeout, "no answer in time")
        self.transport.writelines(message)
        try:
            status, headers, body = await self.answer
            return httpx2.Response(status, headers=headers, content=body)
        finally:
            if late:
                late.cancel()
            self.answer, self.headers, self.body = None, [], []
            self.used = loop.time()

    def silent(self) -> bool:
        """Whether the server has neither said anything nor ended the connection since the last answer.

        Also what asyncio has not come to yet: it would be taken for the answer to the next request.
        """
        if self.transport.is_closing():
            return False
        waiting = select.poll()
        waiting.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not waiting.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.answer is None or self.answer.done():  # nobody asked for this
            self.reusable = False
            self.transport.abort()
            return
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx2.RemoteProtocolError, "what answers does not speak HTTP/1.1")
        if not self.head_ended and self.received > MAX_HEAD:
            self._fail(httpx2.RemoteProtocolError, "the answer's headers do not end")

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if not self.received:
            self._fail(_Unanswered, "the connection ended without an answer")
        elif exc is None and self.head_ended and not self._has_length():
            self._finish()
        else:
            self._fail(httpx2.ReadError, "the connection ended before the answer did")

    def on_message_begin(self) -> None:
        self.headers, self.body, self.head_ended, self.reusable = [], [], False, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_ended:  # else it is a trailer, which nobody here reads
            self.headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.head_ended = True
        if self.only_head and self.parser.get_status_code() >= 200:
            self._finish()  # a length in it is that of the body that is not sent

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() < 200:
            self.head_ended = False  # the answer is yet to come: RFC 9110 section 15.2
        else:
            unsent = self.transport.get_write_buffer_size()
            self._finish(reusable=self.parser.should_keep_alive() and not unsent)

    def _has_length(self) -> bool:
        """Whether the answer says where it ends; any other ends with its connection (RFC 9112 section 6.3)."""
        names = {name.lower() for name, _ in self.headers}
        return not names.isdisjoint((b"content-length", b"transfer-encoding"))

    def _finish(self, reusable: bool = False) -> None:
        if self.answer and not self.answer.done():
            self.reusable = reusable
            status = self.parser.get_status_code()
            self.answer.set_result((status, self.headers, b"".join(self.body)))

    def _fail(self, kind: type[httpx2.TransportError], reason: str) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(kind(reason))
