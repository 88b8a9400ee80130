"""Problem documents (RFC 9457) of both processes for what comes to no operation, also for what is no request that can be read; and
what an upstream's error says.
"""

from __future__ import annotations

import json
import uuid
from http import HTTPStatus
from typing import Any

DOCUMENTATION = "/problems"
"""Where both processes say what kinds there are: a URI reference (RFC 9457 section 3.1.1), since each serves it itself."""

MEDIA_TYPE = "application/problem+json"

TITLES = {
    "misdirected-request": "The gateway is not called by this name",
    "cross-origin": "A foreign web page must not call",
    "unauthenticated": "A good token is needed",
    "insufficient-scope": "The token does not allow this",
    "too-many-requests": "The caller calls too often",
    "issuer-unreachable": "The token cannot be checked now",
    "malformed-request": "The request cannot be read",
    "not-found": "There is nothing at this path",
    "method-not-allowed": "This path does not answer this method",
    "content-too-large": "The body is larger than this gateway takes",
    "unsupported-media-type": "The body is not of the type that is taken here",
    "internal-error": "The gateway failed",
}
"""Titles of the kinds of problem that both processes have."""

_WORDS = 300
"""Characters of what an upstream said."""

_UNREADABLE = {
    400: "It is no well-formed HTTP request.",
    414: "The URL is too long.",
    431: "The headers are too long, or too many.",
    501: "The body has a transfer coding that is not known here. Send it as it is, or chunked.",
}


def document(
    slug: str, status: int, detail: str, request_id: str, root: str = ""
) -> dict[str, Any]:
    """The members of a problem that is the gateway's own. `root` is the path before that of the page of problems."""
    return {
        "type": f"{root}{DOCUMENTATION}#{slug}",
        "title": TITLES[slug],
        "status": status,
        "detail": detail,
        "request_id": request_id,
        "source": "gateway",
        "retryable": status in (429, 503),
    }


def unreadable(status: int, detail: str = "", root: str = "") -> tuple[bytes, str]:
    """The last answer on a connection whose request cannot be read, as bytes, and the id that is in it. Nothing that came is in it.

    `root` is as for `document`.
    """
    request_id = str(uuid.uuid4())
    said = detail or _UNREADABLE.get(status, _UNREADABLE[400])
    body = json.dumps(document("malformed-request", status, said, request_id, root)).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body, request_id


def words(error: Any) -> str:
    """What an upstream's error body says, for people: its message, or the list of its validation messages. RecursionError when it is
    nested too deeply.
    """
    if isinstance(error, dict):
        for member in ("detail", "message", "error", "title"):
            if error.get(member):
                return words(error[member])
    if isinstance(error, list):
        return "; ".join(map(_located, error[:5]))[:_WORDS]
    said = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return " ".join(said.split())[:_WORDS]


def _located(item: Any) -> str:
    if isinstance(item, dict) and isinstance(item.get("loc"), list) and "msg" in item:
        return f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}"
    return words(item)
