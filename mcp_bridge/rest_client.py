"""The REST service's client, on aiohttp: a request and its answer, or an exception that says what may have happened.

An answer is here as a whole, or its content is handed on in pieces for as long as they are wanted.

It takes nothing from the environment or from an answer: no proxies, redirects, cookies or decompression.
"""

from __future__ import annotations

import asyncio
import io
import select
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast
from weakref import WeakSet

import aiohttp
from yarl import URL

from environment import redact_url
from mcp_bridge.tools import KEY_HEADER
from serving.body_buffer import SECONDS, MemoryBudget, OutOfMemory, Reservation
from serving.places import Places

MAX_CONNECTIONS = 512
MAX_WAITING = 512
"""Calls that may wait for a final state, beside the MAX_CONNECTIONS, so that they keep no other call waiting."""

MAX_KEPT = 64
KEPT_SECONDS = 30.0
"""For which an idle connection is kept: less than servers do, 75 in gunicorn.conf.py and by nginx's default."""

CONNECT_SECONDS = 3.0
"""For a new connection to stand: name, TCP and TLS."""

WAITING = 0.1
"""Of a request's time, what it may wait while MAX_CONNECTIONS others are under way, so that it has the rest to be answered."""

SILENCE = SECONDS
"""For the next piece of an answer that is handed on."""

MAX_FIELD = 64 << 10
"""Bytes of one header of an answer; it has 128 at most."""

LARGE = 64 << 10
"""Bytes of a body that is sent at once, and of an answer from which its memory is counted."""

MEMORY = 64 << 20
"""Bytes of large answers that may be under way in one worker, one of the greatest size at least."""

MAX_FAILURE = 1 << 20
"""Bytes of an answer that is no success. The REST service's problem documents have far less."""

REQUEST_ID = "X-Request-ID"

_SAFE = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1


class NotSent(Exception):
    """Nothing was sent; the text says why."""


class NoAnswer(Exception):
    """The request may have been carried out; the text says what the REST service did instead of answering."""


class AnswerTooLarge(NoAnswer):
    """The request may have been carried out: a success that has more bytes than are read."""


class _Unanswered(NoAnswer):
    """The connection ended before the head of an answer."""


@dataclass(frozen=True)
class RestRequest:
    """One request of the REST service; `target` is path and query, percent-encoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None


Take = Callable[[bytes], bool | Awaitable[bool]]
"""Takes a piece of a content; true when no more of it is wanted."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response; `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes | bytearray


