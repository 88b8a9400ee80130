"""Files have places of their own: slow ones, however many, take nothing from job calls, and who leaves gives a place back."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from service.streams import IN_HAND
from tests.support.api import JOBS, job
from tests.support.file_upstream import FILES, FORM, Lines
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until

PLACES = 16
SIZE = 1 << 20
BEGUN = 3 * IN_HAND
"""Bytes of which some have left for the upstream."""


class SlowUpload:
    """An upload that stays where it is, until it is told to end or to leave."""

    def __init__(self, gateway: Gateway) -> None:
        form = Lines(SIZE)
        self.content = b"".join(form)
        head = (
            f"POST {FILES} HTTP/1.1\r\nHost: {gateway.address}\r\nContent-Length: {len(form)}\r\n"
        )
        self.connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        self.connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode())
        self.connection.sendall(self.content[:BEGUN])

    def end(self) -> bytes:
        """The beginning of the answer to all of it."""
        self.connection.sendall(self.content[BEGUN:])
        return self.connection.recv(65536)

    def leave(self) -> None:
        self.connection.close()


@pytest.fixture(scope="module")
def gateway(running_sandbox: Sandbox) -> Iterator[Gateway]:
    """It has fewer threads for job calls than places for files."""
    settings = {"GATEWAY_TRANSFERS": PLACES, "GATEWAY_THREADS": 2}
    with gateway_process(f"{running_sandbox.url}/v1", **settings) as running:
        yield running


@pytest.fixture
def slow(gateway: Gateway, sandbox: Sandbox) -> Iterator[list[SlowUpload]]:
    """One in every place."""
    with ExitStack() as leaving:
        uploads = [SlowUpload(gateway) for _ in range(PLACES)]
        for each in uploads:
            leaving.callback(each.leave)
        wait_until(lambda: gateway.inflight() == PLACES + 1)  # and the one that asks
        yield uploads
    wait_until(lambda: gateway.inflight() == 1)


def test_job_calls_are_answered_beside_slow_files_in_all_places(
    gateway: Gateway, slow: list[SlowUpload]
) -> None:
    answers = [gateway.post(JOBS, json=job()).status_code for _ in range(10)]
    answers += [gateway.get(JOBS).status_code for _ in range(10)]
    answers += [gateway.get(FILES).status_code]
    assert answers == [200] * 21


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_file_for_which_there_is_no_place_is_refused_for_now(
    gateway: Gateway, slow: list[SlowUpload], direction: str
) -> None:
    content = f"{FILES}/7c3e1f0a-52d4-4b7e-9a61-0f2c8d5b9e14/content"
    if direction == "up":
        answer = gateway.post(FILES, data=Lines(SIZE), headers=FORM)
    else:
        answer = gateway.get(content)
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["type"]) == (503, "/problems#overloaded")
    assert problem["retryable"] is True
    assert int(answer.headers["Retry-After"]) > 0


def test_who_leaves_ends_the_upload_upstream_and_gives_the_place_back(
    gateway: Gateway, sandbox: Sandbox, slow: list[SlowUpload]
) -> None:
    slow[0].leave()
    wait_until(lambda: gateway.inflight() == PLACES)
    assert gateway.post(FILES, data=Lines(SIZE), headers=FORM).status_code == 200
    wait_until(lambda: outcomes(sandbox).count("incomplete") == 1)
    assert outcomes(sandbox).count("kept") == 1


def outcomes(sandbox: Sandbox) -> list[str]:
    """What became of each upload."""
    return [entry["upload"]["outcome"] for entry in sandbox.ledger(path=FILES) if entry["upload"]]


def test_a_stop_waits_for_a_file_that_is_under_way(sandbox: Sandbox) -> None:
    with gateway_process(f"{sandbox.url}/v1") as gateway:
        upload = SlowUpload(gateway)
        wait_until(lambda: gateway.inflight() == 2)
        os.kill(gateway.pid, signal.SIGTERM)
        wait_until(lambda: not listens(gateway.port))
        assert upload.end().startswith(b"HTTP/1.1 200 ")
        upload.leave()
        gateway.process.wait(20)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
