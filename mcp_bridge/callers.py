"""Who may use the bridge over HTTP: foreign pages are refused, callers known by their tokens and counted.

Around everything but the probes. What it learns of the caller, `grant` finds again in the request.
"""

from __future__ import annotations

import logging
from typing import cast

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access import AccessDenied
from access.authentication import Authentication
from access.origins import PROBES, Headers, OriginPolicy
from access.rate_limit import RateLimit
from access.token_file import Grant

_GRANT = "mcp_bridge.grant"

log = logging.getLogger("mcp_bridge.callers")


def grant(scope: Scope) -> Grant | None:
    """What the caller of a request may do; None when callers need no tokens, and may do everything."""
    return cast("Grant | None", scope.get(_GRANT))


class Callers:
    """ASGI, outermost. `path` is the MCP endpoint's, `scopes` are all that its tools need."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: OriginPolicy,
        authentication: Authentication | None,
        rates: RateLimit | None,
        path: str,
        scopes: list[str],
    ) -> None:
        self.app = app
        self.origins = origins
        self.authentication = authentication
        self.rates = rates
        self.path = path
        self.scopes = scopes
        # RFC 9728 section 3.1: the well-known part goes before the resource's path.
        self.metadata_path = f"/.well-known/oauth-protected-resource{path}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        headers: Headers = []
        try:
            headers += self.origins.admit(scope)
            app = self._open(scope) or await self._admitted(scope, headers)
        except AccessDenied as refused:
            log.info("refused %s %s: %s", scope["method"], scope["path"][:128], refused.slug)
            app = _refusal(refused)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await app(scope, receive, with_headers)

    def _open(self, scope: Scope) -> ASGIApp | None:
        """The answer to what needs no token: a listed page's preflight, and where tokens are had."""
        if preflight := self.origins.preflight(scope):
            response = Response(status_code=204)
            response.raw_headers += preflight
            return response
        if (
            scope["path"] == self.metadata_path
            and self.authentication
            and self.authentication.issuer
        ):
            return JSONResponse(self._metadata(scope, self.authentication.issuer.issuer))
        return None

    def _metadata(self, scope: Scope, issuer: str) -> dict[str, object]:
        """RFC 9728 section 2."""
        audience = (
            self.authentication.issuer.audience
            if self.authentication and self.authentication.issuer
            else ""
        )
        return {
            "resource": audience if "://" in audience else f"{_base_url(scope)}{self.path}",
            "authorization_servers": [issuer],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
        }

    async def _admitted(self, scope: Scope, headers: Headers) -> ASGIApp:
        name = "local"
        if self.authentication:
            hints = {}
            if self.authentication.issuer:
                hints["resource_metadata"] = f"{_base_url(scope)}{self.metadata_path}"
                hints["scope"] = " ".join(self.scopes)
            scope[_GRANT] = granted = await self.authentication.grant(scope["headers"], hints)
            name = granted.name
        counted = await self.rates.count(name) if self.rates else []
        headers += [(name.lower().encode(), value.encode()) for name, value in counted]
        return self.app


def _base_url(scope: Scope) -> str:
    """How the caller calls this host; its Host header was admitted before."""
    host = next(value for name, value in scope["headers"] if name == b"host")
    return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}"


def _refusal(refused: AccessDenied) -> Response:
    problem = {
        "title": refused.slug.replace("-", " "),
        "status": refused.status,
        "detail": refused.detail,
    }
    return JSONResponse(
        problem,
        status_code=refused.status,
        headers=dict(refused.headers),
        media_type="application/problem+json",
    )
