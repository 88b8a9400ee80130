"""What is POSTed to the MCP endpoint, before the SDK sees it: received whole, within bounds, and cancelled by leaving.

The SDK makes objects of all of a message before a tool is looked at, up to a hundred times its size. So the arguments of
all but small calls are taken out as the text that they are: the SDK sees a small message, and the call finds them in the
request's context. Of messages of all callers together only so many bytes are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from mcp.types import INVALID_REQUEST, PARSE_ERROR
from msgspec import UNSET, Raw, UnsetType
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_bridge.arguments import LARGE
from mcp_bridge.edge import PATH, current
from openapi.json_text import check_utf8
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

SMALL = 16 << 10
"""Bytes of a message that the SDK may read; as objects they are some 1.3 MB at worst."""

MEMORY = 64 << 20
"""Bytes of messages that may be under way in one worker, one of the greatest size at least. On its way to the REST service
a message is in memory up to four times."""

WATCHED_AFTER = 0.05
"""Seconds after which a client is watched for leaving; most calls are done by then, and a task costs more than a timer."""


class MessageReader:
    """ASGI. White space around a header's value is no part of it (RFC 9110 section 5.5), yet some servers hand it on.

    Only POST has a use here: the SDK answers a GET with a stream that never ends. Large messages, of at most `max_body` bytes,
    are read by the thread of `reading`.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, reading: ThreadPoolExecutor) -> None:
        self.app = app
        self.max_body = max_body
        self.reading = reading
        self.budget = MemoryBudget(max(MEMORY, max_body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers}
        if scope["type"] != "http" or scope["path"].rstrip("/") != PATH:
            await self.app(scope, receive, send)
        elif scope["method"] != "POST":
            await Response(status_code=405, headers={"Allow": "POST"})(scope, receive, send)
        else:
            scope.update(path=PATH, raw_path=PATH.encode())  # no redirect from /mcp/
            await self._post(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        reservation = Reservation(self.budget)
        reading: asyncio.Future[Any] | None = None
        leaving = _Leaving(receive)

        async def replayed() -> Message:
            return received.pop() if received else await receive()

        async def answered(message: Message) -> None:
            leaving.ignore()  # servers report the end of an answer as they do a client's leaving
            await send(message)

        try:
            content = await receive_body(scope, receive, self.max_body, reservation)
            leaving.watch()
            small: bytes | bytearray = content
            if len(content) >= LARGE:
                loop = asyncio.get_running_loop()
                reading = loop.run_in_executor(self.reading, _take_arguments, content)
                # Goes on when the client leaves: until it has ended, the message is in memory.
                small, current().arguments = await asyncio.shield(reading)
                reading = None
            elif len(content) >= SMALL:
                small, current().arguments = _take_arguments(content)
            received = [{"type": "http.request", "body": bytes(small), "more_body": False}]
            del content, small
            await self.app(scope, replayed, answered)
        except (BodyRefused, _Refused) as error:
            known = error.args if isinstance(error, _Refused) else _REFUSALS[type(error)]
            status, code, sentence = known
            failure = {"code": code, "message": f"Nothing was sent: {sentence}"}
            answer = {"jsonrpc": "2.0", "id": None, "error": failure}
            headers = {"Retry-After": "1"} if status == 503 else None
            await JSONResponse(answer, status, headers)(scope, receive, answered)
        except asyncio.CancelledError:
            if not leaving.left:
                raise
        finally:
            leaving.ignore()
            reservation.release(reading or current().reading)
            reading = current().reading = (
                None  # its error's traceback keeps this frame, and the message
            )


class _Refused(Exception):
    """The message is not for the SDK: an HTTP status, a JSON-RPC error's code and its sentence."""


_OVERLOADED = -32000  # the first of those that JSON-RPC 2.0 section 5.1 leaves to servers
_REFUSALS: Mapping[type[BodyRefused], tuple[int, int, str]] = {
    BodyTooLarge: (413, INVALID_REQUEST, "the message is larger than GATEWAY_MAX_BODY."),
    BodyTooSlow: (408, INVALID_REQUEST, "the message came too slowly."),
    BodyBrokeOff: (400, INVALID_REQUEST, "the message broke off."),
    OutOfMemory: (503, _OVERLOADED, "too much is under way. The same call can work in a second."),
}


class _Leaving:
    """Cancels the task that makes it when its client leaves before the answer begins.

    To hang up is how a call is cancelled over HTTP (MCP 2026-07-28, "Streamable HTTP"), and the SDK notices it only where
    it answers with a stream.
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


class _Params(msgspec.Struct, omit_defaults=True):
    """The parameters of tools/call that have a use here."""

    name: Raw | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    meta: Raw | UnsetType = msgspec.field(name="_meta", default=UNSET)


class _Message(msgspec.Struct, omit_defaults=True):
    """A JSON-RPC request or notification."""

    jsonrpc: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET


def _take_arguments(content: bytearray) -> tuple[bytes, Raw | None]:
    """A message without the arguments of its call, and these."""
    taken = None
    try:
        check_utf8(content)
        message = msgspec.json.decode(content, type=_Message)
        method = message.method
        is_call = (
            isinstance(method, Raw)
            and len(method) < SMALL
            and msgspec.json.decode(method) == "tools/call"
        )
        if is_call and message.params is not UNSET:
            params = msgspec.json.decode(message.params, type=_Params)
            if params.arguments is not UNSET:
                taken, params.arguments = params.arguments, Raw(b"{}")
            message.params = Raw(msgspec.json.encode(params))
        small = msgspec.json.encode(message)
    except msgspec.ValidationError:
        raise _Refused(400, INVALID_REQUEST, "the message is not one JSON-RPC request.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _Refused(400, PARSE_ERROR, "the message is not JSON in UTF-8.") from None
    except RecursionError:
        raise _Refused(400, PARSE_ERROR, "the message is nested too deeply.") from None
    if len(small) >= SMALL:
        raise _Refused(413, INVALID_REQUEST, "only the arguments of a tool's call may be large.")
    return small, taken
