"""Results of jobs at the sandbox, through the REST service, as an agent reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mcp import Client

from mcp_bridge.config import Settings
from mcp_bridge.server import build_server
from openapi.contract import load
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, sandbox_process

pytestmark = pytest.mark.anyio
MODEL = "mistral-small-latest"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_process(speed=0) as running:
        yield running


@pytest.fixture(scope="module")
def service(sandbox: Sandbox) -> Iterator[Gateway]:
    with gateway_process(f"{sandbox.url}/v1") as running:
        yield running


@pytest.fixture
async def client(service: Gateway, sandbox: Sandbox) -> AsyncIterator[Client]:
    sandbox.reset()
    with ThreadPoolExecutor(1, "reading") as reading:
        server = build_server(load(), Settings(rest_url=service.url), reading)
        async with Client(server) as session:
            yield session


def request(name: str, text: str) -> dict[str, Any]:
    return {"custom_id": name, "body": {"messages": [{"role": "user", "content": text}]}}


async def call(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    made = await client.call_tool(name, arguments)
    assert not made.is_error and made.structured_content, made.content
    return made.structured_content


async def start(client: Client, **members: Any) -> str:
    job = {"endpoint": "/v1/chat/completions", "model": MODEL, **members}
    return str((await call(client, "create-batch-job", **job))["id"])


async def pages(client: Client, job_id: str, **arguments: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    start: int | None = 0
    while start is not None:
        call_ = {"job_id": job_id, "inline": True, **arguments, "from": start}
        made.append(await call(client, "get-batch-job", **call_))
        assert len(json.dumps(made[-1])) < 70_000
        start = made[-1]["next_from"]
    return made


async def test_three_hundred_reviews_of_which_thirty_fail_are_one_call(
    client: Client, sandbox: Sandbox
) -> None:
    requests = [
        request(f"review-{n:04}", "sandbox:fail" if n % 10 == 3 else f"It is number {n}.")
        for n in range(300)
    ]
    job_id = await start(client, requests=requests)
    sandbox.advance(3600)
    (page,) = await pages(client, job_id)
    assert [row["custom_id"] for row in page["outputs"]] == [each["custom_id"] for each in requests]
    assert [n for n, row in enumerate(page["outputs"]) if "error" in row] == [*range(3, 300, 10)]
    assert (page["summary"]["succeeded"], page["summary"]["failed"]) == (270, 30)
    assert sum(each["count"] for each in page["summary"]["errors"]) == 30
    assert "_note" not in page


async def test_twelve_thousand_requests_of_a_file_come_in_its_order(
    client: Client, sandbox: Sandbox
) -> None:
    names = [f"row-{n * 7919 % 12_000}" for n in range(12_000)]
    lines = [request(name, "Good?") for name in names]
    uploaded = await call(client, "upload-file", file_lines=lines)
    job_id = await start(client, input_files=[uploaded["id"]])
    sandbox.advance(3600)
    at = 0
    for start_at in (0, -1, 11_950):  # -1: where the last page ended
        at = at if start_at < 0 else start_at
        page = await call(client, "get-batch-job", job_id=job_id, **{"from": at})
        shown = [row["custom_id"] for row in page["outputs"]]
        assert shown == names[at : at + len(shown)] and page["summary"]["succeeded"] == 12_000
        assert "in the order of the input" in page["_note"] and len(shown) > 40
        at += len(shown)
        assert page["next_from"] == (at if at < 12_000 else None)


async def test_a_cancelled_job_says_what_of_its_results_there_is(
    client: Client, sandbox: Sandbox
) -> None:
    job_id = await start(client, requests=[request(f"r{n}", "sandbox:slow") for n in range(300)])
    sandbox.advance(40)
    await call(client, "cancel-batch-job", job_id=job_id)
    sandbox.advance(3600)
    page = await call(client, "get-batch-job", job_id=job_id, inline=True)
    found = len(page["outputs"])
    assert page["status"] == "CANCELLED" and 0 < found < 300
    assert f"It ended as CANCELLED: {found} of its 300 requests have results" in page["_note"]
    for file in (page["output_file"],):
        await call(client, "delete-file", file_id=file)
    again = await call(client, "get-batch-job", job_id=job_id, inline=True)
    assert again["outputs"] == page["outputs"]  # they are with the job


async def test_of_failures_alone_the_reasons_are_told(client: Client, sandbox: Sandbox) -> None:
    requests = [request(f"r{n}", "sandbox:fail" if n < 4 else "Good?") for n in range(9)]
    job_id = await start(client, requests=requests)
    sandbox.advance(3600)
    plain = await call(client, "get-batch-job", job_id=job_id)
    assert plain["_note"].startswith("5 succeeded, 4 failed: call with inline true")
    (page,) = await pages(client, job_id, only="failed")
    assert [row["custom_id"] for row in page["outputs"]] == ["r0", "r1", "r2", "r3"]
    assert all(isinstance(row["error"], str) and row["error"] for row in page["outputs"])
