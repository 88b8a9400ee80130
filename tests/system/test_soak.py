"""The short form of `make soak`: what the processes hold after some load is what they held before."""

from __future__ import annotations

import pytest

from bench import soak


@pytest.mark.timeout(240)
def test_descriptors_threads_and_memory_return_after_a_mixed_load() -> None:
    run = soak.soak(12, warm=10, samples=3)
    print(soak.table(run))
    assert run.faults() == []
    ways = {answer.partition(" ")[0] for answer in run.answers}
    assert ways == {way.__name__ for way in soak.WAYS}
    assert {answer for answer in run.answers if answer.endswith((" 500", " none"))} == set()
