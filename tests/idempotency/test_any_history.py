"""Whatever happens in whatever order, no key ever has two jobs, and every success names the one that it has.

Hypothesis makes up histories of calls, lost answers, killed workers, late lists, duplicates, other bodies, failures of the
store, restarts and clocks that jump, shared out to two workers on one store. The store may lose answers, as Redis does, and
carry out late and twice what it was asked. The upstream's own ledger is the judge.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from itertools import count, cycle, pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
import requests
import responses
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service import upstream_connection
from service.idempotency import RETRY, UNCONFIRMED
from service.sqlite_store import SQLiteStore
from service.store import Record, StoreUnavailable
from tests.idempotency.conftest import door, settings_for
from tests.support.api import JOBS, keyed

UPSTREAM = "http://127.0.0.1:9/v1"
EXPIRY = 86400
LATEST = 500
"""Seconds after which a job is in the list at the latest: below the settle window, or nothing could be promised."""


class Time:
    """The true time, and the gateways' clock, which may be wrong. Goes on only when told."""

    def __init__(self) -> None:
        self.true = 1.8e9
        self.skew = 0.0

    def time(self) -> float:
        """What the gateways take for the time."""
        return self.true + self.skew

    def monotonic(self) -> float:
        """Never jumps."""
        return self.true

    def sleep(self, seconds: float) -> None:
        """Passes at once."""
        self.true += seconds


class Killed(Exception):
    """The worker is gone, and with it all that it would have done: nothing in the gateway's code catches this."""


@dataclass(frozen=True)
class Job:
    """One line of the ledger; `listed` is the true time from which the list shows it."""

    id: str
    body: dict[str, Any]
    made: float
    listed: float

    @property
    def key(self) -> str:
        """The key of the call that made it."""
        return str(self.body["metadata"]["key"])


@dataclass(frozen=True)
class Fate:
    """What becomes of the next create: whether it is carried out, how late it is listed, and how its answer is lost."""

    carried_out: bool
    lost: str
    lag: float = 0.0


class Upstream:
    """Carries creates out and lists jobs, as it is told to."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.jobs: list[Job] = []
        self.sends = 0
        self.fate = Fate(True, "")
        self.blind = self.killed = False
        self.meanwhile: list[Any] = []  # to be called while a request is under way

    def create(self, request: Any) -> tuple[int, dict[str, str], str]:
        """The upstream's side of a create."""
        self.sends += 1
        self._let_happen()
        fate, self.fate = self.fate, Fate(True, "")
        body = json.loads(request.body)
        job = Job(f"job-{self.sends}", body, self.time.true, self.time.true + fate.lag)
        if fate.carried_out:
            self.jobs.append(job)
        if fate.lost == "killed":
            self.killed = True
            raise Killed
        if fate.lost == "unreachable":
            raise requests.ConnectionError
        if fate.lost == "reset":
            upstream_connection._current.request.sent = (
                True  # what urllib3's connection would have noted
            )
            raise requests.ConnectionError
        if fate.lost == "slow":
            upstream_connection._current.request.sent = True
            self.time.true += 40
            raise requests.ReadTimeout
        if fate.lost:
            return int(fate.lost), {}, '{"detail": "no"}'
        return 200, {}, json.dumps({"id": job.id, **body})

    def list(self, request: Any) -> tuple[int, dict[str, str], str]:
        """One page of what is listed by now, newest first."""
        self._let_happen()
        if self.blind:
            return 503, {}, "{}"
        after = datetime.fromisoformat(request.params["created_after"]).timestamp()
        found = [j for j in self.jobs if j.listed <= self.time.true and j.made > after][::-1]
        size, page = int(request.params["page_size"]), int(request.params["page"])
        data = [{"id": j.id, **j.body} for j in found[page * size : (page + 1) * size]]
        return 200, {}, json.dumps({"data": data, "total": len(found)})

    def _let_happen(self) -> None:
        while self.meanwhile:
            self.meanwhile.pop()()


T = TypeVar("T")


