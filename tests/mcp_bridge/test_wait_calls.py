"""A call with `wait`: what the REST service is asked, and what an agent is told, by a bridge in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from mcp import Client

from mcp_bridge import rest_client, waiting
from mcp_bridge.arguments import BadArguments, read_call
from mcp_bridge.tools import CallableTool
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID

pytestmark = pytest.mark.anyio
Make = Callable[..., AbstractAsyncContextManager[Client]]
LONGER = 2**31  # than any call may take
RUNNING = {"id": JOB_ID, "status": "RUNNING", "total_requests": 9, "completed_requests": 4}


@pytest.fixture(params=["legacy", "2026-07-28"])
def era(request: Any) -> str:
    return str(request.param)


async def get(client: Client, **given: Any) -> Any:
    return await client.call_tool("get-batch-job", {"job_id": JOB_ID, **given})


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        (30, 30),
        (600, 600),
        (10**30, 10**30),
        ("30", 30),
        (30.0, 30),
        ("30.0", 30),
        ("30s", 30),
        (" 20 Seconds ", 20),
        ("0.5 min", 30),
        ("2000 ms", 2),
        ("1h", 3600),
        (0.5, 1),
        (True, LONGER),
        ("true", LONGER),
        (False, 0),
        (0, 0),
        ("0", 0),
        (None, 0),
        ("", 0),
    ],
)
async def test_a_wait_is_understood_as_clients_write_it(
    wait: Any, seconds: int, tools: dict[str, CallableTool]
) -> None:
    asked = read_call(tools["get-batch-job"], {"job_id": JOB_ID, "wait": wait}, "")
    assert asked.wait == seconds


@pytest.mark.parametrize("wait", [-1, "-1", "soon", "forever", [30], {"seconds": 30}, "30 parsecs"])
async def test_a_wait_that_is_not_certain_is_refused(
    wait: Any, tools: dict[str, CallableTool]
) -> None:
    with pytest.raises(BadArguments, match="wait must be"):
        read_call(tools["get-batch-job"], {"job_id": JOB_ID, "wait": wait}, "")


@pytest.mark.parametrize(("timeout", "most"), [(50, 45), (20, 18), (300, 270), (1, None)])
async def test_the_longest_wait_follows_the_limit_of_a_call_and_is_told(
    timeout: float, most: int | None, bridge: Make, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bridge(timeout=timeout) as client:
        rest.answers(RUNNING)
        note = (await get(client)).structured_content["_note"]
        assert "prefer" not in rest.last.headers
        rest.answers({"status": "SUCCESS"})
        for wait in (3600, True, 1e300):
            await get(client, wait=wait)
            assert rest.last.headers.get("prefer") == (f"wait={most}" if most else None)
    again = f"with wait {most}" if most else "later"
    assert note.endswith(f" Call again {again}, or do other work first.")


async def test_what_is_not_final_says_so_whether_it_was_waited_for_or_not(
    bridge: Make, rest: Rest, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PACE", (0.01,))
    rest.answers(RUNNING, age="40")
    async with bridge(era) as client:
        results = [await get(client), await get(client, wait=1)]
        notes = {result.structured_content["_note"] for result in results}
    assert notes == {
        "RUNNING: 4 of 9 requests done; as seen 40 s ago: nothing newer could be had since."
        " Call again with wait 45, or do other work first."
    }


async def test_the_log_says_how_long_a_call_waited(
    bridge: Make, rest: Rest, caplog: pytest.LogCaptureFixture
) -> None:
    rest.answers({"status": "SUCCESS"})
    caplog.set_level("INFO", "mcp_bridge")
    async with bridge() as client:
        await get(client, wait=45)
        await get(client)
    waited, plain = [each.fields for each in caplog.records if hasattr(each, "fields")]
    assert 0 <= waited["waited_seconds"] <= waited["seconds"]
    assert "waited_seconds" not in plain


async def test_an_age_that_cannot_be_is_not_told(bridge: Make, rest: Rest, era: str) -> None:
    rest.answers(RUNNING, age="999999999")
    async with bridge(era) as client:
        note = (await get(client)).structured_content["_note"]
    assert note.startswith("RUNNING: 4 of 9 requests done. Call again")


async def test_a_note_of_the_arguments_stands_before_that_of_the_job(
    bridge: Make, rest: Rest
) -> None:
    rest.answers(RUNNING)
    async with bridge() as client:
        result = await get(client, toolCallId="x")
    note = result.structured_content["_note"]
    assert note.index("toolCallId") < note.index("RUNNING: 4 of 9")


async def test_the_bridge_s_own_token_is_no_state(bridge: Make, rest: Rest) -> None:
    rest.answers({**RUNNING, "status": "SECRETTOKEN"})
    async with bridge(rest_token="SECRETTOKEN") as client:
        result = await get(client)
    assert "SECRETTOKEN" not in str(result)


async def test_calls_that_wait_keep_no_other_call_waiting(
    bridge: Make, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create must be sent though as many wait as there are connections for others."""
    monkeypatch.setattr(rest_client, "MAX_CONNECTIONS", 1)
    arrived = anyio.Event()
    rest.answers({"status": "SUCCESS"})
    rest.hold, rest.on_arrival = asyncio.Event(), arrived.set
    async with bridge() as client, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(lambda: get(client, wait=45))
        await arrived.wait()
        while len(rest.arrived) < 3:
            await anyio.sleep(0)
        rest.hold, held = None, rest.hold
        assert not (await client.call_tool("list-batch-jobs", {})).is_error
        held.set()


async def test_who_finds_all_places_for_waiting_taken_is_told_and_sees_the_state_of_now(
    bridge: Make, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_client, "MAX_WAITING", 0)
    rest.answers(RUNNING)
    async with bridge() as client:
        result = await get(client, wait=45)
    assert "prefer" not in rest.last.headers
    note = result.structured_content["_note"]
    assert note.startswith("Too many calls wait at present, so this one did not. RUNNING: 4 of 9")
    assert note.endswith(" Call again later, or do other work first.")


async def test_over_a_stream_of_messages_progress_is_told_by_the_sdk(
    bridge: Make, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PACE", (0.01,))
    told: list[Any] = []

    async def progress(*given: Any) -> None:
        told.append(given)
        rest.answers({"status": "SUCCESS"})

    rest.answers(RUNNING)
    async with bridge("legacy") as client:  # of the other era, one in this process sends no token
        given = {"job_id": JOB_ID, "wait": 45}
        result = await client.call_tool("get-batch-job", given, progress_callback=progress)
    assert result.structured_content["status"] == "SUCCESS"
    assert told == [(4, 9, "RUNNING: 4 of 9 requests done")]
