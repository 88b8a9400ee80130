"""Tokens that somebody else issues: JWTs, checked with the issuer's public keys (RFC 7519, RFC 9068, RFC 8725)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key

from environment import SettingsError

from .authentication import InvalidToken, KeysUnavailable
from .listen import is_loopback
from .token_file import Grant, running

log = logging.getLogger("access.jwt_issuer")

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
"""Seconds for a whole fetch, from the look-up of the name to the last byte."""
MAX_KEYS = 256 * 1024
"""Bytes."""
MOST_TRIED = 16
"""Keys that are tried on one token, when it does not say which it is."""

_ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What decoding raises, beside errors of its own, for members of another type, depth or size than it expects."""
_UNFIT = (JoseError, UnsupportedAlgorithm, *_ODD)
"""What a key raises that cannot be read, or cannot check what it is to check."""

_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")


class JwtIssuer:
    """One issuer's tokens. Used from one event loop at a time."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys_url: str,
        algorithms: list[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError for an algorithm or a URL that is not safe."""
        if bad := [name for name in algorithms if name not in ALGORITHMS]:
            raise SettingsError(
                f"JWT_ALGORITHMS: {bad[0]} is not allowed; there are {', '.join(ALGORITHMS)}"
            )
        if not algorithms:
            raise SettingsError("JWT_ALGORITHMS is empty")
        if not _is_safe(keys_url):
            raise SettingsError("JWKS_URL must be https://host/path, without a user")
        self.issuer = issuer
        self.audience = audience
        self.keys_url = keys_url
        self.registry = jws.JWSRegistry(algorithms=algorithms)
        self.claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        # Once: it takes longer than all else that a fetch does.
        self.tls = ssl.create_default_context()
        self.clock = clock
        self.keys: list[Key] = []
        self.unused = ""  # what was said last of the keys that are not used
        self.fetched = self.tried = float("-inf")
        self.fetching: asyncio.Task[None] | None = None

    async def grant(self, token: str) -> Grant:
        """Who the token names and what it allows; InvalidToken for a bad one, KeysUnavailable without keys."""
        parsed = _parsed(token)
        header = parsed.headers()
        with _invalid_token():
            self.registry.check_header(header)
            algorithm, key_id = self.registry.get_alg(header["alg"]).name, header.get("kid")
        keys = await self._keys_for(key_id)
        fitting = [key for key in keys if _named(key, key_id) and _fits(key, algorithm)]
        if not any(self._signed(parsed, key) for key in fitting[:MOST_TRIED]):
            raise InvalidToken("bad signature" if fitting else "no key of its issuer fits it")
        with _invalid_token():
            claims = json.loads(parsed.payload)
            self.claims.validate(claims)
            subject = claims["sub"]
            plain = _SUBJECT.fullmatch(subject)
        if not plain:
            raise InvalidToken("its sub is empty, too long or not plain ASCII")
        return Grant(f"jwt:{subject}", scopes_of(claims))

    def _signed(self, parsed: jws.CompactSignature, key: Key) -> bool:
        try:
            return jws.validate_compact(parsed, key, registry=self.registry)
        except _UNFIT:
            return False

    async def _keys_for(self, key_id: str | None) -> list[Key]:
        """The keys. They are fetched before when none of them can be the one named `key_id`, or none is good any longer;
        and beside when they are old.
        """
        now = self.clock()
        good = now - self.fetched < STALE
        known = good and any(_named(key, key_id) for key in self.keys)
        fetching = running(self.fetching)
        outdated = not known or now - self.fetched >= FRESH
        if outdated and not fetching and now - self.tried >= RETRY:
            self.tried = now
            self.fetching = fetching = asyncio.create_task(self._refresh())
        if fetching and not known:
            # All wait for the same one, and it goes on when one of them leaves.
            await asyncio.wait({fetching})
        if self.clock() - self.fetched >= STALE:
            raise KeysUnavailable(self.tried + RETRY - self.clock())
        return self.keys

    async def _refresh(self) -> None:
        try:
            content = await fetch_keys(self.keys_url, self.tls)
            keys, unused = await asyncio.to_thread(read_keys, content)  # many take a while
        except (OSError, *_ODD, RuntimeError) as error:  # the last: no thread for it
            log.error("the keys at %s cannot be had: %s", self.keys_url, error)
            return
        self.keys, self.fetched = keys, self.clock()
        if unused and unused != self.unused:
            log.warning("not all keys at %s are used: %s", self.keys_url, unused)
        self.unused = unused


