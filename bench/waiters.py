"""What a thousand callers that wait for a final state cost: what other calls feel of them, and the memory that each takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from uuid import UUID

from bench import targets, work
from bench.beside import compare_beside
from bench.load import Caller, WrongAnswer
from bench.processes import Server
from bench.run import Run
from bench.work import Request

OURS = targets.GATEWAY.name
WAITERS = 1_000
JOBS = 10
"""So many jobs they wait for, none of which ends."""

LONGEST = 45
"""Seconds of a wait, which is longer than a round; who is answered all the same asks again."""

COUNTED = b"\ngateway_inflight_waits "


def jobs_beside_waiters(run: Run) -> None:
    """Get a job beside 1,000 callers that wait for ten others, and alone; the memory of each."""

    with run.started(targets.GATEWAY) as servers:
        server = servers[OURS]
        before = server.resident()
        with waiters(server):
            held = server.resident() - before
        server.wait_until_idle()
        compare_beside(
            *(run, "jobs_beside_waiters", server, waiters, f"{WAITERS:,} waiters"),
            {"p99 ms": 1.1, "p50 ms": None, "answers/s": None},
            seconds=2 * run.plan.seconds,  # a single client's slowest hundredth is few answers
        )
    each = held * 1024 / WAITERS
    run.figure(f"{WAITERS:,} waiters for {JOBS} jobs", "memory of each", each, "KiB", at_most=40)


@contextmanager
def waiters(server: Server, count: int = WAITERS) -> Iterator[None]:
    """All of them wait while the `with` block runs; WrongAnswer at its end when one was answered otherwise than by a job."""
    over = Event()
    with ThreadPoolExecutor(1) as pool, Caller(server) as caller:
        waiting = pool.submit(asyncio.run, _wait(server.port, count, over))
        try:
            while not waiting.done() and _waiting(caller) < count:
                over.wait(0.1)
            yield
        finally:
            over.set()
        waiting.result()


def _waiting(caller: Caller) -> int:
    _, _, page = caller.call(Request("/metrics"))
    return int(float(page.partition(COUNTED)[2].split()[0]))


async def _wait(port: int, count: int, over: Event) -> None:
    """Returns when it is over, with WrongAnswer when a waiter ended before."""
    tasks = [asyncio.create_task(_waiter(port, number)) for number in range(count)]
    while not over.is_set() and not any(task.done() for task in tasks):
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def _waiter(port: int, number: int) -> None:
    """Waits again and again for one of the jobs."""
    path = f"{work.JOBS_PATH}/{UUID(int=number % JOBS, version=4)}"
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait={LONGEST}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            content = await reader.readexactly(work.JOB_BYTES) if b" 200 " in answer else b""
            if content != work.JOB or b"preference-applied:" not in answer.lower():
                raise WrongAnswer(f"a waiter was answered {answer[:300]!r}")
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
