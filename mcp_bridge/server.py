"""The MCP server of one contract, apart from how it is hosted: lists its tools and calls them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import msgspec
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    GetPromptRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
)
from msgspec import Raw
from starlette.requests import Request

from access.token_file import LOCAL, Grant
from mcp_bridge import edge, waiting
from mcp_bridge.arguments import BadArguments, read_call
from mcp_bridge.asked import Asked
from mcp_bridge.canonical import LARGE
from mcp_bridge.config import Settings
from mcp_bridge.failures import Failures, invalid_arguments, tool_error
from mcp_bridge.job_results.source import Refused, ResultSource
from mcp_bridge.job_results.tool_result import next_step
from mcp_bridge.lines import Lines
from mcp_bridge.rest_client import AnswerTooLarge, NoAnswer, NotSent, RestClient
from mcp_bridge.results import Results
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import Contract
from openapi.names import near_name
from serving.body_buffer import Reservation
from telemetry import trace_context
from telemetry.logs import audit_log
from telemetry.trace_context import Trace

log = logging.getLogger("mcp_bridge")

SECRET = 6
"""Characters from which on a token of the bridge's own is taken out of results."""

NOTHING = {
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
"""Lists with nothing in them. Some clients ask for them whatever a server says it has, and hide one that knows no such method;
the official conformance suite has them declared where they are answered."""

Context = ServerRequestContext[RestClient, Any]


def build_server(
    contract: Contract, settings: Settings, reading: ThreadPoolExecutor | None = None
) -> Server[RestClient]:
    """A server of the contract's tools; `reading` has the one thread that reads what is large, None for one of its own."""
    # Not anyio's threads: its futures are in a cycle with the exception and all that was read, until it is collected.
    reading = reading or ThreadPoolExecutor(1, "reading")
    bridge = Bridge(contract, settings, reading)

    @asynccontextmanager
    async def connected(_: Any) -> AsyncIterator[RestClient]:
        # So that its thread is there before a call needs it, when the system may have none to give.
        reading.submit(int)
        async with RestClient(
            settings.rest_url, settings.rest_token, settings.timeout, settings.max_answer
        ) as rest:
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
            "prompts/list": CacheHint(ttl_ms=3_600_000, scope="public"),
            "resources/list": CacheHint(ttl_ms=3_600_000, scope="public"),
            "resources/templates/list": CacheHint(ttl_ms=3_600_000, scope="public"),
        },
        # Without this the SDK runs tools/list before every call.
        get_tool_input_schema=bridge.input_schemas.get,
    )
    if find_spec("opentelemetry.sdk") is None:
        server.middleware.clear()  # the SDK's one writes spans, which then go nowhere

    # Not by the constructor, whose handlers return models: the wire form saves a dump per call.
    server.add_request_handler("tools/list", PaginatedRequestParams, bridge.list_tools)
    server.add_request_handler("tools/call", CallToolRequestParams, bridge.call_tool)
    for listing, member in NOTHING.items():
        server.add_request_handler(listing, PaginatedRequestParams, partial(_nothing, member))
    server.add_request_handler("prompts/get", GetPromptRequestParams, _not_found)
    server.add_request_handler("resources/read", ReadResourceRequestParams, _not_found)
    return server


async def _nothing(member: str, _: Context, __: PaginatedRequestParams) -> dict[str, Any]:
    return {member: [], "resultType": "complete"}


async def _not_found(_: Context, params: GetPromptRequestParams | ReadResourceRequestParams) -> Any:
    uri = {"uri": params.uri} if isinstance(params, ReadResourceRequestParams) else None
    raise MCPError(code=INVALID_PARAMS, message="There is none: here are tools only", data=uri)


