"""OpenTelemetry spans of what has happened: an optional extra, imported only by processes that export.

Ids are those of `traces`, so that logs, headers and spans agree whether or not anything is exported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
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


def exporter() -> Spans | None:
    """What this process exports with; None when it exports nothing."""
    return _exporter


def open_exporter(service: str, version: str, kind: str) -> None:
    """Has this process, which must not fork any more, export with `kind` (see `wanted`); later calls change nothing.

    When the extra is not installed, a line in the log says so, and nothing is exported.
    """
    global _exporter, _opened
    with _opening:
        if not _opened:
            _opened = True
            try:
                _exporter = Spans(service, version, kind)
            except ImportError as error:
                log.error("no traces: %s; pip install 'mistral-batch-gateway[otel]'", error)
            except RuntimeError as error:  # there is no thread for the exporter
                log.error("no traces: %s", error)


_opening = threading.Lock()
_opened = False
_exporter: Spans | None = None


class Spans:
    """Exports spans in the background. Thread-safe."""

    def __init__(self, service: str, version: str, exporter: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        named = Resource.create({"service.version": version})
        if str(named.attributes["service.name"]).startswith("unknown_service"):
            named = named.merge(Resource({"service.name": service}))
        self.provider = TracerProvider(resource=named)
        if exporter == "console":
            self.processor = BatchSpanProcessor(ConsoleSpanExporter())
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            self.processor = BatchSpanProcessor(OTLPSpanExporter())
        self.provider.add_span_processor(self.processor)

    def decide(self, trace: Trace) -> Trace:
        """`trace` with the sampler's decision in its flags."""
        decision = self.provider.sampler.should_sample(_parent(trace), int(trace.trace_id, 16), "")
        flags = trace.flags & ~SAMPLED | (SAMPLED if decision.decision.is_sampled() else 0)  # type: ignore[no-untyped-call]
        return msgspec.structs.replace(trace, flags=flags)

    def record(
        self,
        trace: Trace,
        kind: str,
        name: str,
        begun: float,
        seconds: float,
        attributes: Attributes,
    ) -> None:
        """Exports a span that has ended, if its trace is sampled: `kind` is server or client, `begun` wall-clock seconds.

        An attribute `error.type` marks a failure.
        """
        if not trace.flags & SAMPLED:
            return
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanKind, Status, StatusCode

        parent = _span_context(trace, trace.parent_id) if trace.parent_id else None
        self.processor.on_end(
            ReadableSpan(
                name,
                context=_span_context(trace, trace.span_id),
                parent=parent,
                resource=self.provider.resource,
                attributes=attributes,
                kind=SpanKind.SERVER if kind == "server" else SpanKind.CLIENT,
                status=Status(StatusCode.ERROR if "error.type" in attributes else StatusCode.UNSET),
                start_time=int(begun * 1e9),
                end_time=int((begun + seconds) * 1e9),
                instrumentation_scope=InstrumentationScope("mistral-batch-gateway"),
            )
        )


def _parent(trace: Trace) -> Any:
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if not trace.parent_id:
        return None
    return set_span_in_context(NonRecordingSpan(_span_context(trace, trace.parent_id, remote=True)))


def _span_context(trace: Trace, span_id: str, remote: bool = False) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(
        int(trace.trace_id, 16), int(span_id, 16), remote, TraceFlags(trace.flags), state
    )
