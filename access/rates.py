"""How often one caller may call, and the headers that say so (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

import logging
import math
import time

from limits import RateLimitItem, parse_many
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from .refusals import Refused
from .settings import SettingsError

log = logging.getLogger("access.rates")

SILENCE = 60.0
"""Seconds between two complaints that the store fails."""


class Rates:
    """Limits over a moving window, counted for each caller by itself."""

    def __init__(self, limits: str, store: str = "", *, prefix: str = "") -> None:
        """`limits` such as `100/minute` or `10/second; 1000/hour`. `store` is a `redis://` or `rediss://` URL, with
        which all processes count together; without one each process counts for itself. `prefix` begins the
        settings' variables, for messages.

        Raises SettingsError when either cannot be used.
        """
        try:
            self.items = parse_many(limits)
        except ValueError as error:
            raise SettingsError(
                f"{prefix}RATE_LIMIT: {limits[:60]!r} is no limit such as 100/minute"
            ) from error
        options: dict[str, str | float] = (
            {"implementation": "redispy", "socket_timeout": 1.0, "socket_connect_timeout": 1.0}
            if store
            else {}
        )
        storage = storage_from_string(
            f"async+{store}" if store else "async+memory://", wrap_exceptions=True, **options
        )
        self.limiter = MovingWindowRateLimiter(storage)
        self.complained = float("-inf")

    async def count(self, caller: str) -> list[tuple[str, str]]:
        """The headers for an answer to this call of `caller`; Refused (too-many-requests) when it is one too many.

        A store that fails limits nobody: what it protects from is too much, not the wrong ones.
        """
        try:
            return await self._count(caller)
        except StorageError as error:
            if time.monotonic() - self.complained >= SILENCE:
                self.complained = time.monotonic()
                log.error("rates are not limited, their store fails: %s", error.storage_error)
            return []

    async def _count(self, caller: str) -> list[tuple[str, str]]:
        states: list[str] = []
        wait = 0
        for item in self.items:
            accepted = await self.limiter.hit(item, caller)
            reset, remaining = await self.limiter.get_window_stats(item, caller)
            seconds = max(1, math.ceil(reset - time.time()))
            wait = wait if accepted else max(wait, seconds)
            states.append(f"{_name(item)};r={max(0, remaining)};t={seconds}")
        policies = [f"{_name(item)};q={item.amount};w={item.get_expiry()}" for item in self.items]
        headers = [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
        if wait:
            raise Refused(
                "too-many-requests",
                429,
                f"{caller} called more often than {' and '.join(map(str, self.items))}.",
                [*headers, ("Retry-After", str(wait))],
            )
        return headers


def _name(item: RateLimitItem) -> str:
    return f'"{item.amount}-in-{item.get_expiry()}s"'
