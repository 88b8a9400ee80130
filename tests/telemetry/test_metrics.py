"""Metrics of several processes in memory that they share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from telemetry import metrics


@pytest.fixture(autouse=True)
def slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Room for three workers, as if this process had just been started."""
    monkeypatch.setattr(metrics, "_slots", [metrics.Slot()])
    monkeypatch.setattr(metrics, "_values", {})
    metrics.make_slots(3)
    metrics.use_slot(0)
    yield
    monkeypatch.undo()
    metrics.use_slot(0)
    metrics._incomplete.value = 0.0


@pytest.fixture
def counter(registry: None) -> Counter:
    return Counter("test_calls", "Calls", ("kind",), registry=metrics.REGISTRY)


@pytest.fixture
def registry() -> Iterator[None]:
    """Takes the test's own metrics out of the page again."""
    before = set(metrics.REGISTRY._collector_to_names)
    yield
    for collector in set(metrics.REGISTRY._collector_to_names) - before:
        metrics.REGISTRY.unregister(collector)


def page() -> dict[str, float]:
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(metrics.page("0").decode())
        for sample in family.samples
    }


def worker(slot: int | None, work: Callable[[], None]) -> int:
    """The status of a process forked from this one that does `work`, counting in `slot`."""
    if (child := os.fork()) == 0:
        try:
            metrics.use_slot(slot)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def test_workers_count_together_also_what_only_one_of_them_has_met(counter: Counter) -> None:
    counter.labels("both").inc()
    assert worker(1, lambda: counter.labels("both").inc(2)) == 0
    assert worker(2, lambda: counter.labels("one").inc(3)) == 0
    shown = page()
    assert (shown["test_calls_total/both"], shown["test_calls_total/one"]) == (3, 3)


def test_what_a_killed_worker_counted_stays_and_its_successor_goes_on_with_it(
    counter: Counter,
) -> None:
    def die() -> None:
        counter.labels("a").inc(5)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(40):
        assert worker(1, die) == signal.SIGKILL
        metrics.clear_gauges(1)
    assert page()["test_calls_total/a"] == 200


def test_a_histogram_of_all_workers_is_one(registry: None) -> None:
    histogram = Histogram("test_took", "Time", ("kind",), registry=metrics.REGISTRY, buckets=(1, 2))
    for slot, seconds in ((1, 0.5), (2, 1.5), (1, 3.0)):
        assert worker(slot, partial(histogram.labels("a").observe, seconds)) == 0
        assert worker(3, partial(lambda time: histogram.labels("b").observe(time), seconds)) == 0
    shown = page()
    for kind in "ab":
        buckets = [shown[f"test_took_bucket/{kind}/{least}"] for least in ("1.0", "2.0", "+Inf")]
        assert buckets == [1, 2, 3]
        assert shown[f"test_took_count/{kind}"] == 3
        assert shown[f"test_took_sum/{kind}"] == 5.0


def test_a_worker_whose_memory_for_metrics_is_full_goes_on_and_the_page_says_what_it_is(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SLOT_SIZE", 4096)
    metrics.make_slots(4)

    def count() -> None:
        for number in range(200):
            counter.labels(str(number)).inc()

    assert page()["gateway_metrics_incomplete"] == 0
    assert worker(4, count) == 0
    shown = page()
    assert shown["gateway_metrics_incomplete"] == 1
    assert 0 < sum(value for name, value in shown.items() if "test_calls_total" in name) < 200


def test_a_worker_too_many_goes_on_and_the_page_says_that_it_lacks_something(
    counter: Counter,
) -> None:
    taken = {1, None, 3}
    assert metrics.free_slot(taken) == 2
    assert page()["gateway_metrics_incomplete"] == 0
    assert metrics.free_slot({1, 2, 3}) is None
    assert worker(None, lambda: counter.labels("a").inc()) == 0
    shown = page()
    assert (shown["gateway_metrics_incomplete"], shown.get("test_calls_total/a")) == (1, None)


def test_a_machine_without_memory_for_metrics_starts_all_the_same(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SLOT_SIZE", 1 << 60)
    metrics.make_slots(4)
    assert (metrics.free_slot({1, 2, 3}), page()["gateway_metrics_incomplete"]) == (None, 1)
