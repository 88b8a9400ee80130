"""The hop from the event loop into a thread, where Flask calls the handler: one for every operation of every contract.

Connexion routes, and Flask gives the handler its place; requests were read before, so Flask's own reading is never used. Takes
the place of a2wsgi's WSGIMiddleware, whose ten threads would cap a worker at ten upstream calls and which changes threads four
times per request. Connexion offers no setting for either (spec-first/connexion#1979).
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import flask
from starlette.types import Receive, Scope, Send

from access.token_file import LOCAL
from openapi.contract import Operation
from openapi.json_text import UNREADABLE, read_json
from serving import STOPPING
from telemetry import metrics

from .file_access import FileAccess
from .idempotency import LOOK_FIRST, REPEAT, Idempotency, outcome_unknown
from .json_body import one_line
from .problems import Overloaded, Problem, log_failure
from .request_context import CURRENT, RequestContext, current
from .threads import ThreadPool, WorkItem
from .transfers import Head, Transfers
from .translation import UpstreamRequest
from .upstream import Upstreams, timed_out
from .upstream_connection import WATCHDOG, CancellableRequest, Deadline
from .waits import Seen, Waits, is_final

PATIENCE = 1.0
"""Seconds that a request may wait for a thread."""

GRACE = 2.0
"""Seconds after its deadline at which a request is given up that its thread has not ended: after the watchdog has, and after a
store that is slow (`BUSY`) has taken the outcome."""

LOOKS = 4
"""One in so many threads may be looking for those that wait for a final state: the others are there for all other requests."""

SILENCE = 10.0
"""Seconds that the upstream may say nothing when it is looked for those that wait: the next look may be answered, and they are
not to wait for one that is not."""

PIECE = 1 << 16
"""Bytes of an answer that are handed over at a time, so that a client that reads slowly has no copy of all of it here."""

SMALL = 1024
"""Bytes of an answer up to which it is looked whether it is an empty list."""

_DISPATCH = "gateway.dispatch"

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Response(NamedTuple):
    """The handler's answer as ASGI takes it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes


