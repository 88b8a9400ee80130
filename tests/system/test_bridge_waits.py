"""Waiting by a tool call, as real clients see it: client, bridge, REST service and sandbox, each a process."""

from __future__ import annotations

import asyncio
import itertools
import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.support.bridge import Bridge, bridge_process, gunicorn_bridge
from tests.support.gateway import Gateway, gateway_process
from tests.support.once import once
from tests.support.processes import ROOT, Sandbox, environment, run, sandbox_process, wait_until
from tests.support.tools_available import tool_python
from tests.system.front import front

pytestmark = pytest.mark.timeout(180)
REQUESTS = 28
NUMBERS = itertools.count()


def create() -> dict[str, Any]:
    """Arguments for a job of some six seconds unlike any before."""
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    return {
        "endpoint": "/v1/chat/completions",
        "model": "mistral-small-latest",
        "requests": [{"custom_id": f"r-{n}", "body": body} for n in range(REQUESTS)],
        "metadata": {"number": str(next(NUMBERS))},
    }


@dataclass
class Outcome:
    """What one client was told: progress, and the state at the end of its one call."""

    status: str = ""
    told: list[tuple[float, float | None, str | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Stack:
    sandbox: Sandbox
    rest: Gateway
    bridges: dict[str, Bridge]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    pace = {"queue_seconds": 0, "run_seconds": 0, "request_seconds": 0.2}
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, most))
    with (
        sandbox_process(speed=1, **pace) as sandbox,
        gateway_process(f"{sandbox.url}/v1") as rest,
        bridge_process(rest.url) as uvicorn,
        gunicorn_bridge(rest.url, workers=1) as gunicorn,
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        yield Stack(sandbox, rest, {"uvicorn": uvicorn, "gunicorn": gunicorn})


def test_every_process_has_as_many_connections_as_the_system_grants(stack: Stack) -> None:
    pids = [*stack.rest.workers, stack.bridges["uvicorn"].process.pid]
    for pid in [*pids, *stack.bridges["gunicorn"].workers]:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert soft == hard


OLDER = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(url, arguments):
    told = []
    async def progress(*given):
        told.append(given)
    async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        job = (await session.call_tool("create-batch-job", arguments)).structuredContent["id"]
        done = await session.call_tool("get-batch-job", {"job_id": job, "wait": 45}, progress_callback=progress)
        print(json.dumps([done.structuredContent["status"], told]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""
FASTMCP = """
import asyncio, json, sys
from fastmcp import Client

async def main(url, arguments):
    told = []
    async def progress(*given):
        told.append(given)
    async with Client(url) as session:
        job = (await session.call_tool("create-batch-job", arguments)).structured_content["id"]
        done = await session.call_tool("get-batch-job", {"job_id": job, "wait": 45}, progress_handler=progress)
        print(json.dumps([done.structured_content["status"], told]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""
OTHERS = {"mcp-1": OLDER, "fastmcp": FASTMCP}
SDK = [
    *itertools.product(["uvicorn"], ["auto", "legacy"]),
    ("gunicorn", "2026-07-28"),  # in the older era by the other clients
    *itertools.product(["stdio"], ["auto", "legacy"]),
]
SILENT = [("gunicorn", "auto")]


def client(stack: Stack, way: str, mode: str) -> Client:
    stdio = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_bridge", "--stdio"],
        env=environment(BRIDGE_REST_URL=stack.rest.url),
        cwd=ROOT,
    )
    return Client(stdio if way == "stdio" else stack.bridges[way].url, mode=mode)


def by_sdk(stack: Stack, way: str, mode: str, *, told: bool) -> Outcome:
    outcome = Outcome()

    async def progress(*given: Any) -> None:
        outcome.told.append(given)

    async def call() -> None:
        async with client(stack, way, mode) as session:
            created = (await session.call_tool("create-batch-job", create())).structured_content
            waited = {"job_id": created["id"], "wait": 45}
            listening = {"progress_callback": progress} if told else {}
            done = await session.call_tool("get-batch-job", waited, **listening)
            outcome.status = done.structured_content["status"]

    asyncio.run(call())
    return outcome


def by_other(stack: Stack, tool: str) -> Outcome:
    url = stack.bridges["gunicorn"].url
    command = [tool_python(tool), "-c", OTHERS[tool], url, json.dumps(create())]
    done = run(command, environment())
    assert done.returncode == 0, done.stderr
    status, told = json.loads(done.stdout.splitlines()[-1])
    return Outcome(status, told)


@pytest.fixture(scope="module")
def outcomes(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """By client; all of them wait at the same time."""

    def all_at_once() -> dict[str, Any]:
        with ThreadPoolExecutor(20) as pool:
            futures: dict[Any, Future[Outcome]] = {
                str((*kind, told)): pool.submit(by_sdk, stack, *kind, told=told)
                for told, kinds in ((True, SDK), (False, SILENT))
                for kind in kinds
            }
            futures |= {tool: pool.submit(by_other, stack, tool) for tool in OTHERS}
        return {client: asdict(future.result()) for client, future in futures.items()}

    found = once(tmp_path_factory, "bridge-waits", all_at_once)
    return {client: Outcome(**outcome) for client, outcome in found.items()}


@pytest.mark.parametrize("client", [*((*kind, True) for kind in SDK), *OTHERS], ids=str)
def test_a_client_that_asks_for_progress_is_told_while_one_call_waits_for_the_end(
    client: Any, outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[str(client)]
    assert outcome.status == "SUCCESS"
    done = [progress for progress, _, _ in outcome.told]
    assert done and done == sorted(set(done)) and done[-1] < REQUESTS
    for progress, total, words in outcome.told:
        assert words in (
            f"RUNNING: {progress:.0f} of {REQUESTS} requests done",
            "QUEUED: requests not counted yet",
        )
        assert total in (None, REQUESTS)


@pytest.mark.parametrize("kind", SILENT, ids=str)
def test_a_client_that_asks_for_no_progress_waits_as_well(
    kind: tuple[str, str], outcomes: dict[str, Outcome]
) -> None:
    outcome = outcomes[str((*kind, False))]
    assert (outcome.status, outcome.told) == ("SUCCESS", [])


@pytest.mark.parametrize(
    ("way", "mode"),
    [("uvicorn", "2026-07-28"), ("gunicorn", "2026-07-28"), ("stdio", "legacy")],
)
def test_a_call_that_is_cancelled_after_progress_ends_its_wait_at_the_rest_service(
    way: str, mode: str, stack: Stack
) -> None:
    wait_until(lambda: stack.rest.inflight() == 1)

    async def cancelled() -> None:
        told = asyncio.Event()

        async def progress(*_: Any) -> None:
            told.set()

        async with client(stack, way, mode) as session:
            created = (await session.call_tool("create-batch-job", create())).structured_content
            waited = {"job_id": created["id"], "wait": 45}
            calling = asyncio.create_task(
                session.call_tool("get-batch-job", waited, progress_callback=progress)
            )
            await told.wait()
            calling.cancel()
            await asyncio.to_thread(wait_until, lambda: stack.rest.inflight() == 1, 4)

    asyncio.run(cancelled())


def test_progress_passes_nginx_as_it_comes_and_leaving_as_well(
    stack: Stack, certificate: tuple[str, str], tmp_path: Path
) -> None:
    mcp = f"127.0.0.1:{stack.bridges['gunicorn'].port}"
    headers = {"Accept": "application/json, text/event-stream"}
    given = {"name": "create-batch-job", "arguments": create()}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": given}
    with front(tmp_path / "nginx", certificate, stack.rest.address, mcp=mcp) as nginx:
        made = nginx.request("POST", "/mcp", json=call, headers=headers).json()
        job = made["result"]["structuredContent"]["id"]
        given |= {"name": "get-batch-job", "_meta": {"progressToken": 7}}
        given |= {"arguments": {"job_id": job, "wait": 45}}
        with nginx.request("POST", "/mcp", json=call, headers=headers, stream=True) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            lines = answer.iter_lines(1)  # kept, since its end is that of the connection
            first = next(line for line in lines if line.startswith(b"data: "))
            assert json.loads(first[6:])["params"]["progressToken"] == 7
            wait_until(lambda: stack.rest.inflight() == 2)
        wait_until(lambda: stack.rest.inflight() == 1, 4)


async def _waiting(
    stack: Stack, bridge: Bridge, count: int, meanwhile: Callable[[], Coroutine[Any, Any, None]]
) -> list[Any]:
    """The results of calls that wait for a job that is not over soon, every second one with progress; once all wait, `meanwhile`."""

    async def nothing(*_: Any) -> None:
        """Somebody who listens."""

    async with Client(bridge.url) as session:
        await session.list_tools()  # now, because it checks results against these
        created = await session.call_tool("create-batch-job", create())
        waited = {"job_id": created.structured_content["id"], "wait": 45}
        calls = [
            asyncio.create_task(
                session.call_tool(
                    "get-batch-job", waited, **({"progress_callback": nothing} if n % 2 else {})
                )
            )
            for n in range(count)
        ]
        await asyncio.to_thread(wait_until, lambda: stack.rest.inflight() == count + 1)
        await meanwhile()
        return await asyncio.gather(*calls)


@pytest.fixture(scope="module")
def slow() -> Iterator[Stack]:
    """As `stack`, without bridges, and its clock stands still."""
    with sandbox_process(speed=0) as sandbox, gateway_process(f"{sandbox.url}/v1") as rest:
        yield Stack(sandbox, rest, {})


@pytest.mark.parametrize("kind", ["uvicorn", "gunicorn"])
def test_a_stop_of_the_bridge_answers_all_whose_calls_wait(kind: str, slow: Stack) -> None:
    starting = gunicorn_bridge(slow.rest.url, 1) if kind == "gunicorn" else bridge_process(slow.rest.url)  # fmt: skip
    with starting as bridge:
        begun = 0.0

        async def stop() -> None:
            nonlocal begun
            begun = time.monotonic()
            bridge.process.send_signal(signal.SIGTERM)

        results = asyncio.run(_waiting(slow, bridge, 20, stop))
        assert time.monotonic() - begun < 20  # they would wait for 45 seconds
        assert {result.structured_content["status"] for result in results} == {"QUEUED"}
        assert all("Call again with wait 45" in r.structured_content["_note"] for r in results)
        assert bridge.process.wait(20) == 0


def test_a_restart_of_the_rest_service_loses_no_call_that_waits(slow: Stack) -> None:
    async def restart() -> None:
        await asyncio.to_thread(slow.rest.end)
        await asyncio.to_thread(slow.rest.start)
        slow.sandbox.advance(3600)

    with bridge_process(slow.rest.url) as bridge:
        results = asyncio.run(_waiting(slow, bridge, 20, restart))
    assert {result.structured_content["status"] for result in results} == {"SUCCESS"}
