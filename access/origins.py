"""Keeps foreign web pages out: Host, Origin, Sec-Fetch-* and Content-Type, judged before anything else is looked at.

A page in a browser can send requests to a gateway on the same machine. What it cannot do is choose these headers:
Host names where the browser believes to be (DNS rebinding), Origin and Sec-Fetch-Site say whose page it is, and a
Content-Type of JSON has to be asked for first (Fetch standard: "CORS-safelisted request-header").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from environment import SettingsError

from .refusals import Refused

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROBES = frozenset({"/livez", "/readyz"})
"""Paths that everybody may ask, by whatever name they call the host."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
EXPOSED = (
    "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, Idempotency-Replayed, Idempotency-Expires,"
    " Gateway-Reconciled, Gateway-Warning, Server-Timing, Proxy-Status"
)
"""Answer headers that a listed page's script may read, beside those that every script may."""

Headers = list[tuple[bytes, bytes]]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-][a-z0-9._-]*)(?::([0-9]{1,5}))?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")  # RFC 3986 section 3.1
_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,500}")


def split_host(value: str) -> tuple[str, int | None]:
    """(name in lower case, port or None) of a Host header or the like; ("", None) when it is not well-formed."""
    match = _HOST.fullmatch(value.lower())
    port = int(match[2]) if match and match[2] else None
    if match is None or (port is not None and not 0 < port <= 65535):
        return "", None
    return match[1], port


@dataclass(frozen=True)
class Door:
    """Whom requests may come from. `hosts` are `NAME`, `NAME:*` (any port) or `NAME:PORT`, or `*` for every host;
    `origins` are `SCHEME://HOST[:PORT]`, or `...:*` for any port. `hosts_setting` and `origins_setting` name what
    to change, for the people who are turned away.
    """

    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    hosts_setting: str
    origins_setting: str

    def check(self, *, protected: bool) -> None:
        """Raises SettingsError for an entry that could never match, or would let in too much.

        `*` as a host needs callers `protected` by tokens: a page that rebinds its name cannot send them.
        """
        for entry in self.hosts:
            if entry == "*" and not protected:
                raise SettingsError(f"{self.hosts_setting}: * needs tokens; list the names instead")
            if entry != "*" and not split_host(entry.removesuffix(":*"))[0]:
                raise SettingsError(f"{self.hosts_setting}: {entry!r} is no NAME or NAME:PORT")
        for entry in self.origins:
            scheme, _, host = entry.removesuffix(":*").partition("://")
            if not (_SCHEME.fullmatch(scheme) and split_host(host)[0] and host == host.lower()):
                raise SettingsError(f"{self.origins_setting}: {entry!r} is no SCHEME://HOST[:PORT]")

    def admit(self, scope: Any) -> Headers:
        """The headers that the answer to this ASGI request must carry; raises Refused when it may not come in."""
        headers = _headers(scope)
        host = self._admit_host(headers)
        origin = self._admit_page(scope, headers, host)
        sharing = self._sharing(origin)
        if not _is_plain(scope["method"], headers):
            raise Refused(
                "unsupported-media-type", 415, "Send Content-Type: application/json.", sharing
            )
        return [(name.encode(), value.encode()) for name, value in sharing]

    def _sharing(self, origin: str) -> list[tuple[str, str]]:
        """The headers by which a browser lets the listed page of `origin` read any answer, refusals included."""
        listed = [
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", EXPOSED),
        ]
        return [*(listed if origin else []), ("vary", "Origin")] if self.origins else []

    def preflight(self, scope: Any) -> Headers:
        """The headers, beside those of `admit`, that answer a listed page's preflight; none for other requests."""
        headers = _headers(scope)
        method = _one(headers, "access-control-request-method")
        if not (scope["method"] == "OPTIONS" and method and self.origins):
            return []
        asked = {"methods": method, "headers": _one(headers, "access-control-request-headers")}
        allowed = {name: text for name, text in asked.items() if text and _TOKENS.fullmatch(text)}
        return [
            (f"access-control-allow-{name}".encode(), text.encode())
            for name, text in allowed.items()
        ] + [(b"access-control-max-age", b"600")]

    def _admit_host(self, headers: dict[str, list[str]]) -> str:
        given = headers.get("host", [])
        if len(given) != 1:  # RFC 9112 section 3.2
            raise Refused("malformed-request", 400, "A request has exactly one Host header.")
        if "*" not in self.hosts and not _listed(split_host(given[0]), self.hosts):
            raise Refused(
                "misdirected-request",
                421,
                f"The Host header names no host of this gateway; {self.hosts_setting} lists them.",
            )
        return given[0].lower()

    def _admit_page(self, scope: Any, headers: dict[str, list[str]], host: str) -> str:
        """The origin when it is a listed one, empty when no page or this gateway's own page asks."""
        origins = headers.get("origin", [])
        own = f"{scope.get('scheme', 'http')}://{host}"
        if len(origins) == 1 and any(_matches(origins[0], entry) for entry in self.origins):
            return origins[0]
        if any(origin.lower() != own for origin in origins):
            raise self._cross_origin()
        site = _one(headers, "sec-fetch-site")
        # A link to a page of ours may be followed from anywhere; https://web.dev/articles/fetch-metadata
        followed = _one(headers, "sec-fetch-mode") == "navigate" and scope["method"] in SAFE
        if site not in ("", "same-origin", "none") and not followed:
            raise self._cross_origin()
        return ""

    def _cross_origin(self) -> Refused:
        return Refused(
            "cross-origin",
            403,
            f"A web page of another origin sent this; {self.origins_setting} lists the origins that may.",
        )


def is_json(content_type: str) -> bool:
    """True for the media type of plain JSON, parameters aside."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _is_plain(method: str, headers: dict[str, list[str]]) -> bool:
    """True unless there is a body that may change something without saying that it is JSON, whether or not anybody will
    read it.
    """
    has_body = "transfer-encoding" in headers or _one(headers, "content-length") not in ("", "0")
    return method in SAFE or not has_body or is_json(_one(headers, "content-type"))


def _listed(host: tuple[str, int | None], entries: Iterable[str]) -> bool:
    name, port = host
    for entry in entries:
        entry_name, entry_port = split_host(entry.removesuffix(":*"))
        if name and name == entry_name and entry_port in (None, port):
            return True
    return False


def _matches(origin: str, entry: str) -> bool:
    if entry.endswith(":*"):
        scheme_and_name = entry.removesuffix(":*")
        port = origin.removeprefix(scheme_and_name)
        return origin.startswith(scheme_and_name) and bool(re.fullmatch(r"(:[0-9]{1,5})?", port))
    return origin == entry


def _headers(scope: Any) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip(" \t"))
    return headers


def _one(headers: dict[str, list[str]], name: str) -> str:
    return ", ".join(headers.get(name, []))
