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
from telemetry import audit, logs, metrics, spans

from .config import Settings, refuse_start
from .problems import Problem
from .request_context import Context, current, open_context
from .translation import legible

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
        shared=_correlation,
        watch=lost.labels("log").inc,
    )
    try:
        audit.start(settings.audit_log, lost.labels("audit").inc)
    except OSError as error:
        refuse_start(f"GATEWAY_AUDIT_LOG: {settings.audit_log} cannot be written: {error.strerror}")


def _correlation() -> dict[str, str]:
    own = current()
    return {"request_id": own.request_id, "trace_id": own.trace.trace_id} if own else {}


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
        own = open_context(scope)
        if self.tracing:
            self._decide(own)

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own.status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(own, begun)]
            elif scope["method"] == "HEAD":
                message["body"] = b""  # pages have one; servers say so in their logs
            elif body := message.get("body"):
                own.body = body
                own.size += len(body)
            await send(message)

        metrics.inflight.inc()
        try:
            await self.app(scope, receive, recorded)
        except asyncio.CancelledError:
            self._left(own, scope, begun)
            raise
        except BaseException:
            self._finish(own, scope, begun)
            raise
        self._finish(own, scope, begun)

    def _left(self, own: Context, scope: Scope, begun: float) -> None:
        """Tells what became of a request whose client left: when the handler is through with it, not before."""
        own.status = own.status or LEFT
        if own.call is None or own.call.done():
            self._finish(own, scope, begun)
            return

        def finished(call: asyncio.Future[Any]) -> None:
            error = None if call.cancelled() else call.exception()
            if isinstance(error, Problem):
                own.problem = error
            elif not call.cancelled() and error is None:
                own.body = call.result()[2]
            self._finish(own, scope, begun)

        own.call.add_done_callback(finished)

    def _finish(self, own: Context, scope: Scope, begun: float) -> None:
        self._tell(own, scope, time.perf_counter() - begun)
        # An idle connection keeps its last context; from a problem's traceback hangs all that was read of a refused body.
        own.body, own.call, own.problem = b"", None, None

    def _headers(self, own: Context, begun: float) -> list[tuple[bytes, bytes]]:
        headers = []
        if own.operation:
            upstream = own.upstream_seconds * 1000
            gateway = (time.perf_counter() - begun) * 1000 - upstream
            asked = f"upstream;dur={upstream:.1f}, " if upstream else ""
            headers.append((b"server-timing", f"{asked}gateway;dur={gateway:.1f}".encode()))
        if own.problem and own.problem.kind.source == "upstream":
            headers.append((b"proxy-status", self._proxy_status(own.problem).encode()))
        return headers

    def _proxy_status(self, problem: Problem) -> str:
        """Whose fault it was, as RFC 9209 says it."""
        cause = problem.__cause__ if isinstance(problem.__cause__, Problem) else problem
        if problem.upstream_status:
            return f"{self.product}; received-status={problem.upstream_status}"
        return f"{self.product}; error={PROXY_ERRORS.get(cause.slug, 'http_response_incomplete')}"

    def _tell(self, own: Context, scope: Scope, seconds: float) -> None:
        method = metrics.method_label(scope["method"])
        if not own.operation:
            self._name_refused(own, scope)
        route = self.routes.get(own.operation) or _page_route(scope["path"])
        self._count(own, (method, route, own.status), seconds)
        fields = self._fields(own, scope, method, route, seconds)
        level = logging.DEBUG if route in QUIET else logging.INFO
        logs.event(log, level, f"{method} {route or '(no route)'} {own.status}", fields)
        if own.operation in self.changing:
            audit.entry(f"{own.operation} {fields['outcome']}", _audited(own, scope, fields))
        if self.tracing:
            self._export(own, method, route, seconds)

    def _name_refused(self, own: Context, scope: Scope) -> None:
        """Says what a request asked for that was refused before it was routed."""
        wanted, values = self.contract.find(scope["method"], scope["path"])
        if wanted:
            own.operation, own.path_values = wanted.id, "/".join(values)

    def _count(self, own: Context, key: tuple[str, str, int], seconds: float) -> None:
        metrics.inflight.dec()
        duration = self.durations.get(key)
        if duration is None:
            duration = self.durations[key] = metrics.requests.labels(*key)
        duration.observe(seconds)
        if own.outcome:
            metrics.idempotency.labels(own.outcome).inc()
        if own.problem:
            if own.problem.slug == "create-outcome-unknown":
                metrics.outcome_unknown.inc()
            if reason := SHED.get(own.problem.slug):
                metrics.shed.labels(reason).inc()

    def _fields(
        self, own: Context, scope: Scope, method: str, route: str, seconds: float
    ) -> dict[str, Any]:
        fields = {
            "request_id": own.request_id,
            "trace_id": own.trace.trace_id,
            "span_id": own.trace.span_id,
            "caller": own.caller.name[:100],
            "method": method,
            "route": route,
            "operation": own.operation,
            "status": own.status,
            "outcome": _outcome(own.status),
            "bytes": own.size,
            "seconds": round(seconds, 4),
        }
        if own.upstream_seconds:
            fields["upstream_status"] = own.upstream_status
            fields["upstream_seconds"] = round(own.upstream_seconds, 4)
        if own.problem:
            fields["problem"] = own.problem.slug
        if own.outcome:
            fields["idempotency"] = own.outcome
        if log.isEnabledFor(logging.DEBUG):
            fields["path"] = ascii(scope["path"][:200])[1:-1]
        return fields

    def _decide(self, own: Context) -> None:
        """Whether the request's spans are exported. Its first request opens a process's exporter: after every fork."""
        spans.open_exporter(self.contract.product, self.contract.version, self.tracing)
        if exporter := spans.exporter():
            own.trace = exporter.decide(own.trace)

    def _export(self, own: Context, method: str, route: str, seconds: float) -> None:
        attributes: spans.Attributes = {
            "http.request.method": method,
            "http.response.status_code": own.status,
            "url.scheme": "http",
        }
        if route:
            attributes["http.route"] = route
        if own.status >= 500:
            attributes["error.type"] = own.problem.slug if own.problem else str(own.status)
        if exporter := spans.exporter():
            name = f"{method} {route}".strip()
            exporter.record(own.trace, "server", name, time.time() - seconds, seconds, attributes)


def _audited(own: Context, scope: Scope, fields: dict[str, Any]) -> dict[str, Any]:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    subject = audit.subject(own.body) if own.problem is None else ""
    if not subject and own.problem is None and len(own.body) <= audit.MAX_PARSED:
        subject = audit.subject(legible(own.body))
    return {
        **fields,
        "id": subject or own.path_values[:128],
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
