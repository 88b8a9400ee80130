"""What calls feel of something that goes on beside them: the same calls alone and beside it, in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from bench import work
from bench.load import Sample, load
from bench.processes import Server
from bench.run import Run

CLIENTS = (1, 32)


def compare_beside(
    run: Run,
    part: str,
    server: Server,
    going_on: Callable[[Server], AbstractContextManager[None]],
    named: str,
    bars: Mapping[str, float | None],
    *,
    seconds: int,
) -> None:
    """Gets a job from `server` alone and while `going_on`, which people call `named`, for so many seconds each, as `part` of a run.

    `bars`: how many times a column may be at most what it is alone; None where that is only reported.
    """

    def beside(clients: int) -> Sample:
        with going_on(server):
            sample = load(server, clients, seconds, work.GET_JOB, alone=False)
        server.wait_until_idle()
        return sample

    alone, slowed = "alone", f"beside {named}"
    ways = {
        alone: lambda clients: load(server, clients, seconds, work.GET_JOB),
        slowed: beside,
    }
    samples = run.rounds(
        {(way, n): partial(get, clients=n) for n in CLIENTS for way, get in ways.items()}
    )
    for clients in CLIENTS:
        what = f"get a job {slowed}, {'1 client' if clients == 1 else f'{clients} clients'}"
        for column, most in bars.items():
            run.compare(
                *(what, samples, clients, slowed, alone, column), peer="itself alone", at_most=most
            )
    run.medians(part, samples, ("answers/s", "p50 ms", "p99 ms"))
