"""The way from ASGI into Flask's threads: one hop per request, a bounded pool, a bounded queue.

Takes the place of a2wsgi's WSGIMiddleware, whose ten threads would cap a worker at ten upstream calls and which
changes threads four times per request. Connexion offers no setting for either (spec-first/connexion#1979).
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from .pool import Pool, Turn
from .problems import Problem
from .request_context import current
from .translation import UpstreamRequest
from .upstream_connection import WATCH, Exchange

REQUEST = "gateway.request"
EXCHANGE = "gateway.exchange"

PATIENCE = 1.0
"""Seconds that a request may wait for a thread: so much longer than its upstream's time it may take in all."""

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ThreadedWSGI:
    """ASGI over a WSGI application whose requests were read before it: `request_reader` left them in the context, not in `wsgi.input`."""

    def __init__(self, app: WSGIApp, *, threads: int, queue: int) -> None:
        self.app = app
        self.limit = threads + queue
        self.calls: set[asyncio.Future[Any]] = set()
        self.pool = Pool(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        if scope["type"] != "http":
            return
        if len(self.calls) >= self.limit:
            raise _overloaded("All threads are busy and the queue is full.")
        ctx, exchange = current(), Exchange()
        request, ctx.upstream_request = ctx.upstream_request, None
        if request is None:
            raise LookupError("no upstream request was handed over")
        environ = _environ(scope, request, exchange)
        turn = Turn(partial(contextvars.copy_context().run, self._call, environ))
        safe = request.operation.safe
        del request, environ  # from here on the turn alone has the body
        WATCH.start()  # before a thread that could take its place
        call = self.pool.submit(turn)
        if self.pool.waits:
            call.get_loop().call_later(PATIENCE, _give_up, call, turn)
        self.calls.add(call)
        call.add_done_callback(self._finished)
        ctx.handling = call
        try:
            status, headers, body = await asyncio.shield(call)
        except asyncio.CancelledError:  # the client left
            if turn.take():
                call.cancel()  # nothing was begun for it, so nothing will be sent
            elif safe:
                exchange.abandon()
            raise
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        """The worker's start and end, which waits for every call: also those of clients that have left (ASGI, Lifespan)."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        while self.calls:
            await asyncio.wait(self.calls)
        await send({"type": "lifespan.shutdown.complete"})

    def _finished(self, call: asyncio.Future[Any]) -> None:
        self.calls.discard(call)
        if not call.cancelled():
            call.exception()  # an abandoned call's failure has no one to go to

    def _call(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        started: list[Any] = []
        chunks = self.app(
            environ, lambda status, headers, exc_info=None: started.extend((status, headers))
        )
        try:
            body = b"".join(chunks)
        finally:
            getattr(chunks, "close", lambda: None)()
        status, headers = started
        return (
            int(status[:3]),
            [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            body,
        )


def _give_up(call: asyncio.Future[Any], turn: Turn) -> None:
    if turn.take():
        call.set_exception(_overloaded(f"No thread was free within {PATIENCE:g} seconds."))


def _overloaded(detail: str) -> Problem:
    return Problem("overloaded", detail, headers=[("Retry-After", "1")])


def _environ(scope: Scope, request: UpstreamRequest, exchange: Exchange) -> dict[str, Any]:
    """What Flask needs to route the request, and what the handler needs to serve it (PEP 3333)."""
    host, port = scope.get("server") or ("localhost", 0)
    return {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        REQUEST: request,
        EXCHANGE: exchange,
    }
