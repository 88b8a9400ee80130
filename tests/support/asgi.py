"""An application called as a server calls it, for what no client sends or sees. Not a test module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

Receive = Callable[[], Awaitable[Any]]


async def call(
    app: Any,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    receive: Receive | None = None,
) -> tuple[int, bytes]:
    """The status and the body of the answer; the client stays. `receive`: in the place of `body`."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    status, content = 0, b""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def whole() -> Any:
        for message in messages:
            return message
        return await asyncio.get_running_loop().create_future()

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, content
        status = message.get("status", status)
        content += message.get("body", b"")

    await app(scope, receive or whole, send)
    return status, content


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[None]:
    """The application between its start-up and its shutdown."""
    messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    ready = asyncio.Event()

    async def send(_: dict[str, Any]) -> None:
        ready.set()

    running = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, send)
    )
    messages.put_nowait({"type": "lifespan.startup"})
    await ready.wait()
    try:
        yield
    finally:
        messages.put_nowait({"type": "lifespan.shutdown"})
        await running
