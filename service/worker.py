"""gunicorn's ASGI worker, ending as soon as nothing is under way, and saying so when an answer ends its connection.

The stock worker counts idle keep-alive connections as work: with a proxy that keeps some open, each stop or reload takes
the whole graceful limit (gunicorn 27.0.1). This one closes them. It rests on names of gunicorn's protocol class that are
not public; tests of a worker with an idle connection, and of a refused body, fail when they change.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

QUIET = 1.0
"""Seconds for which a connection must have been idle, so that no request is on its way over it."""


class Protocol(ASGIProtocol):  # type: ignore[misc]
    """A connection that its worker knows."""

    def connection_made(self, transport: Any) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # An answer before its request was read ends the connection, which RFC 9112 section 9.6 wants announced.
        unread = not self._body_receiver._complete
        return unread or bool(super()._will_close(request, response_requires_close))

    @property
    def idle(self) -> bool:
        """True while it waits for a request, its first or its next."""
        return bool(self._awaiting_request)


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """`worker_class = "service.worker.Worker"`."""

    def init_process(self) -> None:
        self.connections: set[Protocol] = set()
        gasgi.ASGIProtocol = Protocol  # what the stock worker makes of each new connection
        super().init_process()

    async def _shutdown(self) -> None:
        closing = asyncio.create_task(self._close_idle())
        await super()._shutdown()
        closing.cancel()

    async def _close_idle(self) -> None:
        """Closes what was idle twice in a row; a busy connection closes by itself after its answer."""
        idle: set[Protocol] = set()
        while True:
            for protocol in idle:
                if protocol.idle:
                    protocol._keepalive_timeout()
            idle = {protocol for protocol in self.connections if protocol.idle}
            await asyncio.sleep(QUIET)
