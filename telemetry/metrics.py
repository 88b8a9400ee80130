"""Prometheus metrics: what exists, and the page that shows all workers of a server.

Names and buckets are OpenTelemetry's for HTTP (semantic conventions, stable). Label values are route templates, known
methods and status codes: their number depends on the contract, never on what clients send.
"""

from __future__ import annotations

import platform

import prometheus_client.values
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from . import values

# Before a metric is made: what the library keeps values in, and that none says when this process first had it.
prometheus_client.values.ValueClass = values.Value
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"}
)
OTHER = "_OTHER"

REGISTRY = CollectorRegistry()
"""This process's metrics, apart from the library's own registry, so that `/metrics` shows what is documented."""

_HTTP = ("http_request_method", "http_route", "http_response_status_code")

# A table: one row, one line.
# fmt: off
requests = Histogram("http_server_request_duration_seconds", "Requests, by the time until their answer was sent", _HTTP, registry=REGISTRY, buckets=BUCKETS)
upstream = Histogram("http_client_request_duration_seconds", "Requests to the upstream, by the time until their answer was read; without a status code: error_type says why", (*_HTTP, "server_address", "error_type"), registry=REGISTRY, buckets=BUCKETS)
inflight = Gauge("gateway_inflight_requests", "Requests that are being answered", registry=REGISTRY)
shed = Counter("gateway_shed", "Requests turned away unserved, by reason", ("reason",), registry=REGISTRY)
idempotency = Counter("gateway_idempotency", "Calls with an Idempotency-Key, by what became of them", ("outcome",), registry=REGISTRY)
outcome_unknown = Counter("gateway_create_outcome_unknown", "Calls that may or may not have been carried out", registry=REGISTRY)
upstream_ratelimited = Counter("gateway_upstream_ratelimited", "Answers with status 429 from the upstream", registry=REGISTRY)
lines_dropped = Counter("gateway_log_lines_dropped", "Lines that were lost because their destination took none, by log", ("log",), registry=REGISTRY)
incomplete = Gauge("gateway_metrics_incomplete", "1 when this page lacks something, because there was no memory for it", registry=REGISTRY)
# fmt: on
incomplete.set_function(lambda: values.incomplete.value)


def method_label(method: str) -> str:
    """`method` as a label: itself when HTTP has it, otherwise `_OTHER`."""
    return method if method in METHODS else OTHER


def page(version: str) -> bytes:
    """The metrics of this process and of all workers that it shares memory with, in Prometheus's text format."""
    for name, labels in values.elsewhere():
        REGISTRY._names_to_collectors[name].labels(*labels)  # type: ignore[attr-defined]
    own = CollectorRegistry()
    built = Info("gateway_build", "What runs", registry=own)
    built.info({"version": version, "python": platform.python_version()})
    return generate_latest(REGISTRY) + generate_latest(own)
