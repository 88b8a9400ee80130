"""TLS for tools that cannot name the server they want (SNI): what they say is passed on as it comes. Not a test module."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.system.front import HOST, Front

PIECE = 4096
"""Bytes held back in each direction, so that a side that reads slowly is felt by the other."""


class _Tunnel:
    """One listening port, each of whose connections is one to `front`."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.context = ssl.create_default_context(cafile=front.authority)
        self.connections: set[asyncio.Task[None]] = set()

    async def serve(self, started: list[int], ready: threading.Event, over: asyncio.Event) -> None:
        """Until `over`."""
        server = await asyncio.start_server(self._connection, HOST, 0, limit=PIECE, backlog=1024)
        started.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()
        for task in self.connections:
            task.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)
        with suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(
                HOST, self.front.port, ssl=self.context, server_hostname=HOST, limit=PIECE
            )
            try:
                await asyncio.gather(_pass(reader, back), _pass(there, writer))
            finally:
                back.transport.abort()
        writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(PIECE)
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    raise ConnectionResetError  # one side has closed: the other is closed too


@contextmanager
def plain_door(front: Front) -> Iterator[str]:
    """An http:// base URL that leads through TLS to `front`."""
    started: list[int] = []
    ready, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(_Tunnel(front).serve(started, ready, over),)
    )
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://{HOST}:{started[0]}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
