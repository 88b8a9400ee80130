"""Waiting within one call for a final state: the REST service waits, and is asked again while there is time.

A service that does not wait, since it is an older one or a proxy takes the header away, is asked at a pace that slows down, and
so is one that fails or stops meanwhile. What it showed last is told when the time is over.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mcp.server import ServerRequestContext
from starlette.requests import Request

from mcp_bridge import edge, event_stream, progress
from mcp_bridge.asked import Asked
from mcp_bridge.canonical import LARGE
from mcp_bridge.failures import is_lasting, is_too_large
from mcp_bridge.lines import Lines
from mcp_bridge.progress import Report, Shown
from mcp_bridge.rest_client import (
    Answer,
    AnswerTooLarge,
    NoAnswer,
    NotSent,
    RestClient,
    RestRequest,
)
from mcp_bridge.shortening import without
from mcp_bridge.tools import CallableTool
from openapi.job_hints import JobHints
from serving import STOPPING
from serving.body_buffer import Reservation

FIRST, STEP = 1, 5
"""Seconds that the REST service is asked to wait, the first time and then, for a caller who is told of progress."""

PACE = (1.0, 2.0, 4.0, 8.0)
"""Seconds from one request to the next when they are answered before their time; the last stands for all further ones."""

AT_ONCE = 1.0
"""Seconds in which a call has not waited yet: a failure by then is its result."""

OVER = 0.3
"""Seconds before its end at which a wait is over: with less the REST service would not wait."""

LAST_LOOK = 0.7
"""Seconds for a look without waiting, when the bridge is to stop."""

OLDEST = 3600.0
"""Seconds that an answer may say to be old. One that says more is wrong: no service waits with what it saw so long ago."""

CROWDED = "Too many calls wait at present, so this one did not."

_APPLIED = re.compile(r'(?i)(?:^|[,;\s])wait="?([0-9]{1,9}(?:\.[0-9]*)?)')


@dataclass(frozen=True)
class Seen:
    """An answer, what it shows (None: nothing that could change by itself), and when that was seen, by the event loop's clock.

    `crowded`: it was not waited for, since too many wait already.
    """

    answer: Answer
    shown: Shown | None
    at: float
    crowded: bool = False

    @property
    def failed(self) -> bool:
        """True for a failure that may be over soon."""
        status = self.answer.status
        return (status >= 500 or status == 429) and not is_lasting(self.answer)

    @property
    def last(self) -> bool:
        """True when another look would show the same."""
        return not self.failed and (self.shown is None or self.shown.final)


@dataclass(frozen=True)
class Look:
    """Asks the REST service once for what shows a state; `reading` reads what is large, `secret` is not to be told."""

    rest: RestClient
    request: RestRequest
    reservation: Reservation
    hints: JobHints
    reading: Executor
    secret: str
    caller: str  # empty where callers are not known

    async def __call__(self, seconds: int = 0, *, placed: bool = False) -> Seen:
        """What there is to see, for which the service may wait so many seconds. NotSent or NoAnswer without an answer."""
        loop, request = asyncio.get_running_loop(), self.request
        if seconds:
            request = replace(request, headers={**request.headers, "Prefer": f"wait={seconds}"})
        answer = await self.rest.send(request, self.reservation, placed=placed)
        shown = None
        if 200 <= answer.status < 300:
            read = partial(progress.read, self.hints, answer.content)
            large = len(answer.content) >= LARGE
            shown = await loop.run_in_executor(self.reading, read) if large else read()
        if shown:
            shown = replace(shown, state=without(self.secret, shown.state))
        age = _seconds(answer, "Age")
        return Seen(answer, shown, loop.time() - (age if age <= OLDEST else 0))


def longest(timeout: float) -> int:
    """Seconds that a call of at most `timeout` may wait, so that its answer has time to arrive."""
    return max(0, int(timeout - max(1.0, timeout / 10)))


async def answered(
    look: Look,
    context: ServerRequestContext[Any, Any],
    tool: CallableTool,
    asked: Asked,
    times: dict[str, float],
    lines: Lines | None,
) -> tuple[Answer | None, str]:
    """The answer to a call, waited for if that is asked for, and what to tell of it; None for one that is too large with results in it.

    `lines` takes one that is no JSON; `times` gets the seconds that a wait took. NotSent or NoAnswer without an answer.
    """
    note = ""
    begun = time.monotonic()
    try:
        if look.hints.state:
            answer, note = await waited(look, context, tool, asked.wait)
        else:
            answer = await look.rest.send(
                look.request, look.reservation, lines.take if lines else None
            )
    except AnswerTooLarge:
        if not asked.selection:
            raise
        return None, ""
    if asked.wait:
        times["waited_seconds"] = round(time.monotonic() - begun, 4)
    return (None if asked.selection and is_too_large(answer) else answer), note


async def waited(
    look: Look, context: ServerRequestContext[Any, Any], tool: CallableTool, seconds: float
) -> tuple[Answer, str]:
    """The answer to a call that would wait so many seconds, and what to tell of it. NotSent or NoAnswer without an answer."""
    most = longest(look.rest.timeout)
    extensions: dict[str, Any] = {}
    if isinstance(context.request, Request):
        extensions = context.request.scope.get("extensions", {})
    seen = await wait(look, min(seconds, most), extensions.get(STOPPING), _report(context))
    notes = [CROWDED if seen.crowded else ""]
    if seen.shown:
        age = asyncio.get_running_loop().time() - seen.at
        # Who asked at once again would be turned away at once again, a turn of the model each.
        again = f"{tool.names_by_use['wait']} {most}" if most and not seen.crowded else ""
        notes.append(progress.note(seen.shown, now=time.time(), age=age, wait=again))
    return seen.answer, " ".join(filter(None, notes))


def _report(context: ServerRequestContext[Any, Any]) -> Report | None:
    """Tells the caller of progress; None when it did not ask for that, or there is no way to."""
    token = progress.wants_progress(context.meta)
    if token is None:
        return None
    if not isinstance(context.request, Request):
        return Report(context.session.report_progress)
    stream, request = edge.current().stream, context.request
    if stream is None or not event_stream.accepts(request.headers):
        return None
    if request.scope["http_version"] == "1.0":  # for which uvicorn 0.54 would chunk the stream
        return None

    async def tell(done: int, total: int | None, words: str) -> None:
        known = {"total": total} if total else {}
        params = {"progressToken": token, "progress": done, **known, "message": words}
        await stream.notify("notifications/progress", params)

    return Report(tell)


async def wait(
    look: Look,
    seconds: float,
    stopping: asyncio.Future[None] | None = None,
    report: Report | None = None,
) -> Seen:
    """What is shown when it is final; what it showed last when `seconds` are over, or `stopping` is done.

    Who finds all places for waiting taken, or half of them by itself, here or at the REST service, gets what is shown now. NotSent or NoAnswer as of a look,
    when nothing was ever seen.
    """
    if not seconds:
        return await look()
    places = look.rest.places
    if places.all_taken() or places.share_taken(look.caller):
        return replace(await look(), crowded=True)
    stopping = stopping or asyncio.get_running_loop().create_future()
    with places.one(look.caller):
        waiting = _Wait(look, seconds, report)
        try:
            async with asyncio.timeout(look.rest.timeout) as limit:
                stop = partial(_stop, waiting, limit)
                stopping.add_done_callback(stop)
                try:
                    return await waiting.until_final()
                finally:
                    stopping.remove_done_callback(stop)
        except TimeoutError:
            last = look.rest.last_looks.get(look.request.target) if stopping.done() else None
            if last and last.done() and not waiting.seen:
                seen: Seen = last.result()
                return seen
            return waiting.result()


def _stop(waiting: _Wait, limit: asyncio.Timeout, _: object) -> None:
    """Ends the wait, as the bridge is to stop: where nothing was seen yet, with what one look for all who wait for the same finds.

    Hundreds of looks at once would not be ready in time, and the requests that wait are ended when it is: that takes its time.
    """
    loop, look = asyncio.get_running_loop(), waiting.look
    looks, target = look.rest.last_looks, look.request.target
    if waiting.seen:
        _end(limit, None)
        return
    waiting.failure = NoAnswer("did not answer, and the bridge is about to stop")
    if target not in looks:
        looks[target] = loop.create_task(look(placed=True))
    looks[target].add_done_callback(partial(_end, limit))
    with suppress(RuntimeError):
        limit.reschedule(loop.time() + LAST_LOOK)


def _end(limit: asyncio.Timeout, look: asyncio.Task[Any] | None) -> None:
    if look and not look.cancelled():
        look.exception()  # nobody else may ask for it
    with suppress(RuntimeError):  # it has ended at this very moment
        limit.reschedule(asyncio.get_running_loop().time())


class _Wait:
    """One wait: what was `seen` last, and the `failure` that there was last."""

    def __init__(self, look: Look, seconds: float, report: Report | None) -> None:
        self.look = look
        self.report = report
        self.loop = asyncio.get_running_loop()
        self.begun = self.loop.time()
        self.end = self.begun + seconds
        self.step: float = FIRST if report else seconds
        self.sent = False  # a request was
        self.seen: Seen | None = None
        self.failure: Seen | Exception = NoAnswer("did not answer in this time")

    def result(self) -> Seen:
        """What there is to tell when it is not final; what it failed with is raised, if that was no answer."""
        result = self.seen or self.failure
        if isinstance(result, Exception):
            raise result
        return result

    async def until_final(self) -> Seen:
        pace = iter(PACE)
        while True:
            asked_at = self.loop.time()
            asked = max(1, round(min(self.step, self.end - asked_at)))
            found = await self._ask(asked)
            if found and found.last:
                return found
            now = self.loop.time()
            if found:
                self.seen = found
                if self.report and found.shown:
                    await self.report(found.shown)
                    self.step = STEP
            elif not self.seen and now - self.begun < AT_ONCE:
                return await self._at_once()
            if self.end - now <= OVER:
                return self.result()
            answer = found.answer if found else None
            if now - asked_at < _meant(answer, asked) - 0.25:
                due = max(asked_at + next(pace, PACE[-1]), now + self._held)
                await asyncio.sleep(min(due, self.end - OVER) - now)

    async def _ask(self, seconds: int) -> Seen | None:
        """What a look finds; None for a failure that may be over soon."""
        self._held = 0.0
        try:
            found = await self.look(seconds, placed=True)
        except AnswerTooLarge:
            raise
        except (NotSent, NoAnswer) as error:
            if isinstance(error, NotSent) and not self.sent:
                raise
            self.sent = True
            self.failure = error
            return None
        self.sent = True
        if not found.failed:
            return found
        self.failure = found
        self._held = _seconds(found.answer, "Retry-After")
        return None

    async def _at_once(self) -> Seen:
        """The failure with which the call began; where there was no room for it to wait, what is shown now."""
        found = self.result()
        return (
            replace(await self.look(placed=True), crowded=True)
            if found.answer.status == 503
            else found
        )


def _meant(answer: Answer | None, asked: int) -> float:
    """The seconds for which the service would have waited."""
    applied = _APPLIED.search(answer.headers.get("Preference-Applied", "")) if answer else None
    return max(1.0, min(float(applied[1]), asked) if applied else asked)


def _seconds(answer: Answer, header: str) -> float:
    """Those that the header says; 0 when it says none."""
    value = answer.headers.get(header, "")
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0.0
