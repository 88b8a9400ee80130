"""What is in memory for callers that wait: an answer once for all who wait for it, and nothing large between two looks."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
from contextlib import ExitStack
from threading import Event
from typing import Any

import httpx
import responses

from service.flask_dispatch import Response
from service.waits import KEPT
from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID, JOBS
from tests.support.gateway import gateway_process
from tests.support.memory import MEBIBYTE, Memory
from tests.support.processes import wait_until
from tests.support.upstreams import Received, echo_upstream

BODY = b'{"status": "SUCCESS", "outputs": "%s"}' % (b"x" * 16 * MEBIBYTE)
REQUEST = f"GET {JOBS}/{JOB_ID}?inline=true HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=40\r\nConnection: close\r\n\r\n"
CALLERS = 30
LONG = {"Prefer": "wait=40"}


def test_results_that_many_wait_for_are_in_memory_once() -> None:
    over = Event()

    def when_over(_: Received) -> tuple[int, str, bytes]:
        over.wait(20)
        return 200, "application/json", BODY

    with (
        echo_upstream() as upstream,
        gateway_process(f"http://127.0.0.1:{upstream.port}/v1") as gateway,
        ExitStack() as connections,
    ):
        upstream.answer = when_over
        address = ("127.0.0.1", gateway.port)
        memory = Memory(gateway.workers)
        callers = [
            connections.enter_context(socket.create_connection(address, 20)) for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.sendall(REQUEST.encode())
        wait_until(lambda: gateway.inflight() == CALLERS + 1)
        over.set()
        begun = [caller.recv(1024) for caller in callers]
        assert {piece[:15] for piece in begun} == {b"HTTP/1.1 200 OK"}
        # Each has begun to be answered by now, and reads no more.
        assert memory.peak - memory.start < 4 * len(BODY)
        whole = begun[0]
        while piece := callers[0].recv(1 << 20):
            whole += piece
        assert whole.partition(b"\r\n\r\n")[2] == BODY


def test_a_large_answer_that_is_not_final_is_nowhere_in_memory_between_two_looks(
    app: Any, mistral: responses.RequestsMock
) -> None:
    body = b'{"status": "RUNNING", "metadata": "%s"}' % (b"x" * 2 * KEPT)
    mistral.get(re.compile(f"{UPSTREAM}{JOBS}/.*"), body=body, content_type="application/json")

    def held() -> bool:
        found = [each for each in gc.get_objects() if isinstance(each, Response)]
        return any(len(each.content) == len(body) for each in found)

    async def waiting() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as one:
            paths = [f"{JOBS}/{JOB_ID[:-1]}{number}" for number in range(8)]
            tasks = [asyncio.create_task(one.get(path, headers=LONG)) for path in paths]
            async with asyncio.timeout(10):
                while len(mistral.calls) < len(paths) or held():
                    await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(waiting())
