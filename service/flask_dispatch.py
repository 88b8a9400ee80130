"""The hop from the event loop into a thread, where Flask calls the handler: one for every operation of every contract.

Connexion routes, and Flask gives the handler its place; requests were read before, so Flask's own reading is never used. Takes
the place of a2wsgi's WSGIMiddleware, whose ten threads would cap a worker at ten upstream calls and which changes threads four
times per request. Connexion offers no setting for either (spec-first/connexion#1979).

For speed, the pool is no ThreadPoolExecutor: a call there has a future with a lock in each world, and the loop is woken for
every one that ends. Here it has one future, and one waking delivers all results that are there. With 32 calls at a time a
hand-over takes 19 to 23 us of processor time, there 42 to 56 (timed in a loop): a tenth of a request's under load.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import io
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple

import flask
from starlette.types import Receive, Scope, Send

from openapi.contract import Operation

from .idempotency import LOOK_FIRST, REPEAT, Idempotency, outcome_unknown
from .problems import Problem
from .request_context import Deadline, current
from .threads import NoThread, start_thread
from .translation import UpstreamRequest
from .upstream import Upstream, timeout
from .upstream_connection import WATCHDOG, CancellableRequest

PATIENCE = 1.0
"""Seconds that a request may wait for a thread."""

GRACE = 2.0
"""Seconds after its deadline at which a request is given up that its thread has not ended: after the watchdog has, and after a
store that is slow (`BUSY`) has taken the outcome."""

_DISPATCH = "gateway.dispatch"

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Response(NamedTuple):
    """The handler's answer as ASGI takes it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes


