"""What is told about every request, once, when its answer has left: log line, audit line, metrics, span, two headers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.origins import PROBES
from openapi.contract import OWN_PAGES, Contract
from openapi.json_text import legible
from telemetry import logs, metrics, spans

from .config import Settings, refuse_start
from .problems import Problem
from .request_context import RequestContext, current, open_context

LEFT = 499
"""The status of a request whose client left before its answer; never sent. nginx logs the same."""

QUIET = PROBES | {"/metrics"}
"""Pages whose requests are logged at level debug."""

SHED = {"overloaded": "queue-full", "too-many-requests": "rate-limit"}
"""Kinds of problem by which a request is turned away unserved, with the reason as the metric names it."""

# RFC 9209 section 2.3: why there is no answer whose status could be named.
PROXY_ERRORS = {
    "upstream-unreachable": "destination_unavailable",
    "upstream-timeout": "http_response_timeout",
    "upstream-bad-response": "connection_terminated",
    "upstream-answer-too-large": "http_response_body_size",
}

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

_TOKEN = re.compile(r"[A-Za-z*][\w!#$%&'*+.^`|~:/-]*", re.ASCII)
_ASSETS = "/docs/assets/"

log = logging.getLogger("gateway.requests")

for _outcome_label in IDEMPOTENCY:
    metrics.idempotency.labels(_outcome_label)  # there from the start, with 0
for _reason in SHED.values():
    metrics.shed.labels(_reason)


def start_logging(settings: Settings) -> None:
    """Starts the logs of this process as `settings` say; exits with 2 when the audit log cannot be written."""
    lost = metrics.lines_dropped
    logs.start(
        ["gateway"],
        settings.log_level,
        settings.log_format,
        context=_correlation,
        on_lost=lost.labels("log").inc,
    )
    try:
        logs.start_audit(settings.audit_log, lost.labels("audit").inc)
    except OSError as error:
        refuse_start(f"GATEWAY_AUDIT_LOG: {settings.audit_log} cannot be written: {error.strerror}")


def _correlation() -> dict[str, str]:
    try:
        ctx = current()
    except LookupError:
        return {}
    return {"request_id": ctx.request_id, "trace_id": ctx.trace.trace_id}


class Records:
    """ASGI, outermost: gives each request its context, and tells what became of it."""

    def __init__(self, app: ASGIApp, *, contract: Contract, tracing: str) -> None:
        self.app = app
        self.contract = contract
        self.tracing = tracing
        self.routes = {operation.id: operation.path for operation in contract.operations.values()}
        self.changing = {o.id for o in contract.operations.values() if o.access == "write"}
        self.product = contract.product if _TOKEN.fullmatch(contract.product) else "gateway"
        self.durations: dict[tuple[str, str, int], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        ctx = open_context(scope["headers"])
        if self.tracing:
            self._decide(ctx)

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                ctx.status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(ctx, begun)]
            elif scope["method"] == "HEAD":
                message["body"] = b""  # pages have one; servers say so in their logs
            elif body := message.get("body"):
                ctx.body = body
                ctx.size += len(body)
            await send(message)

        metrics.inflight.inc()
        try:
            await self.app(scope, receive, recorded)
        except asyncio.CancelledError:
            self._left(ctx, scope, begun)
            raise
        except BaseException:
            self._finish(ctx, scope, begun)
            raise
        self._finish(ctx, scope, begun)

    def _left(self, ctx: RequestContext, scope: Scope, begun: float) -> None:
        """Tells what became of a request whose client left: when the handler is through with it, not before."""
        ctx.status = ctx.status or LEFT
        if ctx.handling is None or ctx.handling.done():
            self._finish(ctx, scope, begun)
            return

        def finished(call: asyncio.Future[Any]) -> None:
            error = None if call.cancelled() else call.exception()
            if isinstance(error, Problem):
                ctx.problem = error
            elif not call.cancelled() and error is None:
                ctx.body = call.result()[2]
            self._finish(ctx, scope, begun)

        ctx.handling.add_done_callback(finished)

    def _finish(self, ctx: RequestContext, scope: Scope, begun: float) -> None:
        self._tell(ctx, scope, time.perf_counter() - begun)
        # An idle connection keeps its last context; from a problem's traceback hangs all that was read of a refused body.
        ctx.body, ctx.handling, ctx.problem = b"", None, None

    def _headers(self, ctx: RequestContext, begun: float) -> list[tuple[bytes, bytes]]:
        headers = []
        if ctx.operation:
            upstream = ctx.upstream_seconds * 1000
            gateway = (time.perf_counter() - begun) * 1000 - upstream
            asked = f"upstream;dur={upstream:.1f}, " if upstream else ""
            headers.append((b"server-timing", f"{asked}gateway;dur={gateway:.1f}".encode()))
        if ctx.problem and ctx.problem.kind.source == "upstream":
            headers.append((b"proxy-status", self._proxy_status(ctx.problem).encode()))
        return headers

    def _proxy_status(self, problem: Problem) -> str:
        """Whose fault it was, as RFC 9209 says it."""
        cause = problem.__cause__ if isinstance(problem.__cause__, Problem) else problem
        if problem.upstream_status:
            return f"{self.product}; received-status={problem.upstream_status}"
        return f"{self.product}; error={PROXY_ERRORS.get(cause.slug, 'http_response_incomplete')}"

    def _tell(self, ctx: RequestContext, scope: Scope, seconds: float) -> None:
        method = metrics.method_label(scope["method"])
        if not ctx.operation:
            self._name_refused(ctx, scope)
        route = self.routes.get(ctx.operation) or _page_route(scope["path"])
        self._count(ctx, (method, route, ctx.status), seconds)
        fields = self._fields(ctx, scope, method, route, seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        message = f"{method} {route or '(no route)'} {ctx.status}"
        log.log(level, message, extra={"fields": fields})
        if ctx.operation in self.changing:
            message = f"{ctx.operation} {fields['outcome']}"
            logs.audit_log.info(message, extra={"fields": _audited(ctx, scope, fields)})
        if self.tracing:
            self._export(ctx, method, route, seconds)

    def _name_refused(self, ctx: RequestContext, scope: Scope) -> None:
        """Says what a request asked for that was refused before it was routed."""
        wanted, values = self.contract.find(scope["method"], scope["path"])
        if wanted:
            ctx.operation, ctx.path_values = wanted.id, "/".join(values)

    def _count(self, ctx: RequestContext, key: tuple[str, str, int], seconds: float) -> None:
        metrics.inflight.dec()
        duration = self.durations.get(key)
        if duration is None:
            duration = self.durations[key] = metrics.requests.labels(*key)
        duration.observe(seconds)
        if ctx.idempotency:
            metrics.idempotency.labels(ctx.idempotency).inc()
        if ctx.problem:
            if ctx.problem.slug == "create-outcome-unknown":
                metrics.outcome_unknown.inc()
            if reason := SHED.get(ctx.problem.slug):
                metrics.shed.labels(reason).inc()

    def _fields(
        self, ctx: RequestContext, scope: Scope, method: str, route: str, seconds: float
    ) -> dict[str, Any]:
        fields = {
            "request_id": ctx.request_id,
            "trace_id": ctx.trace.trace_id,
            "span_id": ctx.trace.span_id,
            "caller": ctx.caller.name[:100],
            "method": method,
            "route": route,
            "operation": ctx.operation,
            "status": ctx.status,
            "outcome": _outcome(ctx.status),
            "bytes": ctx.size,
            "seconds": round(seconds, 4),
        }
        if ctx.upstream_seconds:
            fields["upstream_status"] = ctx.upstream_status
            fields["upstream_seconds"] = round(ctx.upstream_seconds, 4)
        if ctx.problem:
            fields["problem"] = ctx.problem.slug
        if ctx.idempotency:
            fields["idempotency"] = ctx.idempotency
        if log.isEnabledFor(logging.DEBUG):
            fields["path"] = ascii(scope["path"][:200])[1:-1]
        return fields

    def _decide(self, ctx: RequestContext) -> None:
        """Whether the request's spans are exported. Its first request opens a process's exporter: after every fork."""
        spans.open_exporter(self.contract.product, self.contract.version, self.tracing)
        if exporter := spans.exporter():
            ctx.trace = exporter.decide(ctx.trace)

    def _export(self, ctx: RequestContext, method: str, route: str, seconds: float) -> None:
        attributes: spans.Attributes = {
            "http.request.method": method,
            "http.response.status_code": ctx.status,
            "url.scheme": "http",
        }
        if route:
            attributes["http.route"] = route
        if ctx.status >= 500:
            attributes["error.type"] = ctx.problem.slug if ctx.problem else str(ctx.status)
        if exporter := spans.exporter():
            name = f"{method} {route}".strip()
            exporter.record(ctx.trace, "server", name, time.time() - seconds, seconds, attributes)


def _audited(ctx: RequestContext, scope: Scope, fields: dict[str, Any]) -> dict[str, Any]:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    subject = logs.answer_id(ctx.body) if ctx.problem is None else ""
    if not subject and ctx.problem is None and len(ctx.body) <= logs.MAX_PARSED:
        subject = logs.answer_id(legible(ctx.body))
    return {
        **fields,
        "id": subject or ctx.path_values[:128],
        "request_bytes": int(length) if length.isdigit() and len(length) < 16 else 0,
    }


def _outcome(status: int) -> str:
    if status < 400:
        return "done"
    if status == LEFT:
        return "client-left"
    return "refused" if status < 500 else "failed"


_PAGES = OWN_PAGES | {"/docs/start.js"}


def _page_route(path: str) -> str:
    """The route of a page; empty for a path that nothing here answers."""
    if path in _PAGES:
        return path
    return f"{_ASSETS}{{file}}" if path.startswith(_ASSETS) else ""
