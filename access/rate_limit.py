"""How often one caller may call, and the headers that say so (draft-ietf-httpapi-ratelimit-headers-10).

Calls are counted over a moving window, for each caller by itself, by a clock that nobody sets. `limits` reads the
settings; its own windows are dated by the wall clock of the host that asks, which may jump and differ from the next one's.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from limits import RateLimitItem, parse_many

from environment import SettingsError

from . import AccessDenied

log = logging.getLogger("access.rate_limit")

LOG_INTERVAL = 60.0
"""Seconds between two log lines that say that the store fails."""


class RateLimit:
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
        if store:
            # Slow to import, and seldom needed.
            from .redis_window import RedisWindow, connect

            client = connect(store)
            self.windows: list[Window] = [RedisWindow(item, client) for item in items]
        else:
            self.windows = [MemoryWindow(item) for item in items]
        self.logged = float("-inf")

    async def count(self, caller: str) -> list[tuple[str, str]]:
        """The headers for an answer to this call of `caller`; AccessDenied (too-many-requests) when it is one too many.

        A store that fails limits nobody: what it protects from is too much, not the wrong ones.
        """
        items = [window.item for window in self.windows]
        try:
            counts = [await window.count(caller) for window in self.windows]
        except WindowFailed as error:
            if time.monotonic() - self.logged >= LOG_INTERVAL:
                self.logged = time.monotonic()
                log.error("rates are not limited, their store fails: %s", error)
            return []
        wait = 0
        policies, states = [], []
        for item, (accepted, left, until) in zip(items, counts, strict=True):
            seconds = max(1, math.ceil(until))
            wait = wait if accepted else max(wait, seconds)
            name = f'"{item.amount}-in-{item.get_expiry()}s"'
            policies.append(f"{name};q={item.amount};w={item.get_expiry()}")
            states.append(f"{name};r={max(0, left)};t={seconds}")
        headers = [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
        if wait:
            raise AccessDenied(
                "too-many-requests",
                429,
                f"{caller} called more often than {' and '.join(map(str, items))}.",
                [*headers, ("Retry-After", str(wait))],
            )
        return headers


class Count(NamedTuple):
    """What became of a call: whether it was one of those allowed, how many are left, seconds until there is one more."""

    accepted: bool
    left: int
    seconds: float


class WindowFailed(Exception):
    """The store of a window cannot be asked; the message says why."""


class Window(Protocol):
    """Counts as many calls of each caller as `item` allows within its time."""

    item: RateLimitItem

    async def count(self, caller: str) -> Count:
        """Counts a call of `caller` if it is allowed; WindowFailed when that cannot be told."""


class MemoryWindow(Window):
    """The calls that this process got, and no more callers than called within the window."""

    def __init__(self, item: RateLimitItem, clock: Callable[[], float] = time.monotonic) -> None:
        self.item = item
        self.clock = clock
        self.calls: OrderedDict[str, deque[float]] = OrderedDict()  # the latest caller last

    async def count(self, caller: str) -> Count:
        now, length = self.clock(), self.item.get_expiry()
        while self.calls and next(iter(self.calls.values()))[-1] <= now - length:
            self.calls.popitem(last=False)
        calls = self.calls.get(caller, deque())
        while calls and calls[0] <= now - length:
            calls.popleft()
        accepted = len(calls) < self.item.amount
        if accepted:
            calls.append(now)
            self.calls[caller] = calls
            self.calls.move_to_end(caller)
        oldest = calls[0] if calls else now
        return Count(accepted, self.item.amount - len(calls), oldest + length - now)
