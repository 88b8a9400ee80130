"""OpenTelemetry spans of what has happened: an optional extra, whose packages are imported only by processes that export.

Ids are those of `trace_context`, so that logs, headers and spans agree whether or not anything is exported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from .trace_context import Trace

SAMPLED = 1

log = logging.getLogger("gateway.spans")

Attributes = dict[str, str | int]


def wanted(environ: Mapping[str, str]) -> str:
    """Where OpenTelemetry's own variables want traces to go: otlp, console, or empty for nowhere."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    target = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    off = exporter == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if off or not (exporter or any(environ.get(name) for name in target)):
        return ""
    return "console" if exporter == "console" else "otlp"


def open_exporter(service: str, version: str, kind: str) -> None:
    """Has this process, which must not fork any more, export with `kind` (see `wanted`); later calls change nothing.

    When the extra is not installed, a line in the log says so, and nothing is exported.
    """
    global exporter, _opened
    with _opening:
        if not _opened:
            _opened = True
            try:
                exporter = Spans(service, version, kind)
            except ImportError as error:
                log.error(
                    "no traces: %s; install requirements-otel.lock (docs/observability.md, Traces)",
                    error,
                )
            except RuntimeError as error:  # there is no thread for the exporter
                log.error("no traces: %s", error)


exporter: Spans | None = None
"""What this process exports with; None when it exports nothing."""

_opening = threading.Lock()
_opened = False


class Spans:
    """Makes spans by the SDK's tracer, and exports them in the background when they end. Thread-safe."""

    def __init__(self, service: str, version: str, exporter: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class GivenIds(RandomIdGenerator):
            def generate_trace_id(self) -> int:
                return int(_starting.get().trace_id, 16)

            def generate_span_id(self) -> int:
                return int(_starting.get().span_id, 16)

        resource = Resource.create({"service.version": version})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": service}))
        self.provider = TracerProvider(resource=resource, id_generator=GivenIds())
        if exporter == "console":
            self.provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self.provider.get_tracer("mistral-batch-gateway")

    def start(self, trace: Trace, kind: str) -> tuple[Trace, Any]:
        """`trace` with the sampler's decision in its flags, and its span, which begins now; `kind` is server or client."""
        from opentelemetry.trace import SpanKind

        _starting.set(trace)
        span = self.tracer.start_span("", _parent(trace, kind == "server"), SpanKind[kind.upper()])
        sampled = span.get_span_context().trace_flags & SAMPLED
        return msgspec.structs.replace(trace, flags=trace.flags & ~SAMPLED | sampled), span


def end(span: Any, name: str, attributes: Attributes) -> None:
    """Ends what `Spans.start` gave; an attribute `error.type` marks a failure."""
    from opentelemetry.trace import StatusCode

    span.update_name(name)
    span.set_attributes(attributes)
    if "error.type" in attributes:
        span.set_status(StatusCode.ERROR)
    span.end()


_starting: ContextVar[Trace] = ContextVar("starting")
"""Whose ids the span gets that is started next."""


def _parent(trace: Trace, remote: bool) -> Any:
    """The context of the span above `trace`'s; None for the first of a trace."""
    from opentelemetry import trace as api

    if not trace.parent_id:
        return None
    state = api.TraceState.from_header([trace.state]) if trace.state else None
    ids = int(trace.trace_id, 16), int(trace.parent_id, 16)
    parent = api.SpanContext(*ids, remote, api.TraceFlags(trace.flags), state)
    return api.set_span_in_context(api.NonRecordingSpan(parent))
