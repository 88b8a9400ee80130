"""Prometheus metrics: what exists, the memory in which all workers count, and the page that shows their sum.

Names and buckets are OpenTelemetry's for HTTP (semantic conventions, stable). Label values are route templates, known
methods and status codes: their number depends on the contract, never on what clients send.

prometheus-client's own way for several processes are files mapped into memory. When their file system is full, the page
that is touched next ends the process with SIGBUS, and every killed worker leaves its files. Memory that is there before a
fork needs no file system. It is cut into slots, and a slot holds the values of one worker at a time: one process writes, all
read. The next worker goes on with the slot of one that ended, and with its counts. So nothing is merged, no count is lost or
goes back, and slots are as few as workers at once.
"""

from __future__ import annotations

import json
import logging
import mmap
import platform
import threading
from collections.abc import Collection
from functools import cache
from typing import Any

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

from .shared_number import shared_number

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SLOT_SIZE = 2 << 20
"""Bytes of a slot, enough for a thousand label sets of a histogram; memory is taken only for what is used."""

log = logging.getLogger("gateway.metrics")

_incomplete = shared_number()
"""1 once there was no memory for a value, or no slot for a worker; for all workers forked after this was made."""


class Slot:
    """Values by key, in cells of eight bytes: the last one in use; then for each value its key's length, its key, itself."""

    def __init__(self) -> None:
        """OSError without memory for it."""
        self._bytes = memoryview(mmap.mmap(-1, SLOT_SIZE))
        self._integers = self._bytes.cast("q")
        self.cells = self._bytes.cast("d")
        self.index: dict[bytes, int] = {}  # key -> number of its value's cell, as far as read
        self._end = 0

    def read_keys(self) -> None:
        """Brings `index` up to date with what another process added."""
        while self._end < self._integers[0]:
            length = self._integers[self._end + 1]
            begin = 8 * (self._end + 2)
            self._end += 2 + -(-length // 8)
            self.index[bytes(self._bytes[begin : begin + length])] = self._end

    def cell(self, key: bytes) -> int | None:
        """The number of a value's cell, which is made with 0 when there is none; None when the slot is full."""
        self.read_keys()
        if key in self.index:
            return self.index[key]
        begin = 8 * (self._end + 2)
        end = self._end + 2 + -(-len(key) // 8)
        if end >= len(self.cells):
            return None
        self._integers[self._end + 1] = len(key)
        self._bytes[begin : begin + len(key)] = key
        # Last, so that readers see it whole, and a killed writer leaves nothing half made.
        self._integers[0] = end
        self.read_keys()
        return end


_lock = threading.Lock()
_slots = [Slot()]  # the first is that of the process that forks the others
_slot: Slot | None = _slots[0]  # this process's
_values: dict[bytes, Value] = {}


class Value:
    """One number of a metric, as the library's `values.ValueClass` makes it. Thread-safe. Of gauges, only sums over living workers."""

    _multiprocess = True  # what the library asks before it offers what only one process can have

    def __init__(
        self,
        kind: str,
        metric: str,
        name: str,
        _label_names: Collection[str],
        label_values: Collection[str],
        _help: str,
        **_: Any,
    ) -> None:
        self._key = json.dumps([kind, metric, name, *label_values]).encode()
        with _lock:
            _values[self._key] = self
            self.enter_slot()
        if self._left_out:
            _report_incomplete("its memory for metrics is full")

    def enter_slot(self) -> None:
        """Goes on with what this process's slot has; without room in it, counts in vain."""
        cell = _slot.cell(self._key) if _slot else None
        self._left_out = cell is None
        if _slot and cell:
            self._cells, self._cell = _slot.cells, cell
        else:
            self._cells, self._cell = memoryview(bytearray(8)).cast("d"), 0

    def inc(self, amount: float) -> None:
        with _lock:
            self._cells[self._cell] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        with _lock:
            self._cells[self._cell] = value

    def get(self) -> float:
        """The sum over all workers, as far as their keys were read."""
        return sum(slot.cells[slot.index[self._key]] for slot in _slots if self._key in slot.index)

    def get_exemplar(self) -> None:
        """None: exemplars are not kept."""


def make_slots(workers: int) -> None:
    """Takes memory for so many workers at a time, to be called before they are forked."""
    try:
        while len(_slots) <= workers:
            _slots.append(Slot())
    except OSError as error:
        _report_incomplete(str(error))


def free_slot(taken: Collection[int | None]) -> int | None:
    """The number of a slot for a worker that is about to be forked, none of `taken`; None when there is no more."""
    number = next((number for number in range(1, len(_slots)) if number not in taken), None)
    if number is None:
        _report_incomplete("there are too many workers at once")
    return number


def use_slot(number: int | None) -> None:
    """Has this process, which was just forked, count in a slot, from what is there."""
    global _lock, _slot
    _lock = threading.Lock()  # a thread of the parent may have held it
    _slot = None if number is None else _slots[number]
    for value in _values.values():
        value.enter_slot()


def clear_gauges(number: int | None) -> None:
    """Sets the gauges of a process that ended, and whose slot this was, to 0; what it counted stays counted."""
    if number is not None:
        slot = _slots[number]
        slot.read_keys()
        for key, cell in slot.index.items():
            if json.loads(key)[0] == "gauge":
                slot.cells[cell] = 0.0


def _report_incomplete(reason: str) -> None:
    if not _incomplete.value:
        _incomplete.value = 1.0
        log.error("not everything is in the metrics any more: %s", reason)


# Before a metric is made: what the library keeps values in, and that none says when this process first had it.
prometheus_client.values.ValueClass = Value
disable_created_metrics()  # type: ignore[no-untyped-call]

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
requests = Histogram("http_server_request_duration_seconds", "Requests, by the time until their answer was sent, without what they waited for a final state", _HTTP, registry=REGISTRY, buckets=BUCKETS)
upstream = Histogram("http_client_request_duration_seconds", "Requests to the upstream, by the time until their answer was read; without a status code: error_type says why", (*_HTTP, "server_address", "error_type"), registry=REGISTRY, buckets=BUCKETS)
inflight = Gauge("gateway_inflight_requests", "Requests that are being answered, but for those that wait for a final state", registry=REGISTRY)
inflight_transfers = Gauge("gateway_inflight_transfers", "Requests of these whose body or answer is passed on as it comes", registry=REGISTRY)
inflight_waits = Gauge("gateway_inflight_waits", "Requests that wait for a final state", registry=REGISTRY)
wait_places = Gauge("gateway_wait_places", "Requests that may wait for a final state at a time", registry=REGISTRY)
looks = Counter("gateway_looks", "Looks for those that wait for a final state, each an upstream request or more", registry=REGISTRY)
transferred = Counter("gateway_transferred_bytes", "Bytes of bodies and answers that were passed on as they came, by direction as callers see it", ("direction",), registry=REGISTRY)
shed = Counter("gateway_shed", "Requests turned away unserved, by reason", ("reason",), registry=REGISTRY)
idempotency = Counter("gateway_idempotency", "Calls with an Idempotency-Key, by what became of them", ("outcome",), registry=REGISTRY)
outcome_unknown = Counter("gateway_create_outcome_unknown", "Calls that may or may not have been carried out", registry=REGISTRY)
upstream_ratelimited = Counter("gateway_upstream_ratelimited", "Answers with status 429 from the upstream", registry=REGISTRY)
lines_dropped = Counter("gateway_log_lines_dropped", "Lines that were lost because their destination took none, by log", ("log",), registry=REGISTRY)
incomplete = Gauge("gateway_metrics_incomplete", "1 when this page lacks something, because there was no memory for it", registry=REGISTRY)
# fmt: on
incomplete.set_function(lambda: _incomplete.value)


@cache
def labelled(histogram: Histogram, *labels: str | int) -> Any:
    """The child of `histogram` with these labels; kept, since finding one costs more than counting."""
    return histogram.labels(*labels)


def page(version: str) -> bytes:
    """The metrics of this process and of all workers that it shares memory with, in Prometheus's text format."""
    for name, labels in _elsewhere():
        REGISTRY._names_to_collectors[name].labels(*labels)  # type: ignore[attr-defined]
    build = CollectorRegistry()
    info = Info("gateway_build", "What runs", registry=build)
    info.info({"version": version, "python": platform.python_version()})
    return generate_latest(REGISTRY) + generate_latest(build)


def _elsewhere() -> set[tuple[str, tuple[str, ...]]]:
    """Metric and label values of what only other workers have."""
    with _lock:
        for slot in _slots:
            slot.read_keys()
        keys = {key for slot in _slots for key in slot.index} - _values.keys()
    found = (json.loads(key) for key in keys)
    # A bucket has a label more than the metric that it is part of.
    return {
        (metric, tuple(labels))
        for _, metric, name, *labels in found
        if not name.endswith("_bucket")
    }
