"""The REST service's client, on aiohttp: a request and its whole answer, or an exception that says what may have happened.

It takes nothing from the environment or from an answer: no proxies, redirects, cookies or decompression.
"""

from __future__ import annotations

import asyncio
import io
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakSet

import aiohttp
from yarl import URL

from mcp_bridge.tools import KEY_HEADER

MAX_CONNECTIONS = 512
KEPT_SECONDS = 30.0
"""For which an idle connection is kept: less than servers do, 75 in gunicorn.conf.py and by nginx's default."""

CONNECT_SECONDS = 3.0
"""For a new connection to stand: name, TCP and TLS."""

MAX_FIELD = 64 << 10
"""Bytes of one header of an answer; it has 128 at most."""

LARGE = 64 << 10
"""Bytes of a body that is sent at once."""

_SAFE = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1


class NotSent(Exception):
    """Nothing was sent, because the REST service cannot be reached."""


class NoAnswer(Exception):
    """The request may have been carried out; the text says what the REST service did instead of answering."""


class _Unanswered(NoAnswer):
    """The connection ended before the head of an answer."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response; `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class RestClient:
    """Sends requests to the REST service at `url`, each within `timeout` seconds; for one event loop, as a context manager.

    A request is sent twice in one case: its connection ended without an answer, most likely a kept one that the service
    had just closed, and the request is safe, or has an idempotency key by which the service knows a repeat. Then it is
    sent again on a new connection.

    A request that is late or cancelled ends its connection, by which the service learns of it.
    """

    def __init__(self, url: str, token: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        # Not the connectors' own limit, since to wait for one of these is not to wait for the service.
        self.slots = asyncio.Semaphore(MAX_CONNECTIONS)
        options: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=None, connect=min(CONNECT_SECONDS, timeout)),
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "skip_auto_headers": ("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            "cookie_jar": aiohttp.DummyCookieJar(),
            "auto_decompress": False,
            "max_field_size": MAX_FIELD,
            "middlewares": (_send_once,),
        }
        kept = _Connector(limit=0, keepalive_timeout=KEPT_SECONDS)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        self.sessions = [aiohttp.ClientSession(connector=each, **options) for each in (kept, fresh)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in self.sessions:
            await session.close()

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """The answer to one request; NotSent or NoAnswer without one. `target` is path and query, percent-encoded."""
        repeatable = method in _SAFE or KEY_HEADER.lower() in map(str.lower, headers)
        kept, fresh = self.sessions
        began = False
        try:
            async with asyncio.timeout(self.timeout), self.slots:
                began = True
                try:
                    return await self._exchange(kept, method, target, headers, body)
                except _Unanswered:
                    if not repeatable:
                        raise
                return await self._exchange(fresh, method, target, headers, body)
        except TimeoutError as error:
            if not began:
                raise NotSent("too many requests are under way") from error
            raise NoAnswer(f"did not answer within {self.timeout:g} seconds") from error

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        try:
            url = URL(self.url + target, encoded=True)  # else yarl would encode it again
            # A large one in pieces, between which an early answer is read.
            data = io.BytesIO(body) if body and len(body) > LARGE else body or None
            async with session.request(
                method, url, headers=headers, data=data, allow_redirects=False
            ) as answer:
                content = await answer.read()
        # ValueError: no URL, or a header with a line break in it.
        except (ValueError, aiohttp.NonHttpUrlClientError) as error:
            raise NotSent(str(error)) from error
        except aiohttp.ClientError as error:
            raise NoAnswer("closed the connection before its answer") from error
        if answer.status < 200:  # RFC 9110 section 15.2.2: 101, which nobody asked for
            raise NoAnswer("answered in another protocol")
        return Answer(answer.status, answer.headers, content)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """The head of the answer to `request`, which aiohttp itself would send again when it is a PUT or DELETE."""
    try:
        return await handler(request)
    # RuntimeError: there is no thread to look up the name.
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, RuntimeError) as error:
        raise NotSent(str(error)) from error
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Unanswered("closed the connection before its answer") from error


class _Connector(aiohttp.TCPConnector):
    """Hands out no kept connection over which something came since its last answer: it would be taken for the next one's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.known: WeakSet[Any] = WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(*arguments, **options)
            protocol: Any = connection.protocol
            if protocol not in self.known:
                self.known.add(protocol)
                return connection
            # What waits to be read, the end of the connection for one, asyncio may not have come to yet.
            unread = select.poll()
            unread.register(protocol.transport.get_extra_info("socket").fileno(), select.POLLIN)
            if not (protocol.should_close or unread.poll(0)):
                return connection
            connection.close()
