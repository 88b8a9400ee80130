"""Who may use the bridge over HTTP: the outermost layers, around the MCP endpoint and the probes.

`Edge` opens a request's context, which `access.admission` fills in, and makes answers of its refusals. `ResourceMetadata`
tells MCP clients where tokens are had (RFC 9728).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access import AccessDenied, listen
from access.admission import Admission, Needs, make_admission
from access.origins import Headers
from access.token_file import LOCAL, Grant
from mcp_bridge.config import Settings

PATH = "/mcp"
METADATA_PATH = f"/.well-known/oauth-protected-resource{PATH}"  # RFC 9728 section 3.1

log = logging.getLogger("mcp_bridge.edge")


@dataclass(slots=True)
class RequestContext:
    """Who calls; headers that the answer has, whatever it is; the arguments of a tool call that is not small, as text, and the
    thread's work on them.
    """

    caller: Grant = LOCAL
    headers: Headers = field(default_factory=list)
    arguments: Raw | None = None
    reading: asyncio.Future[Any] | None = None


_current: ContextVar[RequestContext] = ContextVar("mcp_bridge.request_context")
current = _current.get
"""The context of the request that this task works for; LookupError when it works for none over HTTP."""


def admission(settings: Settings) -> Callable[[ASGIApp], Admission]:
    """The layer that decides who may come in; SettingsError when `settings` would let in whom they should not, or do not
    say whom.
    """
    names = () if listen.is_loopback(settings.host) else listen.names(settings.host)
    layer = make_admission(
        settings,
        prefix="BRIDGE_",
        hosts=(*settings.allowed_hosts, *names),
        scopes=settings.contract.scopes,
        context=current,
        pages={METADATA_PATH: Needs.NOTHING} if settings.jwt_issuer else {},
    )
    listen.check(
        settings.host, protected=settings.protected, chosen_by="BRIDGE_HOST", prefix="BRIDGE_"
    )
    return layer


class Edge:
    """ASGI, around all other layers."""

    def __init__(self, app: ASGIApp, metadata: ResourceMetadata | None) -> None:
        self.app = app
        self.metadata = metadata

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ctx = RequestContext()
        _current.set(ctx)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *ctx.headers]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except AccessDenied as denied:
            log.info("refused %s %s: %s", scope["method"], scope["path"][:128], denied.slug)
            await self._refusal(denied, scope)(scope, receive, send_with_headers)

    def _refusal(self, denied: AccessDenied, scope: Scope) -> Response:
        headers = dict(denied.headers)
        if denied.slug == "unauthenticated" and self.metadata:
            headers["WWW-Authenticate"] += f", {self.metadata.challenge(scope)}"
        problem = {
            "title": denied.slug.replace("-", " "),
            "status": denied.status,
            "detail": denied.detail,
        }
        return JSONResponse(problem, denied.status, headers, "application/problem+json")


class ResourceMetadata:
    """Where tokens for the MCP endpoint are had: RFC 9728."""

    def __init__(self, settings: Settings) -> None:
        self.issuer = settings.jwt_issuer
        self.audience = settings.jwt_audience
        self.scopes = sorted(set(settings.contract.scopes))

    def challenge(self, scope: Scope) -> str:
        """The parameters that lead from a WWW-Authenticate header to the metadata (section 5.1)."""
        return f'resource_metadata="{_base_url(scope)}{METADATA_PATH}", scope="{" ".join(self.scopes)}"'

    async def page(self, request: Request) -> Response:
        """The metadata (section 2)."""
        named = "://" in self.audience
        return JSONResponse(
            {
                "resource": self.audience if named else f"{_base_url(request.scope)}{PATH}",
                "authorization_servers": [self.issuer],
                "scopes_supported": self.scopes,
                "bearer_methods_supported": ["header"],
            }
        )


def _base_url(scope: Scope) -> str:
    """How the caller calls this host; its Host header was admitted before."""
    host = next(value for name, value in scope["headers"] if name == b"host")
    return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}"