class Bridge:
    """Lists the contract's tools and calls them at the REST service; every failure but that of an unknown tool is a result."""

    def __init__(self, contract: Contract, settings: Settings, reading: ThreadPoolExecutor) -> None:
        self.tools = build_tools(contract)
        self.operations = contract.operations
        self.input_schemas = {name: tool.input_schema for name, tool in self.tools.items()}
        self.listings = {name: tool.listing() for name, tool in self.tools.items()}
        self.settings = settings
        self.reading = reading
        # A shorter one may be a word of its own.
        secret = settings.rest_token if len(settings.rest_token) >= SECRET else ""
        self.results = Results(limit=settings.result_limit, secret=secret)
        self.failures = Failures(contract.provider, secret)

    async def list_tools(self, context: Context, _: PaginatedRequestParams) -> dict[str, Any]:
        """The result of tools/list: what the caller may call."""
        caller = _context(context).caller
        allowed = [
            self.listings[name]
            for name, tool in self.tools.items()
            if caller is LOCAL or not self.missing_scope(caller, tool)
        ]
        return {"tools": allowed, "resultType": "complete"}

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> dict[str, Any]:
        """The result of one tools/call; MCPError for a tool that does not exist."""
        tool = self.tools.get(params.name)
        if tool is None:
            near = near_name(params.name, self.tools)
            known = f"did you mean {near}?" if near else f"there are {', '.join(self.tools)}"
            message = f"Unknown tool {params.name[:128]!r}: {known}"
            raise MCPError(code=INVALID_PARAMS, message=message)
        call = _Call.of(context)
        started = time.monotonic()
        try:
            result = await self._result(context, tool, params, call)
        except Exception:  # the outermost edge: the SDK tells older clients an exception's text
            log.exception("%s broke in the bridge, request %s", params.name, call.request_id)
            how = f"may have been asked when the bridge broke (its log: {call.request_id})"
            result = self.failures.no_response(tool, how)
        _log_call(tool, call, result, time.monotonic() - started)
        return result

    def missing_scope(self, grant: Grant, tool: CallableTool) -> str:
        """The scope that calling `tool` needs and `grant` does not have; empty when it has it."""
        needed = tool.operation.scope
        return "" if grant.allows(needed) else needed

    async def _result(
        self, context: Context, tool: CallableTool, params: CallToolRequestParams, call: _Call
    ) -> dict[str, Any]:
        if call.caller is not LOCAL and (needed := self.missing_scope(call.caller, tool)):
            return tool_error(
                f"{tool.declared.name} failed: the token of {call.caller.name} lacks the scope {needed}."
                " Nothing was sent; only the gateway's operator can help."
            )
        try:
            asked = await self._asked(context, tool, params, call)
        except BadArguments as error:
            return invalid_arguments(tool, error.violations, error.note)
        rest = context.lifespan_context
        reservation = Reservation(rest.budget)
        lines = Lines(asked.lines, self.results.limit) if asked.lines else None
        source = self._source(tool, rest, call, reservation) if asked.selection else None
        reading: asyncio.Future[dict[str, Any]] | None = None
        try:
            look = waiting.Look(
                rest=rest,
                request=replace(asked.request, headers={**asked.request.headers, **call.headers}),
                reservation=reservation,
                hints=tool.operation.hints,
                reading=self.reading,
                secret=self.results.secret,
                caller="" if call.caller is LOCAL else call.caller.name,
            )
            answer, note = await waiting.answered(look, context, tool, asked, call.times, lines)
            if source and (answer is None or 200 <= answer.status < 300):
                return await source.result(tool, asked.noted(note), answer)
            assert answer  # else there is a source
            if not 200 <= answer.status < 300:
                return self.failures.refused(tool, asked.noted(note), answer)
            if lines:
                return self.results.lines(tool, asked, answer, lines)
            asked = asked.noted(note or next_step(tool, answer))
            read = partial(self.results.success, tool, asked, answer)
            if len(answer.content) < LARGE:
                return read()
            reading = asyncio.get_running_loop().run_in_executor(self.reading, read)
            # Goes on when the client leaves: until it has ended, the answer is in memory.
            return await asyncio.shield(reading)
        except Refused as error:
            return self.failures.refused(tool, asked, error.answer)
        except NotSent as error:
            return self.failures.not_sent(tool, str(error))
        except AnswerTooLarge as error:
            return self.failures.too_large(tool, str(error))
        except NoAnswer as error:
            come = f", of which {lines.seen} lines had come" if lines and lines.seen else ""
            return self.failures.no_response(tool, f"{error}{come}")
        except (ValueError, RecursionError):
            return self.failures.no_response(tool, "answered with what cannot be passed on")
        finally:
            reservation.release(source.running if source else reading)

    def _source(
        self, tool: CallableTool, rest: RestClient, call: _Call, reservation: Reservation
    ) -> ResultSource:
        """Where the results come from that the call may want."""
        results = tool.operation.hints.results
        content = self.operations.get(results.files.content) if results and results.files else None
        if content and not (call.caller is LOCAL or call.caller.allows(content.scope)):
            content = None
        return ResultSource(
            self.results,
            rest,
            self.reading,
            content,
            call.headers,
            asyncio.get_running_loop().time() + rest.timeout,
            reservation,
        )

    async def _asked(
        self, context: Context, tool: CallableTool, params: CallToolRequestParams, call: _Call
    ) -> Asked:
        """The request that the call means. A large one is read beside the event loop, one at a time."""
        ctx = _context(context)
        given, ctx.arguments = ctx.arguments or params.arguments or {}, None
        if not (isinstance(given, Raw) and len(given) >= LARGE):
            return read_call(tool, given, call.identity)
        reading = partial(read_call, tool, given, call.identity)
        del given  # it is as large as the request that is made of it
        ctx.reading = asyncio.get_running_loop().run_in_executor(self.reading, reading)
        del reading
        # Goes on when the client leaves: until it has ended, the arguments are in memory.
        return await asyncio.shield(ctx.reading)


