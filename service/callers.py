"""Who calls: every request gets its caller, or is refused, before anything looks at what it wants."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from access.authentication import METRICS, Authentication, require
from access.origins import PROBES
from access.rate_limit import RateLimit
from access.token_file import Grant
from openapi.contract import is_page

from .request_context import current


class Callers:
    """ASGI: sets the context's caller; limits how often one calls an operation."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authentication: Authentication | None,
        rates: RateLimit | None,
        docs_open: bool,
    ) -> None:
        self.app = app
        self.authentication = authentication
        self.rates = rates
        self.docs_open = docs_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            await self._admit(scope, scope["path"])
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope, path: str) -> None:
        page = is_page(path)
        if page and path != "/metrics":
            if self.docs_open:
                return
            if not self.authentication:
                raise HTTPException(404)
        ctx = current()
        if self.authentication:
            ctx.caller = Grant("unknown", frozenset())
            ctx.caller = await self.authentication.grant(scope["headers"])
        if path == "/metrics":
            require(ctx.caller, METRICS)
        if not page:
            ctx.headers.append((b"cache-control", b"no-store"))
            counted = await self.rates.count(ctx.caller.name) if self.rates else []
            ctx.headers += [(name.lower().encode(), value.encode()) for name, value in counted]
