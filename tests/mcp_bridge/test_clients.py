"""The whole gateway as real clients see it: client, bridge, REST service under gunicorn, sandbox."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from openapi.contract import load
from tests.mcp_bridge import agent
from tests.support.api import JOB_ID
from tests.support.bridge import bridge_process, gunicorn_bridge
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import ROOT, Sandbox, environment, sandbox_process
from tests.support.tools_available import node_tool, tool_python

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
BASELINE = Path(__file__).with_name("conformance-baseline.yml")
CONFORMANCE = ("@modelcontextprotocol/conformance", "dist/index.js")
INSPECTOR = ("@modelcontextprotocol/inspector", "clients/launcher/build/index.js")
CREATE: dict[str, Any] = {
    "endpoint": "/v1/chat/completions",
    "model": "mistral-small-latest",
    "requests": [
        {"custom_id": f"r-{n}", "body": {"messages": [{"role": "user", "content": "Hello"}]}}
        for n in range(3)
    ],
}
MOST_CALLS = 15
"""From the creation of a job of ten minutes to its last result, with waits of 45 s."""
TOOLS = len([each for each in load().operations.values() if each.tool])
NEW_JOB = (f"project-{number}" for number in itertools.count())


def new_job() -> dict[str, Any]:
    """Arguments for a job unlike any before, so that it is no repeat."""
    return {**CREATE, "metadata": {"project": next(NEW_JOB)}}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_process(speed=0, run_seconds=555) as running:
        yield running


@pytest.fixture(scope="module")
def rest_service(
    sandbox: Sandbox,
) -> Iterator[Gateway]:
    with gateway_process(f"{sandbox.url}/v1") as running:
        yield running


@pytest.fixture(scope="module")
def mcp_url(rest_service: Gateway) -> Iterator[str]:
    """A bridge of three workers under gunicorn."""
    with gunicorn_bridge(rest_service.url, workers=3) as bridge:
        yield bridge.url


@pytest.fixture(autouse=True)
def fresh(sandbox: Sandbox) -> None:
    sandbox.reset()


def client(
    transport: str, mode: str, url: str, rest: Gateway
) -> AbstractAsyncContextManager[Client]:
    if transport == "http":
        return Client(url, mode=mode)
    return Client(stdio_server(rest), mode=mode)


def stdio_server(rest: Gateway) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_bridge", "--stdio"],
        env=environment(BRIDGE_REST_URL=rest.url),
        cwd=str(ROOT),
    )


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_job_s_life_with_the_sdk_s_client(
    transport: str, mode: str, mcp_url: str, rest_service: Gateway, sandbox: Sandbox
) -> None:
    async with client(transport, mode, mcp_url, rest_service) as session:
        arguments = new_job()
        created = await session.call_tool("create-batch-job", arguments)
        assert created.structured_content, created
        job = {"job_id": created.structured_content["id"]}
        sandbox.advance(3600)
        done = await session.call_tool("get-batch-job", {**job, "inline": True})
        listed = await session.call_tool("list-batch-jobs", {"metadata": arguments["metadata"]})
        missing = await session.call_tool("get-batch-job", {"job_id": JOB_ID})
        cancelled = await session.call_tool("cancel-batch-job", job)
    assert done.structured_content, str(done.content[0])
    assert done.structured_content["status"] == "SUCCESS"
    ids = {output["custom_id"] for output in done.structured_content["outputs"]}
    assert ids == {"r-0", "r-1", "r-2"}
    assert listed.structured_content and listed.structured_content["total"] == 1
    assert missing.is_error and cancelled.content
    (arrived,) = sandbox.ledger(method="POST", path="/v1/batch/jobs")
    assert arrived["status"] == 200


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_batch_that_is_a_file_from_its_upload_to_its_results(
    transport: str, mcp_url: str, rest_service: Gateway, sandbox: Sandbox
) -> None:
    async with client(transport, "auto", mcp_url, rest_service) as session:
        uploaded = await data(session, "upload-file", {"file_lines": CREATE["requests"]})
        assert (uploaded["filename"], uploaded["num_lines"]) == ("requests.jsonl", 3)
        job = {"endpoint": CREATE["endpoint"], "model": CREATE["model"]}
        created = await data(session, "create-batch-job", {**job, "input_files": [uploaded["id"]]})
        sandbox.advance(3600)
        done = await data(session, "get-batch-job", {"job_id": created["id"]})
        results = {"file_id": done["output_file"]}
        found: list[str] = []
        going: int | None = 0
        while going is not None:
            part = await data(session, "read-file", {**results, "from": going, "count": 2})
            assert part["from"] == len(found)
            found += part["lines"]
            going = part["next_from"]
        listed = await data(session, "list-files", {})
        assert (await data(session, "get-file", results))["sample_type"] == "batch_result"
        assert (await data(session, "delete-file", results))["deleted"] is True
        gone = [
            await session.call_tool(name, results)
            for name in ("get-file", "read-file", "delete-file")
        ]
        again = {**job, "input_files": [results["file_id"]]}
        unfounded = await session.call_tool("create-batch-job", again)
        strange = [
            await session.call_tool(name, {"job_id": JOB_ID})
            for name in ("get-batch-job", "cancel-batch-job")
        ]
    assert {json.loads(line)["custom_id"] for line in found} == {"r-0", "r-1", "r-2"}
    assert {uploaded["id"], done["output_file"]} <= {file["id"] for file in listed["data"]}
    for refused in gone:
        said = f'Nothing was found for file_id "{results["file_id"]}". (HTTP 404.)'
        assert refused.is_error and said in refused.content[0].text
    said = f'Nothing was found for input_files "{results["file_id"]}". Mistral said: '
    assert unfounded.is_error and said in unfounded.content[0].text
    for refused in strange:
        said = f'Nothing was found for job_id "{JOB_ID}". Mistral said: '
        assert refused.is_error and said in refused.content[0].text
    assert len(sandbox.ledger(method="POST", path="/v1/files")) == 1


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_file_with_bad_lines_is_refused_with_the_lines_and_never_there(
    transport: str, mcp_url: str, rest_service: Gateway
) -> None:
    text = "".join(
        f"{json.dumps({'custom_id': n, 'body': {}})}\n" for n in ["a", "b", "a", 4] * 100
    )
    async with client(transport, "auto", mcp_url, rest_service) as session:
        refused = await session.call_tool("upload-file", {"file_text": text})
        listed = await data(session, "list-files", {})
    said = str(refused.content[0])
    assert refused.is_error and "398 faults in the file" in said
    assert "line 3: custom_id repeats that of line 1." in said
    assert "line 4: custom_id must be text, is a number." in said
    assert listed["data"] == []


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_large_file_is_read_as_far_as_needed_and_its_transfer_ended(
    transport: str, mcp_url: str, rest_service: Gateway, sandbox: Sandbox
) -> None:
    text = "".join(
        f"{json.dumps({'custom_id': str(n), 'body': {'é': 'x' * 200}})}\n" for n in range(20_000)
    )
    async with client(transport, "auto", mcp_url, rest_service) as session:
        uploaded = await data(session, "upload-file", {"file_text": text, "file_name": "a.jsonl"})
        assert uploaded["bytes"] == len(text)
        file = {"file_id": uploaded["id"]}
        whole = {"fault": "stalled", "after": len(text) // 2, "match": {"path": "/content"}}
        sandbox.faults(whole)
        read = await data(session, "read-file", {**file, "from": 5000, "count": 2})
        assert read["lines"] == text.splitlines()[5000:5002]
        await rows(sandbox, lambda row: row["client_closed_at"] is not None)
        sandbox.faults({**whole, "fault": "truncated"})
        broken = await session.call_tool("read-file", {**file, "from": 15_000})
        last = await data(session, "read-file", {**file, "from": 19_999})
    assert broken.is_error and "closed the connection before the end" in str(broken.content[0])
    assert last == {"from": 19_999, "lines": text.splitlines()[-1:], "next_from": None}


async def data(session: Client, tool: str, given: dict[str, Any]) -> Any:
    """What a call gives, which must not fail."""
    result = await session.call_tool(tool, given)
    assert not result.is_error, str(result.content[0])[:2000]
    return result.structured_content


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_repeated_call_gets_the_first_job_and_is_told_so(
    transport: str, mcp_url: str, rest_service: Gateway, sandbox: Sandbox
) -> None:
    arguments = new_job()
    own_key = {**arguments, "idempotency_key": f"again-{transport}"}
    results = []
    for calls in ([arguments], [arguments, own_key]):
        async with client(transport, "auto", mcp_url, rest_service) as session:
            for call in calls:
                result = await session.call_tool("create-batch-job", call)
                results.append(result.structured_content or {})
    first, repeat, another = results
    assert repeat["id"] == first["id"] and "earlier call" in repeat["_note"]
    assert another["id"] != first["id"] and "_note" not in first and "_note" not in another
    assert len(sandbox.ledger(method="POST", path="/v1/batch/jobs")) == 2


async def test_every_worker_gives_the_same_answers(mcp_url: str) -> None:
    answers = set()
    for _ in range(12):  # each client its own connection, so all three workers answer some
        async with Client(mcp_url, mode="2026-07-28") as session:
            answers.add((await session.list_tools()).model_dump_json())
    assert len(answers) == 1


@pytest.fixture
def targets(mcp_url: str, rest_service: Gateway) -> list[Any]:
    """What an agent's script is given to reach a bridge: over HTTP, and over standard input."""
    return [mcp_url, stdio_server(rest_service).model_dump(exclude_defaults=True)]


