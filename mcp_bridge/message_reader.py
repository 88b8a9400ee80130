"""What is POSTed to the MCP endpoint, before the SDK sees it: received whole, within bounds, and cancelled by leaving.

The SDK sees a small message, and the call finds its arguments in the request's context (`messages.take_apart`). Of messages of
all callers together only so many bytes are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mcp.types import INVALID_REQUEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_bridge.canonical import LARGE
from mcp_bridge.edge import current
from mcp_bridge.event_stream import EventStream
from mcp_bridge.messages import PATH, TOO_LARGE, Refused, take_apart
from serving.body_buffer import (
    BodyBrokeOff,
    BodyRefused,
    BodyTooLarge,
    BodyTooSlow,
    MemoryBudget,
    OutOfMemory,
    Reservation,
    receive_body,
)

MEMORY = 64 << 20
"""Bytes of messages that may be under way in one worker, one of the greatest size at least. On its way to the REST service
a message is in memory up to four times."""

WATCHED_AFTER = 0.05
"""Seconds after which a client is watched for leaving; most calls are done by then, and a task costs more than a timer."""


class MessageReader:
    """ASGI. White space around a header's value is no part of it (RFC 9110 section 5.5), yet some servers hand it on.

    Admission has seen that the body is said to be JSON, in whatever spelling. Only POST has a use here: the SDK answers a GET
    with a stream that never ends. Large messages, of at most `max_body` bytes, are read by the thread of `reading`.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, reading: ThreadPoolExecutor) -> None:
        self.app = app
        self.max_body = max_body
        self.reading = reading
        self.budget = MemoryBudget(max(MEMORY, max_body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            headers = [each for each in given if each[0] != b"content-type"]
            if not any(name == b"accept" and value for name, value in headers):
                headers.insert(0, (b"accept", b"*/*"))  # RFC 9110 section 12.5.1
            scope = {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
        if scope["type"] != "http" or scope["path"] != PATH:
            await self.app(scope, receive, send)
        elif scope["method"] != "POST":
            raise HTTPException(405, "A message is sent by POST.", {"Allow": "POST"})
        else:
            await self._post(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        reservation = Reservation(self.budget)
        reading: asyncio.Future[Any] | None = None
        leaving = _Leaving(receive)
        stream = current().stream = EventStream(send)

        async def replayed() -> Message:
            return received.pop() if received else await receive()

        async def answered(message: Message) -> None:
            leaving.ignore()  # servers report the end of an answer as they do a client's leaving
            await stream.send(message)

        try:
            content = await receive_body(scope, receive, self.max_body, reservation)
            leaving.watch()
            if len(content) >= LARGE:
                loop = asyncio.get_running_loop()
                reading = loop.run_in_executor(self.reading, take_apart, content)
                # Goes on when the client leaves: until it has ended, the message is in memory.
                _, small, current().arguments = await asyncio.shield(reading)
                reading = None
            else:
                _, small, current().arguments = take_apart(content)
            received = [{"type": "http.request", "body": small, "more_body": False}]
            del content, small
            await self.app(scope, replayed, answered)
        except (BodyRefused, Refused) as error:
            refused = error if isinstance(error, Refused) else _REFUSALS[type(error)]()
            headers = {"Retry-After": "1"} if refused.status == 503 else None
            answer = JSONResponse(refused.answer, refused.status, headers)
            await answer(scope, receive, answered)
        except asyncio.CancelledError:
            if not leaving.left:
                raise
        finally:
            leaving.ignore()
            stream.close()
            reservation.release(reading or current().reading)
            reading = current().reading = (
                None  # its error's traceback keeps this frame, and the message
            )


_OVERLOADED = -32000  # the first of those that JSON-RPC 2.0 section 5.1 leaves to servers
# fmt: off
_REFUSALS: Mapping[type[BodyRefused], Callable[[], Refused]] = {
    BodyTooLarge: partial(Refused, INVALID_REQUEST, TOO_LARGE, status=413),
    BodyTooSlow: partial(Refused, INVALID_REQUEST, "the message came too slowly.", status=408),
    BodyBrokeOff: partial(Refused, INVALID_REQUEST, "the message broke off."),
    OutOfMemory: partial(Refused, _OVERLOADED, "too much is under way. The same call can work in a second.", status=503),
}
# fmt: on


class _Leaving:
    """Cancels the task that makes it when its client leaves before the answer, which what is told of progress is not.

    To hang up is how a call is cancelled over HTTP (MCP 2026-07-28, "Streamable HTTP"), and the SDK notices it only where
    it answers with a stream of its own.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.call = asyncio.current_task()
        self.left = False
        self.watching: asyncio.TimerHandle | asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begins, when the whole request has come."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            self.watching = loop.create_task(self._wait())

        self.watching = loop.call_later(WATCHED_AFTER, begin)

    def ignore(self) -> None:
        """Ends."""
        if self.watching:
            self.watching.cancel()

    async def _wait(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self.call:
            self.call.cancel()
