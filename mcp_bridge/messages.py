"""Large messages, of which the MCP SDK would make objects a hundred times their size: bounded, and their bulk kept from it.

The SDK reads all of a message before a tool is looked at, on the event loop. So the arguments of a large call are taken
out of it as the text that they are: the SDK sees a small message, and the call finds them again by `arguments`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from mcp.types import INVALID_REQUEST, PARSE_ERROR
from msgspec import UNSET, Raw, UnsetType
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openapi.json_text import check_utf8
from serving.patience import patience

LARGE = 1 << 18
"""Bytes of a message that the SDK may read; as objects they are some 20 MB at worst."""

ROOM = 64 << 20
"""Bytes of messages that may be under way in one worker, one of the greatest size at least. On its way to the REST service
a message is in memory up to four times."""

_ARGUMENTS = "mcp_bridge.arguments"
_OVERLOADED = -32000  # the first of those that JSON-RPC 2.0 section 5.1 leaves to servers


def arguments(scope: Scope) -> Raw | None:
    """The arguments of a large call, given out once so that nobody keeps them; None for any other message."""
    taken: Raw | None = scope.pop(_ARGUMENTS, None)
    return taken


class _Refused(Exception):
    """The message is not for the SDK: an HTTP status, a JSON-RPC error's code and its sentence."""

    def __init__(self, status: int, code: int, sentence: str) -> None:
        super().__init__(status, code, sentence)
        self.status = status
        self.error = {"code": code, "message": f"Nothing was sent: {sentence}"}


class Messages:
    """ASGI: what is POSTed to the MCP endpoint has come whole before the SDK sees it.

    One that is longer than `max_body` bytes is handed on as soon as that is known, for the SDK to refuse.
    """

    def __init__(self, app: ASGIApp, *, max_body: int) -> None:
        self.app = app
        self.max_body = max_body
        self.room = max(ROOM, max_body)
        self.reading = ThreadPoolExecutor(1, "parting")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _Place(self)
        try:
            received = await self._received(scope, receive, place)
        except _Refused as refused:
            answer = {"jsonrpc": "2.0", "id": None, "error": refused.error}
            headers = {"Retry-After": "1"} if refused.status == 503 else None
            await JSONResponse(answer, refused.status, headers)(scope, receive, send)
        else:

            async def replayed() -> Message:
                return received.pop(0) if received else await receive()

            await self.app(scope, replayed, send)
        finally:
            place.leave()

    async def _received(self, scope: Scope, receive: Receive, place: _Place) -> list[Message]:
        """What the SDK is to receive: the whole message, the arguments of a large call taken out; else what was received."""
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:19]) > self.max_body:
            return []
        content = bytearray()
        loop = asyncio.get_running_loop()
        try:
            async with patience() as came:
                while True:
                    last = await receive()
                    content += last.get("body", b"")
                    if len(content) > self.max_body:
                        break
                    place.grow(len(content))
                    if not last.get("more_body"):
                        break
                    came(len(content))
        except TimeoutError:
            raise _Refused(408, INVALID_REQUEST, "the message came too slowly.") from None
        if last["type"] != "http.request":
            return [_part(content, more=True), last]
        if len(content) < LARGE or last.get("more_body"):
            return [_part(content, more=last.get("more_body", False))]
        place.reading = loop.run_in_executor(self.reading, _parted, content)
        # Goes on when the client leaves: until it has ended, the message is in memory.
        small, scope[_ARGUMENTS] = await asyncio.shield(place.reading)
        return [_part(small, more=False)]


class _Place:
    """What one message takes of the room for all, in bytes."""

    def __init__(self, messages: Messages) -> None:
        self.messages = messages
        self.size = 0
        self.reading: asyncio.Future[Any] | None = None  # what needs the message

    def grow(self, size: int) -> None:
        """Takes `size` bytes in all."""
        if size - self.size > self.messages.room:
            sentence = "too much is under way. The same call can work in a second."
            raise _Refused(503, _OVERLOADED, sentence)
        self.messages.room -= size - self.size
        self.size = size

    def leave(self) -> None:
        """Gives all of it back, when nobody reads the message any more."""
        if self.reading and not self.reading.done():
            self.reading.add_done_callback(self._left)
            return
        self.messages.room += self.size
        self.size = 0
        self.reading = (
            None  # its error's traceback keeps a frame that has this place, and the message
        )

    def _left(self, reading: asyncio.Future[Any]) -> None:
        reading.exception()  # nobody is there to be told of it
        self.leave()


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


def _parted(content: bytearray) -> tuple[bytes, Raw | None]:
    """A large message without the arguments of its call, and these."""
    taken = None
    try:
        check_utf8(content)
        message = msgspec.json.decode(content, type=_Message)
        if _is_call(message.method) and message.params is not UNSET:
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
    if len(small) >= LARGE:
        sentence = "only the arguments of a tool's call may be large."
        raise _Refused(413, INVALID_REQUEST, sentence)
    return small, taken


def _part(content: bytes | bytearray, *, more: bool) -> Message:
    return {"type": "http.request", "body": bytes(content), "more_body": more}


def _is_call(method: Raw | UnsetType) -> bool:
    return (
        isinstance(method, Raw)
        and len(method) < LARGE
        and msgspec.json.decode(method) == "tools/call"
    )
