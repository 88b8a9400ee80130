"""The ledger: every request that the sandbox received, without the keys."""

from __future__ import annotations

import base64
import codecs
import itertools
import time
from collections import deque
from typing import Any

from sandbox.config import digest

Entry = dict[str, Any]
KEPT_BODY_BYTES = 256 * 1024
"""Longer bodies are cut in the ledger, and uploads are not kept at all; length and SHA-256 are those of all that arrived."""


class Ledger:
    """The last received requests, oldest first; an entry is a dict that changes until answered."""

    def __init__(self, size: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=size)
        self._numbers = itertools.count(1)

    def open(self, environ: dict[str, Any]) -> Entry:
        """Enters a request whose headers have just arrived."""
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
            "answer_bytes": 0,
        }
        self._entries.append(entry)
        return entry

    @staticmethod
    def fill(entry: Entry, kept: bytes | None, size: int, sha256: str) -> None:
        """Enters what has arrived of the body: its length and hash, and of its beginning, unless None, what is kept."""
        entry |= {"body": None, "body_bytes": size, "body_sha256": sha256}
        if kept is None:
            return
        try:
            # Not the last part, so that a character cut in two is left out, not refused.
            entry["body"] = codecs.getincrementaldecoder("utf-8")().decode(kept)
        except UnicodeDecodeError:
            entry["body_base64"] = base64.b64encode(kept).decode()

    def entries(self) -> list[Entry]:
        """All remembered requests."""
        return list(self._entries)

    def clear(self) -> None:
        """Forgets them; the numbers go on."""
        self._entries.clear()


def _headers(environ: dict[str, Any]) -> dict[str, str]:
    """Header values by lower-case name; of the Authorization its scheme, and what tells two keys apart."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    if "authorization" in headers:
        scheme, space, key = headers["authorization"].partition(" ")
        mark = f"sha256:{digest(key if space else scheme)[:8]}"
        headers["authorization"] = f"{scheme} {mark}" if space else mark
    return headers
