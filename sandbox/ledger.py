"""The ledger: every request that the sandbox received, without the keys."""

from __future__ import annotations

import base64
import codecs
import hashlib
import itertools
import time
from collections import deque
from typing import Any

from sandbox.config import digest

Entry = dict[str, Any]

# Longer bodies are cut in the ledger; their length and SHA-256 are those of the whole.
KEPT_BODY_BYTES = 256 * 1024


class Ledger:
    """The last received requests, oldest first; an entry is a dict that changes until answered."""

    def __init__(self, size: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)
        self._numbers = itertools.count(1)

    def open(self, environ: dict[str, Any]) -> Entry:
        """Enter a request whose headers have just arrived."""
        entry: Entry = {
            "number": next(self._numbers),
            "received_at": time.time(),
            "method": environ["REQUEST_METHOD"],
            "path": environ.get("RAW_URI", environ["PATH_INFO"]).partition("?")[0],
            "query": environ["QUERY_STRING"],
            "headers": _headers(environ),
            "workspace": None,
            "user": None,
            "job_id": None,
            "fault": None,
            "outcome": "open",
            "status": None,
            "answered_at": None,
            "client_closed_at": None,
        }
        self._entries.append(entry)
        return entry

    @staticmethod
    def fill(entry: Entry, body: bytes) -> None:
        """Enter the body, once it has arrived."""
        entry.update(_body(body))

    def entries(self) -> list[Entry]:
        """All remembered requests."""
        return list(self._entries)

    def clear(self) -> None:
        """Forget them; the numbers go on."""
        self._entries.clear()


def masked(authorization: str) -> str:
    """An Authorization value fit to be kept: the scheme, and what tells two keys apart."""
    scheme, space, key = authorization.partition(" ")
    return f"{scheme} sha256:{digest(key)[:8]}" if space else f"sha256:{digest(scheme)[:8]}"


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    """Header values by lower-case name."""
    headers = {
        name[5:].replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = environ[name]
    if "authorization" in headers:
        headers["authorization"] = masked(headers["authorization"])
    return headers


def _body(body: bytes) -> Entry:
    kept = body[:KEPT_BODY_BYTES]
    text: Entry
    try:
        # Not the last part, so that a character cut in two is left out, not refused.
        text = {"body": codecs.getincrementaldecoder("utf-8")().decode(kept)}
    except UnicodeDecodeError:
        text = {"body": None, "body_base64": base64.b64encode(kept).decode()}
    return text | {"body_bytes": len(body), "body_sha256": hashlib.sha256(body).hexdigest()}
