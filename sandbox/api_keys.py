"""API keys: the workspace and user behind each, and its rate limit. Of a key only its SHA-256 is ever kept."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sandbox.config import Settings, digest


@dataclass(frozen=True)
class Caller:
    """The holder of a key."""

    key_digest: str
    workspace: str = "default"
    user: str = "default"


class ApiKeys:
    """Maps the Authorization header to a Caller and counts requests per key and minute."""

    def __init__(self, settings: Settings) -> None:
        pairs = (pair.partition("=") for pair in settings.keys.split(",") if pair)
        self._places = {key: place for key, _, place in pairs}
        self._revoked = frozenset(settings.revoked_keys.split(","))
        self._strict = settings.strict_keys
        self._limit = settings.rate_limit
        self._windows: dict[str, tuple[int, int]] = {}

    def identify(self, authorization: str | None) -> Caller | None:
        """The caller, or None when Mistral would answer 401."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            return None
        known = digest(key)
        place = self._places.get(known)
        if known in self._revoked or (place is None and self._strict):
            return None
        workspace, _, user = (place or "").partition("/")
        return Caller(known, workspace or "default", user or "default")

    def remaining(self, caller: Caller) -> int | None:
        """Requests left in this minute after this one; negative: too many; None: no limit."""
        if not self._limit:
            return None
        minute = int(time.time() // 60)
        started, count = self._windows.get(caller.key_digest, (minute, 0))
        count = count + 1 if started == minute else 1
        self._windows[caller.key_digest] = (minute, count)
        return self._limit - count
