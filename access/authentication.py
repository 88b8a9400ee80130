"""Tells who calls, by the bearer token of a request (RFC 6750), and what they may not do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from environment import SettingsError

from .refusals import KeysUnavailable, Refused, Untrusted
from .token_file import Grant, TokenFile

if TYPE_CHECKING:
    from .jwt_issuer import Issuer

REALM = "gateway"
METRICS = "metrics"
"""The one scope that no operation needs: it lets a collector read the metrics."""
MAX_TOKEN = 8192
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 section 2.1


class AccessSettings(Protocol):
    """What a process's settings say of access; empty texts are unset. Algorithms are separated by commas."""

    @property
    def tokens_file(self) -> str: ...
    @property
    def jwt_issuer(self) -> str: ...
    @property
    def jwt_audience(self) -> str: ...
    @property
    def jwks_url(self) -> str: ...
    @property
    def jwt_algorithms(self) -> str: ...


class Bearers:
    """Everybody with a token: those of a file, those of an issuer, or both."""

    def __init__(self, tokens: TokenFile | None, issuer: Issuer | None) -> None:
        self.tokens = tokens
        self.issuer = issuer

    async def grant(
        self, headers: Iterable[tuple[bytes, bytes]], hints: Mapping[str, str] | None = None
    ) -> Grant:
        """The caller's grant; Refused (unauthenticated, issuer-unreachable) for a request without a good token.

        `hints` are further parameters of the WWW-Authenticate challenge.
        """
        given = [value for name, value in headers if name == b"authorization"]
        match = _BEARER.fullmatch(given[0].decode("latin-1").strip()) if len(given) == 1 else None
        hints = hints or {}
        if match is None or len(match[1]) > MAX_TOKEN:
            raise _unauthenticated("Send Authorization: Bearer TOKEN.", hints)
        token = match[1]
        if self.tokens:
            await self.tokens.renew()
            if grant := self.tokens.find(token):
                return grant
        if self.issuer and token.count(".") == 2:
            return await self._issued(self.issuer, token, hints)
        unknown = "The token is unknown, revoked or expired."
        raise _unauthenticated(unknown, {"error": "invalid_token", **hints})

    async def _issued(self, issuer: Issuer, token: str, hints: Mapping[str, str]) -> Grant:
        try:
            return await issuer.grant(token)
        except Untrusted as error:
            hints = {"error": "invalid_token", "error_description": str(error), **hints}
            raise _unauthenticated(f"The token is not accepted: {error}.", hints) from error
        except KeysUnavailable as error:
            raise Refused(
                "issuer-unreachable",
                503,
                "The keys of the tokens' issuer cannot be had, so that no token of its can be checked.",
                [("Retry-After", str(max(1, math.ceil(error.seconds))))],
            ) from error


def require(grant: Grant, needed: str) -> None:
    """Raises Refused (insufficient-scope) unless `grant` has the scope `needed`."""
    if not grant.allows(needed):
        raise Refused(
            "insufficient-scope",
            403,
            f"The token of {grant.name} lacks the scope {needed}.",
            [_challenge({"error": "insufficient_scope", "scope": needed})],
        )


def _unauthenticated(detail: str, parameters: Mapping[str, str]) -> Refused:
    return Refused("unauthenticated", 401, detail, [_challenge(parameters)])


def _challenge(parameters: Mapping[str, str]) -> tuple[str, str]:
    """A WWW-Authenticate header for bearer tokens; RFC 6750 section 3."""
    pairs = ", ".join(f'{name}="{value}"' for name, value in {"realm": REALM, **parameters}.items())
    return ("WWW-Authenticate", f"Bearer {pairs}")


def bearers(settings: AccessSettings, *, prefix: str, scopes: Iterable[str]) -> Bearers | None:
    """The bearers that `settings` name; None when they name none, and whoever reaches the port may call.

    `prefix` begins the settings' variables, for messages; `scopes` are those that operations need. SettingsError when
    the settings cannot be used.
    """
    issuer = None
    issuer_settings = (settings.jwt_issuer, settings.jwt_audience, settings.jwks_url)
    if any(issuer_settings):
        if not all(issuer_settings):
            raise SettingsError(
                f"{prefix}JWT_ISSUER, {prefix}JWT_AUDIENCE and {prefix}JWKS_URL belong together; set all or none"
            )
        # Slow to import, and seldom needed.
        from .jwt_issuer import Issuer

        algorithms = [name.strip() for name in settings.jwt_algorithms.split(",") if name.strip()]
        try:
            issuer = Issuer(*issuer_settings, algorithms)
        except SettingsError as error:
            raise SettingsError(f"{prefix}{error}") from error
    known = known_scopes(scopes)
    tokens = TokenFile(Path(settings.tokens_file), known) if settings.tokens_file else None
    return Bearers(tokens, issuer) if tokens or issuer else None


def known_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Every scope that a token may have: those that operations need, and that of the metrics."""
    return frozenset({*scopes, METRICS})
