"""What waiting may cost: memory, looks in a second, places of one caller, and time beyond the caller's own."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter

import pytest

from openapi.contract import load
from service.problems import Overloaded, Problem
from service.translation import UpstreamRequest
from service.waits import GRACE, KEPT, OLD, PACE, RATE, Seen, Waits
from tests.support.hurried import run

GET = load().operations["getbatchjob"]
PATIENCE = 10.0


class Answer:
    """What was seen; unlike a text it can be asked whether anybody keeps it."""

    def __init__(self, state: str) -> None:
        self.state = state


class Upstream:
    """States in turn, the last one for ever; each look takes `seconds`."""

    def __init__(self, *states: str, size: int = 0, seconds: float = 0.0) -> None:
        self.states = [*states]
        self.size = size
        self.seconds = seconds
        self.looks: list[float] = []
        self.kept: weakref.WeakSet[Answer] = weakref.WeakSet()
        self.problem: Problem | None = None

    async def look(self) -> Seen[Answer]:
        now = clock()
        self.looks.append(now)
        await asyncio.sleep(self.seconds)
        if self.problem:
            raise self.problem
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        answer = Answer(state)
        self.kept.add(answer)
        return Seen(answer, state == "SUCCESS", now, self.size)


def clock() -> float:
    return asyncio.get_running_loop().time()


def running() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def waits(places: int = 1000, looks: int = 64) -> Waits[Answer]:
    return Waits(places, looks, PATIENCE)


async def wait(
    shared: Waits[Answer],
    upstream: Upstream,
    seconds: float = 45,
    target: str = "/1",
    caller: str = "",
) -> str:
    request = UpstreamRequest(GET, target, {}, None)
    return (await shared.wait(request, upstream.look, seconds, running(), caller)).answer.state


def test_a_large_answer_that_is_not_final_is_not_kept_while_it_is_waited_for() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING", size=KEPT + 1), waits()
        tasks = [asyncio.create_task(wait(shared, upstream, target=f"/{n}")) for n in range(20)]
        await asyncio.sleep(30)
        assert len(upstream.looks) >= 20 * 5
        assert len(upstream.kept) == 0
        assert await asyncio.gather(*tasks) == ["RUNNING"] * 20

    run(waiting)


@pytest.mark.parametrize("last", ["RUNNING", "SUCCESS"])
def test_a_large_answer_is_looked_at_once_more_when_the_time_is_over(last: str) -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING", size=KEPT + 1, seconds=0.1), waits()
        task = asyncio.create_task(wait(shared, upstream, 45))
        await asyncio.sleep(44.9)
        before = len(upstream.looks)
        upstream.states = [last]
        assert await task == last
        assert len(upstream.looks) == before + 1
        assert upstream.looks[-1] == pytest.approx(45)

    run(waiting)


def test_what_ends_the_last_look_at_a_large_answer_is_told_in_time() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING", size=KEPT + 1), waits()
        task = asyncio.create_task(wait(shared, upstream, 45))
        await asyncio.sleep(44)
        upstream.problem = Problem("upstream-failed", status=503, retryable=True)
        with pytest.raises(Problem) as caught:
            await task
        assert caught.value.slug == "upstream-failed"
        assert clock() == pytest.approx(45)
        upstream.problem = None
        task = asyncio.create_task(wait(shared, upstream, 45))
        await asyncio.sleep(44)
        upstream.seconds = 1000
        with pytest.raises(Overloaded):
            await task
        assert clock() == pytest.approx(90 + GRACE)

    run(waiting)


@pytest.mark.parametrize(("jobs", "interval"), [(500, 500 / RATE), (100, PACE[-1])])
def test_many_things_that_are_waited_for_are_looked_at_the_more_seldom(
    jobs: int, interval: float
) -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits(2 * jobs)

        async def again_and_again(target: str) -> None:
            while True:
                await wait(shared, upstream, 45, target)

        # Two for each, the second one later, so that each thing is watched all the time.
        tasks = []
        for _ in range(2):
            tasks += [asyncio.create_task(again_and_again(f"/{n}")) for n in range(jobs)]
            await asyncio.sleep(22)
        begun, looks = clock(), len(upstream.looks)
        await asyncio.sleep(4 * interval)
        rate = (len(upstream.looks) - looks) / (clock() - begun)
        assert rate <= RATE * 1.01
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(waiting)


def test_a_thousand_things_are_each_looked_at_once_at_the_start_and_once_a_minute() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits()
        jobs = (wait(shared, upstream, 45, f"/{n}") for n in range(1000))
        assert Counter(await asyncio.gather(*jobs)) == {"RUNNING": 1000}
        assert len(upstream.looks) == 1000

    run(waiting)


def test_things_that_are_waited_for_at_once_are_not_looked_at_again_at_once() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits()
        jobs = [asyncio.create_task(wait(shared, upstream, 10, f"/{n}")) for n in range(10)]
        await asyncio.gather(*jobs)
        assert len(set(upstream.looks[:10])) == 1
        assert len(set(upstream.looks[10:20])) == 10

    run(waiting)


def test_a_caller_with_a_name_has_half_of_the_places_and_others_the_rest() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits(places=10)
        tasks = [asyncio.create_task(wait(shared, upstream, caller="one")) for _ in range(5)]
        await asyncio.sleep(1)
        with pytest.raises(Overloaded) as caught:
            await wait(shared, upstream, caller="one")
        assert "5 of the 10 places" in str(caught.value.detail)
        tasks += [asyncio.create_task(wait(shared, upstream, caller="two")) for _ in range(5)]
        await asyncio.gather(*tasks)
        assert await wait(shared, upstream, caller="one") == "RUNNING"

    run(waiting)


def test_callers_without_names_have_all_places() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits(places=10)
        assert len(await asyncio.gather(*(wait(shared, upstream) for _ in range(10)))) == 10

    run(waiting)


def test_the_upstream_holds_looks_back_for_a_minute_at_most() -> None:
    async def waiting() -> None:
        upstream, shared = Upstream("RUNNING"), waits()
        held = Problem(
            "upstream-failed", status=429, retryable=True, headers=[("Retry-After", "86400")]
        )
        first = asyncio.create_task(wait(shared, upstream))
        await asyncio.sleep(0.5)
        upstream.problem = held
        told = []
        others = []
        for _ in range(20):  # whoever comes before the last one has left finds the same watch
            others.append(asyncio.create_task(wait(shared, upstream, 8)))
            await asyncio.sleep(4)
            told.append(clock())
        gaps = [later - one for one, later in zip(upstream.looks, upstream.looks[1:], strict=False)]
        assert max(gaps) <= OLD + PACE[-1]
        results = await asyncio.gather(*others, return_exceptions=True)
        assert await first == "RUNNING"
        # What was seen is told for a minute, and then what stands in the way of seeing it anew.
        assert results[0] == "RUNNING"
        assert results[-1] is held

    run(waiting)


def test_a_short_wait_ends_near_its_time_while_looks_for_others_hang() -> None:
    async def waiting() -> None:
        hanging, upstream, shared = Upstream("RUNNING", seconds=10), Upstream("RUNNING"), waits()
        others = [asyncio.create_task(wait(shared, hanging, target=f"/{n}")) for n in range(900)]
        await asyncio.sleep(1)
        with pytest.raises(Overloaded):
            await wait(shared, upstream, 5, "/other")
        assert clock() == pytest.approx(1 + PATIENCE)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    run(waiting)
