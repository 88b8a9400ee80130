"""How long a wrong token takes to be refused says nothing about right ones: ten thousand times each, one after the other by turns."""

from __future__ import annotations

import gc
import operator
import random
import statistics
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from access.token_file import PREFIX, TokenFile, make_token

pytestmark = pytest.mark.exclusive

TOKENS = 10
SAMPLES = 10_000
BOUND = 0.05
"""Share of the time of a look-up by which kinds may differ. A comparison that stops early differs by many times that."""

Find = Callable[[str], object]


@pytest.fixture
def right(tmp_path: Path) -> list[str]:
    """Tokens that are in the file, in its order."""
    return [make_token(f"t{n}", ["jobs:read"], file=tmp_path / "tokens")[0] for n in range(TOKENS)]


@pytest.fixture
def find(right: list[str], tmp_path: Path) -> Find:
    """The look-up, by a clock that stands still: the file is not looked at again in between."""
    return TokenFile(tmp_path / "tokens", clock=lambda: 0.0).find


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """Garbage is collected afterwards."""
    gc.disable()
    yield
    gc.enable()


def near(right: list[str]) -> list[str]:
    """Wrong tokens that are a right one up to their last character."""
    letters = string.ascii_letters + string.digits
    return [each[:-1] + letter for each in right for letter in letters if letter != each[-1]]


def far(right: list[str]) -> list[str]:
    """As many of the same length that are like a right one in nothing but the beginning that all have."""
    return [PREFIX + text[len(PREFIX) :][::-1].swapcase() for text in near(right)]


def difference(find: Find, some: list[str], others: list[str]) -> float:
    """By how much one kind takes longer than the other in the same turn (the median), as a share of the time that one takes."""
    times: tuple[list[int], list[int]] = ([], [])
    chosen = random.Random(7)
    for _ in range(SAMPLES):
        for kind in chosen.sample((0, 1), 2):  # in either order
            text = chosen.choice((some, others)[kind])
            began = time.perf_counter_ns()
            find(text)
            times[kind].append(time.perf_counter_ns() - began)
    usual = statistics.median(times[1])
    # Within a turn, since machines change their speed from one moment to the next.
    found = statistics.median(map(operator.sub, *times)) / usual
    print(f"median {usual:.0f} ns, {found:+.2%}")
    return abs(found)


def test_a_wrong_token_that_is_nearly_right_takes_as_long_as_any_other(
    right: list[str], find: Find
) -> None:
    assert difference(find, near(right), far(right)) < BOUND


def test_the_first_token_of_the_file_takes_as_long_as_the_last(
    right: list[str], find: Find
) -> None:
    assert difference(find, right[:1], right[-1:]) < BOUND


def test_a_comparison_that_stops_at_the_first_difference_would_be_noticed(right: list[str]) -> None:
    def leaky(text: str) -> bool:
        return all(a == b for a, b in zip(text, right[0], strict=False))

    assert difference(leaky, near(right[:1]), far(right[:1])) > 2 * BOUND


def test_a_search_that_stops_at_the_first_match_would_be_noticed(right: list[str]) -> None:
    def leaky(text: str) -> bool:
        return any(text == each for each in right)

    assert difference(leaky, right[:1], right[-1:]) > 2 * BOUND
