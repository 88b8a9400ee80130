"""A client that reads nothing of its answer is left, and what waited for it with it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serving import gunicorn_worker
from serving.gunicorn_worker import Protocol


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
