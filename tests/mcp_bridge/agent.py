"""A script as agents write it, for every kind of client: starts a job, waits for its end, reads its results page by page.

`python agent.py CLIENT TARGETS`, by the Python that has the client: TARGETS is JSON, a list of the endpoint's URL and of how to start a bridge
that serves standard input. Prints what became of the script at each. Not a test module.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

Call = Callable[[str, dict[str, Any]], Awaitable[tuple[bool, Any]]]
"""Calls a tool: whether that was refused, and the data it gave."""
Session = AbstractAsyncContextManager[tuple[list[Any], Call]]
Client = Callable[[Any], Session]

PATIENCE = 40
"""Calls after which the script gives up."""

REQUESTS = [
    {"custom_id": f"r-{n}", "body": {"messages": [{"role": "user", "content": words}]}}
    for n in range(300)
    for words in [f"Is {n} even?{' sandbox:fail' if n % 25 == 7 else ''}"]
]


@dataclass
class Script:
    """What became of one: how many tools it saw, whether a bad call was refused, and what each other call gave."""

    tools: int
    refused: bool
    given: list[dict[str, Any]]


async def run(session: Session) -> Script:
    """The script, from the creation of a job to its last result."""
    async with session as (tools, call):
        script = Script(len(tools), (await call("get-batch-job", {"job_id": "no"}))[0], [])
        given = script.given

        async def add(tool: str, arguments: dict[str, Any]) -> None:
            given.append((await call(tool, arguments))[1])

        create = {"endpoint": "/v1/chat/completions", "model": "mistral-small-latest"}
        unlike_others = {"metadata": {"name": str(uuid.uuid4())}}
        await add("create-batch-job", {**create, **unlike_others, "requests": REQUESTS})
        results = {"job_id": given[0]["id"], "inline": True, "count": 120}
        while given[-1]["status"] in ("QUEUED", "RUNNING") and len(given) < PATIENCE:
            await add("get-batch-job", {**results, "wait": 1})
        while given[-1].get("next_from") is not None and len(given) < PATIENCE:
            await add("get-batch-job", {**results, "from": given[-1]["next_from"]})
        return script


@asynccontextmanager
async def sdk(target: Any, mode: str = "auto") -> AsyncIterator[tuple[list[Any], Call]]:
    """The official SDK's client."""
    from mcp import Client, StdioServerParameters

    server = target if isinstance(target, str) else StdioServerParameters(**target)
    async with Client(server, mode=mode) as session:

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
            result = await session.call_tool(tool, arguments)
            return result.is_error, result.structured_content

        yield (await session.list_tools()).tools, call


@asynccontextmanager
async def older_sdk(target: Any) -> AsyncIterator[tuple[list[Any], Call]]:
    """That of its version 1, which speaks only the older era and checks results against the output schema."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    opened: Any = (
        streamable_http_client(target)
        if isinstance(target, str)
        else stdio_client(StdioServerParameters(**target))
    )
    async with opened as (read, write, *_), ClientSession(read, write) as session:
        await session.initialize()

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
            result: Any = await session.call_tool(tool, arguments)
            return result.isError, result.structuredContent

        yield (await session.list_tools()).tools, call


@asynccontextmanager
async def fastmcp(target: Any) -> AsyncIterator[tuple[list[Any], Call]]:
    """fastmcp's."""
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    server = target if isinstance(target, str) else StdioTransport(**target, keep_alive=False)
    async with Client(server) as session:

        async def call(tool: str, arguments: dict[str, Any]) -> tuple[bool, Any]:
            result = await session.call_tool(tool, arguments, raise_on_error=False)
            return result.is_error, result.structured_content

        yield await session.list_tools(), call


async def run_at_each(client: Client, targets: list[Any]) -> list[Script]:
    """What becomes of the script at several bridges at once."""
    return await asyncio.gather(*(run(client(target)) for target in targets))


if __name__ == "__main__":
    clients: dict[str, Client] = {"older_sdk": older_sdk, "fastmcp": fastmcp}
    scripts = asyncio.run(run_at_each(clients[sys.argv[1]], json.loads(sys.argv[2])))
    print(json.dumps([asdict(script) for script in scripts]))
