"""ASGI applications on sockets of their own in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The base URL at which `app` answers, in a thread, until the block ends."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=5)
    )
    listening = server.config.bind_socket()
    started, ended = threading.Event(), asyncio.Event()

    async def until_ended() -> None:
        """In place of uvicorn's own, which looks ten times a second whether it is to end."""
        await server.on_tick(0)
        server.loop = asyncio.get_running_loop()
        started.set()
        await ended.wait()

    server.main_loop = until_ended  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert started.wait(10), "the server did not start"
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.loop.call_soon_threadsafe(ended.set)
        thread.join(10)


@asynccontextmanager
async def served_here(app: Any) -> AsyncIterator[str]:
    """As `served`, on the loop that runs, and without the application's start and end."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0
    )
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.gather(*state.tasks)
