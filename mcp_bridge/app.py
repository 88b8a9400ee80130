"""The MCP server over HTTP: an ASGI application with /mcp, and /livez and /readyz for probes.

It keeps no state, so any worker can answer any request (`workers` has several).
"""

from __future__ import annotations

import asyncio
import gc

from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_bridge.config import Settings
from mcp_bridge.edge import METADATA_PATH, PATH, Edge, ResourceMetadata, make_admission
from mcp_bridge.messages import Messages
from mcp_bridge.rest_client import NoAnswer, NotSent, RestClient
from mcp_bridge.server import build_server
from telemetry import logs

_PROBE_SECONDS = 2.0
_WATCHED_AFTER = 0.05  # seconds; most calls are done by then, and a task costs more than a timer


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The application for `settings`, None being the environment's.

    SettingsError or ContractError when it cannot run, or would serve whom it should not.
    """
    settings = settings or Settings.from_env()
    admission = make_admission(settings)
    metadata = ResourceMetadata(settings) if settings.jwt_issuer else None
    server = build_server(settings.contract, settings)

    async def ready(_: Request) -> Response:
        rest = await _is_ready(settings.rest_url)
        word = "ready, but audit lines are lost" if logs.loses_audit_lines() else "ready"
        status = word if rest else "the REST service is not ready"
        return JSONResponse({"status": status}, status_code=200 if rest else 503)

    app = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        json_response=True,  # a stream, of which nothing here has a use, doubles what a call costs
        max_request_body_size=settings.max_body,
        # Admission does it, with answers that say what to change, and before tokens are asked for.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        custom_starlette_routes=[
            Route("/livez", _live),
            Route("/readyz", ready),
            *([Route(METADATA_PATH, metadata.page)] if metadata else []),
        ],
    )
    # The collector's pauses make the slowest calls slow; what is here now stays for good.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return Edge(admission(Hardened(app, Messages(app, max_body=settings.max_body))), metadata)


async def _live(_: Request) -> Response:
    return JSONResponse({"status": "live"})


async def _is_ready(rest_url: str) -> bool:
    try:
        async with RestClient(rest_url, "", _PROBE_SECONDS) as rest:
            return (await rest.send("GET", "/readyz", {})).status == 200
    except (NotSent, NoAnswer):
        return False


class Hardened:
    """ASGI: what the SDK's endpoint leaves open.

    White space around a header's value is no part of it (RFC 9110 section 5.5), yet some servers
    hand it on. Only POST has a use here: the SDK answers a GET with a stream that never ends.
    """

    def __init__(self, app: ASGIApp, endpoint: ASGIApp) -> None:
        """`endpoint` is for what is POSTed to the endpoint, `app` for all else."""
        self.app = app
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            headers = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers}
            if scope["path"].rstrip("/") == PATH:
                scope |= {"path": PATH, "raw_path": PATH.encode()}  # no redirect from /mcp/
                if scope["method"] != "POST":
                    app = Response(status_code=405, headers={"Allow": "POST"})
                else:
                    app = CancelledByLeaving(self.endpoint)
        await app(scope, receive, send)


class CancelledByLeaving:
    """ASGI: ends what is done for a client that leaves before its answer begins.

    To hang up is how a call is cancelled over HTTP (MCP 2026-07-28, "Streamable HTTP"), and the SDK
    notices it only where it answers with a stream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        call = asyncio.current_task()
        watch: asyncio.TimerHandle | asyncio.Task[None] | None = None
        left = False

        async def wait_for_leaving() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            left = True
            if call:
                call.cancel()

        def begin() -> None:
            nonlocal watch
            watch = loop.create_task(wait_for_leaving())

        async def received() -> Message:
            nonlocal watch
            message = await receive()
            if watch is None and not message.get("more_body"):
                watch = loop.call_later(_WATCHED_AFTER, begin)
            return message

        async def sent(message: Message) -> None:
            if watch:
                watch.cancel()  # servers report the end of an answer as they do a client's leaving
            await send(message)

        try:
            await self.app(scope, received, sent)
        except asyncio.CancelledError:
            if not left:
                raise
        finally:
            if watch:
                watch.cancel()
