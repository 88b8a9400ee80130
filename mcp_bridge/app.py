"""The MCP server over HTTP: an ASGI application with /mcp, /livez and /readyz for probes, and /problems.

It keeps no state, so any worker can answer any request (`gunicorn_conf` has several).
"""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mcp_bridge.config import Settings
from mcp_bridge.edge import METADATA_PATH, Edge, ResourceMetadata, admission
from mcp_bridge.message_reader import MessageReader
from mcp_bridge.messages import PATH
from mcp_bridge.rest_client import NoAnswer, NotSent, RestClient, RestRequest
from mcp_bridge.server import build_server
from serving.body_buffer import Reservation
from serving.problems import DOCUMENTATION, TITLES
from telemetry import logs

_PROBE_SECONDS = 2.0


def create_served_app(settings: Settings | None = None) -> ASGIApp:
    """As `create_app`, for the process that serves it; `settings` None being the environment's.

    The garbage collector's pauses make the slowest calls slow: what is here now stays for good and is not looked at again.
    """
    app = create_app(settings or Settings.from_env())
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return app


def create_app(settings: Settings) -> ASGIApp:
    """The application; SettingsError or ContractError when it cannot run, or would serve whom it should not."""
    admitted = admission(settings)
    metadata = ResourceMetadata(settings) if settings.jwt_issuer else None
    reading = ThreadPoolExecutor(1, "reading")
    server = build_server(settings.contract, settings, reading)

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
            Route(DOCUMENTATION, _problems),
            *([Route(METADATA_PATH, metadata.page)] if metadata else []),
        ],
    )
    app.router.redirect_slashes = False
    return Edge(admitted(MessageReader(app, max_body=settings.max_body, reading=reading)), metadata)


async def _live(_: Request) -> Response:
    return JSONResponse({"status": "live"})


async def _problems(_: Request) -> Response:
    """What the type of a problem leads to."""
    return JSONResponse(TITLES)


async def _is_ready(rest_url: str) -> bool:
    try:
        async with RestClient(rest_url, "", _PROBE_SECONDS) as rest:
            answer = await rest.send(RestRequest("GET", "/readyz", {}), Reservation(rest.budget))
            return answer.status == 200
    except (NotSent, NoAnswer):
        return False
