"""The MCP server of one contract, apart from how it is hosted: lists its tools and calls them."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.types import INVALID_PARAMS, CallToolRequestParams, PaginatedRequestParams

from access.token_file import Grant
from mcp_bridge import edge, messages
from mcp_bridge.arguments import BadArguments, RestCall, rest_call
from mcp_bridge.config import Settings
from mcp_bridge.rest_client import Answer, NoAnswer, NotSent, RestClient
from mcp_bridge.results import failed, failure, refused, success, unanswered
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import Contract
from openapi.validation import near_name
from telemetry.logs import audit_log

log = logging.getLogger("mcp_bridge")

Context = ServerRequestContext[RestClient, Any]

# What is passed on of a call's `_meta` or HTTP headers: W3C Trace Context, and the request's id.
_TRACE = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[\x21-\x7e ]{1,512}"),
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def build_server(contract: Contract, settings: Settings) -> Server[RestClient]:
    """A server of the contract's tools."""
    tools = build_tools(contract)
    listing = {"tools": [tool.listing() for tool in tools.values()], "resultType": "complete"}
    bridge = Bridge(tools, settings, contract.scopes)

    @asynccontextmanager
    async def connected(_: Any) -> AsyncIterator[RestClient]:
        async with RestClient(settings.rest_url, settings.rest_token, settings.timeout) as rest:
            yield rest

    server: Server[RestClient] = Server(
        contract.mcp_name,
        version=contract.version,
        title=contract.mcp_title,
        instructions=contract.mcp_instructions or None,
        lifespan=connected,
        cache_hints={
            # What is listed depends on who asks when they need tokens.
            "tools/list": CacheHint(
                ttl_ms=300_000, scope="private" if settings.protected else "public"
            ),
            "server/discover": CacheHint(ttl_ms=3_600_000, scope="public"),
        },
        # Without this the SDK runs tools/list before every call.
        get_tool_input_schema=lambda name: tools[name].input_schema if name in tools else None,
    )

    async def list_tools(context: Context, params: PaginatedRequestParams) -> dict[str, Any]:
        grant = _grant(context)
        if grant is None:
            return listing
        allowed = [tool for tool in tools.values() if not bridge.lacks(grant, tool)]
        return {**listing, "tools": [tool.listing() for tool in allowed]}

    if find_spec("opentelemetry.sdk") is None:
        server.middleware.clear()  # the SDK's one writes spans, which then go nowhere

    # Not by the constructor, whose handlers return models: the wire form saves a dump per call.
    server.add_request_handler("tools/list", PaginatedRequestParams, list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, bridge.call_tool)
    return server


