"""Waiting until what an operation shows is final: all who wait for the same thing share one look upstream at a time.

Waits live on the event loop. A look takes a thread, as any other request does, and is made only while somebody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import msgspec

from openapi.job_hints import StateHint
from openapi.json_text import UNREADABLE, read_json

from .problems import Overloaded, Problem
from .translation import UpstreamRequest

PACE = (1.0, 2.0, 3.0, 5.0, 8.0, 11.0, 15.0)
"""Seconds from the beginning of each look to the next one's; the last stands for all further ones.

Two looks are never closer than the first of them, whoever comes meanwhile.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What a look found, whether that is final, and when: by the event loop's clock."""

    answer: T
    final: bool
    at: float


Look = Callable[[], Awaitable[Seen[T]]]
"""Looks once; Problem when it could not be seen. Cancelling it abandons the look."""


class Waits(Generic[T]):
    """At most `places` waiters at a time; `patience`: seconds that a look may take; `pace` as PACE."""

    def __init__(self, places: int, patience: float, pace: Sequence[float] = PACE) -> None:
        self.places = places
        self.patience = patience
        self.pace = pace
        self.waiters = 0
        self._watches: dict[object, Watch[T]] = {}

    async def wait(
        self,
        request: UpstreamRequest,
        look: Look[T],
        seconds: float,
        stopping: asyncio.Future[None],
    ) -> Seen[T]:
        """What `request` shows when it is final; when it is not, what it shows `seconds` later, or when the process is to stop.

        What is told was seen by a look that began no earlier than this wait, where the upstream allowed one. Problem: the last
        look's when none found anything, one that another look would only repeat, or Overloaded.
        """
        if self.waiters >= self.places:
            raise Overloaded(f"All {self.places} places for waiting are taken (GATEWAY_WAITERS).")
        key = (request.operation.id, request.target, *sorted(request.headers.items()))
        watch = self._watches.get(key)
        if watch is None or watch.over:
            watch = self._watches[key] = Watch(look, self.pace)
            watch.task.add_done_callback(partial(self._over, key, watch))
        self.waiters += 1
        try:
            return await watch.wait(seconds, max(seconds, self.patience), stopping)
        finally:
            self.waiters -= 1

    def _over(self, key: object, watch: Watch[T], _task: asyncio.Task[None]) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]


class Watch(Generic[T]):
    """One thing that is looked at again and again, as long as it is not final and somebody waits for it."""

    def __init__(self, look: Look[T], pace: Sequence[float]) -> None:
        self.look = look
        self.pace = pace
        self.seen: Seen[T] | None = None
        self.problem: Problem | None = None
        self.waiters: set[asyncio.Future[None]] = set()  # done when it is final
        self.newcomers: set[asyncio.Future[None]] = set()  # done after the next look that begins
        self.came = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._watch())
        self.task.add_done_callback(self._end)

    @property
    def over(self) -> bool:
        """True when it looks no more."""
        return self.task.done() or self.task.cancelling() > 0

    async def wait(self, seconds: float, most: float, stopping: asyncio.Future[None]) -> Seen[T]:
        """As `Waits.wait`; `most`: seconds after which what is known is told, though it is older than this wait."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        final, looked = loop.create_future(), loop.create_future()
        self.waiters.add(final)
        self.newcomers.add(looked)
        self.came.set()
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({final, stopping}, timeout=seconds, return_when=first)
            left = begun + most - loop.time()
            await asyncio.wait({final, looked, stopping}, timeout=left, return_when=first)
        finally:
            self.waiters.discard(final)
            self.newcomers.discard(looked)
            if not self.waiters:
                self.task.cancel()
        if final.done():
            final.result()  # raises what ended the watch, should that be no Problem
        if self.seen and not (final.done() and self.problem):
            return self.seen
        raise self.problem or Overloaded("The gateway stops; nothing was seen yet.")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pace = iter(self.pace)
        while True:
            begun = loop.time()
            self.came.clear()
            asked, self.newcomers = self.newcomers, set()
            held = 0.0
            try:
                self.seen, self.problem = await self.look(), None
                over = self.seen.final
            except Problem as problem:
                self.problem, over = problem, not problem.retryable
                held = _retry_after(problem)
            if over:
                return
            _settle(asked)
            due = begun + next(pace, self.pace[-1])
            soonest = max(begun + self.pace[0], loop.time() + held)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(due, soonest)):
                    await self.came.wait()
                    await asyncio.sleep(soonest - loop.time())

    def _end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        _settle(self.waiters, error)


def is_final(state: StateHint, content: bytes) -> bool:
    """True when `content`, a JSON object, shows a final state; all of it but that member is looked through only."""
    shape = msgspec.defstruct(
        "Shown", [("value", object, None)], rename=lambda _: state.member, gc=False
    )
    with suppress(*UNREADABLE):
        return getattr(read_json(content, shape), "value", None) in state.final
    return False


def _settle(waiting: set[asyncio.Future[None]], error: BaseException | None = None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)


def _retry_after(problem: Problem) -> float:
    """Seconds; 0 when it names none, or a date."""
    value = dict(problem.headers).get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
