"""A client that reads nothing of its answer is left, and what waited for it with it; one that reads slowly is served on."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.asgi import protocol  # type: ignore[import-untyped]

from serving import gunicorn_worker
from serving.gunicorn_worker import Protocol
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until

CONTENT = b"".join(
    b'{"custom_id": "%d", "body": {}, "padding": "%s"}\n' % (number, b"x" * (1 << 20))
    for number in range(24)
)
"""More than the buffers of two sockets hold."""


class Reader(Protocol):
    """A connection of which only the writing side matters."""

    def __init__(self, waiting: list[int]) -> None:
        self.aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: Any = SimpleNamespace(
            get_write_buffer_size=lambda: waiting.pop(0) if len(waiting) > 1 else waiting[0],
            abort=lambda: self.aborted.set_result(None),
        )
        self._flow_control = None
        self._h2_writer_protocol = None


@pytest.mark.parametrize(
    ("waiting", "left"),
    [
        pytest.param([100_000, 100_000], True, id="reads nothing"),
        pytest.param([100_000, 90_000, 90_000], True, id="stops reading"),
        pytest.param([*range(100_000, 60_000, -1)], False, id="reads slowly"),
    ],
)
def test_a_client_that_reads_nothing_for_a_while_is_left(
    monkeypatch: pytest.MonkeyPatch, waiting: list[int], left: bool
) -> None:
    monkeypatch.setattr(gunicorn_worker, "UNREAD", 0.01)

    async def read() -> bool:
        reader = Reader(waiting)
        reader.pause_writing()
        await asyncio.wait([reader.aborted], timeout=10 if left else 0.2)
        aborted = reader.aborted.done()
        reader.resume_writing()
        return aborted

    assert asyncio.run(read()) is left


def test_a_client_that_reads_on_in_time_is_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn_worker, "UNREAD", 0.01)

    async def read() -> bool:
        reader = Reader([100_000])
        reader.pause_writing()
        reader.resume_writing()
        await asyncio.sleep(0.1)
        return reader.aborted.done()

    assert asyncio.run(read()) is False


def test_no_name_of_a_connection_is_one_that_gunicorn_gives_another_meaning() -> None:
    source = inspect.getsource(protocol)
    ours = {name for name, value in vars(Protocol).items() if not callable(value)}
    assert "lingering" in ours
    assert {
        name for name in ours - {"__doc__", "__module__"} if re.search(rf"self\.{name}\b", source)
    } == set()


@pytest.fixture(scope="module")
def content(running_sandbox: Sandbox) -> Iterator[tuple[Gateway, str]]:
    """A gateway with one place for files, and the path of a large file's content."""
    with gateway_process(f"{running_sandbox.url}/v1", GATEWAY_TRANSFERS=1) as gateway:
        form = {"purpose": (None, "batch"), "file": ("a.jsonl", CONTENT)}
        uploaded = gateway.request("POST", "/v1/files", files=form)
        assert uploaded.status_code == 200, uploaded.text
        yield gateway, f"/v1/files/{uploaded.json()['id']}/content"


def slow_reader(gateway: Gateway, path: str) -> HTTPConnection:
    """A connection on which the answer has begun, and has to wait for its reader."""
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.settimeout(30)
    connection.sock.connect(("127.0.0.1", gateway.port))
    connection.request("GET", path)
    return connection


def test_a_connection_is_of_use_after_an_answer_that_was_read_slowly(
    content: tuple[Gateway, str],
) -> None:
    connection = slow_reader(*content)
    try:
        assert connection.getresponse().read() == CONTENT
        sock = connection.sock
        connection.request("GET", "/v1/batch/jobs")
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:9]) == (200, b'{"data":[')
        assert connection.sock is sock
    finally:
        connection.close()


def test_a_slow_reader_that_leaves_gives_its_place_free(content: tuple[Gateway, str]) -> None:
    gateway, path = content
    connection = slow_reader(gateway, path)
    answer = connection.getresponse()
    assert answer.read(len(CONTENT) // 2)
    assert gateway.get(path).status_code == 503
    connection.close()
    answer.close()
    wait_until(lambda: gateway.request("HEAD", path).status_code == 200)