def _is_safe(url: str) -> bool:
    """True for an https URL, or an http one to this machine, without a user."""
    try:
        httpx2.URL(url)
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except (ValueError, httpx2.InvalidURL):
        return False
    https = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return https and bool(host) and port != 0 and "@" not in parts.netloc


def scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """The scopes a token allows: its claim `scope` (RFC 8693 section 4.2) or `scp`, as words or as a list."""
    value = claims.get("scope", claims.get("scp", ""))
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _parsed(token: str) -> jws.CompactSignature:
    try:
        return jws.extract_compact(token.encode())
    except (JoseError, *_ODD) as error:
        raise InvalidToken("it is no JWT") from error


@contextmanager
def _invalid_token() -> Iterator[None]:
    """Raises InvalidToken for what a part of a token makes joserfc raise."""
    try:
        yield
    except JoseError as error:
        raise InvalidToken(_reason(error)) from error
    except _ODD as error:
        raise InvalidToken("it is malformed") from error


def _reason(error: JoseError) -> str:
    """What is wrong, in the words of a kind of error, never of the token."""
    kind = type(error).__name__.removesuffix("Error")
    claim = getattr(error, "claim", "")
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()
    return f"{words} {claim}".strip() if isinstance(claim, str) else words


def read_keys(content: bytes) -> tuple[list[Key], str]:
    """The keys of a JWKS that can check signatures, and what is wrong with others, which are passed over (RFC 7517 section 5).

    ValueError and the like when it is none, or has no such key.
    """
    keys: list[Key] = []
    unused: list[str] = []
    for number, member in enumerate(json.loads(content)["keys"], 1):
        try:
            keys.append(_key(member))
        except _UNFIT as error:
            unused.append(f"number {number} ({type(error).__name__}: {str(error)[:80]})")
    said = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if unused[3:] else "")
    if not keys:
        raise ValueError(f"no key in it can be used: {said or 'it is empty'}")
    return keys, said


_PRIVATE = frozenset(
    {"d", "p", "q", "dp", "dq", "qi", "oth"}
)  # RFC 7518 sections 6.2.2, 6.3.2; RFC 8037 section 2


def _key(member: Any) -> Key:
    if not isinstance(member, dict):
        raise TypeError("no object")
    # What is private in it has no business there, and takes long to check.
    key = JWKRegistry.import_key({n: v for n, v in member.items() if n not in _PRIVATE})
    key.check_key_op("verify")
    key.ensure_kid()
    if not any(_fits(key, algorithm) for algorithm in ALGORITHMS):
        raise ValueError("not for signatures")
    return key


def _named(key: Key, key_id: str | None) -> bool:
    """True when `key` can be the one that a token calls `key_id`; None: it does not say."""
    return key_id is None or key.kid == key_id


def _fits(key: Key, algorithm: str) -> bool:
    """True when `key` is of the algorithm's type and curve, and for no other use or algorithm."""
    try:
        jws.JWSRegistry.algorithms[algorithm].check_key(key)
    except _UNFIT:
        return False
    return True


async def fetch_keys(url: str, tls: ssl.SSLContext) -> bytes:
    """What is at `url`: within FETCH_SECONDS and MAX_KEYS, without proxies and redirects; OSError when it is not had."""
    content = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            httpx2.AsyncClient(verify=tls, trust_env=False, timeout=None) as client,
            # Compressed, few bytes could become many.
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                raise OSError(f"the answer is {response.status_code}")
            async for part in response.aiter_raw():
                content += part
                if len(content) > MAX_KEYS:
                    raise OSError(f"it has more than {MAX_KEYS} bytes")
    except httpx2.HTTPError as error:
        raise OSError(f"{type(error).__name__} {error}") from error
    except TimeoutError as error:
        raise TimeoutError(f"it took more than {FETCH_SECONDS:g} seconds") from error
    return bytes(content)
