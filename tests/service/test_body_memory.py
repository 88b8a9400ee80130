"""The memory that large bodies take: bounded, and given back when nobody needs the body any more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from service import request_reader
from service.app import create_app
from service.config import Settings
from service.request_reader import LARGE
from serving.body_buffer import MemoryBudget, OutOfMemory, Reservation
from tests.conftest import UPSTREAM
from tests.support.api import JOBS


def test_a_body_for_which_there_is_no_memory_is_refused_until_another_has_gone() -> None:
    budget = MemoryBudget(10)
    one, two = Reservation(budget), Reservation(budget)
    one.resize(6)
    with pytest.raises(OutOfMemory):
        two.resize(5)
    one.release()
    two.resize(10)
    two.release()
    assert budget.reserved == 0


def test_a_body_keeps_its_memory_while_its_call_goes_on_although_its_client_has_left() -> None:
    async def left() -> list[int]:
        budget = MemoryBudget(10)
        reservation, call = Reservation(budget), asyncio.get_running_loop().create_future()
        reservation.resize(6)
        reservation.release(call)
        meanwhile = budget.reserved
        call.set_result(None)
        await asyncio.sleep(0)
        return [meanwhile, budget.reserved]

    assert asyncio.run(left()) == [6, 0]


@pytest.mark.parametrize(("key", "status"), [(None, 200), ("k", 503)])
def test_a_create_with_a_key_takes_memory_for_its_copy_too(
    key: str | None,
    status: int,
    settings: Settings,
    mistral: RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is the one that is tagged."""
    body = json.dumps({"endpoint": "/v1/ocr", "requests": [{"body": {"x": "y" * LARGE}}]})
    monkeypatch.setattr(request_reader, "BODIES", 1.5 * len(body) / settings.max_body)
    client = TestClient(create_app(settings), base_url="http://127.0.0.1:8080")
    if status == 200:
        mistral.post(UPSTREAM + JOBS, json={"id": "1"})
    headers: dict[str, Any] = {"Content-Type": "application/json"}
    headers |= {"Idempotency-Key": key} if key else {}
    assert client.post(JOBS, content=body, headers=headers).status_code == status