class LosingStore(SQLiteStore):
    """Does with each operation what it is told to: carries it out and loses its answer ("lost"), or keeps it for when nobody
    waits for it any more ("late"), or lets something happen first (any word of `meanwhile`).
    """

    loses_answers = True
    losses: ClassVar[deque[str]] = deque()
    late: ClassVar[list[Callable[[], object]]] = []
    meanwhile: ClassVar[dict[str, Callable[[], object]]] = {}

    def insert(self, record: Record) -> Record | None:
        return self._meet(partial(super().insert, record))

    def replace(self, record: Record, owner: str) -> bool:
        return self._meet(partial(super().replace, record, owner))

    def delete(self, record: Record) -> None:
        return self._meet(partial(super().delete, record))

    def _meet(self, operation: Callable[[], T]) -> T:
        loss = self.losses.popleft() if self.losses else ""
        if loss == "late":
            self.late.append(operation)
            raise StoreUnavailable(loss)
        if loss in self.meanwhile:
            self.meanwhile[loss]()
        answer = operation()
        if loss == "lost":
            raise StoreUnavailable(loss)
        return answer


class Gateways:
    """Gateways in this process on one store, made once for all histories: all that they remember is in the store."""

    def __init__(self) -> None:
        self.store = Path(tempfile.mkdtemp()) / "keys.sqlite3"
        self.settings = settings_for(UPSTREAM, self.store, GATEWAY_KEY_EXPIRY=EXPIRY)
        self.clients = {False: [door(self.settings) for _ in range(4)]}
        with patch("service.app.open_store", lambda _: LosingStore(self.store)):
            self.clients[True] = [door(self.settings) for _ in range(4)]
        self.histories = count()


gateways = cache(Gateways)

AGES = st.sampled_from([0, 0, 0, 1])
WORKERS = st.integers(0, 1)
HOURS = st.sampled_from([1] * 8 + [2])
LOST = st.builds(
    Fate,
    st.booleans(),
    st.sampled_from(["killed", "reset", "slow", "500", "502", "503", "504", "408"]),
    st.sampled_from([0, 0, 20, LATEST]),
)
REFUSED = st.builds(
    Fate, st.just(False), st.sampled_from(["unreachable", "400", "401", "422", "429"])
)
LATER = st.sampled_from([0, 0, 0, 51, 599, 700])
SKEWS = st.sampled_from([7200.0, -7200.0, 60.0, 0.0])
FATES = st.one_of(st.just(Fate(True, "")), LOST, LOST, REFUSED)
CLAIMS = st.lists(st.sampled_from(["", "lost", "late"]), max_size=3)
AMENDS = st.lists(st.sampled_from(["", "lost", "late ones first"]), max_size=3)
LOSSES = st.lists(
    st.sampled_from(["", "lost", "late", "late ones first", "others first"]), max_size=5
)


