"""What hostile creates cost a worker, as the operating system counts it; the shipped container is large enough for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.api import JOBS
from tests.support.gateway import Stack, gateway_process
from tests.support.memory import HOSTILE, MEBIBYTE, SIZE, Memory, container_limit, create, repeated
from tests.support.processes import sandbox_process

HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A gateway of two workers, as its container has it."""
    with (
        sandbox_process(speed=0) as sandbox,
        gateway_process(f"{sandbox.url}/v1", WEB_CONCURRENCY=2, anew=True) as gateway,
    ):
        yield Stack(gateway, sandbox)


def ask(stack: Stack, body: bytes) -> tuple[int, Any]:
    answer = stack.gateway.post(JOBS, data=body, headers=HEADERS)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_body_that_is_refused_takes_no_more_than_twice_its_size(stack: Stack, kind: str) -> None:
    made, pointer, sentence = HOSTILE[kind]
    body = made(SIZE // 2)
    memory = Memory(stack.gateway.workers)
    status, problem = ask(stack, body)
    grown = memory.peak - memory.start
    (fault,) = problem["errors"]
    assert (status, fault["pointer"]) == (422, f"/body{pointer}")
    assert fault["detail"].startswith(sentence)
    assert grown < 2 * len(body) + 16 * MEBIBYTE


def test_four_at_once_stay_within_the_shipped_container_and_leave_nothing(stack: Stack) -> None:
    kinds = ("objects", "empty objects", "members", "a long text")
    bodies = [HOSTILE[kind][0](SIZE) for kind in kinds]
    memory = Memory([stack.gateway.process.pid, *stack.gateway.workers])
    for _ in range(2):
        with ThreadPoolExecutor(4) as clients:
            answers = [*clients.map(lambda body: ask(stack, body)[0], bodies)]
        assert answers == [422] * 4
    assert memory.peak < container_limit("rest")
    assert memory.now < memory.start + 4 * SIZE


def test_what_nobody_looks_at_is_not_built(stack: Stack) -> None:
    inside, beside = repeated(b"{}", SIZE // 4), repeated(b"[]", SIZE // 4)
    body = create(b'{"body": {"a": [%b]}, "b": [%b]}' % (inside, beside))
    memory = Memory(stack.gateway.workers)
    assert ask(stack, body)[0] == 200
    assert memory.peak - memory.start < 4 * len(body)  # on its way upstream it is copied
