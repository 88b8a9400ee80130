"""A REST service of the tests' own making: it records what arrives and answers what it was told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Arrived:
    """One request as it arrived."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    connection: Any  # host and port at its other end

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Rest:
    """ASGI. Repeats X-Request-ID. `status`, `content` and `headers` are the next answers; `hold` keeps answers back until it is set.

    `pieces` come before the content.
    """

    status: int = 200
    content: bytes = b"{}"
    pieces: Iterable[bytes] = ()
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    hold: asyncio.Event | None = None
    arrived: list[Arrived] = field(default_factory=list)
    on_arrival: Callable[[], None] = lambda: None
    on_hang_up: Callable[[], None] = lambda: None

    def answers(self, data: Any, status: int = 200, **headers: str) -> Rest:
        self.content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.status = status
        kind = "application/problem+json" if status >= 400 else "application/json"
        self.headers = {
            "content-type": kind,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self

    @property
    def last(self) -> Arrived:
        return self.arrived[-1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await _lifespan(receive, send)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.arrived.append(
            Arrived(
                scope["method"],
                scope["raw_path"].decode(),
                parse_qsl(scope["query_string"].decode(), keep_blank_values=True),
                {name.decode(): value.decode() for name, value in scope["headers"]},
                body,
                scope.get("client"),
            )
        )
        self.on_arrival()
        if self.hold and await self._hung_up(receive):
            return self.on_hang_up()
        told = {"x-request-id": self.last.headers.get("x-request-id", ""), **self.headers}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": self.content})

    async def _hung_up(self, receive: Any) -> bool:
        """Waits for `hold` or for the caller to hang up; True for the latter."""
        assert self.hold
        waiting = [asyncio.ensure_future(self.hold.wait()), asyncio.ensure_future(receive())]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # how an in-process caller hangs up
            self.on_hang_up()
            raise
        finally:
            for task in waiting:
                task.cancel()
        return waiting[1] in done and waiting[0] not in done


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
