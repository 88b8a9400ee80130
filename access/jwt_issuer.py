"""Tokens that somebody else issues: JWTs, checked with the issuer's public keys (RFC 7519, RFC 9068, RFC 8725).

PyJWT checks the tokens and reads the keys. Its own client for keys is not used: it has no limit for a whole fetch or for
the size of an answer, blocks a thread for each caller that waits, and has no keys left when a fetch fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import exceptions as errors
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_decode

from environment import SettingsError, redact_url

from .authentication import InvalidToken, KeysUnavailable
from .listen import is_loopback
from .token_file import Grant, running

log = logging.getLogger("access.jwt_issuer")

BY_KEY_TYPE: dict[Any, tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed448"): ("EdDSA",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),  # its older and its newer name: RFC 9864
}
"""Signatures that need a private key, by the type and curve of the keys that check them."""
ALGORITHMS = tuple(dict.fromkeys(name for names in BY_KEY_TYPE.values() for name in names))
"""What may be allowed. Whoever knows a public key could make other signatures."""

LEEWAY = 30
"""Seconds by which the clocks may differ."""
FRESH = 600.0
"""Seconds after which the keys are fetched again, beside the requests that use the old ones meanwhile."""
MAX_AGE = 1200.0
"""Seconds after which the keys are fetched again before they are used: nobody asked for long, and some may have been withdrawn.
When that fails, they are used at once for FRESH seconds."""
RETRY = 30.0
"""Seconds between two fetches, however many tokens name unknown keys."""
STALE = 24 * 3600.0
"""Seconds for which keys that cannot be fetched again stay good."""
FETCH_SECONDS = 5.0
"""Seconds for a whole fetch, from the look-up of the name to the last byte."""
MAX_JWKS = 256 * 1024
"""Bytes."""
MAX_TRIED = 16
"""Keys that are tried on one token, when it does not say which it is."""
MIN_RSA_BITS = 2048  # RFC 7518 section 3.3

_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")
# RFC 7518 sections 6.2.2, 6.3.2; RFC 8037 section 2
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises, beside errors of PyJWT's, for members of another type, depth or size than it expects."""
_REASONS: dict[type[Exception], str] = {
    errors.ExpiredSignatureError: "expired token exp",
    errors.ImmatureSignatureError: "it is not valid yet",
    errors.InvalidAudienceError: "invalid claim aud",
    errors.InvalidIssuedAtError: "invalid claim iat",
    errors.InvalidIssuerError: "invalid claim iss",
    errors.InvalidJTIError: "invalid claim jti",
    errors.InvalidSubjectError: "invalid claim sub",
}
"""What the caller is told, in our words: PyJWT's may quote the token."""

if "Ed25519" not in jwt.PyJWS().get_algorithms():
    jwt.register_algorithm("Ed25519", OKPAlgorithm())