@pytest.fixture
def clock_goes(sandbox: Sandbox) -> Iterator[None]:
    """The sandbox's clock goes: a job of ten minutes takes some three seconds."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(0.2):
            sandbox.advance(45)

    thread = threading.Thread(target=go)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize("mode", ["auto", "legacy"])  # the first agrees on the newer era
@pytest.mark.usefixtures("clock_goes")
async def test_an_agent_s_script_has_all_results_of_ten_minutes_after_few_calls(
    mode: str, targets: list[Any]
) -> None:
    for script in await agent.run_at_each(partial(agent.sdk, mode=mode), targets):
        check(script)


@pytest.mark.parametrize(("client", "tool"), [("older_sdk", "mcp-1"), ("fastmcp", "fastmcp")])
@pytest.mark.usefixtures("clock_goes")
def test_the_script_has_them_with_other_clients_as_well(
    client: str, tool: str, targets: list[Any]
) -> None:
    done = run([tool_python(tool), agent.__file__, client, json.dumps(targets)])
    assert done.returncode == 0, done.stderr
    for script in json.loads(done.stdout.splitlines()[-1]):
        check(agent.Script(**script))


def check(script: agent.Script) -> None:
    """Refuses a script that took many calls, was not told how far the job was, or missed a result, or saw one twice."""
    assert script.tools == TOOLS and script.refused is True
    assert len(script.given) <= MOST_CALLS
    assert script.given[0]["status"] == "QUEUED"
    waits = [each for each in script.given[1:] if not each["outputs"]]
    assert all(each["_note"].startswith(f"{each['status']}: ") for each in waits)
    pages = script.given[1 + len(waits) :]
    assert pages[0]["status"] == "SUCCESS"
    assert (pages[0]["summary"]["succeeded"], pages[0]["summary"]["failed"]) == (288, 12)
    rows = [row for page in pages for row in page["outputs"]]
    assert [row["custom_id"] for row in rows] == [each["custom_id"] for each in agent.REQUESTS]
    assert sum("error" in row for row in rows) == 12


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_lists_the_tools_without_a_complaint(era: str, mcp_url: str) -> None:
    given = ["--cli", mcp_url, "--transport", "http", "--protocol-era", era]
    done = run([*node_tool(*INSPECTOR), *given, "--method", "tools/list", "--strict"])
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["tools"]) == TOOLS
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_calls_a_tool(era: str, mcp_url: str) -> None:
    given = ["--cli", mcp_url, "--transport", "http", "--protocol-era", era]
    call = ["--method", "tools/call", "--tool-name", "list-batch-jobs", "--tool-arg", "page_size=1"]
    done = run([*node_tool(*INSPECTOR), *given, *call])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["structuredContent"]["total"] == 0


def test_the_official_conformance_suite_finds_what_the_baseline_says(
    mcp_url: str, tmp_path: Path
) -> None:
    suite = [*node_tool(*CONFORMANCE), "server", "--url", mcp_url, "-o", str(tmp_path)]
    suite += ["--requirements", "2026-07-28", "--expected-failures", str(BASELINE)]
    done = run(suite)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    "scenario", ["server-initialize", "ping", "tools-list", "dns-rebinding-protection"]
)
def test_the_conformance_suite_of_the_older_era_is_green(
    scenario: str, mcp_url: str, tmp_path: Path
) -> None:
    suite = [*node_tool(*CONFORMANCE), "server", "--url", mcp_url, "-o", str(tmp_path)]
    done = run([*suite, "--spec-version", "2025-11-25", "--scenario", scenario])
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_cancelled_call_is_cancelled_at_the_upstream(
    transport: str, mcp_url: str, rest_service: Gateway, sandbox: Sandbox
) -> None:
    sandbox.faults({"fault": "hang"})
    async with client(transport, "2026-07-28", mcp_url, rest_service) as session:
        await session.list_tools()
        async with anyio.create_task_group() as group:
            group.start_soon(session.call_tool, "get-batch-job", {"job_id": JOB_ID})
            (row,) = await rows(sandbox, lambda row: True)
            assert row["client_closed_at"] is None
            cancelled_at = time.time()
            group.cancel_scope.cancel()
        (row,) = await rows(sandbox, lambda row: row["client_closed_at"] is not None)
        assert row["client_closed_at"] - cancelled_at < 10  # the call itself would last 40


async def rows(sandbox: Sandbox, wanted: Any) -> list[dict[str, Any]]:
    """The ledger's rows that are wanted, once there are any."""
    while True:
        found = [row for row in await anyio.to_thread.run_sync(sandbox.ledger) if wanted(row)]
        if found:
            return found
        await anyio.sleep(0.02)


async def test_the_bridge_outlives_the_rest_service(sandbox: Sandbox) -> None:
    with gateway_process(f"{sandbox.url}/v1") as service, bridge_process(service.url) as bridge:
        async with Client(bridge.url) as session:
            assert not (await session.call_tool("list-batch-jobs", {})).is_error
            service.kill()
            result = await session.call_tool("create-batch-job", CREATE)
            assert result.is_error and "where the gateway should be" in str(result.content[0])
            service.start()
            assert not (await session.call_tool("create-batch-job", CREATE)).is_error
    assert len(sandbox.ledger(method="POST")) == 1


async def test_a_stop_lets_calls_in_flight_end(rest_service: Gateway, sandbox: Sandbox) -> None:
    sandbox.faults({"fault": "latency", "seconds": 1.0})
    answers = []
    with bridge_process(rest_service.url) as bridge:
        async with Client(bridge.url, mode="2026-07-28") as session:
            await session.list_tools()  # now, because it checks results against these

            async def call() -> None:
                answers.append(await session.call_tool("list-batch-jobs", {}))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await rows(sandbox, lambda row: True)
                bridge.process.terminate()
        assert await anyio.to_thread.run_sync(bridge.process.wait, 10) == 0
    assert not answers[0].is_error


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
