"""The MCP bridge against fastmcp's `from_openapi`, on the same document and the same REST service."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import load, subjects, work
from bench.calls import Caller
from bench.findings import Findings
from bench.load import Call, Sample
from bench.machine import LOADED_BY
from bench.processes import Server
from bench.rest import AT_LEAST, AT_MOST, WrongAnswer
from bench.rounds import Plan, interleaved, median
from bench.upstream import Upstream

BRIDGE, FASTMCP = subjects.BRIDGE.name, subjects.FASTMCP.name
MODERN, LEGACY = "2026-07-28", "2025-11-25"
PATH = "/mcp"
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass(frozen=True)
class Message:
    """A tools/call as one HTTP request, in the form of one protocol version."""

    headers: dict[str, str]
    body: bytes


def message(version: str, tool: str, arguments: dict[str, Any]) -> Message:
    """The call of `tool`; MCP 2026-07-28 and 2025-11-25, "Streamable HTTP"."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
    }
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if version == MODERN:
        params["_meta"] = _META
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": tool}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return Message(headers, json.dumps(body).encode())


def getting(subject: str, version: str) -> Message:
    """The call that gets the job, with the names that each server derives from the document."""
    tool, argument = {
        BRIDGE: ("get-batch-job", "job_id"),
        FASTMCP: ("getbatchjob", "job-id"),
    }[subject]
    return message(version, tool, {argument: work.JOB_ID})


def result(body: bytes) -> dict[str, Any]:
    """The result in an answer, which is JSON or an event stream with one message."""
    text = body.decode()
    if not text.startswith("{"):
        text = next(line[5:] for line in text.splitlines() if line.startswith("data:"))
    found: dict[str, Any] = json.loads(text)["result"]
    return found


def check_tool(name: str, server: Server) -> None:
    """WrongAnswer unless both protocol versions give the job as structured content and as text."""
    job = json.loads(work.JOB)
    with Caller(server) as caller:
        for version in (MODERN, LEGACY):
            call = getting(name, version)
            answer = caller.call("POST", PATH, call.body, call.headers)
            found = result(answer.body) if answer.status == 200 else {}
            given = [found.get("structuredContent")]
            given += [json.loads(each["text"]) for each in found.get("content", [])]
            if given != [job, job]:
                raise WrongAnswer(f"{name}, {version}: {answer}")


