"""What is seen of a request to the upstream: measured once, wherever it comes from."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from openapi.contract import Operation
from telemetry import metrics, spans

from .problems import Problem
from .request_context import current


class UpstreamCall:
    """One request to the upstream and its answer, as a `with` block around both.

    `status` is 0 until an answer has begun; `error` is the kind of problem by which no answer was read, set by whoever
    runs the block unless it raises the Problem itself. `headers` continue the trace.
    """

    def __init__(self, operation: Operation, address: str) -> None:
        self.operation = operation
        self.address = address
        self.status = 0
        self.error = ""
        self.ctx = current()
        self.trace = self.ctx.trace.child()
        self.headers = self.trace.headers()

    def __enter__(self) -> UpstreamCall:
        self.begun = time.perf_counter()
        return self

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, Problem):
            self.error = error.slug
        if self.status >= 600:  # no status, which is found out when the answer is deciphered
            self.error = self.error or "upstream-bad-response"
        seconds = time.perf_counter() - self.begun
        self.ctx.upstream_status = self.status
        self.ctx.upstream_seconds += seconds
        status = str(self.status) if 100 <= self.status < 600 else ""
        _duration(self.operation, self.address, status, self.error).observe(seconds)
        if self.status == 429:
            metrics.upstream_ratelimited.inc()
        if exporter := spans.exporter():
            self._export(exporter, seconds)

    def _export(self, exporter: spans.Spans, seconds: float) -> None:
        operation = self.operation
        attributes: spans.Attributes = {
            "http.request.method": operation.upstream_method,
            "url.template": operation.upstream_path,
            "server.address": self.address,
        }
        if self.status:
            attributes["http.response.status_code"] = self.status
        if self.error or self.status >= 400:
            attributes["error.type"] = self.error or str(self.status)
        name = f"{operation.upstream_method} {operation.upstream_path}"
        exporter.record(self.trace, "client", name, time.time() - seconds, seconds, attributes)


_durations: dict[tuple[str, str, str, str], Any] = {}


def _duration(operation: Operation, address: str, status: str, error: str) -> Any:
    """The histogram of such calls; made once each, since finding one by its labels costs more than counting."""
    key = (operation.id, address, status, error)
    if key not in _durations:
        _durations[key] = metrics.upstream.labels(
            operation.upstream_method, operation.upstream_path, status, address, error
        )
    return _durations[key]
