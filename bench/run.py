"""One run of the benchmark: interleaved rounds of what is compared, and the bars and tables that come of them."""

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
"""The samples of each round, by a target's name and the number of clients."""

AT_MOST, AT_LEAST = "at most", "at least"
COLUMNS = {
    "answers/s": "rate", "p50 ms": "p50", "p99 ms": "p99", "p99.9 ms": "p999", "longest ms": "longest",
    "CPU us": "cpu", "errors": "errors",
}  # fmt: skip
"""What a field of Sample is called at the head of a column."""

USUAL = ("answers/s", "p50 ms", "p99 ms", "CPU us")
WITH_ERRORS = (*USUAL, "errors")
MEASURES = {
    "rate": ("answers/s", "/s"),
    "cpu": ("CPU/answer", "us"),
    "p50": ("p50", "ms"),
    "p99": ("p99", "ms"),
}
"""What a field of Sample is called in a bar, and its unit."""


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
    """What is measured with, and what has been found, as JSON can hold it.

    A bar is a figure with its `bound`, "at most", "at least" or empty: only reported. `of` says what the figure is, `ours`
    and `theirs` what it was made of, as people read it. `met` is None where there is no bound.
    """

    upstream: Upstream
    folder: Path
    plan: Plan
    bars: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @contextmanager
    def started(self, *targets: Target, url: str = "") -> Iterator[dict[str, Server]]:
        """The running targets by name, found right and warmed up, before the upstream or what else is at `url`.

        WrongAnswer when one of them gives other answers. Only the upstream has a list to give.
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
        self,
        what: str,
        peer: str,
        measure: str,
        ours: Sequence[Any],
        theirs: Sequence[Any],
        bound: str = "",
        limit: float = 0.0,
    ) -> None:
        """Adds the ratio of a measure, the median of the rounds' ratios: what disturbed a round disturbed both."""
        our, their = ([getattr(each, measure) for each in side] for side in (ours, theirs))
        ratio = statistics.median(one / other for one, other in zip(our, their, strict=True))
        of, unit = MEASURES[measure]
        medians = [f"{plain(statistics.median(each))} {unit}" for each in (our, their)]
        self._bar(what, peer, of, ratio, "x", bound, limit, *medians)

    def figure(
        self, what: str, of: str, value: float, unit: str, bound: str = "", limit: float = 0.0
    ) -> None:
        """Adds a figure of the gateway's own."""
        self._bar(what, "", of, value, unit, bound, limit)

    def _bar(
        self, what: str, peer: str, of: str, value: float, unit: str,
        bound: str, limit: float, ours: str = "", theirs: str = "",
    ) -> None:  # fmt: skip
        value = round(value, 3)
        met = value <= limit if bound == AT_MOST else value >= limit
        self.bars.append(
            {
                "work": what, "peer": peer, "of": of, "value": value, "bound": bound, "limit": limit,
                "unit": unit, "ours": ours, "theirs": theirs, "met": met if bound else None,
            }
        )  # fmt: skip

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Adds a table; the first column names, the others hold figures."""
        self.tables[name] = {"columns": list(columns), "rows": [*rows]}

    def medians(
        self,
        name: str,
        samples: Mapping[tuple[Any, ...], Sequence[Sample]],
        columns: Sequence[str] = USUAL,
        head: Sequence[str] = ("what",),
    ) -> None:
        """Adds a table of samples: under `head` the beginning of their keys, then medians."""
        rows = [
            [*key[: len(head)], *(median(each, COLUMNS[column]) for column in columns)]
            for key, each in samples.items()
        ]
        self.table(name, [*head, *columns], rows)


def _named(name: str, run: Callable[[], _Result]) -> _Result:
    """Its result; RoundFailed with the name for what keeps it from having one."""
    try:
        return run()
    except FAILURES as error:
        raise RoundFailed(f"{name}: {error}") from error


def check_answers(server: Server, *, listing: bool) -> None:
    """WrongAnswer unless the job comes as the upstream gave it, and so does the list."""
    expected = [(server.target.request, work.JOB)] + [(work.LIST_JOBS, work.LIST)] * listing
    with Caller(server) as caller:
        for request, content in expected:
            caller.expect(request, content)


def median(samples: Sequence[Any], measure: str) -> float:
    """The median of a measure."""
    return round(float(statistics.median(getattr(each, measure) for each in samples)), 3)


def plain(value: float) -> str:
    """A figure with as many digits as it deserves."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