class RestClient:
    """Sends requests to the REST service at `url`, each within `timeout` seconds; for one event loop, as a context manager.

    A request is sent twice in one case: its connection ended without an answer, most likely a kept one that the service
    had just closed, and the request is safe, or has an idempotency key by which the service knows a repeat. Then it is
    sent again on a new connection.

    A request that is late or cancelled ends its connection, by which the service learns of it. While MAX_CONNECTIONS are
    under way, one waits for WAITING of its time, and is not sent when none has ended by then.

    An answer belongs to a request when it has its X-Request-ID, which the REST service repeats. Another answer ends its
    connection and reaches nobody. A failure without the header, as proxies make it, ends its connection too.
    """

    def __init__(self, url: str, token: str, timeout: float, max_answer: int = MEMORY) -> None:
        self.url = url.rstrip("/")
        self.unreachable = f"nothing answers at {redact_url(url)}, where the gateway should be"
        self.timeout = timeout
        self.max_answer = max_answer
        self.budget = MemoryBudget(max(MEMORY, max_answer), LARGE)
        # Not the connectors' own limit, since to wait for one of these is not to wait for the service.
        self.slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self.places = Places(MAX_WAITING)
        self.last_looks: dict[str, asyncio.Task[Any]] = {}  # by target, as the process is to stop
        options: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=None, connect=min(CONNECT_SECONDS, timeout)),
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "skip_auto_headers": ("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            "cookie_jar": aiohttp.DummyCookieJar(),
            "auto_decompress": False,
            "max_field_size": MAX_FIELD,
            "middlewares": (self._send_once,),
            "response_class": _Response,
        }
        kept = _Connector(limit=0, keepalive_timeout=KEPT_SECONDS)
        fresh = _Connector(limit=0, force_close=True)
        self.sessions = [aiohttp.ClientSession(connector=each, **options) for each in (kept, fresh)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for look in self.last_looks.values():
            look.cancel()
        for session in self.sessions:
            await session.close()

    async def send(
        self,
        request: RestRequest,
        reservation: Reservation,
        take: Take | None = None,
        *,
        placed: bool = False,
    ) -> Answer:
        """The answer to `request`; NotSent or NoAnswer without one. The caller releases the memory of a large one.

        With `take` a success has no content: `take` gets its pieces, and ends the transfer when it has enough. `placed`: the caller
        has one of the `places`, and needs no other.
        """
        repeatable = request.method in _SAFE or KEY_HEADER.lower() in map(
            str.lower, request.headers
        )
        end = asyncio.get_running_loop().time() + self.timeout
        if not placed:
            try:
                async with asyncio.timeout(WAITING * self.timeout):
                    await self.slots.acquire()
            except TimeoutError as error:
                raise NotSent("too many calls are under way") from error
        kept, fresh = self.sessions
        try:
            async with asyncio.timeout_at(end):
                try:
                    return await self._exchange(kept, request, reservation, take)
                except _Unanswered as error:
                    if not repeatable:
                        raise
                    unanswered = error
                try:
                    return await self._exchange(fresh, request, reservation, take)
                except NotSent:
                    raise unanswered from None  # it was sent, the first time
        except TimeoutError as error:
            raise NoAnswer(f"did not answer within {self.timeout:g} seconds") from error
        finally:
            if not placed:
                self.slots.release()

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: RestRequest,
        reservation: Reservation,
        take: Take | None,
    ) -> Answer:
        body = request.body
        try:
            url = URL(self.url + request.target, encoded=True)  # else yarl would encode it again
            # A large one in pieces, between which an early answer is read.
            data = io.BytesIO(body) if body and len(body) > LARGE else body or None
            async with session.request(
                request.method, url, headers=request.headers, data=data, allow_redirects=False
            ) as answered:
                response = cast(_Response, answered)
                if take and _is_success(response):
                    content = bytearray()
                    await self._hand_on(response, take)
                else:
                    content = await self._read(response, reservation)
        # ValueError: no URL, or a header with a line break in it.
        except (ValueError, aiohttp.NonHttpUrlClientError) as error:
            raise NotSent(self.unreachable) from error
        except aiohttp.ClientError as error:
            raise NoAnswer("closed the connection before its answer") from error
        return Answer(response.status, response.headers, content)

    async def _send_once(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """The head of the answer to `request`, which aiohttp itself would send again when it is a PUT or DELETE."""
        try:
            return await handler(request)
        # RuntimeError: there is no thread to look up the name.
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            RuntimeError,
        ) as error:
            raise NotSent(self.unreachable) from error
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _Unanswered("closed the connection before its answer") from error

    async def _hand_on(self, response: _Response, take: Take) -> None:
        """Hands on the content until `take` has enough, or it ends."""
        piece = b"."
        while piece:
            try:
                async with asyncio.timeout(SILENCE):
                    piece = await response.content.readany()
            except TimeoutError as error:
                raise NoAnswer(f"sent nothing for {SILENCE:g} seconds within its answer") from error
            except aiohttp.ClientError as error:
                raise NoAnswer(_BROKE_OFF) from error
            if not piece and response.was_reset():
                raise NoAnswer(_BROKE_OFF)
            enough = take(piece)
            if enough is True or (not isinstance(enough, bool) and await enough):
                return  # a connection over which more would come is closed, not kept

    async def _read(self, response: _Response, reservation: Reservation) -> bytearray:
        """The content of an answer: nothing of a failure that is too large."""
        success = _is_success(response)
        limit = self.max_answer if success else MAX_FAILURE
        content = bytearray()
        too_large = (response.content_length or 0) > limit
        while not too_large and (piece := await response.content.readany()):
            content += piece
            too_large = len(content) > limit
            try:
                reservation.resize(len(content))
            except OutOfMemory as error:
                raise NoAnswer("answered more than there is memory for at present") from error
        if too_large and success:
            raise AnswerTooLarge(f"has more than {limit} bytes")
        if too_large:
            return bytearray()
        if response.was_reset():
            raise NoAnswer(_BROKE_OFF)
        return content


_BROKE_OFF = "closed the connection before the end of its answer"


def _is_success(response: aiohttp.ClientResponse) -> bool:
    return 200 <= response.status < 300


class _Response(aiohttp.ClientResponse):
    """Knows its connection, which aiohttp gives back as soon as all of the answer is here."""

    protocol: Any

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Reads the head of the answer."""
        self.protocol = connection.protocol
        await super().start(connection)
        if self.status < 200:  # RFC 9110 section 15.2.2: 101, which nobody asked for
            raise NoAnswer("answered in another protocol")
        asked = self.request_info.headers.get(REQUEST_ID)
        answered = self.headers.get(REQUEST_ID)
        if asked and answered != asked:
            self.protocol.force_close()
            if answered or self.status < 400:
                self.protocol.close()
                raise NoAnswer("gave the answer to another request")
        return self

    def was_reset(self) -> bool:
        """True when the answer should have ended with its connection, which was not closed but broke."""
        if self.status in (204, 304) or "Transfer-Encoding" in self.headers:
            return False
        return self.content_length is None and isinstance(
            self.protocol.exception(), aiohttp.ClientOSError
        )


class _Connector(aiohttp.TCPConnector):
    """Keeps MAX_KEPT connections at most. Hands out none over which something came since its last answer, or before its first
    request: it would be taken for the next one's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.used: WeakSet[Any] = WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(*arguments, **options)
            protocol: Any = connection.protocol
            used = protocol in self.used
            self.used.add(protocol)
            # A new one over TLS has had session tickets, which are no answer (RFC 8446 section 4.6.1).
            encrypted = protocol.transport.get_extra_info("ssl_object") is not None
            if not (protocol.should_close or ((used or not encrypted) and _has_unread(protocol))):
                return connection
            connection.close()
            if not used:
                raise NotSent("what answers there speaks before it is asked")

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        # aiohttp bounds the connections that are in use only.
        full = len(self._conns.get(key, ())) >= MAX_KEPT
        super()._release(key, protocol, should_close=should_close or full)
        # aiohttp 3.14.5 gives what comes now to the last answer's parser, which keeps half a head to itself; without a parser
        # it shows in `should_close`.
        protocol._parser = None


def _has_unread(protocol: Any) -> bool:
    """True when something waits to be read, the end of the connection for one, which asyncio may not have come to yet."""
    unread = select.poll()
    unread.register(protocol.transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(unread.poll(0))
