"""The layer that decides whether a request may come in: the first thing that both processes do with it.

In this order: the origin policy, the path's form, OPTIONS, who calls, whether they may see the page or call that often.
Operations ask for their own scopes once they are found. What is refused is raised as AccessDenied; each process makes
its own form of answer of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from . import AccessDenied, AccessSettings
from .authentication import METRICS, Authentication, require
from .origins import PROBES, Headers, OriginPolicy, json_only
from .rate_limit import RateLimit
from .token_file import Grant

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffd]")
_UNKNOWN = Grant("unknown", frozenset())


class Needs(Enum):
    """What a path asks of who calls it. Where callers have no tokens, none is asked for."""

    NOTHING = "nothing"
    TOKEN = "any token"  # noqa: S105 - no secret
    METRICS = "a token with the scope of the metrics"
    CALL = "any token, and calls are counted"


class Context(Protocol):
    """What admission adds to a request's context: who calls, and headers for the answer, whatever that is."""

    caller: Grant
    headers: Headers


def make_admission(
    settings: AccessSettings,
    *,
    prefix: str,
    hosts: Iterable[str],
    scopes: Iterable[str],
    shared_store: str = "",
    **layer: Any,
) -> Callable[[ASGIApp], Admission]:
    """The layer that `settings` ask for; SettingsError when hosts, origins, token file, issuer or limit cannot be used.

    `prefix` begins the settings' variables, for messages. `hosts` are all that requests may be sent to, and `scopes` those
    that operations need; in the Redis `shared_store` all processes count calls together. `layer` goes to Admission.
    """
    return partial(
        Admission,
        origins=OriginPolicy(
            tuple(hosts),
            settings.allowed_origins,
            protected=settings.protected,
            hosts_setting=f"{prefix}ALLOWED_HOSTS",
            origins_setting=f"{prefix}ALLOWED_ORIGINS",
        ),
        authentication=Authentication.from_settings(settings, prefix=prefix, scopes=scopes),
        rate_limit=RateLimit(settings.rate_limit, shared_store, prefix=prefix)
        if settings.rate_limit
        else None,
        **layer,
    )


class Admission:
    """ASGI. Where a page needs None, there is nothing, whatever the router finds."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        context: Callable[[], Context],
        origins: OriginPolicy,
        authentication: Authentication | None,
        rate_limit: RateLimit | None,
        pages: Mapping[str, Needs | None],
        otherwise: Needs = Needs.CALL,
        refuse_slash: bool = False,
        allowed_methods: Callable[[str], Sequence[str]] | None = None,
        media_type: Callable[[str, str], str] = json_only,
        call_headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """`context` finds that of the request. No `authentication`: everybody may call; no `rate_limit`: as often as they
        like. `pages` maps decoded paths to what they need; one that ends with / is for all below it, and all others need
        `otherwise`. With `refuse_slash` there is nothing at other paths that end so: a router would redirect, which drops
        a POST's body on the way.
        `allowed_methods` are what OPTIONS is answered with, for paths that have some; without it only preflights of
        allowed origins are answered, at any path. `media_type` is that of the bodies of a method of a path. `call_headers` go
        with the answers to calls.
        """
        self.app = app
        self.context = context
        self.origins = origins
        self.authentication = authentication
        self.rate_limit = rate_limit
        self.pages = pages
        self.otherwise = otherwise
        self.folders = [path for path in pages if path.endswith("/") and path != "/"]
        self.refuse_slash = refuse_slash
        self.allowed_methods = allowed_methods
        self.media_type = media_type
        self.call_headers = call_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Probers name any host, and learn nothing.
        if scope["type"] == "http" and scope["path"] not in PROBES:
            ctx = self.context()
            if self.authentication:
                ctx.caller = _UNKNOWN  # until it has shown a token
            ctx.headers += self.origins.admit(scope, self.media_type)
            path = scope["path"]
            if _CONTROL.search(path):
                detail = "The path has control characters or is not UTF-8."
                raise AccessDenied("malformed-request", 400, detail)
            page = next((each for each in self.folders if path.startswith(each)), path)
            needs = self.pages.get(page, self.otherwise)
            if needs is None or (self.refuse_slash and path.endswith("/") and path != "/"):
                raise HTTPException(404)
            if scope["method"] == "OPTIONS" and (headers := self._options(scope)):
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body"})
                return
            if needs is not Needs.NOTHING:
                await self._admit_caller(ctx, scope, needs)
        await self.app(scope, receive, send)

    def _options(self, scope: Scope) -> Headers:
        """The headers that answer OPTIONS; none when that is not answered here."""
        preflight = self.origins.preflight(scope)
        if self.allowed_methods is None:
            return preflight
        allowed = self.allowed_methods(scope["path"])
        return [(b"allow", ", ".join(allowed).encode()), *preflight] if allowed else []

    async def _admit_caller(self, ctx: Context, scope: Scope, needs: Needs) -> None:
        if self.authentication:
            ctx.caller = await self.authentication.grant(scope["headers"])
        if needs is Needs.METRICS:
            require(ctx.caller, METRICS)
        if needs is Needs.CALL:
            ctx.headers += self.call_headers
            if self.rate_limit:
                counted = await self.rate_limit.count(ctx.caller.name)
                ctx.headers += [(name.lower().encode(), value.encode()) for name, value in counted]
