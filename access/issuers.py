"""Tokens that somebody else issues: JWTs, checked with the issuer's public keys (RFC 7519, RFC 9068, RFC 8725)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, build_opener

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from .binding import is_loopback
from .refusals import KeysUnavailable, Untrusted
from .settings import SettingsError
from .tokens import Grant

log = logging.getLogger("access.issuers")

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""What may be allowed: signatures that need a private key. Whoever knows a public key could make the others."""

LEEWAY = 30
"""Seconds by which the clocks may differ."""
FRESH = 600.0
"""Seconds after which the keys are fetched again, beside the requests that use the old ones meanwhile."""
RETRY = 30.0
"""Seconds between two fetches, however many tokens name unknown keys."""
STALE = 24 * 3600.0
"""Seconds for which keys that cannot be fetched again stay good."""
FETCH_SECONDS = 5.0
MAX_KEYS = 256 * 1024

_ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What decoding raises, beside errors of its own, for members of another type, depth or size than it expects."""

_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")


class Issuer:
    """One issuer's tokens. Used from one event loop at a time; `fetch` stands in for the network in tests."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys_url: str,
        algorithms: list[str],
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError for an algorithm or a URL that is not safe."""
        if bad := [name for name in algorithms if name not in ALGORITHMS]:
            raise SettingsError(
                f"JWT_ALGORITHMS: {bad[0]} is not allowed; there are {', '.join(ALGORITHMS)}"
            )
        if not algorithms:
            raise SettingsError("JWT_ALGORITHMS is empty")
        parts = urlsplit(keys_url)
        https = parts.scheme == "https" or (
            parts.scheme == "http" and is_loopback(parts.hostname or "")
        )
        if not (https and parts.hostname) or "@" in parts.netloc:
            raise SettingsError("JWKS_URL must be https://host/path, without a user")
        self.issuer = issuer
        self.audience = audience
        self.keys_url = keys_url
        self.registry = jws.JWSRegistry(algorithms=algorithms)
        self.algorithms = algorithms
        self.claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self.fetch = fetch or fetch_keys
        self.clock = clock
        self.keys = KeySet([])
        self.fetched = self.tried = float("-inf")
        self.fetching: asyncio.Task[None] | None = None

    async def grant(self, token: str) -> Grant:
        """Who the token names and what it allows; Untrusted for a bad one, KeysUnavailable without keys."""
        key_id = _key_id(token)
        keys = await self._keys_for(key_id)
        try:
            decoded = jwt.decode(token, keys, algorithms=self.algorithms, registry=self.registry)
            self.claims.validate(decoded.claims)
        except JoseError as error:
            raise Untrusted(_reason(error)) from error
        except _ODD as error:
            raise Untrusted("it is malformed") from error
        subject = decoded.claims["sub"]
        if not _SUBJECT.fullmatch(subject):
            raise Untrusted("its sub is empty, too long or not plain ASCII")
        return Grant(f"jwt:{subject}", scopes_of(decoded.claims))

    async def _keys_for(self, key_id: str | None) -> KeySet:
        """The keys, fetched before when none is named `key_id`, or fetched beside when they are old."""
        known = any(key.kid == key_id for key in self.keys) if key_id else bool(self.keys.keys)
        now = self.clock()
        if self.fetching and self.fetching.done():
            self.fetching = None
        outdated = not known or now - self.fetched >= FRESH
        if outdated and not self.fetching and now - self.tried >= RETRY:
            self.tried = now
            self.fetching = asyncio.create_task(self._refresh())
        if self.fetching and not known:
            await asyncio.shield(self.fetching)  # others may wait for the same
        if self.clock() - self.fetched >= STALE:
            raise KeysUnavailable
        return self.keys

    async def _refresh(self) -> None:
        try:
            content = await asyncio.to_thread(self.fetch, self.keys_url)
            self.keys = KeySet.import_key_set(json.loads(content))
        except (OSError, HTTPException, JoseError, *_ODD) as error:
            log.error("the keys at %s cannot be had: %s", self.keys_url, error)
        else:
            self.fetched = self.clock()


def scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """The scopes a token allows: its claim `scope` (RFC 8693 section 4.2) or `scp`, as words or as a list."""
    value = claims.get("scope", claims.get("scp", ""))
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _key_id(token: str) -> str | None:
    try:
        value = jws.extract_compact(token.encode()).headers().get("kid")
    except (JoseError, *_ODD) as error:
        raise Untrusted("it is no JWT") from error
    return value if isinstance(value, str) else None


def _reason(error: JoseError) -> str:
    """What is wrong, in the words of a kind of error, never of the token."""
    kind = type(error).__name__.removesuffix("Error")
    claim = getattr(error, "claim", "")
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()
    return f"{words} {claim}".strip() if isinstance(claim, str) else words


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None  # a redirect is an error then


def fetch_keys(url: str) -> bytes:
    """What is at `url`: over verified TLS, without proxies and redirects, within a size. OSError when it is not had."""
    opener = build_opener(
        ProxyHandler({}), _NoRedirect(), HTTPSHandler(context=ssl.create_default_context())
    )
    with opener.open(url, timeout=FETCH_SECONDS) as response:
        content: bytes = response.read(MAX_KEYS + 1)
    if len(content) > MAX_KEYS:
        raise URLError(f"more than {MAX_KEYS} bytes")
    return content
