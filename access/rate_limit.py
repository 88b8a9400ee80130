"""How often one caller may call, and the headers that say so (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

import logging
import math
import time

from limits import RateLimitItem, parse_many

from environment import SettingsError

from .refusals import Refused
from .windows import MemoryWindow, Window, WindowFailed

log = logging.getLogger("access.rate_limit")

SILENCE = 60.0
"""Seconds between two complaints that the store fails."""


class Rates:
    """Limits over a moving window, counted for each caller by itself."""

    def __init__(self, limits: str, store: str = "", *, prefix: str = "") -> None:
        """`limits` such as `100/minute` or `10/second; 1000/hour`. `store` is a `redis://` or `rediss://` URL, with
        which all processes count together; without one each process counts for itself. `prefix` begins the
        settings' variables, for messages.

        Raises SettingsError for limits that cannot be read, ValueError for what is no such URL.
        """
        try:
            items = parse_many(limits)
        except ValueError as error:
            raise SettingsError(
                f"{prefix}RATE_LIMIT: {limits[:60]!r} is no limit such as 100/minute"
            ) from error
        self.windows = _shared(items, store) if store else [MemoryWindow(item) for item in items]
        self.complained = float("-inf")

    async def count(self, caller: str) -> list[tuple[str, str]]:
        """The headers for an answer to this call of `caller`; Refused (too-many-requests) when it is one too many.

        A store that fails limits nobody: what it protects from is too much, not the wrong ones.
        """
        try:
            return await self._count(caller)
        except WindowFailed as error:
            if time.monotonic() - self.complained >= SILENCE:
                self.complained = time.monotonic()
                log.error("rates are not limited, their store fails: %s", error)
            return []

    async def _count(self, caller: str) -> list[tuple[str, str]]:
        states: list[str] = []
        wait = 0
        for window in self.windows:
            accepted, left, until = await window.count(caller)
            seconds = max(1, math.ceil(until))
            wait = wait if accepted else max(wait, seconds)
            states.append(f"{_name(window.item)};r={max(0, left)};t={seconds}")
        items = [window.item for window in self.windows]
        policies = [f"{_name(item)};q={item.amount};w={item.get_expiry()}" for item in items]
        headers = [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
        if wait:
            raise Refused(
                "too-many-requests",
                429,
                f"{caller} called more often than {' and '.join(map(str, items))}.",
                [*headers, ("Retry-After", str(wait))],
            )
        return headers


def _shared(items: list[RateLimitItem], store: str) -> list[Window]:
    # Slow to import, and seldom needed.
    from .redis_window import RedisWindow, connect

    client = connect(store)
    return [RedisWindow(item, client) for item in items]


def _name(item: RateLimitItem) -> str:
    return f'"{item.amount}-in-{item.get_expiry()}s"'