class Histories(RuleBasedStateMachine):
    """Ever new keys, of which the last two are used; two bodies; two workers of the four at a time."""

    @initialize(skew=SKEWS, losing=st.booleans())
    def begin(self, skew: float, losing: bool) -> None:
        """Everything works; the clock may be wrong from the start. `losing`: the store may lose answers."""
        self.running = ExitStack()
        enter = self.running.enter_context
        self.store = gateways().store
        self.history = next(gateways().histories)
        self.keys = ["0"]
        self.time = Time()
        self.time.skew = skew
        self.losing = losing
        self.owed: list[Callable[[], object]] = []  # what the workers mean to tell the store later
        LosingStore.losses.clear()
        LosingStore.late.clear()
        LosingStore.meanwhile.update(
            {"late ones first": self.what_was_late_comes, "others first": self._others_come}
        )
        self.upstream = Upstream(self.time)
        enter(patch("service.upstream_connection.monotonic", self.time.monotonic))
        for module in ("idempotency", "sqlite_store"):
            enter(patch(f"service.{module}.time", self.time))
        enter(patch("service.sqlite_store.BUSY", 0.001))
        enter(
            patch(
                "service.retry_queue.RetryQueue.add",
                lambda _, operation: self.owed.append(operation),
            )
        )
        mistral = enter(responses.RequestsMock(assert_all_requests_are_fired=False))
        json_type: dict[str, Any] = {"content_type": "application/json"}
        mistral.add_callback("POST", f"{UPSTREAM}/batch/jobs", self.upstream.create, **json_type)
        mistral.add_callback("GET", f"{UPSTREAM}/batch/jobs", self.upstream.list, **json_type)
        self.next_worker = cycle(gateways().clients[losing])
        self.workers = [next(self.next_worker), next(self.next_worker)]

    def teardown(self) -> None:
        if hasattr(self, "running"):
            self.running.close()

    def _create(self, worker: int, age: int, hours: int) -> Any:
        self.last = (1 - worker, age, hours)  # what another one asks for who overtakes it
        key = self.keys[-1 - age % len(self.keys)]
        body = {"endpoint": "/v1/ocr", "timeout_hours": hours, "metadata": {"key": key}}
        headers = keyed(f"{key}-{self.history}")
        answer = self.workers[worker].post(JOBS, json=body, headers=headers)
        if answer.status_code == 500 and self.upstream.killed:
            self.upstream.killed = False
            return answer
        assert answer.status_code in (200, 400, 409, 422, 429, 502, 503, 504), answer.text
        if answer.status_code == 200:
            (made,) = [job for job in self.upstream.jobs if job.id == answer.json()["id"]]
            assert (made.key, made.body["timeout_hours"]) == (key, hours)
        return answer

    def _others_come(self) -> None:
        """A worker stands still, and meanwhile another one gets the same key."""
        self.time.true += UNCONFIRMED + 1
        self._create(*self.last)

    @rule(later=LATER, worker=WORKERS, age=AGES, hours=HOURS, fate=FATES, blind=st.booleans())
    def call(
        self, later: float, worker: int, age: int, hours: int, fate: Fate, blind: bool
    ) -> None:
        """A call, some seconds later; when it is sent, its fate is this."""
        self.time.true += later
        self.upstream.fate, self.upstream.blind = fate, blind
        self._create(worker, age, hours)
        self.upstream.fate, self.upstream.blind = Fate(True, ""), False

    @rule(age=AGES, hours=HOURS, fate=FATES, other=HOURS)
    def call_twice_at_once(self, age: int, hours: int, fate: Fate, other: int) -> None:
        """While one worker waits for the upstream, be it for the create or for a list, the other gets the same key."""
        self.upstream.meanwhile = [lambda: self._create(1, age, other)]
        self.call(0, 0, age, hours, fate, False)
        self.upstream.meanwhile = []

    @rule(age=AGES, hours=HOURS, fate=FATES)
    def call_whose_outcome_cannot_be_stored(self, age: int, hours: int, fate: Fate) -> None:
        """The store is locked from the moment when the upstream is asked."""
        locks: list[sqlite3.Connection] = []

        def lock() -> None:
            locks.append(sqlite3.connect(self.store, isolation_level=None, check_same_thread=False))
            locks[0].execute("BEGIN IMMEDIATE")

        self.upstream.meanwhile = [lock]
        self.call(0, 0, age, hours, fate, False)
        self.upstream.meanwhile = []
        for db in locks:
            db.rollback()
            db.close()

    @precondition(lambda self: self.losing)
    @rule(worker=WORKERS, age=AGES, hours=HOURS, fate=FATES, losses=LOSSES)
    def call_whose_store_loses_answers(
        self, worker: int, age: int, hours: int, fate: Fate, losses: list[str]
    ) -> None:
        """The store does as `losses` say with the first operations of a call."""
        LosingStore.losses.extend(losses)
        self.call(0, worker, age, hours, fate, False)
        LosingStore.losses.clear()

    @precondition(lambda self: self.losing)
    @rule(other=WORKERS, hours=HOURS, claim=CLAIMS, amends=AMENDS, late_first=st.booleans())
    def who_is_told_that_nothing_was_sent_gets_the_job_by_repeating(
        self, other: int, hours: int, claim: list[str], amends: list[str], late_first: bool
    ) -> None:
        """Whatever became of the claim in the store, once that answers again."""
        self.a_new_key()
        LosingStore.losses.extend(claim)
        sends = self.upstream.sends
        answer = self._create(0, 0, hours)
        LosingStore.losses.clear()
        if answer.status_code != 503:
            return
        assert self.upstream.sends == sends
        if late_first:
            self.what_was_late_comes()
        self.the_store_answers(amends)
        self.the_store_answers([])
        self.what_was_late_comes()
        self.time.true += RETRY
        assert self._create(other, 0, hours).status_code == 200
        assert self.upstream.sends == sends + 1

    @rule()
    def what_was_late_comes(self) -> None:
        """What the store was asked by those who have given up is carried out, and once more."""
        late, LosingStore.late[:] = LosingStore.late[:], []
        for operation in late * 2:
            operation()

    @rule(age=AGES, hours=HOURS, fate=FATES)
    def call_during_which_what_was_late_comes(self, age: int, hours: int, fate: Fate) -> None:
        """While the upstream works on it."""
        self.upstream.meanwhile = [self.what_was_late_comes]
        self.call(0, 0, age, hours, fate, False)
        self.upstream.meanwhile = []

    @rule(losses=AMENDS)
    def the_store_answers(self, losses: list[str]) -> None:
        """The workers tell it what they owe it, until it fails again."""
        LosingStore.losses.extend(losses)
        while self.owed:
            try:
                self.owed[0]()
            except StoreUnavailable:
                break
            self.owed.pop(0)
        LosingStore.losses.clear()

    @rule()
    def a_new_key(self) -> None:
        """Somebody wants another job."""
        self.keys.append(str(len(self.keys)))

    @rule(seconds=st.sampled_from([120, EXPIRY // 2, EXPIRY + 1]))
    def time_passes(self, seconds: float) -> None:
        """For all."""
        self.time.true += seconds

    def _all_is_listed(self) -> bool:
        return all(job.listed <= self.time.true for job in self.upstream.jobs)

    # A clock set forward shortens the settle window: the one thing that it is good for is lists that are late.
    @precondition(_all_is_listed)
    @rule(skew=SKEWS)
    def the_clock_is_set(self, skew: float) -> None:
        """The gateways' clock jumps."""
        self.time.skew = skew

    @rule(worker=WORKERS)
    def restart(self, worker: int) -> None:
        """A worker that knows nothing, and owes nothing, takes a worker's place."""
        self.owed.clear()
        self.workers[worker] = next(self.next_worker)

    @invariant()
    def no_key_has_two_jobs(self) -> None:
        """Not for as long as keys are remembered; a clock that is set forward makes that shorter by as much."""
        for key in self.keys:
            times = [job.made for job in self.upstream.jobs if job.key == key]
            assert all(later - earlier >= EXPIRY - 4 * 3600 for earlier, later in pairwise(times))


TestHistories = Histories.TestCase
# Half of what CI tries, which takes some twenty seconds.
TestHistories.settings = settings(
    max_examples=100 if os.environ.get("CI") else 50, stateful_step_count=25
)
# A counterexample takes minutes to be made small.
TestHistories.pytestmark = [pytest.mark.timeout(900)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("losing", [False, True])
def test_the_workers_of_the_histories_do_share_a_store(losing: bool) -> None:
    machine = Histories()
    machine.begin(0.0, losing)
    for worker in (0, 1, 0, 1):
        machine.call(0, worker, 0, 1, Fate(True, ""), False)
        machine.restart(worker)
    machine.teardown()
    assert machine.upstream.sends == 1


def test_a_repetition_that_the_store_learns_of_late_does_not_make_the_next_one_come_early() -> None:
    machine = Histories()
    machine.begin(0.0, losing=True)
    machine.call(0, 0, 0, 1, Fate(False, "reset"), False)
    machine.time_passes(700)
    machine.call_whose_store_loses_answers(0, 0, 1, Fate(True, ""), ["", "", "late"])
    machine.restart(0)
    machine.time_passes(700)
    machine.call(0, 0, 0, 1, Fate(True, "reset", LATEST), False)
    assert machine.upstream.sends == 2
    machine.what_was_late_comes()
    machine.call(0, 0, 0, 1, Fate(True, ""), False)
    machine.teardown()
    assert machine.upstream.sends == 2
