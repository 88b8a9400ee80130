"""What is answered before routing: foreign web pages, broken paths, OPTIONS."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from access.origins import PROBES, OriginPolicy
from openapi.contract import Contract

from .problems import Problem
from .request_context import current

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffd]")


class Guards:
    """ASGI: refuses foreign web pages and broken paths, answers OPTIONS, never redirects."""

    def __init__(self, app: ASGIApp, *, contract: Contract, origins: OriginPolicy) -> None:
        self.app = app
        self.contract = contract
        self.origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path not in PROBES:  # probers name any host, and learn nothing here
            current().headers += self.origins.admit(scope)
        if _CONTROL.search(path):
            raise Problem("malformed-request", "The path has control characters or is not UTF-8.")
        if path.endswith("/") and path != "/":
            # The router would redirect, which drops a POST's body on the way.
            raise HTTPException(404)
        if scope["method"] == "OPTIONS" and (allowed := self.contract.allowed_methods(path)):
            headers = [(b"allow", ", ".join(allowed).encode()), *self.origins.preflight(scope)]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body"})
            return
        await self.app(scope, receive, send)
