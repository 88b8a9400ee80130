"""Waiting until what an operation shows is final: all who wait for the same thing share one look upstream at a time.

Waits live on the event loop. A look takes a thread, as any other request does, and is made only while somebody waits for it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any, Generic, TypeVar

import msgspec

from openapi.job_hints import StateHint
from openapi.json_text import UNREADABLE, read_json
from serving.places import Places
from telemetry import metrics

from .problems import Overloaded, Problem
from .translation import UpstreamRequest

PACE = (1.0, 2.0, 3.0, 5.0, 8.0, 11.0, 15.0)
"""Seconds from the beginning of each look to the next one's; the last stands for all further ones."""

SPREAD = 0.2
"""Share of the first of these by which it is longer at most."""

FRESH = 5.0
"""Seconds from the beginning of a look to that of the next one when somebody has come meanwhile, if it is not due before."""

RATE = 20.0
"""Looks in a second that all watches make at most, when there are many: each looks the more seldom. First ones apart, of which each is
some caller's request, as a look without waiting is.
"""

OLD = 60.0
"""Seconds for which the upstream may hold looks back (Retry-After), and after which what was seen is told no more when it cannot be
seen anew.
"""

KEPT = 1 << 14
"""Bytes of an answer that is kept from one look to the next. A larger one is looked at once more when somebody's time is over."""

GRACE = 3.0
"""Seconds that such a last look has beyond the time of who waits."""

LAST_LOOK = 0.5
"""Seconds that a look has to end when the process is to stop and nothing was seen yet."""

AT_ONCE = 10
"""Waiters that are answered before other work has its turn: a thousand at once would keep it waiting for a third of a second."""

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a look found, whether that is final, and when: by the event loop's clock. `size`: its bytes."""

    answer: T
    final: bool
    at: float
    size: int = 0


Look = Callable[[], Awaitable[Seen[T]]]
"""Looks once; Problem when it could not be seen. Cancelling it abandons the look."""


class Waits(Generic[T]):
    """At most `places` waiters and `looks` at a time, `rate` looks in a second; `patience`: seconds that somebody waits in any case
    until something was seen; `pace` and `fresh` as PACE and FRESH.
    """

    def __init__(
        self,
        places: int,
        looks: int,
        patience: float,
        pace: Sequence[float] = PACE,
        fresh: float = FRESH,
        rate: float = RATE,
    ) -> None:
        self.places = Places(places)
        self.patience = patience
        self.pace = pace
        self.fresh = fresh
        self.rate = rate
        self.looks = asyncio.Semaphore(looks)
        self._watches: dict[object, Watch[T]] = {}

    @property
    def distance(self) -> float:
        """Seconds from the beginning of a watch's look to that of its next one at least."""
        return min(len(self._watches) / self.rate, OLD)

    async def wait(
        self,
        request: UpstreamRequest,
        look: Look[T],
        seconds: float,
        stopping: asyncio.Future[None],
        caller: str = "",
    ) -> Seen[T]:
        """What `request` shows when it is final; when it is not, what it showed last when `seconds` are over, or the process is to stop.

        When nothing was seen by then, or nothing kept, it is what the next look finds. Problem: what the last look met when none
        found anything of late, one that another look would only repeat, or Overloaded. `caller` may have half of the places; the
        one without a name all of them.
        """
        count, share = self.places.count, self.places.share
        if self.places.all_taken():
            raise Overloaded(f"All {count} places for waiting are taken (GATEWAY_WAITERS).")
        if self.places.share_taken(caller):
            raise Overloaded(
                f"{share} of the {count} places for waiting (GATEWAY_WAITERS) are this caller's, and no caller gets more."
            )
        key = (request.operation.id, request.target, *sorted(request.headers.items()))
        watch = self._watches.get(key)
        if watch is None or watch.over:
            watch = Watch(look, self, stopping)
            self._watches[key] = watch
            watch.task.add_done_callback(partial(self._over, key, watch))
        # Not among those that are answered: by these it is judged whether there are enough workers, and it holds none up.
        metrics.inflight.dec()
        metrics.inflight_waits.inc()
        try:
            with self.places.one(caller):
                return await watch.wait(seconds, max(seconds + GRACE, self.patience))
        finally:
            metrics.inflight_waits.dec()
            metrics.inflight.inc()

    def _over(self, key: object, watch: Watch[T], _task: asyncio.Task[None]) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]


