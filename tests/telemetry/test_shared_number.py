"""Numbers that workers share."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable

from telemetry.shared_number import shared_number


def forked(work: Callable[[], object]) -> int | None:
    """Runs `work` in a process of its own; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def test_it_is_zero_at_first() -> None:
    assert shared_number().value == 0.0


def test_what_one_process_writes_the_others_read() -> None:
    number, copy = shared_number(), shared_number()
    forked(lambda: setattr(number, "value", 1e300 / 7))
    forked(lambda: setattr(copy, "value", number.value))
    assert (number.value, copy.value) == (1e300 / 7, 1e300 / 7)


def test_it_needs_room_in_no_file_system() -> None:
    def make_and_use() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # as if every one of them were full
        shared_number().value = 7.0

    assert forked(make_and_use) == 0