def calls(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """Getting a job by a tool: 1 and 16 clients, both protocol versions; REST answers at once."""
    with both(up.url, folder) as servers:
        samples = _measured(servers, folder, plan)
        for version, limit in ((MODERN, 5.0), (LEGACY, 2.5)):
            for clients in (1, 16):
                name = f"tool call, {version}, {clients} client{'s' * (clients > 1)}"
                ours, theirs = (samples[each, version, clients] for each in (BRIDGE, FASTMCP))
                findings.compare(name, FASTMCP, "rate", ours, theirs, AT_LEAST, limit)
                findings.compare(name, FASTMCP, "cpu", ours, theirs)
    findings.table(
        "mcp",
        "Getting a job by a tool; the REST service answers at once",
        ("what", "answers/s", "p50 ms", "p99 ms", "CPU us"),
        [
            [f"{key[0]}, {key[1]}, {key[2]} clients", *_figures(each)]
            for key, each in sorted(samples.items())
        ],
    )


@contextmanager
def both(url: str, folder: Path) -> Iterator[dict[str, Server]]:
    """Bridge and fastmcp, running before the REST service at `url`, found right and warmed up."""
    with (
        subjects.BRIDGE.started(url, folder) as bridge,
        subjects.FASTMCP.started(url, folder) as fastmcp,
    ):
        servers = {BRIDGE: bridge, FASTMCP: fastmcp}
        for name, server in servers.items():
            check_tool(name, server)
        yield servers


def _measured(
    servers: dict[str, Server], folder: Path, plan: Plan
) -> dict[tuple[str, str, int], list[Sample]]:
    scripts = {}
    for name in servers:
        for version in (MODERN, LEGACY):
            call = getting(name, version)
            scripts[name, version] = Call(
                folder, f"{name}-{version}", "POST", call.headers, call.body
            )
            load.run(servers[name], PATH, 4, 1, scripts[name, version])
    runs = {
        (name, version, clients): partial(
            load.run, servers[name], PATH, clients, plan.seconds, script
        )
        for (name, version), script in scripts.items()
        for clients in (1, 16)
    }
    return interleaved(plan.rounds, runs)


def _figures(samples: list[Sample]) -> list[float]:
    found = median(samples)
    return [found[name] for name in ("rate", "p50", "p99", "cpu")]


def over_rest(up: Upstream, folder: Path, plan: Plan, findings: Findings) -> None:
    """The same behind the real REST service: what a tool call adds to the plain call, and a large create."""
    rest = replace(subjects.GATEWAY, pinned=False)
    with rest.started(up.url, folder) as gateway:
        gateway.move(LOADED_BY)
        with both(gateway.url, folder) as servers:
            samples = _measured(servers, folder, replace(plan, rounds=max(1, plan.rounds - 2)))
            direct = interleaved(
                plan.rounds, {"REST": partial(load.run, gateway, work.JOB_PATH, 1, plan.seconds)}
            )["REST"]
            creating = interleaved(plan.rounds, _creating(servers[BRIDGE], gateway, 1_000))
    for clients in (1, 16):
        name = f"tool call, {MODERN}, {clients} client{'s' * (clients > 1)}, the gateway as REST service"
        ours, theirs = (samples[each, MODERN, clients] for each in (BRIDGE, FASTMCP))
        findings.compare(name, FASTMCP, "rate", ours, theirs)
    added = median(samples[BRIDGE, MODERN, 1])["p50"] - median(direct)["p50"]
    findings.hold("tool call, 1 client", "added to the REST call's p50", added, "ms")
    ratios = [tool / plain for tool, plain in zip(creating["tool"], creating["REST"], strict=True)]
    findings.hold(
        "create with 1,000 inline requests by a tool", "time, of the REST call's",
        statistics.median(ratios), "x", AT_MOST, 2.0,
    )  # fmt: skip
    rows: list[list[Any]] = [
        [f"{key[0]}, {key[1]}, {key[2]} clients", *_figures(each)]
        for key, each in sorted(samples.items())
    ]
    rows.append(["REST, 1 clients", *_figures(direct)])
    findings.table(
        "mcp_gateway",
        "Getting a job by a tool; the gateway is the REST service",
        ("what", "answers/s", "p50 ms", "p99 ms", "CPU us"),
        rows,
    )
    findings.table(
        "mcp_create",
        "Create with 1,000 inline requests, keyed",
        ("what", "ms"),
        [[name, round(statistics.median(each), 2)] for name, each in creating.items()],
    )


def _creating(bridge: Server, gateway: Server, size: int) -> dict[str, Any]:
    """Runs that create jobs by tool and by REST, each job another one, with the milliseconds of the median."""
    body = json.loads(work.create_body(size))
    counter = iter(range(1_000_000))

    def own() -> dict[str, Any]:
        return {**body, "metadata": {"number": str(next(counter))}}

    def by_tool() -> float:
        return statistics.median(
            called(message(MODERN, "create-batch-job", own())) for _ in range(5)
        )

    def called(call: Message) -> float:
        with Caller(bridge) as caller:
            answer = caller.call("POST", PATH, call.body, call.headers)
        if result(answer.body).get("structuredContent", {}).get("id") != work.JOB_ID:
            raise WrongAnswer(f"a create by a tool was answered {answer}")
        return answer.milliseconds

    def by_rest() -> float:
        bodies = [json.dumps(own()).encode() for _ in range(5)]
        with Caller(gateway) as caller:
            return statistics.median(
                caller.create(each, keyed=True).milliseconds for each in bodies
            )

    return {"tool": by_tool, "REST": by_rest}
