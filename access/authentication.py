"""Tells who calls, by the bearer token of a request (RFC 6750), and what they may not do."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from environment import SettingsError

from . import AccessDenied, AccessSettings
from .token_file import Grant, TokenFile

if TYPE_CHECKING:
    from .jwt_issuer import JwtIssuer

REALM = "gateway"
METRICS = "metrics"
"""The one scope that no operation needs: it lets a collector read the metrics."""
MAX_TOKEN = 8192
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)  # RFC 6750 section 2.1


class InvalidToken(ValueError):
    """A token is not good; the message says why in words fit for the caller."""


class KeysUnavailable(Exception):
    """There are no keys to check a token with: none could be fetched. `seconds` until that is tried again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Authentication:
    """Everybody with a token: those of a file, those of an issuer, or both."""

    def __init__(self, token_file: TokenFile | None, issuer: JwtIssuer | None) -> None:
        self.token_file = token_file
        self.issuer = issuer

    @classmethod
    def from_settings(
        cls, settings: AccessSettings, *, prefix: str, scopes: Iterable[str]
    ) -> Authentication | None:
        """The authentication that settings ask for; None when they ask for none: everybody may call.

        `prefix` begins the settings' variables, for messages; `scopes` are those that operations need. Raises SettingsError
        when token file or issuer cannot be used.
        """
        issuer, tokens = None, None
        named = (settings.jwt_issuer, settings.jwt_audience, settings.jwks_url)
        if any(named):
            if not all(named):
                raise SettingsError(
                    f"{prefix}JWT_ISSUER, {prefix}JWT_AUDIENCE and {prefix}JWKS_URL belong together; set all or none"
                )
            # Slow to import, and seldom needed.
            from .jwt_issuer import JwtIssuer

            algorithms = [each.strip() for each in settings.jwt_algorithms.split(",")]
            try:
                issuer = JwtIssuer(*named, list(filter(None, algorithms)))
            except SettingsError as error:
                raise SettingsError(f"{prefix}{error}") from error
        if settings.tokens_file:
            tokens = TokenFile(Path(settings.tokens_file), known_scopes(scopes))
        return cls(tokens, issuer) if tokens or issuer else None

    async def grant(self, headers: Iterable[tuple[bytes, bytes]]) -> Grant:
        """The caller's grant; AccessDenied (unauthenticated, issuer-unreachable) for a request without a good token."""
        given = [value for name, value in headers if name == b"authorization"]
        match = _BEARER.fullmatch(given[0].decode("latin-1").strip()) if len(given) == 1 else None
        if match is None or len(match[1]) > MAX_TOKEN:
            raise _unauthenticated("Send Authorization: Bearer TOKEN.")
        token = match[1]
        if self.token_file:
            await self.token_file.refresh()
            if grant := self.token_file.find(token):
                return grant
        if self.issuer and token.count(".") == 2:
            return await self._issued(self.issuer, token)
        raise _unauthenticated("The token is unknown, revoked or expired.", error="invalid_token")

    async def _issued(self, issuer: JwtIssuer, token: str) -> Grant:
        try:
            return await issuer.grant(token)
        except InvalidToken as error:
            raise _unauthenticated(
                f"The token is not accepted: {error}.",
                error="invalid_token",
                error_description=str(error),
            ) from error
        except KeysUnavailable as error:
            raise AccessDenied(
                "issuer-unreachable",
                503,
                "The keys of the tokens' issuer cannot be had, so that no token of its can be checked.",
                [("Retry-After", str(max(1, math.ceil(error.seconds))))],
            ) from error


def known_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Every scope that a token may have: those that operations need, and that of the metrics."""
    return frozenset({*scopes, METRICS})


def require(grant: Grant, needed: str) -> None:
    """Raises AccessDenied (insufficient-scope) unless `grant` has the scope `needed`."""
    if grant.scopes is not None and needed not in grant.scopes:
        raise AccessDenied(
            "insufficient-scope",
            403,
            f"The token of {grant.name} lacks the scope {needed}.",
            [_challenge(error="insufficient_scope", scope=needed)],
        )


def _unauthenticated(detail: str, **parameters: str) -> AccessDenied:
    return AccessDenied("unauthenticated", 401, detail, [_challenge(**parameters)])


def _challenge(**parameters: str) -> tuple[str, str]:
    """A WWW-Authenticate header for bearer tokens; RFC 6750 section 3."""
    pairs = ", ".join(f'{name}="{value}"' for name, value in {"realm": REALM, **parameters}.items())
    return ("WWW-Authenticate", f"Bearer {pairs}")
