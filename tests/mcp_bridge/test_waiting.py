"""The wait of one call, by a clock that goes at once to where something happens: what the REST service is asked, when, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_bridge.progress import Report, Shown
from mcp_bridge.rest_client import Answer, AnswerTooLarge, NoAnswer, NotSent
from mcp_bridge.waiting import LAST_LOOK, PACE, Seen, longest, wait
from serving.places import Places
from tests.support.hurried import Hurried

TIMEOUT = 50.0
LONG = 45


@dataclass
class Service:
    """A REST service: `limit` seconds are its longest wait, 0 for one that knows none. Called as `waiting.Look` is.

    `final_at`: when what it shows is final. `down`: from when to when it fails, with what, and how long that takes.
    """

    limit: float = LONG
    final_at: float = 1e9
    down: tuple[float, float] = (1e9, 1e9)
    failure: Any = 502
    problem: bytes = b"<html>"
    failing_takes: float = 0.01
    says: dict[str, str] = field(default_factory=dict)
    rest: Any = field(
        default_factory=lambda: SimpleNamespace(places=Places(9), timeout=TIMEOUT, last_looks={})
    )
    request: Any = field(default_factory=lambda: SimpleNamespace(target="/jobs/1"))
    caller: str = ""
    asked: list[tuple[float, int]] = field(default_factory=list)
    cancelled: int = 0

    async def __call__(self, seconds: int = 0, *, placed: bool = False) -> Seen:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self.asked.append((round(begun, 1), seconds))
        applied = min(seconds, self.limit)
        try:
            await self._until(loop, begun + applied)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        headers = {"Preference-Applied": f"wait={applied:g}"} if applied else {}
        if self.down[0] <= loop.time() < self.down[1]:
            await asyncio.sleep(self.failing_takes)
            if isinstance(self.failure, Exception):
                raise self.failure
            return Seen(Answer(self.failure, self.says, self.problem), None, loop.time())
        final = loop.time() >= self.final_at
        shown = Shown("SUCCESS" if final else "RUNNING", final, not final, "requests", done=1)
        return Seen(Answer(200, {**headers, **self.says}, b""), shown, loop.time())

    async def _until(self, loop: asyncio.AbstractEventLoop, end: float) -> None:
        """Ends at `end`, when it is final, or when the service goes down."""
        if self.down[0] <= loop.time() < self.down[1]:
            end = loop.time()
        ends = [end, *(each for each in (self.final_at, self.down[0]) if each > loop.time())]
        await asyncio.sleep(max(0.02, min(ends) - loop.time()))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = Hurried()
    try:
        loop.run_until_complete(test())
    finally:
        loop.close()


def waited(service: Service, seconds: int = LONG, **more: Any) -> tuple[Any, float]:
    """What is told, or the exception, and after how many seconds."""
    loop = Hurried()

    async def call() -> Any:
        try:
            return await wait(service, seconds, **more)  # type: ignore[arg-type]
        except (NotSent, NoAnswer) as error:
            return error

    try:
        told = loop.run_until_complete(call())
        assert not service.rest.places.taken  # given back
        return told, loop.time()
    finally:
        loop.close()


def test_the_longest_wait_leaves_its_answer_time_to_arrive() -> None:
    assert [longest(seconds) for seconds in (50, 20, 5, 1, 0.1, 600)] == [45, 18, 4, 0, 0, 540]


def test_one_long_wait_is_one_request_and_ends_with_the_final_state() -> None:
    service = Service(final_at=30)
    told, after = waited(service)
    assert told.shown.final and after == pytest.approx(30, abs=0.1)
    assert service.asked == [(0, LONG)]


def test_without_a_wait_it_is_asked_once_and_as_it_always_was() -> None:
    service = Service()
    told, _ = waited(service, 0)
    assert not told.shown.final and service.asked == [(0, 0)]


def test_what_is_not_final_in_time_is_told_as_it_is() -> None:
    service = Service()
    told, after = waited(service)
    assert not told.shown.final and LONG - 1 <= after <= LONG + 1


def test_a_service_that_waits_less_is_asked_again_for_the_rest() -> None:
    service = Service(limit=10)
    _, after = waited(service)
    assert service.asked == [(0, 45), (10, 35), (20, 25), (30, 15), (40, 5)]
    assert LONG - 1 <= after <= LONG + 1


@pytest.mark.parametrize(
    "service",
    [
        Service(limit=0),
        Service(limit=0, says={"Preference-Applied": "wait=45"}),
        Service(limit=0.02),
    ],
    ids=["older", "says that it waits", "waits a moment"],
)
def test_a_service_that_does_not_wait_is_asked_at_a_pace_that_slows_down(service: Service) -> None:
    told, after = waited(service)
    assert [at for at, _ in service.asked] == [0, 1, 3, 7, 15, 23, 31, 39, 44.7]
    assert not told.shown.final and after <= LONG
    assert waited(Service(limit=0, final_at=5))[1] == pytest.approx(sum(PACE[:3]), abs=0.1)


@pytest.mark.parametrize("failure", [NotSent("away"), NoAnswer("broke"), 500, 502, 503, 504, 429])
def test_a_service_that_is_away_for_a_while_loses_nobody(failure: Any) -> None:
    service = Service(limit=10, down=(15, 28), failure=failure, final_at=40)
    told, after = waited(service)
    assert told.shown.final and after == pytest.approx(40, abs=0.1)
    assert len(service.asked) < 8


@pytest.mark.parametrize("failure", [NoAnswer("broke"), 500, 502, 503])
def test_a_service_that_goes_away_before_it_answered_is_waited_for_too(failure: Any) -> None:
    told, after = waited(Service(down=(20, 28), failure=failure, final_at=40))
    assert told.shown.final and after == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("failure", [NotSent("away"), NoAnswer("broke"), 502, 503])
def test_what_was_seen_last_is_told_when_the_service_stays_away(failure: Any) -> None:
    service = Service(limit=10, down=(25, 1e8), failure=failure)
    told, after = waited(service)
    assert told.answer.status == 200 and told.at == pytest.approx(20, abs=1)
    assert after <= LONG + 1 and len(service.asked) < 10


@pytest.mark.parametrize("failure", [NotSent("away"), NoAnswer("broke"), 500, 502, 429])
def test_a_failure_before_anything_was_waited_for_is_the_result(failure: Any) -> None:
    service = Service(down=(0, 1e8), failure=failure)
    told, after = waited(service)
    assert told is failure if isinstance(failure, Exception) else told.answer.status == failure
    assert after < 1 and len(service.asked) == 1


def test_a_service_that_cannot_be_reached_is_no_service_to_wait_for() -> None:
    service = Service(down=(0, 1e8), failure=NotSent("away"), failing_takes=3)
    told, after = waited(service)
    assert isinstance(told, NotSent) and after < 4


def test_a_failure_at_the_end_is_the_result_when_nothing_was_seen() -> None:
    told, after = waited(Service(down=(10, 1e8), failure=NoAnswer("broke")))
    assert str(told) == "broke" and after <= LONG + 1


@pytest.mark.parametrize("status", [404, 403, 422])
def test_what_another_look_would_not_change_ends_the_wait(status: int) -> None:
    told, after = waited(Service(limit=10, down=(15, 1e8), failure=status))
    assert (told.answer.status, round(after)) == (status, 15)


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_failure_that_lasts_by_the_service_s_own_word_ends_the_wait(status: int) -> None:
    """As results do that are too large to pass on, once they are there."""
    lasting = b'{"title": "Too large", "retryable": false}'
    told, after = waited(Service(down=(15, 1e8), failure=status, problem=lasting))
    assert (told.answer.status, round(after)) == (status, 15)


def test_an_answer_that_is_too_large_is_not_asked_for_again() -> None:
    service = Service(down=(15, 1e8), failure=AnswerTooLarge("has more"))
    told, _ = waited(service)
    assert isinstance(told, AnswerTooLarge) and len(service.asked) == 1


def test_the_service_s_retry_after_is_heeded() -> None:
    service = Service(limit=10, down=(15, 20), failure=429, says={"Retry-After": "12"})
    waited(service)
    assert [at for at, _ in service.asked if at > 11] == [27, 37]


@pytest.mark.parametrize("seconds", [2, 3, 10, 45])
@pytest.mark.parametrize("limit", [0, 1, 5, LONG])
def test_a_wait_lasts_as_long_as_was_asked(seconds: int, limit: float) -> None:
    async def tell(*_: Any) -> None:
        """Somebody who listens."""

    for report in (None, Report(tell)):
        _, after = waited(Service(limit=limit), seconds, report=report)
        assert seconds - 0.3 <= after < seconds + 1


def test_who_finds_no_place_for_waiting_at_the_service_sees_the_state_of_now() -> None:
    service = Service(down=(0, 0.03), failure=503, says={"Retry-After": "5"})
    told, after = waited(service)
    assert (told.crowded, told.answer.status, after < 1) == (True, 200, True)
    assert [seconds for _, seconds in service.asked] == [LONG, 0]


def test_who_finds_no_place_for_waiting_in_the_bridge_sees_the_state_of_now() -> None:
    service = Service()

    async def ten() -> None:
        told = await asyncio.gather(*(wait(service, LONG) for _ in range(10)))  # type: ignore[arg-type]
        assert [each.crowded for each in told] == 9 * [False] + [True]
        assert [seconds for _, seconds in service.asked] == 9 * [LONG] + [0]

    run(ten)


def test_a_caller_with_a_token_has_half_of_the_places_in_the_bridge() -> None:
    service = Service(caller="one")

    async def five() -> None:
        told = await asyncio.gather(*(wait(service, LONG) for _ in range(5)))  # type: ignore[arg-type]
        assert [each.crowded for each in told] == 4 * [False] + [True]

    run(five)


@pytest.mark.parametrize("limit", [10, 45, 0])
def test_a_stop_ends_the_wait_with_the_latest_state(limit: float) -> None:
    service = Service(limit=limit)

    async def stopped() -> None:
        loop = asyncio.get_running_loop()
        stopping = loop.create_future()
        loop.call_later(15, stopping.set_result, None)
        told = await wait(service, LONG, stopping)  # type: ignore[arg-type]
        assert told.answer.status == 200 and loop.time() < 15.9
        assert await wait(service, LONG, stopping)  # type: ignore[arg-type]
        assert loop.time() < 17

    run(stopped)


def test_at_a_stop_all_who_wait_for_the_same_share_one_look() -> None:
    services = [Service(request=SimpleNamespace(target=f"/jobs/{n % 2}")) for n in range(8)]
    for service in services:
        service.rest = services[0].rest

    async def stopped() -> None:
        loop = asyncio.get_running_loop()
        stopping = loop.create_future()
        loop.call_later(15, stopping.set_result, None)
        told = await asyncio.gather(*(wait(each, LONG, stopping) for each in services))  # type: ignore[arg-type]
        assert [each.answer.status for each in told] == [200] * 8

    run(stopped)
    assert sum(len(service.asked) for service in services) == 8 + 2


def test_a_stop_does_not_wait_for_a_service_that_does_not_answer() -> None:
    class Stuck(Service):
        async def _until(self, loop: Any, end: float) -> None:
            await asyncio.sleep(1000)

    async def stopped() -> None:
        loop = asyncio.get_running_loop()
        stopping = loop.create_future()
        loop.call_later(15, stopping.set_result, None)
        with pytest.raises(NoAnswer, match="about to stop"):
            await wait(Stuck(), LONG, stopping)  # type: ignore[arg-type]
        assert loop.time() == pytest.approx(15 + LAST_LOOK)

    run(stopped)


def test_a_service_that_never_answers_is_given_up_when_the_call_s_time_is_over() -> None:
    class Stuck(Service):
        async def _until(self, loop: Any, end: float) -> None:
            await asyncio.sleep(1000)

    told, after = waited(Stuck())
    assert isinstance(told, NoAnswer) and after == TIMEOUT


def test_a_call_that_is_cancelled_ends_its_request() -> None:
    service = Service()

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await wait(service, LONG)  # type: ignore[arg-type]
        assert service.cancelled == 1 and not service.rest.places.taken

    run(cancelled)


def test_who_is_told_of_progress_hears_soon_and_then_every_few_seconds() -> None:
    heard: list[float] = []

    class Counting(Service):
        async def __call__(self, seconds: int = 0, *, placed: bool = False) -> Seen:
            seen = await super().__call__(seconds, placed=placed)
            assert seen.shown
            shown = Shown("RUNNING", seen.shown.final, True, "requests", 100, int(seen.at))
            return Seen(seen.answer, shown, seen.at)

    async def tell(done: int, *_: Any) -> None:
        heard.append(done)

    told, after = waited(Counting(final_at=23), report=Report(tell))
    assert told.shown.final and after == pytest.approx(23, abs=0.1)
    assert heard == [1, 6, 11, 16, 21]
