"""What the store failed at is repeated until it answers, in its order, by a thread that then ends; never without bound."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service import retry_queue
from service.retry_queue import RetryQueue
from service.store import StoreUnavailable
from tests.support.processes import wait_until


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry_queue, "PAUSE", 0.001)
    yield
    wait_until(lambda: all(thread.name != "store-retries" for thread in threading.enumerate()))


class Failing:
    """An operation that fails until it may succeed; `tries` counts."""

    def __init__(self, done: list[Any]) -> None:
        self.may = threading.Event()
        self.tries = 0
        self.done = done

    def __call__(self) -> None:
        self.tries += 1
        if not self.may.is_set():
            raise StoreUnavailable("not yet")
        self.done.append(self)


def test_operations_are_repeated_until_they_succeed_and_carried_out_in_their_order() -> None:
    done: list[Any] = []
    first, second = Failing(done), Failing(done)
    queue = RetryQueue(60)
    queue.add(first)
    queue.add(second)
    second.may.set()
    wait_until(lambda: first.tries > 3)
    assert done == []
    first.may.set()
    wait_until(lambda: len(done) == 2)
    assert done == [first, second]


def test_what_fails_for_longer_than_its_patience_is_given_up() -> None:
    done: list[Any] = []
    hopeless, next_one = Failing(done), Failing(done)
    next_one.may.set()
    queue = RetryQueue(0)
    queue.add(hopeless)
    queue.add(next_one)
    wait_until(lambda: done == [next_one])
    assert hopeless.tries == 1


def test_no_more_operations_are_kept_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_queue, "LIMIT", 2)
    done: list[Any] = []
    operations = [Failing(done) for _ in range(3)]
    queue = RetryQueue(60)
    for operation in operations:
        queue.add(operation)
    for operation in operations:
        operation.may.set()
    wait_until(lambda: len(done) == 2)
    assert done == operations[:2]


def test_a_process_that_may_have_no_more_threads_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[Any] = []
    operation = Failing(done)
    operation.may.set()
    queue = RetryQueue(60)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        queue.add(operation)
    queue.add(operation)
    wait_until(lambda: done == [operation])
