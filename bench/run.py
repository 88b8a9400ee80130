"""One run of the benchmark: interleaved rounds of what is compared, and the tables that come of them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar

from bench import work
from bench.load import Caller, Sample, WrongAnswer, load
from bench.processes import Server, ServerFailed, Target
from bench.upstream import Upstream
from bench.work import Request

_Key = TypeVar("_Key", bound=Hashable)
_Result = TypeVar("_Result")

Samples = dict[tuple[str, int], list[Sample]]
"""The samples of each round, by a target's name and the number of clients, or what else is varied."""

LOADS = ("answers/s", "p50 ms", "p99 ms", "CPU us")
FAILURES = (WrongAnswer, ServerFailed, OSError, HTTPException)
"""What is raised by a server that gives no figures."""


class RoundFailed(RuntimeError):
    """A round in which something gave no figure: nothing may be made of the others. The message has its name and the round."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, whole seconds of a load, whether it is the quick plan."""

    rounds: int = 5
    seconds: int = 3
    quick: bool = False


QUICK = Plan(rounds=2, seconds=1, quick=True)


@dataclass
class Run:
    """What is measured with, and the tables found so far, as JSON can hold them.

    The table `bars` has figures with the bounds that they keep to, or none. `skipped` says what there is not.
    """

    upstream: Upstream
    folder: Path
    plan: Plan
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table("bars", ("work", "against", "of", "ours/theirs", "bar", "", "medians"), [])

    @contextmanager
    def started(self, *targets: Target, url: str = "") -> Iterator[dict[str, Server]]:
        """The running targets by name, found right and warmed up, before the upstream or what else is at `url`.

        RoundFailed when one of them gives other answers. Only the upstream has a list to give.
        """
        with ExitStack() as stack:
            servers = {
                each.name: stack.enter_context(each.started(url or self.upstream.url, self.folder))
                for each in targets
            }
            for name, server in servers.items():
                request = server.target.request
                check = partial(check_answers, server, listing=not url and request == work.GET_JOB)
                _named(f"{name}, before the rounds", check)
                _named(f"{name}, warming up", partial(load, server, 16, 1, request))
            yield servers

    def rounds(
        self, runs: Mapping[_Key, Callable[[], _Result]], rounds: int = 0
    ) -> dict[_Key, list[_Result]]:
        """The results of each run by round; the order within a round is drawn anew each time.

        So every run is near in time to those it is compared with. RoundFailed when one has no result.
        """
        results: dict[_Key, list[_Result]] = {key: [] for key in runs}
        for number in range(1, (rounds or self.plan.rounds) + 1):
            for key in random.sample(list(runs), len(runs)):
                name = key[0] if isinstance(key, tuple) else key
                results[key].append(_named(f"{name}, round {number}", runs[key]))
        return results

    def load(
        self,
        servers: Mapping[str, Server],
        *clients: int,
        request: Request | None = None,
        more: int = 0,
        rounds: int = 0,
        pinned: bool = True,
    ) -> Samples:
        """Rounds of load by so many clients on each server, each the plan's seconds and `more`.

        `request` None: what gets the job from it.
        """
        seconds = max(1, self.plan.seconds + more)
        runs = {
            (name, each): partial(
                load, server, each, seconds, request or server.target.request, pinned=pinned
            )
            for each in clients
            for name, server in servers.items()
        }
        return self.rounds(runs, rounds)

    def compare(
        self, what: str, samples: Samples, number: int, ours: str, theirs: str, column: str,
        *, peer: str = "", at_most: float | None = None, at_least: float | None = None,
    ) -> None:  # fmt: skip
        """Adds the ratio of a column, the median of the rounds' ratios: what disturbed a round disturbed both.

        `peer` is what people call `theirs`, where that is not its name.
        """
        our, their = ([each[column] for each in samples[name, number]] for name in (ours, theirs))
        ratio = statistics.median(one / other for one, other in zip(our, their, strict=True))
        medians = " / ".join(plain(statistics.median(each)) for each in (our, their))
        self.figure(what, column, ratio, "x", peer or theirs, medians, at_most, at_least)

    def figure(
        self, what: str, of: str, value: float, unit: str, peer: str = "", medians: str = "",
        at_most: float | None = None, at_least: float | None = None,
    ) -> None:  # fmt: skip
        """Adds a figure to the bars; without a bound it is only reported."""
        value = round(value, 3)
        bar, verdict = "", "reported"
        if at_most is not None:
            bar, verdict = f"at most {plain(at_most)}", "met" if value <= at_most else "NOT MET"
        if at_least is not None:
            bar, verdict = f"at least {plain(at_least)}", "met" if value >= at_least else "NOT MET"
        row = [what, peer, of, f"{plain(value)} {unit}".strip(), bar, verdict, medians]
        self.tables["bars"]["rows"].append(row)

    def medians(
        self, name: str, samples: Samples, columns: Sequence[str] = LOADS, varied: str = "clients"
    ) -> None:
        """Adds a table of samples: their keys, the second under `varied`, then medians."""
        rows = [[*key, *(median(each, head) for head in columns)] for key, each in samples.items()]
        self.table(name, ("what", varied, *columns), rows)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Adds a table."""
        self.tables[name] = {"columns": list(columns), "rows": list(rows)}


def _named(name: str, run: Callable[[], _Result]) -> _Result:
    """Its result; RoundFailed with the name for what keeps it from having one."""
    try:
        return run()
    except FAILURES as error:
        raise RoundFailed(f"{name}: {error}") from error


def check_answers(server: Server, *, listing: bool) -> None:
    """WrongAnswer unless the job comes as the upstream gave it, and so does the list."""
    with Caller(server) as caller:
        caller.expect(server.target.request, work.JOB)
        if listing:
            caller.expect(work.LIST_JOBS, work.LIST)


def median(samples: Sequence[Sample], column: str) -> float:
    """The median of a column."""
    return round(statistics.median(each[column] for each in samples), 3)


def plain(value: float) -> str:
    """A figure with as many digits as it deserves."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