@dataclass(frozen=True)
class SigningKey:
    """One of the issuer's keys. `algorithms` are those it may check, `public` is what `cryptography` made of it."""

    name: str | None
    algorithms: tuple[str, ...]
    public: Any


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
        self.algorithms = algorithms
        # Once: it takes longer than all else that a fetch does.
        self.tls = ssl.create_default_context()
        self.clock = clock
        self.keys: list[SigningKey] = []
        self.unused = ""  # what was logged last of the keys that are not used
        self.fetched = self.tried = float("-inf")
        self.fetching: asyncio.Task[None] | None = None
        self.awaited = False  # all wait for the present fetch, whether or not they know their key

    async def grant(self, token: str) -> Grant:
        """Who the token names and what it allows; InvalidToken for a bad one, KeysUnavailable without keys."""
        algorithm, name = _algorithm_and_key(token)
        if algorithm not in self.algorithms:
            raise InvalidToken("unsupported algorithm")
        keys = [
            key
            for key in await self._keys_for(name)
            if name in (None, key.name) and algorithm in key.algorithms
        ]
        for key in keys[:MAX_TRIED]:
            if claims := self._claims(token, algorithm, key):
                break
        else:
            raise InvalidToken("bad signature" if keys else "no key of its issuer fits it")
        subject = claims["sub"]
        if not _SUBJECT.fullmatch(subject):
            raise InvalidToken("its sub is empty, too long or not plain ASCII")
        return Grant(f"jwt:{subject}", scopes_of(claims))

    def _claims(self, token: str, algorithm: str, key: SigningKey) -> dict[str, Any] | None:
        """What the token says, when `key` signed it; None when it did not, InvalidToken when its claims are not good."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public,
                [algorithm],
                audience=self.audience,
                issuer=self.issuer,
                leeway=LEEWAY,
                options={"require": ["iss", "aud", "exp", "sub"]},
            )
        except errors.InvalidSignatureError:
            return None
        except errors.MissingRequiredClaimError as error:
            raise InvalidToken(f"missing claim {error.claim}") from error
        except (jwt.PyJWTError, *_ODD) as error:
            raise InvalidToken(_REASONS.get(type(error), "it is malformed")) from error
        for name in (
            "exp",
            "nbf",
            "iat",
        ):  # numbers, says RFC 7519 section 2; PyJWT reads texts too
            if isinstance(claims.get(name), str):
                raise InvalidToken(f"invalid claim {name}")
        return claims

    async def _keys_for(self, name: str | None) -> list[SigningKey]:
        """The keys. They are fetched before when none of them can be the one named `name`, or they are too old; and beside
        when they are old.
        """
        now = self.clock()
        age, since_tried = now - self.fetched, now - self.tried
        known = age < STALE and any(name in (None, key.name) for key in self.keys)
        fetching = running(self.fetching)
        if (not known or age >= FRESH) and not fetching and since_tried >= RETRY:
            self.awaited = age >= MAX_AGE and since_tried >= FRESH
            self.tried = now
            self.fetching = fetching = asyncio.create_task(self._refresh())
        if fetching and (self.awaited or not known):
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
            log.error("the keys at %s cannot be had: %s", redact_url(self.keys_url), error)
            return
        self.keys, self.fetched = keys, self.clock()
        if unused and unused != self.unused:
            log.warning("not all keys at %s are used: %s", redact_url(self.keys_url), unused)
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


def _algorithm_and_key(token: str) -> tuple[str, str | None]:
    """The algorithm that the token says, and its key's name, None when it says none. All else in its header is left to
    PyJWT; its own function for this reads the whole token, which takes as long as checking it.
    """
    try:
        header = json.loads(base64url_decode(token.partition(".")[0]))
        algorithm, name = header.get("alg"), header.get("kid")
    except _ODD as error:
        raise InvalidToken("it is no JWT") from error
    if not isinstance(algorithm, str) or not isinstance(name, str | None):
        raise InvalidToken("invalid header value")
    return algorithm, name


def read_keys(content: bytes) -> tuple[list[SigningKey], str]:
    """The keys of a JWKS that can check signatures, and what is wrong with others, which are passed over (RFC 7517 section 5).

    ValueError and the like when it is none, or has no such key.
    """
    keys: list[SigningKey] = []
    unused: list[str] = []
    for number, member in enumerate(json.loads(content)["keys"], 1):
        try:
            keys.append(_key(member))
        except (jwt.PyJWTError, UnsupportedAlgorithm, *_ODD) as error:
            unused.append(f"number {number} ({type(error).__name__}: {str(error)[:80]})")
    said = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if unused[3:] else "")
    if not keys:
        raise ValueError(f"no key in it can be used: {said or 'it is empty'}")
    return keys, said


def _key(member: Any) -> SigningKey:
    if not isinstance(member, dict):
        raise TypeError("no object")
    name, key_type = member.get("kid"), member.get("kty")
    if not isinstance(name, str | None):
        raise TypeError("kid is no text")
    known = BY_KEY_TYPE.get((key_type, None if key_type == "RSA" else member.get("crv")))
    if known is None:
        raise ValueError("unknown type or curve")
    algorithms = tuple(each for each in known if member.get("alg", each) == each)
    use, operations = member.get("use", "sig"), list(member.get("key_ops", ["verify"]))
    if not algorithms or use != "sig" or "verify" not in operations:
        raise ValueError("not for signatures")
    # What is private in it has no business there, and takes long to check.
    public = jwt.PyJWK({n: v for n, v in member.items() if n not in _PRIVATE}, known[0]).key
    if key_type == "RSA" and public.key_size < MIN_RSA_BITS:
        raise ValueError(f"shorter than {MIN_RSA_BITS} bits")
    return SigningKey(name, algorithms, public)


async def fetch_keys(url: str, tls: ssl.SSLContext) -> bytes:
    """What is at `url`: within FETCH_SECONDS and MAX_JWKS, without proxies and redirects; OSError when it is not had."""
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
                if len(content) > MAX_JWKS:
                    raise OSError(f"it has more than {MAX_JWKS} bytes")
    except httpx2.HTTPError as error:
        raise OSError(f"{type(error).__name__} {error}") from error
    except TimeoutError as error:
        raise TimeoutError(f"it took more than {FETCH_SECONDS:g} seconds") from error
    return bytes(content)