class FlaskDispatch:
    """ASGI over Flask: a bounded pool of threads, and a bounded queue. `timeout`: seconds that a request may take from here on."""

    def __init__(self, app: WSGIApp, *, threads: int, queue: int, timeout: float) -> None:
        self.app = app
        self.limit = threads + queue
        self.timeout = timeout
        self.calls: set[asyncio.Future[Response]] = set()
        self.pool = ThreadPool(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        if scope["type"] != "http":
            return
        if len(self.calls) >= self.limit:
            raise _overloaded("All threads are busy and the queue is full.")
        WATCHDOG.start()  # before a thread that could take its place
        ctx, cancellable = current(), CancellableRequest(Deadline(self.timeout))
        request, ctx.upstream_request = ctx.upstream_request, None
        if request is None:
            raise LookupError("no upstream request was handed over")
        operation, keyed = request.operation, request.key is not None
        environ = _environ(scope, request, cancellable)
        pending = PendingCall(partial(contextvars.copy_context().run, self._call, environ))
        del request, environ  # from here on the pending call alone has the body
        call = self.pool.submit(pending)
        if self.pool.exhausted:
            call.get_loop().call_later(PATIENCE, _refuse, call, pending)
        self.calls.add(call)
        call.add_done_callback(self._finished)
        ctx.handling = call
        answer = asyncio.shield(call)
        timer = call.get_loop().call_later(
            self.timeout + GRACE, _give_up, call, answer, operation, keyed, cancellable
        )
        try:
            status, headers, content = await answer
        except asyncio.CancelledError:  # the client left
            if pending.claim():
                call.cancel()  # nothing was begun for it, so nothing will be sent
            elif operation.safe:
                cancellable.cancel()
            raise
        finally:
            timer.cancel()
            del call, answer  # their error's traceback keeps this frame, and the body with it
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _live(self, receive: Receive, send: Send) -> None:
        """The worker's start and end, which waits for every call: also those of clients that have left (ASGI, Lifespan)."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        while self.calls:
            await asyncio.wait(self.calls)
        await send({"type": "lifespan.shutdown.complete"})

    def _finished(self, call: asyncio.Future[Response]) -> None:
        self.calls.discard(call)
        if not call.cancelled():
            call.exception()  # the failure of a call that nobody awaits has no one to go to

    def _call(self, environ: dict[str, Any]) -> Response:
        started: list[Any] = []
        pieces = self.app(
            environ, lambda status, headers, exc_info=None: started.extend((status, headers))
        )
        try:
            content = b"".join(pieces)
        finally:
            getattr(pieces, "close", lambda: None)()
        status, headers = started
        return Response(
            int(status[:3]),
            [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            content,
        )


def _refuse(call: asyncio.Future[Response], pending: PendingCall) -> None:
    if pending.claim():
        call.set_exception(_overloaded(f"No thread was free within {PATIENCE:g} seconds."))


def _overloaded(detail: str) -> Problem:
    return Problem("overloaded", detail, headers=[("Retry-After", "1")])


def _give_up(
    call: asyncio.Future[Response],
    answer: asyncio.Future[Response],
    operation: Operation,
    keyed: bool,
    cancellable: CancellableRequest,
) -> None:
    """Answers the caller whose time is over while a thread still has the request, perhaps looking a name up."""
    if call.done():  # its result is about to be the answer
        return
    sent = cancellable.cancel()  # nothing will be sent from now on
    problem = timeout(operation)
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
    upstream: Upstream, idempotency: Idempotency
) -> Callable[..., flask.Response]:
    """A Flask function that sends the checked request upstream and passes the answer on, byte for byte."""

    def forward() -> flask.Response:
        request, cancellable = flask.request.environ[_DISPATCH]
        sender = upstream if request.operation.idempotent else idempotency
        answer = sender.send(request, cancellable)
        response = flask.Response(
            answer.body, answer.status, content_type=answer.content_type or None
        )
        response.headers.extend(answer.headers)
        return response

    return forward


class PendingCall:
    """A queued call that exactly one side may claim: the thread that comes to it, or whoever wants it no more."""

    __slots__ = ("_calls",)

    def __init__(self, call: Callable[[], Any]) -> None:
        self._calls = [call]

    def claim(self) -> Callable[[], Any] | None:
        """The call, for the first that claims it; nothing else keeps it alive. From any thread."""
        try:
            return self._calls.pop()
        except IndexError:
            return None


class ThreadPool:
    """At most so many threads, each started by the first call that finds no other free: so after any fork.

    Where the system gives fewer, calls wait for those that there are. They are daemons, which asyncio and the interpreter do
    not wait for; the interpreter's exit waits until each has finished the calls that it was given.
    """

    def __init__(self, threads: int, name: str = "request") -> None:
        self.limit = threads
        self.name = name
        self._threads: list[Thread] = []
        self._free = 0  # threads that have no call; negative: calls that have no thread
        self._counting = Lock()
        self._calls: SimpleQueue[tuple[CompletionQueue, asyncio.Future[Any], PendingCall] | None]
        self._calls = SimpleQueue()
        self._completions: CompletionQueue | None = None

    @property
    def exhausted(self) -> bool:
        """Whether a call waits for a thread: the last one that was submitted, or more."""
        return self._free < 0

    def submit(self, call: Callable[[], Any] | PendingCall) -> asyncio.Future[Any]:
        """Has a thread call it; the future of the running loop gets the result, or the exception.

        Whoever claims a pending call before a thread does keeps it from being called, and settles the future. Raises NoThread
        when there is none and none to be had.
        """
        loop = asyncio.get_running_loop()
        completions = self._completions
        if completions is None or completions.loop is not loop:
            completions = self._completions = CompletionQueue(loop)
        with self._counting:
            if not self._free > 0 and len(self._threads) < self.limit:
                self._start()
            self._free -= 1
        future = loop.create_future()
        pending = call if isinstance(call, PendingCall) else PendingCall(call)
        self._calls.put((completions, future, pending))
        return future

    def _start(self) -> None:
        try:
            thread = start_thread(f"{self.name}-{len(self._threads)}", self._serve)
        except NoThread:
            if self._threads:
                return
            raise
        if not self._threads:
            atexit.register(self._finish)
        self._threads.append(thread)
        self._free += 1

    def _serve(self) -> None:
        while work := self._calls.get():
            self._run(*work)
            del work  # a waiting thread keeps nothing alive

    def _run(
        self, completions: CompletionQueue, future: asyncio.Future[Any], pending: PendingCall
    ) -> None:
        result = error = None
        call = None if future.cancelled() else pending.claim()
        try:
            result = call() if call else None
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits the call
            error = raised
        with self._counting:
            self._free += 1
        if call:
            completions.add(future, result, error)
        # The error's traceback keeps this frame: with them in it, a large body would stay until the garbage collector comes.
        del call, pending, future, result, error

    def _finish(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()


class CompletionQueue:
    """Results that are not yet delivered to the futures of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._completions: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._scheduled = False

    def add(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Has the loop deliver a result; from any thread."""
        self._completions.append((future, result, error))
        if not self._scheduled:  # else the delivery that is to come sees this one too
            self._scheduled = True
            with suppress(RuntimeError):  # the loop is closed: nobody awaits the call any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        while self._completions:
            future, result, error = self._completions.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, result, error  # as in `ThreadPool._run`
