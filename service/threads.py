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

from .context import context
from .errors import Problem
from .exchange import Exchange
from .messages import UpstreamRequest
from .pool import Pool
from .validation import REQUEST

EXCHANGE = "gateway.exchange"
CONTEXT = "gateway.context"

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ThreadedWSGI:
    """ASGI over a WSGI application whose requests were read before it: the body is in the scope, not in `wsgi.input`."""

    def __init__(self, app: WSGIApp, *, threads: int, queue: int) -> None:
        self.app = app
        self.limit = threads + queue
        self.pending = 0
        self.pool = Pool(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.pending >= self.limit:
            raise Problem(
                "overloaded",
                "All threads are busy and the queue is full.",
                headers=[("Retry-After", "1")],
            )
        # Out of the scope, which is in cycles: a large body would stay until the garbage collector comes.
        request, exchange = scope.pop(REQUEST), Exchange()
        call = self.pool.submit(
            partial(contextvars.copy_context().run, self._call, _environ(scope, request, exchange))
        )
        self.pending += 1
        call.add_done_callback(self._finished)
        context(scope).call = call
        try:
            status, headers, body = await asyncio.shield(call)
        except asyncio.CancelledError:  # the client left
            if request.operation.safe:
                exchange.abandon()
            raise
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _finished(self, call: asyncio.Future[Any]) -> None:
        self.pending -= 1
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
        CONTEXT: context(scope),
    }
