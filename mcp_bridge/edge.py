"""Who may use the bridge over HTTP: the outermost layers, around the MCP endpoint and the probes.

`Edge` opens a request's context, which `access.admission` fills in, and makes a problem document of every failure that is no
JSON. `ResourceMetadata` tells MCP clients where tokens are had (RFC 9728).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access import AccessDenied, listen, origins
from access.admission import Admission, Needs, make_admission
from access.token_file import LOCAL, Grant
from mcp_bridge.config import Settings
from mcp_bridge.event_stream import EventStream
from mcp_bridge.messages import PATH, media_type
from serving.problems import MEDIA_TYPE, document
from telemetry import trace_context

METADATA_PATH = f"/.well-known/oauth-protected-resource{PATH}"  # RFC 9728 section 3.1

log = logging.getLogger("mcp_bridge.edge")


@dataclass(slots=True)
class RequestContext:
    """Who calls; headers that the answer has, whatever it is; the arguments of a tool call that is not small, as text, and the
    thread's work on them; where to tell what there is to tell before the result, when the client takes it.
    """

    caller: Grant = LOCAL
    headers: origins.Headers = field(default_factory=list)
    arguments: Raw | None = None
    reading: asyncio.Future[Any] | None = None
    stream: EventStream | None = None


_current: ContextVar[RequestContext] = ContextVar("mcp_bridge.request_context")
current = _current.get
"""The context of the request that this task works for; LookupError when it works for none over HTTP."""


def admission(settings: Settings) -> Callable[[ASGIApp], Admission]:
    """The layer that decides who may come in; SettingsError when `settings` would let in whom they should not, or do not
    say whom.
    """
    layer = make_admission(
        settings,
        prefix="BRIDGE_",
        hosts=(*origins.LOOPBACK, *listen.names(settings.host), *settings.allowed_hosts),
        scopes=settings.contract.scopes,
        context=current,
        # Elsewhere is nothing that could be misused. A client that looks there for a way to a token learns that there is none.
        pages={PATH: Needs.CALL},
        otherwise=Needs.NOTHING,
        media_type=media_type,
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
        if scope["path"].rstrip("/") == PATH:
            scope = {**scope, "path": PATH, "raw_path": PATH.encode()}  # no redirect from /mcp/
        ctx = RequestContext()
        _current.set(ctx)
        failure: Exception | None = None
        begun = False

        async def checked_send(message: Message) -> None:
            nonlocal failure, begun
            if message["type"] == "http.response.start":
                headers = Headers(raw=message.get("headers", []))
                if message["status"] >= 400 and "json" not in headers.get("content-type", ""):
                    # Starlette's or the SDK's.
                    allow = {"Allow": headers["allow"]} if "allow" in headers else None
                    failure = HTTPException(message["status"], headers=allow)
                    return
                begun = True
                message["headers"] = [*message.get("headers", []), *ctx.headers]
            if begun:
                await send(message)

        try:
            await self.app(scope, receive, checked_send)
        except Exception as error:  # the outermost edge
            if begun:
                raise
            failure = error
        if failure:
            await self._problem(failure, scope)(scope, receive, checked_send)

    def _problem(self, failure: Exception, scope: Scope) -> Response:
        request_id = trace_context.request_id(scope["headers"])
        headers = {"X-Request-ID": request_id, "X-Content-Type-Options": "nosniff"}
        if isinstance(failure, AccessDenied):
            slug, status, detail = failure.slug, failure.status, failure.detail
            headers |= failure.headers
            if slug == "unauthenticated" and self.metadata:
                headers["WWW-Authenticate"] += f", {self.metadata.challenge(scope)}"
        else:
            known = failure if isinstance(failure, HTTPException) else HTTPException(500)
            status = known.status_code
            headers |= known.headers or {}
            slug, detail = _FAILURES.get(status, _FAILURES[500 if status >= 500 else 400])
            if known is not failure:
                log.error("request %s broke in the bridge", request_id, exc_info=failure)
        asked = f"{scope['method']} {scope['path'][:128]}"
        log.info("request %s refused: %s, %s", request_id, asked, slug)
        return JSONResponse(document(slug, status, detail, request_id), status, headers, MEDIA_TYPE)


# What others than admission refuse, or fail at: kind and detail by status.
_FAILURES = {
    400: ("malformed-request", "The request cannot be read."),
    404: ("not-found", f"MCP is spoken at {PATH}, and nothing else is here."),
    405: ("method-not-allowed", "The Allow header says which methods are answered here."),
    500: ("internal-error", "The bridge's log has the cause under the request_id."),
}


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
