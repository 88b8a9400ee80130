"""An answer over HTTP that may become a stream of events: for a call that has something to tell before its result.

In place of the SDK's streams, which would be opened for every call, end without a result when the process is to stop (sse-starlette
3.7), and differ between the two eras of MCP. The SDK answers in JSON; once something was told, its answer is the last event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Send

TYPE = "text/event-stream"

PING = 15.0
"""Seconds after which a comment is sent, so that nobody on the way takes the connection for an idle one."""

_HEADERS = [
    (b"content-type", TYPE.encode()),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events back
]


def accepts(headers: Headers) -> bool:
    """True when the client names event streams among what it accepts: `*/*` is said also by who cannot read them."""
    given = ",".join(headers.getlist("accept")).lower()
    ranges = [each.replace(" ", "").split(";") for each in given.split(",")]
    return any(each[0] == TYPE and not {"q=0", "q=0.0"}.intersection(each) for each in ranges)


class EventStream:
    """The `send` of one request, by which its answer goes out as it is until `notify` was called."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._content = bytearray()
        self._pinging: asyncio.Task[None] | None = None

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Tells the client a notification."""
        if not self._begun:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            self._pinging = asyncio.get_running_loop().create_task(self._ping())
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        await self._event(json.dumps(message, separators=(",", ":")).encode())

    async def send(self, message: Message) -> None:
        """ASGI's `send`, for the answer."""
        if not self._begun:
            await self._send(message)
        elif message["type"] == "http.response.body":
            self._content += message.get("body", b"")
            if not message.get("more_body"):
                self.close()
                await self._event(self._content, last=True)

    def close(self) -> None:
        """Ends what goes on beside the answer."""
        if self._pinging:
            self._pinging.cancel()

    async def _event(self, text: bytes | bytearray, *, last: bool = False) -> None:
        # A line break in JSON is a space (RFC 8259 section 2); in a stream of events it would end the data.
        line = bytes(text).replace(b"\n", b" ").replace(b"\r", b" ")
        body = b"event: message\ndata: " + line + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING)
            await self._send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
