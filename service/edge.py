"""The outermost layer: gives each request its context, turns failures into problem documents, and logs what became of it.

Access log, audit log, metrics and span of a request are written once, when its answer has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access import AccessDenied
from access.origins import PROBES
from openapi.contract import OWN_PAGES, Contract, Operation
from openapi.json_text import legible
from openapi.paths import KnownPaths
from serving import RESET
from serving.body_buffer import announced_length
from telemetry import logs, metrics, spans, trace_context

from .problems import Problem, log_failure
from .request_context import CURRENT, RequestContext, current

LEFT = 499
"""The status of a request whose client left before its answer; never sent. nginx logs the same."""

QUIET = PROBES | {"/metrics"}
"""Pages whose requests are logged at level debug."""

SHED = {"overloaded": "queue-full", "too-many-requests": "rate-limit"}
"""Kinds of problem by which a request is turned away unserved, with the reason as the metric names it."""

IDEMPOTENCY = (
    "first",
    "replayed",
    "in-progress",
    "mismatch",
    "released",
    "reconciled",
    "resent",
    "unknown",
)
"""What can become of a call with an Idempotency-Key."""

log = logging.getLogger("gateway.requests")

for _outcome in IDEMPOTENCY:
    metrics.idempotency.labels(_outcome)  # there from the start, with 0
for _direction in ("up", "down"):
    metrics.transferred.labels(_direction)
for _reason in SHED.values():
    metrics.shed.labels(_reason)


def open_context(headers: Iterable[tuple[bytes, bytes]] = ()) -> RequestContext:
    """Begins the context of a request with these headers (names in lower case), for the running task."""
    ctx = RequestContext(trace_context.request_id(headers), trace_context.received(headers))
    CURRENT.set(ctx)
    logs.correlation.set({"request_id": ctx.request_id, "trace_id": ctx.trace.trace_id})
    return ctx


class Edge:
    """ASGI, around all other layers.

    `tracing`: where spans are exported to, as `spans.wanted` says. `root`: the path before all of ours, as callers see them, which a
    proxy took off or left on.
    """

    def __init__(self, app: ASGIApp, *, contract: Contract, tracing: str, root: str = "") -> None:
        self.app = app
        self.contract = contract
        self.tracing = tracing
        self.root = root
        self.paths = KnownPaths(contract)
        self.routes = {operation.id: operation.path for operation in contract.operations.values()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        if self.root:
            scope = self._below_root(scope)
        ctx = open_context(scope["headers"])
        if self.tracing:
            # A process's first request opens its exporter: after every fork.
            spans.open_exporter(self.contract.product, self.contract.version, self.tracing)
            if spans.exporter:
                ctx.trace, ctx.span = spans.exporter.start(ctx.trace, "server")

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                ctx.status = message["status"]
                message["headers"] = [*message["headers"], *_headers(ctx, begun)]
            elif scope["method"] == "HEAD":
                message["body"] = b""  # pages and problems have one; servers say so in their logs
            elif body := message.get("body"):
                ctx.body = body
                ctx.size += len(body)
            await send(message)

        metrics.inflight.inc()
        try:
            await self._serve(ctx, scope, receive, send_noted)
        except asyncio.CancelledError:
            if ctx.unfinished:
                self._finish(ctx, scope, begun)
            else:
                self._client_left(ctx, scope, begun)
            raise
        except BaseException:
            self._finish(ctx, scope, begun)
            raise
        self._finish(ctx, scope, begun)

    def _below_root(self, scope: Scope) -> Scope:
        """`scope` without the root before its path; `scope` itself when it is not there."""
        # Callers may escape any letter of it: so it ends by its slashes, not by its length.
        depth = self.root.count("/") + 1
        segments = scope["raw_path"].split(b"/", depth)
        if unquote_to_bytes(b"/".join(segments[:depth])) != self.root.encode():
            return scope
        path, raw = scope["path"][len(self.root) :], b"/".join([b"", *segments[depth:]])
        return {**scope, "path": path or "/", "raw_path": raw or b"/"}

    async def _serve(self, ctx: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # the process's outermost edge: nothing leaves it but an answer
            if ctx.status:
                self._broke_off(ctx, error, scope)
            # In no variable here: this frame is in its traceback, and such a cycle would keep the request's body.
            ctx.problem = self._problem(error, scope)
            await self._send_problem(ctx, scope, send)

    def _broke_off(self, ctx: RequestContext, error: Exception, scope: Scope) -> None:
        """Ends an answer that has begun as one that did not end: the server closes its connection in the middle of it."""
        ctx.unfinished = ctx.unfinished or "failed"
        if not isinstance(error, Problem):
            raise error
        ctx.problem = error
        reset = scope.get("extensions", {}).get(RESET)
        if reset and scope["http_version"] == "1.0":
            reset()
        # What the server takes for the end of a client that left: any other exception it logs as a fault of the gateway's.
        raise asyncio.CancelledError from error

    def _problem(self, error: Exception, scope: Scope) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, AccessDenied):
            return Problem(error.slug, error.detail, status=error.status, headers=error.headers)
        if isinstance(error, HTTPException) and error.status_code == 404:
            meant = self.paths.meant(scope["path"])
            asked = f"Did you mean {self.root}{meant}? " if meant else ""
            listed = f"The paths that this gateway answers are in {self.root}/openapi.json."
            return Problem("not-found", f"{asked}{listed}")
        if isinstance(error, HTTPException) and error.status_code == 405:
            pages = ["GET", "HEAD"]  # what is no path of the contract's
            allowed = ", ".join(self.contract.allowed_methods(scope["path"]) or pages)
            headers = [("Allow", allowed)]
            return Problem("method-not-allowed", f"It answers {allowed}.", headers=headers)
        log_failure(current().request_id, error)
        return Problem(
            "internal-error", "The failure is in the gateway's log under this request_id."
        )

    async def _send_problem(self, ctx: RequestContext, scope: Scope, send: Send) -> None:
        problem: Problem = ctx.problem  # type: ignore[assignment]
        path = scope.get("raw_path", b"/").decode("latin-1")
        document = problem.document(f"{self.root}{path}", ctx.request_id, self.root)
        body = msgspec.json.encode(document)
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            *problem.headers,
        ]
        encoded = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
        await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    def _client_left(self, ctx: RequestContext, scope: Scope, begun: float) -> None:
        """Logs a request whose client left: when the handler is through with it, not before."""
        ctx.status, ctx.unfinished = ctx.status or LEFT, "client-left"
        if ctx.handling is None or ctx.handling.done():
            self._finish(ctx, scope, begun)
            return

        def handled(handling: asyncio.Future[Any]) -> None:
            error = None if handling.cancelled() else handling.exception()
            if isinstance(error, Problem):
                ctx.problem = error
            elif error:
                log_failure(ctx.request_id, error)
            elif not handling.cancelled():
                ctx.body = getattr(handling.result(), "content", b"")
            self._finish(ctx, scope, begun)

        ctx.handling.add_done_callback(handled)

    def _finish(self, ctx: RequestContext, scope: Scope, begun: float) -> None:
        """Counts and logs a request, and exports its span."""
        seconds = time.perf_counter() - begun
        if not ctx.operation:  # it was refused before it was routed
            wanted, values = self.contract.find(scope["method"], scope["path"])
            if wanted:
                ctx.operation, ctx.path_values = wanted.id, "/".join(values)
        operation = self.contract.operations.get(ctx.operation)
        method = scope["method"] if scope["method"] in metrics.METHODS else metrics.OTHER
        route = self.routes.get(ctx.operation) or _page_route(scope["path"])
        metrics.inflight.dec()
        metrics.labelled(metrics.requests, method, route, ctx.status).observe(
            seconds - ctx.waited_seconds
        )
        if ctx.idempotency:
            metrics.idempotency.labels(ctx.idempotency).inc()
        if ctx.problem and ctx.problem.slug == "create-outcome-unknown":
            metrics.outcome_unknown.inc()
        if ctx.problem and (reason := SHED.get(ctx.problem.slug)):
            metrics.shed.labels(reason).inc()
        if operation and operation.streamed:
            metrics.transferred.labels("up").inc(ctx.received)
            metrics.transferred.labels("down").inc(ctx.size)
        fields = _fields(ctx, scope, method, route, seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        message = f"{method} {route or '(no route)'} {ctx.status}"
        log.log(level, message, extra={"fields": fields})
        if operation and operation.audited:
            message = f"{ctx.operation} {fields['outcome']}"
            added = _audit_fields(ctx, scope, operation)
            logs.audit_log.info(message, extra={"fields": {**fields, **added}})
        if ctx.span is not None:
            _end_span(ctx, method, route)
        # An idle connection keeps its last context; from a problem's traceback hangs all that was read of a refused body.
        ctx.body, ctx.handling, ctx.problem = b"", None, None


def _headers(ctx: RequestContext, begun: float) -> list[tuple[bytes, bytes]]:
    """What every answer has, whoever makes it."""
    headers = [
        (b"x-request-id", ctx.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cross-origin-resource-policy", b"same-origin"),
        *ctx.headers,
    ]
    if ctx.warning:
        headers.append((b"gateway-warning", ctx.warning.encode()))
    if ctx.operation:
        upstream, waited = ctx.upstream_seconds * 1000, ctx.waited_seconds * 1000
        gateway = (time.perf_counter() - begun) * 1000 - upstream - waited
        asked = f"upstream;dur={upstream:.1f}, " if upstream else ""
        asked += f"wait;dur={waited:.1f}, " if waited else ""
        headers.append((b"server-timing", f"{asked}gateway;dur={gateway:.1f}".encode()))
    return headers


def _page_route(path: str) -> str:
    """The route of a page; empty for a path that nothing here answers."""
    if path in OWN_PAGES or path == "/docs/start.js":
        return path
    return "/docs/assets/{file}" if path.startswith("/docs/assets/") else ""


def _fields(
    ctx: RequestContext, scope: Scope, method: str, route: str, seconds: float
) -> dict[str, Any]:
    """The fields of a request's line: docs/observability.md explains them."""
    fields = {
        "request_id": ctx.request_id,
        "trace_id": ctx.trace.trace_id,
        "span_id": ctx.trace.span_id,
        "caller": ctx.caller.name[:100],
        "method": method,
        "route": route,
        "operation": ctx.operation,
        "status": ctx.status,
        "outcome": ctx.unfinished or _outcome_of(ctx.status),
        "bytes": ctx.size,
        "seconds": round(seconds, 4),
    }
    if ctx.upstream_seconds:
        fields["upstream_status"] = ctx.upstream_status
        fields["upstream_seconds"] = round(ctx.upstream_seconds, 4)
    if ctx.waited_seconds:
        fields["waited_seconds"] = round(ctx.waited_seconds, 4)
    if ctx.problem:
        fields["problem"] = ctx.problem.slug
    if ctx.idempotency:
        fields["idempotency"] = ctx.idempotency
    if log.isEnabledFor(logging.DEBUG):
        fields["path"] = ascii(scope["path"][:200])[1:-1]
    return fields


def _outcome_of(status: int) -> str:
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"


def _audit_fields(ctx: RequestContext, scope: Scope, operation: Operation) -> dict[str, Any]:
    """What a request's line in the audit log has beside its fields in the other log."""
    subject = ""
    if ctx.problem is None and not operation.answer_streamed:
        subject = logs.answer_id(ctx.body)
        if not subject and len(ctx.body) <= logs.MAX_PARSED:
            subject = logs.answer_id(legible(ctx.body))
    return {
        "id": subject or ctx.path_values[:128],
        "request_bytes": ctx.received or announced_length(scope) or 0,
    }


def _end_span(ctx: RequestContext, method: str, route: str) -> None:
    attributes: spans.Attributes = {
        "http.request.method": method,
        "http.response.status_code": ctx.status,
        "url.scheme": "http",
    }
    if route:
        attributes["http.route"] = route
    if ctx.status >= 500:
        attributes["error.type"] = ctx.problem.slug if ctx.problem else str(ctx.status)
    spans.end(ctx.span, f"{method} {route}".strip(), attributes)
