"""Waiting: who waits is told the end when it comes, the latest state when his time is over, and costs one look with all others."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from openapi.contract import load
from openapi.job_hints import StateHint
from service.problems import Overloaded, Problem
from service.translation import UpstreamRequest
from service.waits import AT_ONCE, Seen, Waits, is_final
from tests.support import hurried

PACE = (0.01, 0.02, 0.04)
LONG = 30.0
MANY = 1e6
GET = load().operations["getbatchjob"]


class Upstream:
    """What each look finds, in turn: an answer, an answer that is final, or a problem; the last one stays."""

    def __init__(self, *found: str | Problem) -> None:
        self.found = list(found)
        self.looks: list[float] = []
        self.under_way = self.most = 0
        self.abandoned = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def look(self) -> Seen[str]:
        now = asyncio.get_running_loop().time()
        self.looks.append(now)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.under_way -= 1
        found = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(found, Problem):
            raise found
        return Seen(found, found == "SUCCESS", now)


def request(target: str = "/batch/jobs/1") -> UpstreamRequest:
    return UpstreamRequest(GET, target, {}, None)


def run(test: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(test(), LONG))


def waits(places: int = 1000, looks: int = 64, patience: float = LONG) -> Waits[str]:
    return Waits(places, looks, patience, PACE, PACE[0], MANY)


def unavailable(retry_after: str = "") -> Problem:
    headers = [("Retry-After", retry_after)] if retry_after else []
    return Problem("upstream-failed", status=503, retryable=True, headers=headers)


def running() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def test_a_wait_ends_when_the_state_is_final() -> None:
    async def waiting() -> None:
        upstream = Upstream("QUEUED", "RUNNING", "RUNNING", "SUCCESS")
        seen = await waits().wait(request(), upstream.look, LONG, running())
        assert (seen.answer, len(upstream.looks)) == ("SUCCESS", 4)

    run(waiting)


def test_what_is_final_already_is_told_at_the_first_look() -> None:
    async def waiting() -> None:
        upstream = Upstream("SUCCESS")
        await waits().wait(request(), upstream.look, LONG, running())
        assert len(upstream.looks) == 1

    run(waiting)


def test_the_latest_state_is_told_when_the_time_is_over() -> None:
    async def waiting() -> None:
        upstream = Upstream("QUEUED", "RUNNING")
        seen = await waits().wait(request(), upstream.look, 5 * PACE[0], running())
        assert (seen.answer, seen.final) == ("RUNNING", False)
        assert seen.at == upstream.looks[-1]

    run(waiting)


def test_a_wait_of_no_time_is_told_what_one_look_finds() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        await waits().wait(request(), upstream.look, 0, running())
        assert len(upstream.looks) == 1

    run(waiting)


def test_all_who_wait_for_one_thing_share_its_looks() -> None:
    async def waiting() -> None:
        upstream = Upstream("QUEUED", "RUNNING", "SUCCESS")
        shared = waits()
        stopping = running()
        all_seen = await asyncio.gather(
            *(shared.wait(request(), upstream.look, LONG, stopping) for _ in range(500))
        )
        assert {seen.answer for seen in all_seen} == {"SUCCESS"}
        assert len(upstream.looks) == 3

    run(waiting)


def test_who_waits_for_another_thing_has_looks_of_its_own() -> None:
    async def waiting() -> None:
        one, other = Upstream("SUCCESS"), Upstream("SUCCESS")
        shared = waits()
        await asyncio.gather(
            shared.wait(request("/1"), one.look, LONG, running()),
            shared.wait(request("/1?inline=true"), other.look, LONG, running()),
        )
        assert (len(one.looks), len(other.looks)) == (1, 1)

    run(waiting)


def test_who_comes_between_two_looks_has_the_next_one_made_sooner() -> None:
    async def waiting() -> None:
        upstream = Upstream("QUEUED", "RUNNING", "SUCCESS")
        shared = Waits[str](2, 1, LONG, (PACE[0], LONG), 2 * PACE[0], MANY)
        first = asyncio.create_task(shared.wait(request(), upstream.look, LONG, running()))
        while len(upstream.looks) < 2:
            await asyncio.sleep(PACE[0])
        second = await shared.wait(request(), upstream.look, LONG, running())
        assert {second.answer, (await first).answer} == {"SUCCESS"}
        assert upstream.looks[2] - upstream.looks[1] >= 2 * PACE[0]

    run(waiting)


def test_who_comes_just_when_a_look_is_due_joins_those_who_wait() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared, stopping = Waits[str](100_000, 1, LONG, PACE[:1], LONG, MANY), running()
        tasks = []
        while len(upstream.looks) < 4:
            tasks.append(asyncio.create_task(shared.wait(request(), upstream.look, LONG, stopping)))
            await asyncio.sleep(0)
        stopping.set_result(None)
        await asyncio.gather(*tasks)
        gaps = [later - one for one, later in itertools.pairwise(upstream.looks)]
        assert min(gaps) >= PACE[0]

    run(waiting)


def test_who_comes_just_after_a_look_has_none_made_sooner_than_is_due() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared = Waits[str](100, 1, LONG, (PACE[0], LONG), LONG, MANY)
        stopping = running()
        tasks = []
        for _ in range(20):
            tasks.append(asyncio.create_task(shared.wait(request(), upstream.look, LONG, stopping)))
            await asyncio.sleep(PACE[0])
        assert len(upstream.looks) == 2
        stopping.set_result(None)
        await asyncio.gather(*tasks)

    run(waiting)


def test_a_wait_ends_in_time_with_what_others_saw_while_a_look_hangs() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared = waits()
        first = asyncio.create_task(shared.wait(request(), upstream.look, LONG, running()))
        while not upstream.looks:
            await asyncio.sleep(0)
        upstream.gate.clear()
        while len(upstream.looks) < 2:
            await asyncio.sleep(PACE[0])
        seen = await shared.wait(request(), upstream.look, PACE[0], running())
        assert (seen.answer, seen.at, first.done()) == ("RUNNING", upstream.looks[0], False)
        first.cancel()

    run(waiting)


def test_a_wait_ends_in_time_with_what_others_saw_while_the_upstream_wants_no_looks() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING", unavailable("3600"))
        shared = waits()
        first = asyncio.create_task(shared.wait(request(), upstream.look, LONG, running()))
        while len(upstream.looks) < 2:
            await asyncio.sleep(PACE[0])
        seen = await shared.wait(request(), upstream.look, PACE[0], running())
        assert (seen.answer, seen.at) == ("RUNNING", upstream.looks[0])
        first.cancel()

    run(waiting)


def test_looks_for_many_things_leave_threads_to_others() -> None:
    async def waiting() -> None:
        upstream = Upstream("SUCCESS")
        shared, stopping = waits(looks=3), running()
        upstream.gate.clear()
        tasks = [
            asyncio.create_task(shared.wait(request(f"/{n}"), upstream.look, LONG, stopping))
            for n in range(30)
        ]
        while upstream.under_way < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(PACE[0])
        upstream.gate.set()
        await asyncio.gather(*tasks)
        assert (upstream.most, len(upstream.looks)) == (3, 30)

    run(waiting)


def test_other_work_has_its_turn_while_many_are_told() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING", "SUCCESS")
        shared, stopping = waits(), running()
        told: list[int] = []

        async def one(number: int) -> None:
            await shared.wait(request(), upstream.look, LONG, stopping)
            told.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(20 * AT_ONCE)]
        steps = {0}
        while len(told) < len(tasks):
            await asyncio.sleep(0)
            steps.add(len(told))
        assert len(steps) >= 20

    run(waiting)


def test_trouble_of_the_upstream_is_no_answer() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING", unavailable(), unavailable(), "SUCCESS")
        seen = await waits().wait(request(), upstream.look, LONG, running())
        assert seen.answer == "SUCCESS"

    run(waiting)


def test_the_last_known_state_is_told_when_there_is_trouble_to_the_end() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING", unavailable())
        seen = await waits().wait(request(), upstream.look, 8 * PACE[0], running())
        assert (seen.answer, seen.at) == ("RUNNING", upstream.looks[0])
        assert len(upstream.looks) > 1

    run(waiting)


def test_the_problem_is_told_when_nothing_was_ever_seen() -> None:
    async def waiting() -> None:
        with pytest.raises(Problem) as caught:
            await waits().wait(request(), Upstream(unavailable()).look, PACE[0], running())
        assert caught.value.slug == "upstream-failed"

    run(waiting)


def test_what_no_further_look_would_change_is_told_at_once() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING", Problem("upstream-rejected", status=404))
        with pytest.raises(Problem) as caught:
            await waits().wait(request(), upstream.look, LONG, running())
        assert (caught.value.status, len(upstream.looks)) == (404, 2)

    run(waiting)


def test_a_problem_that_many_are_told_keeps_nothing_of_them() -> None:
    async def waiting() -> None:
        problem = Problem("upstream-rejected", status=404)
        upstream, shared = Upstream(problem), waits()
        waiting = (shared.wait(request(), upstream.look, LONG, running()) for _ in range(100))
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(traceback.extract_tb(problem.__traceback__)) < 10

    run(waiting)


@pytest.mark.parametrize("value", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_holds_looks_back(value: str) -> None:
    async def waiting() -> None:
        upstream = Upstream(unavailable(value), "SUCCESS")
        with pytest.raises(Problem):
            await waits().wait(request(), upstream.look, 5 * PACE[0], running())
        assert len(upstream.looks) == 1

    run(waiting)


def test_a_look_that_takes_too_long_is_waited_for_as_long_as_one_may_take() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        upstream.gate.clear()
        with pytest.raises(Overloaded):
            await waits(patience=LONG).wait(request(), upstream.look, 0, running())
        assert asyncio.get_running_loop().time() == pytest.approx(LONG)

    hurried.run(waiting)


def test_nobody_looks_when_nobody_waits() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        upstream.gate.clear()
        shared = waits()
        task = asyncio.create_task(shared.wait(request(), upstream.look, LONG, running()))
        while not upstream.looks:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while not upstream.abandoned:
            await asyncio.sleep(0)
        assert shared.places.taken.total() == 0

    run(waiting)


def test_who_comes_when_the_last_waiter_has_just_left_is_served() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared = waits()
        await shared.wait(request(), upstream.look, 0, running())
        upstream.found = ["SUCCESS"]
        seen = await shared.wait(request(), upstream.look, LONG, running())
        assert seen.answer == "SUCCESS"

    run(waiting)


def test_a_stop_answers_all_waiters_with_what_is_known() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared, stopping = waits(), running()
        tasks = [
            asyncio.create_task(shared.wait(request(), upstream.look, LONG, stopping))
            for _ in range(50)
        ]
        while len(upstream.looks) < 2:
            await asyncio.sleep(PACE[0])
        stopping.set_result(None)
        assert {seen.answer for seen in await asyncio.gather(*tasks)} == {"RUNNING"}

    run(waiting)


def test_a_stop_leaves_the_first_look_a_moment_to_end() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        upstream.gate.clear()
        shared, stopping = waits(), running()
        tasks = [
            asyncio.create_task(shared.wait(request(), upstream.look, LONG, stopping))
            for _ in range(50)
        ]
        while not upstream.looks:
            await asyncio.sleep(0)
        stopping.set_result(None)
        await asyncio.sleep(0)
        upstream.gate.set()
        assert {seen.answer for seen in await asyncio.gather(*tasks)} == {"RUNNING"}

    run(waiting)


def test_a_stop_does_not_wait_for_a_look_that_hangs() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        upstream.gate.clear()
        stopping = running()
        stopping.set_result(None)
        with pytest.raises(Overloaded):
            await waits().wait(request(), upstream.look, LONG, stopping)

    run(waiting)


def test_one_more_than_there_are_places_is_turned_away() -> None:
    async def waiting() -> None:
        upstream = Upstream("RUNNING")
        shared, stopping = waits(places=1), running()
        task = asyncio.create_task(shared.wait(request(), upstream.look, LONG, stopping))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await shared.wait(request(), upstream.look, LONG, stopping)
        stopping.set_result(None)
        await asyncio.gather(task, return_exceptions=True)

    run(waiting)


def test_a_fault_of_ours_reaches_everybody_who_waits() -> None:
    async def look() -> Seen[str]:
        raise LookupError

    async def waiting() -> None:
        shared = waits()
        results = await asyncio.gather(
            *(shared.wait(request(), look, LONG, running()) for _ in range(3)),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [LookupError] * 3

    run(waiting)


STATE = StateHint("state", frozenset({"over", "failed"}))


@pytest.mark.parametrize(
    ("content", "final"),
    [
        (b'{"state": "over"}', True),
        (b'{"rows": [{"state": "over"}], "state": "begun"}', False),
        (b'{"state": "Over"}', False),
        (b'{"state": ["over"]}', False),
        (b'{"state": {"over": true}}', False),
        (b'{"state": null}', False),
        (b"{}", False),
        (b'["over"]', False),
        (b"over", False),
        (b"", False),
    ],
)
def test_final_is_what_the_contract_says_is_final(content: bytes, final: bool) -> None:
    assert is_final(STATE, content) is final