def _context(context: Context) -> edge.RequestContext:
    """The context of a request over HTTP, or of a message on standard input; an empty one for a client in this process."""
    if isinstance(context.request, Request):
        return edge.current()
    return context.request or edge.RequestContext()


@dataclass(frozen=True)
class _Call:
    """Who calls, and what the call is known by: here, in the logs, and at the REST service."""

    caller: Grant  # LOCAL when callers need no tokens, and may do everything
    name: str  # of the caller, in the logs
    identity: str  # a name, or address and credentials: repeats are known by it
    request_id: str
    trace: Trace
    headers: dict[str, str]
    """What the REST service is told of the call; in a caller's trace it has no span here, so that the caller's is the parent of the next."""
    times: dict[str, float] = field(
        default_factory=dict
    )  # seconds for the logs, beside the call's own

    @classmethod
    def of(cls, context: Context) -> _Call:
        given = dict(context.meta or {})  # before headers, which gateways on the way may have set
        caller, name = _context(context).caller, "stdio"
        identity = name
        if isinstance(context.request, Request):
            http, client = context.request.headers, context.request.client
            given = {**{name: http[name] for name in _PASSED_ON if name in http}, **given}
            name = client.host if client else "stdio"
            identity = f"{client and client.host} {http.get('authorization')}"
        if caller is not LOCAL:
            name = identity = caller.name
        known = [
            (name.encode(), value.encode(errors="replace"))
            for name in _PASSED_ON
            if isinstance(value := given.get(name), str)
        ]
        trace = trace_context.received(known)
        request_id = trace_context.request_id(known)
        # A trace that begins here is sampled: one that is not would have no spans of the REST service either.
        place = trace.parent() if trace.parent_id else msgspec.structs.replace(trace, flags=1)
        headers = {**place.headers(), "X-Request-ID": request_id}
        return cls(caller, name, identity, request_id, trace, headers)


# Of a call's `_meta` or HTTP headers.
_PASSED_ON = ("traceparent", "tracestate", "x-request-id")


def _log_call(tool: CallableTool, call: _Call, result: dict[str, Any], seconds: float) -> None:
    """One line in the log for a call, and one in the audit log for a call that may have changed something."""
    fields = {
        "request_id": call.request_id,
        "trace_id": call.trace.trace_id,
        "caller": call.name,
        "tool": tool.declared.name,
        "operation": tool.operation.id,
        "outcome": "failed" if result["isError"] else "done",
        "seconds": round(seconds, 4),
        **call.times,
    }
    message = f"{fields['tool']} {fields['outcome']}"
    log.info(message, extra={"fields": fields})
    if not tool.declared.read_only:
        subject = str(result.get("structuredContent", {}).get("id", ""))[:128]
        audit_log.info(message, extra={"fields": {**fields, "id": subject}})
