"""The calls of the last while, counted for each caller by itself; by a clock that nobody sets, unlike the hosts' own.

`limits` reads the settings. Its windows are dated by the wall clock of the host that asks, which may jump and differ from
the next one's.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from limits import RateLimitItem


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
