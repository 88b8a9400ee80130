"""Origin policy, against cross-site request forgery and DNS rebinding: Host, Origin, Sec-Fetch-* and Content-Type.

A page in a browser can send requests to a gateway on the same machine. What it cannot do is choose these headers:
Host names where the browser believes to be (DNS rebinding), Origin and Sec-Fetch-Site say whose page it is, and a
Content-Type of JSON has to be asked for first (Fetch standard: "CORS-safelisted request-header").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from environment import SettingsError

from . import AccessDenied

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

PROBES = frozenset({"/livez", "/readyz"})
"""Paths that everybody may ask, by whatever name they call the host."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
EXPOSED = (
    "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, Idempotency-Replayed, Idempotency-Expires,"
    " Gateway-Reconciled, Gateway-Warning, Server-Timing, Preference-Applied, Age"
)
"""Response headers that an allowed origin's script may read, beside those that every script may."""

Headers = list[tuple[bytes, bytes]]

# fmt: off
_JUDGED = {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"transfer-encoding", b"content-length", b"content-type",
           b"access-control-request-method", b"access-control-request-headers"}
# fmt: on
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-][a-z0-9._-]*)(?::([0-9]{1,5}))?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986 section 3.1
_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,500}")


def json_only(_method: str, _path: str) -> str:
    """The media type of all bodies, where none but JSON is taken."""
    return "application/json"


class OriginPolicy:
    """Which hosts requests may be sent to, and which origins' pages may send them."""

    def __init__(
        self,
        hosts: tuple[str, ...],
        origins: tuple[str, ...],
        *,
        protected: bool,
        hosts_setting: str,
        origins_setting: str,
    ) -> None:
        """`hosts` are `NAME`, `NAME:*` (any port) or `NAME:PORT`, or `*` for every host, which needs callers `protected`
        by tokens: a page that rebinds its name cannot send them. `origins` are `SCHEME://HOST[:PORT]`, or `...:*` for any
        port. The settings' names are for the people who are turned away.

        Raises SettingsError for an entry that could never match, or would let in too much.
        """
        self.hosts_setting, self.origins_setting = hosts_setting, origins_setting
        self.any_host = "*" in hosts
        if self.any_host and not protected:
            raise SettingsError(f"{hosts_setting}: * needs tokens; list the names instead")
        self.hosts = set()  # (name, port), where None is any
        for entry in hosts:
            name, port = split_host(entry.removesuffix(":*"))
            if entry != "*" and not name:
                raise SettingsError(f"{hosts_setting}: {entry!r} is no NAME or NAME:PORT")
            self.hosts.add((name, port))
        for entry in origins:
            scheme, _, host = entry.removesuffix(":*").partition("://")
            if not (_SCHEME.fullmatch(scheme) and split_host(host)[0] and host == host.lower()):
                raise SettingsError(f"{origins_setting}: {entry!r} is no SCHEME://HOST[:PORT]")
        patterns = [
            re.escape(entry.removesuffix(":*"))
            + (r"(:[0-9]{1,5})?" if entry.endswith(":*") else "")
            for entry in origins
        ]
        self.origins = re.compile("|".join(patterns)) if patterns else None

    def admit(self, scope: Any, media_type: Callable[[str, str], str] = json_only) -> Headers:
        """The headers that the answer to this ASGI request must carry; raises AccessDenied when it may not come in.

        `media_type` says that of the bodies of a method of a path. A form is one that a foreign page may post without asking: its Origin and
        Sec-Fetch-Site, which such a page cannot choose, are judged before.
        """
        headers = _headers(scope)
        cors = self._cors(self._admit_origin(scope, headers, self._admit_host(headers)))
        length = _text(headers, b"content-length")
        has_body = b"transfer-encoding" in headers or length not in ("", "0")
        may_change = scope["method"] not in SAFE  # whether or not anybody will read the body
        if has_body and may_change:
            wanted = media_type(scope["method"], scope["path"])
            types = headers.get(b"content-type", [""])
            given = types[0].partition(";")[0].strip(" \t").lower()
            # What is called by nothing is told so, later.
            if wanted and (given != wanted or len(types) > 1):
                detail = f"Send Content-Type: {wanted}."
                raise AccessDenied("unsupported-media-type", 415, detail, cors)
        return [(name.encode(), value.encode()) for name, value in cors]

    def preflight(self, scope: Any) -> Headers:
        """The headers, beside those of `admit`, that answer an allowed origin's preflight; none for other requests."""
        headers = _headers(scope)
        method = _text(headers, b"access-control-request-method")
        if not (scope["method"] == "OPTIONS" and method and self.origins):
            return []
        asked = {"methods": method, "headers": _text(headers, b"access-control-request-headers")}
        allowed = {name: text for name, text in asked.items() if text and _TOKENS.fullmatch(text)}
        return [
            (f"access-control-allow-{name}".encode(), text.encode())
            for name, text in allowed.items()
        ] + [(b"access-control-max-age", b"600")]

    def _admit_host(self, headers: dict[bytes, list[str]]) -> str:
        given = headers.get(b"host", [])
        if len(given) != 1:  # RFC 9112 section 3.2
            raise AccessDenied("malformed-request", 400, "A request has exactly one Host header.")
        name, port = split_host(given[0])
        known = name and ((name, None) in self.hosts or (name, port) in self.hosts)
        if not known and not self.any_host:
            raise AccessDenied(
                "misdirected-request",
                421,
                f"The Host header names no host of this gateway; {self.hosts_setting} lists them.",
            )
        return given[0].lower()

    def _admit_origin(self, scope: Any, headers: dict[bytes, list[str]], host: str) -> str:
        """The origin when it is an allowed one, empty when no page or this gateway's own page asks."""
        origins = headers.get(b"origin", [])
        if self.origins and len(origins) == 1 and self.origins.fullmatch(origins[0]):
            return origins[0]
        same_origin = f"{scope.get('scheme', 'http')}://{host}"
        site = _text(headers, b"sec-fetch-site")
        # A link to a page of ours may be followed from anywhere; https://web.dev/articles/fetch-metadata
        followed = _text(headers, b"sec-fetch-mode") == "navigate" and scope["method"] in SAFE
        if any(origin.lower() != same_origin for origin in origins) or (
            site not in ("", "same-origin", "none") and not followed
        ):
            raise AccessDenied(
                "cross-origin",
                403,
                f"A web page of another origin sent this; {self.origins_setting} lists the origins that may.",
            )
        return ""

    def _cors(self, origin: str) -> list[tuple[str, str]]:
        """The headers by which a browser lets the page of an allowed `origin` read any answer, refusals included."""
        if not self.origins:
            return []
        vary = [("vary", "Origin")]
        if not origin:
            return vary
        return [
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", EXPOSED),
            *vary,
        ]


def split_host(value: str) -> tuple[str, int | None]:
    """(name in lower case, port or None) of a Host header or the like; ("", None) when it is not well-formed."""
    match = _HOST.fullmatch(value.lower())
    port = int(match[2]) if match and match[2] else None
    if match is None or (port is not None and not 0 < port <= 65535):
        return "", None
    return match[1], port


def _headers(scope: Any) -> dict[bytes, list[str]]:
    headers: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        if name in _JUDGED:
            headers.setdefault(name, []).append(value.decode("latin-1").strip(" \t"))
    return headers


def _text(headers: dict[bytes, list[str]], name: bytes) -> str:
    return ", ".join(headers.get(name, ()))