class FlaskDispatch:
    """ASGI over Flask, whose hook (`app` sets it) is the handler below: a bounded pool of threads, and a bounded queue.

    `timeout`: seconds that a request may take from here on.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        threads: int,
        transfers: int,
        waiters: int,
        queue: int,
        timeout: float,
    ) -> None:
        self.app = app
        self.limit = threads + queue
        self.timeout = timeout
        self.under_way: set[asyncio.Future[Response]] = set()
        self.pool = ThreadPool(threads)
        self.transfers = Transfers(transfers)
        self.waits: Waits[Response] = Waits(waiters, max(1, threads // LOOKS), SILENCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        if scope["type"] != "http":
            return
        WATCHDOG.start()  # before a thread that could take its place
        ctx = current()
        request = ctx.upstream_request
        if request is None:
            raise LookupError("no upstream request was handed over")
        if request.operation.streamed:
            ctx.upstream_request = None
            cancellable = CancellableRequest(
                Deadline(math.inf if request.stream else self.timeout),
                fresh=True,
                streamed=True,
                answer_within=self.timeout,
            )
            handle = partial(self._call_flask, _environ(scope, request, cancellable))
            await self.transfers.serve(handle, request.stream, cancellable, receive, send)
            return
        stopping = scope.get("extensions", {}).get(STOPPING)
        wait, filters = request.wait and not (stopping and stopping.done()), request.filters
        del request  # nothing but the context has the body
        status, headers, content = await (self._wait if wait else self._answer)(ctx, scope)
        if filters and _is_empty(content):
            listed = one_line(filters)
            ctx.warning = f"nothing was found; taken as filters: {listed}"
        await send({"type": "http.response.start", "status": status, "headers": headers})
        last = max(0, len(content) - 1) // PIECE * PIECE
        for begin in range(0, last, PIECE):
            piece = content[begin : begin + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": content[last:]})

    async def _wait(self, ctx: RequestContext, scope: Scope) -> Response:
        """The answer when it shows a final state; when its time is over, the latest one."""
        request, ctx.upstream_request = ctx.upstream_request, None
        assert request and request.operation.hints.state
        state, loop = request.operation.hints.state, asyncio.get_running_loop()
        scope = {**scope, "method": "GET"}  # to a HEAD, Flask answers without the content

        async def look() -> Seen[Response]:
            # Of its own, since it is made for all who wait; its log lines are the first one's.
            context, begun = RequestContext(ctx.request_id, ctx.trace), loop.time()
            context.upstream_request = request
            CURRENT.set(context)
            answer = await self._answer(context, scope, SILENCE)
            # It has the answer, and this context is the task's until the next look.
            context.handling = None
            final = await self.pool.submit(partial(is_final, state, answer.content))
            return Seen(answer, final, begun, len(answer.content))

        stopping = scope.get("extensions", {}).get(STOPPING) or loop.create_future()
        begun = loop.time()
        caller = "" if ctx.caller is LOCAL else ctx.caller.name
        try:
            seen = await self.waits.wait(request, look, request.wait, stopping, caller)
        finally:
            ctx.waited_seconds = loop.time() - begun
        ctx.headers += [
            (b"preference-applied", f"wait={request.wait:g}".encode()),
            (b"age", str(int(loop.time() - seen.at)).encode()),
        ]
        return seen.answer

    async def _answer(
        self, ctx: RequestContext, scope: Scope, silence: float = math.inf
    ) -> Response:
        """The answer to the request that `ctx` has, which it has no more then."""
        request, ctx.upstream_request = ctx.upstream_request, None
        assert request
        operation, keyed = request.operation, request.key is not None
        if len(self.under_way) >= self.limit:
            raise Overloaded("All threads are busy and the queue is full.")
        cancellable = CancellableRequest(Deadline(self.timeout), silence=silence)
        environ = _environ(scope, request, cancellable)
        loop = asyncio.get_running_loop()
        handling: asyncio.Future[Response] = loop.create_future()
        item = WorkItem(partial(contextvars.copy_context().run, self._handle, environ), handling)
        del request, environ  # from here on the item alone has the body
        self.pool.put(item)
        if self.pool.exhausted:
            loop.call_later(PATIENCE, _refuse, item)
        self.under_way.add(handling)
        ctx.handling = handling
        # Another future, since the handling goes on when the client leaves, or was told that its time is over.
        answer: asyncio.Future[Response] = loop.create_future()
        handling.add_done_callback(partial(self._finished, ctx.request_id, answer))
        timer = loop.call_later(
            self.timeout + GRACE, _give_up, handling, answer, operation, keyed, cancellable
        )
        try:
            return await answer
        except asyncio.CancelledError:  # the client left
            if item.claim():
                handling.cancel()  # nothing was begun for it, so nothing will be sent
            elif operation.safe:
                cancellable.cancel()
            raise
        finally:
            timer.cancel()
            del handling, answer  # their error's traceback keeps this frame, and the body with it

    async def _live(self, receive: Receive, send: Send) -> None:
        """The worker's start and end, which waits for every request: also those of clients that have left (ASGI, Lifespan)."""
        await receive()
        metrics.wait_places.set(self.waits.places.count)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        while under_way := self.under_way | self.transfers.under_way:
            await asyncio.wait(under_way)
        await send({"type": "lifespan.shutdown.complete"})

    def _finished(
        self, request_id: str, answer: asyncio.Future[Response], handling: asyncio.Future[Response]
    ) -> None:
        self.under_way.discard(handling)
        if handling.cancelled():
            return
        error = handling.exception()
        if answer.done():
            # Of one whose client left the edge hears; this one was told that its time is over.
            if error and not answer.cancelled() and not isinstance(error, Problem):
                log_failure(request_id, error)
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(handling.result())

    def _handle(self, environ: dict[str, Any]) -> Response:
        head: list[Head] = []
        pieces: list[bytes] = []
        self._call_flask(environ, head.append, pieces.append)
        return Response(*head[0], b"".join(pieces))

    def _call_flask(
        self,
        environ: dict[str, Any],
        begin: Callable[[Head], object],
        put: Callable[[bytes], object],
    ) -> None:
        """Calls back with the head of Flask's answer, then with each piece of its content."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            encoded = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
            begin((int(status[:3]), encoded))

        pieces = self.app(environ, start)
        try:
            for piece in pieces:
                put(piece)
        finally:
            getattr(pieces, "close", lambda: None)()


def _is_empty(content: bytes) -> bool:
    """True for a list with nothing in it: an object whose arrays are empty and whose numbers are 0. What is large has something."""
    if len(content) > SMALL:
        return False
    try:
        members = read_json(content, dict[str, object]).values()
    except UNREADABLE:
        return False
    return [] in members and not any(isinstance(each, list | int) and each for each in members)


def _refuse(item: WorkItem) -> None:
    if claimed := item.claim():
        claimed[1].set_exception(Overloaded(f"No thread was free within {PATIENCE:g} seconds."))


def _give_up(
    handling: asyncio.Future[Response],
    answer: asyncio.Future[Response],
    operation: Operation,
    keyed: bool,
    cancellable: CancellableRequest,
) -> None:
    """Answers the caller whose time is over while a thread still has the request, perhaps looking a name up."""
    if handling.done():  # its result is about to be the answer
        return
    sent = cancellable.cancel()  # nothing will be sent from now on
    problem = timed_out(operation)
    if not sent and not operation.safe:
        detail = "No connection to the upstream came about in time; nothing was sent."
        problem = Problem("upstream-timeout", detail, retryable=True)
    elif not operation.idempotent:
        problem = outcome_unknown(problem, REPEAT if keyed else LOOK_FIRST, keyed=keyed)
    answer.set_exception(problem)


def _environ(
    scope: Scope, request: UpstreamRequest, cancellable: CancellableRequest
) -> dict[str, Any]:
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
        _DISPATCH: (request, cancellable),
    }


def forwarding_handler(
    upstream: Upstreams, files: FileAccess, idempotency: Idempotency
) -> Callable[..., flask.Response]:
    """A Flask function that sends the checked request upstream and passes the answer on, byte for byte."""

    def forward() -> flask.Response:
        request, cancellable = flask.request.environ[_DISPATCH]
        operation = request.operation
        sender: FileAccess | Idempotency | Upstreams = upstream
        if operation.files:
            sender = files
        elif operation.takes_key:
            sender = idempotency
        answer = sender.send(request, cancellable)
        response = flask.Response(
            answer.stream or answer.body, answer.status, content_type=answer.content_type or None
        )
        response.headers.extend(answer.headers)
        return response

    return forward
