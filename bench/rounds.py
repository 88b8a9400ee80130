"""Interleaved rounds: every run of a round is near in time to those it is compared with."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from bench.load import Sample

_Key = TypeVar("_Key", bound=Hashable)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, whole seconds of a run, whether it is the quick plan."""

    rounds: int = 5
    seconds: int = 3
    quick: bool = False


QUICK = Plan(rounds=2, seconds=1, quick=True)


def interleaved(
    rounds: int, runs: Mapping[_Key, Callable[[], _Result]]
) -> dict[_Key, list[_Result]]:
    """The results of each run by round; the order within a round is drawn anew each time."""
    results: dict[_Key, list[_Result]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key in random.sample(list(runs), len(runs)):
            results[key].append(runs[key]())
    return results


def median(samples: Sequence[Sample]) -> dict[str, float]:
    """The median of each figure; of errors the sum."""
    found = {
        field.name: round(statistics.median(getattr(each, field.name) for each in samples), 3)
        for field in fields(Sample)
    }
    found["errors"] = sum(each.errors for each in samples)
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: what disturbed a round disturbed both."""
    return statistics.median(
        our / max(their, 1e-9) for our, their in zip(ours, theirs, strict=True)
    )