class Bridge:
    """Calls tools at the REST service; every failure but that of an unknown tool is a result."""

    def __init__(
        self, tools: dict[str, CallableTool], settings: Settings, scopes: Mapping[str, str]
    ) -> None:
        """`scopes` names what reading and writing need."""
        self.tools = tools
        self.settings = settings
        self.scopes = scopes
        # Not anyio's threads: its futures are in a cycle with the exception and all that was read, until it is collected.
        self.reading = ThreadPoolExecutor(1, "reading")
        looks = [name for name, tool in tools.items() if tool.declared.read_only]
        self.checks = " or ".join(looks) or "the operator"

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> dict[str, Any]:
        """The result of one tools/call; MCPError for a tool that does not exist."""
        tool = self.tools.get(params.name)
        if tool is None:
            raise MCPError(code=INVALID_PARAMS, message=self._unknown(params.name))
        request_id = _received(context, "x-request-id", _REQUEST_ID) or str(uuid.uuid4())
        started = time.monotonic()
        try:
            result = await self._result(context, tool, params, request_id)
        except Exception:  # the outermost edge: the SDK tells older clients an exception's text
            log.exception("%s broke in the bridge, request %s", params.name, request_id)
            result = unanswered(
                tool,
                f"may have been asked when the bridge broke (its log: {request_id})",
                self.checks,
            )
        self._tell(context, tool, result, request_id, time.monotonic() - started)
        return result

    def lacks(self, grant: Grant, tool: CallableTool) -> str:
        """The scope that calling `tool` needs and `grant` does not have; empty when it has it."""
        needed = self.scopes[tool.operation.access]
        return "" if grant.allows(needed) else needed

    def _tell(
        self,
        context: Context,
        tool: CallableTool,
        result: dict[str, Any],
        request_id: str,
        seconds: float,
    ) -> None:
        """One log line for a call, and one in the audit log for a call that may have changed something."""
        trace = _received(context, "traceparent", _TRACE["traceparent"])
        client = context.request.client if context.request is not None else None
        grant = _grant(context)
        fields = {
            "request_id": request_id,
            "trace_id": trace.split("-")[1] if trace else "",
            "caller": grant.name if grant else client.host if client else "stdio",
            "tool": tool.declared.name,
            "operation": tool.operation.id,
            "outcome": "failed" if result["isError"] else "done",
            "seconds": round(seconds, 4),
        }
        message = f"{fields['tool']} {fields['outcome']}"
        log.info(message, extra={"fields": fields})
        if not tool.declared.read_only:
            subject = result.get("structuredContent", {}).get("id", "")
            audit_log.info(message, extra={"fields": {**fields, "id": str(subject)[:128]}})

    def _unknown(self, name: str) -> str:
        near = near_name(name, self.tools, likeness=0.6)
        known = f"did you mean {near}?" if near else f"there are {', '.join(self.tools)}"
        return f"Unknown tool {name[:128]!r}: {known}"

    async def _result(
        self, context: Context, tool: CallableTool, params: CallToolRequestParams, request_id: str
    ) -> dict[str, Any]:
        grant = _grant(context)
        if grant and (needed := self.lacks(grant, tool)):
            return failure(
                f"{tool.declared.name} failed: the token of {grant.name} lacks the scope {needed}."
                " Nothing was sent; only the gateway's operator can help."
            )
        try:
            call = await self._call(context, tool, params)
        except BadArguments as error:
            return refused(tool, error.violations)
        traced = {name: _received(context, name, pattern) for name, pattern in _TRACE.items()}
        sent = {name: value for name, value in traced.items() if value}
        try:
            answer = await context.lifespan_context.send(
                call.method,
                call.target,
                {**call.headers, **sent, "X-Request-ID": request_id},
                call.body,
            )
        except NotSent:
            return failure(
                f"{tool.declared.name} failed: nothing answers at {self.settings.rest_url}, where"
                " the gateway's REST service should be. Nothing was sent, and the arguments are not"
                " at fault. The same call can work soon; if not, the service has to be started."
            )
        except NoAnswer as error:
            return unanswered(tool, str(error), self.checks)
        if not 200 <= answer.status < 300:
            return failed(tool, answer.status, answer.headers, answer.content, self.checks)
        try:
            return await self._success(tool, call, answer)
        except (ValueError, RecursionError):
            return unanswered(tool, "answered with what cannot be passed on", self.checks)

    async def _success(self, tool: CallableTool, call: RestCall, answer: Answer) -> dict[str, Any]:
        """The result for a 2xx answer. A large one is read beside the event loop, one at a time."""
        given = (tool, call, answer.headers, answer.content, self.settings.result_limit)
        if len(answer.content) < messages.LARGE:
            return success(*given)
        return await asyncio.get_running_loop().run_in_executor(self.reading, success, *given)

    async def _call(
        self, context: Context, tool: CallableTool, params: CallToolRequestParams
    ) -> RestCall:
        """The request that the call means. A large one is read beside the event loop, one at a time."""
        text = messages.arguments(context.request.scope) if context.request is not None else None
        if text is None:
            return rest_call(tool, params.arguments or {}, _caller(context))
        reading = partial(rest_call, tool, text, _caller(context))
        del text  # it is as large as the request that is made of it
        return await asyncio.get_running_loop().run_in_executor(self.reading, reading)


def _caller(context: Context) -> str:
    """Who calls, as far as the transport tells: an address and its credentials, or stdio's one."""
    if context.request is None:
        return "stdio"
    if grant := _grant(context):
        return grant.name
    client = context.request.client
    return f"{client and client.host} {context.request.headers.get('authorization')}"


def _grant(context: Context) -> Grant | None:
    """What the caller may do; None for everything."""
    return edge.grant() if context.request is not None else None


def _received(context: Context, name: str, pattern: re.Pattern[str]) -> str | None:
    """What the call's `_meta`, else its HTTP header, holds under `name`, when it is well-formed."""
    headers = context.request.headers if context.request is not None else {}
    value = (context.meta or {}).get(name) or headers.get(name)
    return value if isinstance(value, str) and pattern.fullmatch(value) else None