class Watch(Generic[T]):
    """One thing that is looked at again and again, as long as it is not final and somebody waits for it."""

    def __init__(self, look: Look[T], waits: Waits[T], stopping: asyncio.Future[None]) -> None:
        self.look = look
        self.waits = waits
        self.stopping = stopping
        self.seen: Seen[T] | None = None
        self.kept = True  # what was seen
        self.problem: Problem | None = None
        self.begun = self.due = self.earliest = 0.0  # the last look, and the next
        # Each done when its waiter is to be told: what was seen, if anything.
        self.waiters: set[asyncio.Future[Seen[T] | None]] = set()
        self.overdue: set[asyncio.Future[Seen[T] | None]] = set()  # those whose time is over
        self.came = False  # somebody did, since the last look
        self.changed = asyncio.Event()  # the next look may be due sooner
        # Not told by Task.cancelling(): what its own time limit cancels counts there for a moment.
        self.abandoned = False
        self.task = asyncio.get_running_loop().create_task(self._watch())
        self.task.add_done_callback(self._end)
        stopping.add_done_callback(self._stop)

    @property
    def over(self) -> bool:
        """True when it looks no more."""
        return self.task.done() or self.abandoned

    async def wait(self, seconds: float, most: float) -> Seen[T]:
        """As `Waits.wait`; `most`: seconds after which it is over also when nothing was seen."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Seen[T] | None] = loop.create_future()
        self.waiters.add(told)
        self.came = True
        self.changed.set()
        timers = [
            loop.call_later(seconds, self._time_over, told),
            loop.call_later(most, self._settle, told),
        ]
        try:
            seen = await told  # raises what ended the watch, should that be no Problem
        finally:
            for timer in timers:
                timer.cancel()
            self.waiters.discard(told)
            self.overdue.discard(told)
            if not self.waiters:
                self.abandoned = True
                self.task.cancel()
        problem = self.problem
        if seen and not (problem and (not problem.retryable or loop.time() - seen.at > OLD)):
            return seen
        problem = problem or Overloaded("No look at it came to an end in this time.")
        # Without its traceback, from which the frames of all who are told it would hang.
        raise problem.with_traceback(None)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pace = iter(self.waits.pace)
        # Those that begin together do not look together: many at a time would be felt by other calls.
        apart = random.random() * SPREAD * self.waits.pace[0]  # noqa: S311 - no secret
        while True:
            held = 0.0
            async with self.waits.looks:
                self.begun = loop.time()
                self.came = False
                metrics.looks.inc()
                try:
                    self.seen, self.problem = await self.look(), None
                    over, self.kept = self.seen.final, self.seen.size <= KEPT
                except Problem as problem:
                    self.problem, over = problem, not problem.retryable
                    held = min(_retry_after(problem), OLD)
            await self._tell(self.waiters if over else self.overdue)
            if over:
                return
            if not self.kept:
                self.seen = None
            self.due = self.begun + next(pace, self.waits.pace[-1]) + apart
            apart = 0.0
            self.earliest = loop.time() + held
            while (left := self._next() - loop.time()) > 0:
                self.changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self.changed.wait()

    def _next(self) -> float:
        """When it is to be looked next, by the event loop's clock."""
        if self.overdue:
            return self.earliest
        due = min(self.due, self.begun + self.waits.fresh) if self.came else self.due
        return max(due, self.begun + self.waits.distance, self.earliest)

    def _time_over(self, told: asyncio.Future[Seen[T] | None]) -> None:
        if self.seen or (self.problem and self.kept):
            self._settle(told)
        else:
            self.overdue.add(told)
            self.changed.set()

    def _stop(self, _stopping: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        for told in [*self.waiters]:
            self._time_over(told)
            loop.call_later(LAST_LOOK, self._settle, told)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.stopping.remove_done_callback(self._stop)
        error = None if task.cancelled() else task.exception()
        for told in self.waiters:
            self._settle(told, error)

    async def _tell(self, waiting: set[asyncio.Future[Seen[T] | None]]) -> None:
        """Settles them all, and leaves the set empty; a few at a time, so that other work has its turn in between."""
        while waiting:
            for _ in range(min(AT_ONCE, len(waiting))):
                self._settle(waiting.pop())
            await asyncio.sleep(0)

    def _settle(
        self, told: asyncio.Future[Seen[T] | None], error: BaseException | None = None
    ) -> None:
        if told.done():
            return
        if error:
            told.set_exception(error)
        else:
            told.set_result(self.seen)


def is_final(state: StateHint, content: bytes) -> bool:
    """True when `content`, a JSON object, shows a final state; all of it but that member is looked through only."""
    with suppress(*UNREADABLE):
        return state.is_final(read_json(content, _shape(state.member)).value)
    return False


@cache
def _shape(member: str) -> Any:
    """The type of an object of which only this member is read."""
    return msgspec.defstruct("Shown", [("value", object, None)], rename=lambda _: member, gc=False)


def _retry_after(problem: Problem) -> float:
    """Seconds; 0 when it names none."""
    value = dict(problem.headers).get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(value).timestamp() - time.time()
    return 0.0
