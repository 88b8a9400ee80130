"""The benchmark measures what it says, and nothing that does not do its work. No figure is judged here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import load, rest, rounds, subjects, upstream, work
from bench.calls import Caller, Stall
from bench.findings import Bar, Findings
from bench.load import Call, Sample
from bench.subjects import Subject
from bench.upstream import Upstream
from tests.tools_available import needed

pytestmark = pytest.mark.exclusive

GATEWAY = replace(subjects.GATEWAY, command=(sys.executable, *subjects.GATEWAY.command[1:]))
DEAF = Subject("deaf", (sys.executable, "-m", "bench.slow", "{port}", "0"))
"""Answers every request with the job, and asks nobody."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Upstream]:
    needed("nginx", "install nginx")
    with upstream.started(folder, Path(sys.executable)) as running:
        yield running


def test_a_tiny_run_counts_answers_cpu_memory_and_connections(up: Upstream, folder: Path) -> None:
    needed("wrk", "install wrk")
    headers = {"Content-Type": "application/json"}
    post = Call(folder, "tiny", "POST", headers, work.create_body(2), keyed=True)
    with GATEWAY.started(up.url, folder) as server:
        rest.check_answers("gateway", server)
        with Caller(server) as caller:
            caller.create(work.create_body(1), keyed=True)  # opens the store
        before = up.connections()
        got = load.run(server, work.JOB_PATH, 2, 1)
        created = load.run(server, work.JOBS_PATH, 2, 1, post)
        server.forget_peak()
        resident = server.resident()
        assert server.peak() >= resident > 1 << 20
    assert got.errors == created.errors == 0
    assert min(got.requests, got.rate, got.p50, got.cpu, created.requests) > 0
    assert up.connections() - before >= created.requests, "each create has a connection of its own"


def test_the_slowest_small_request_beside_another_is_noticed(up: Upstream, folder: Path) -> None:
    with DEAF.started(up.url, folder) as server, Caller(server) as caller, Stall(server) as stall:
        caller.create(work.create_body(1))
    assert stall.longest > 0


def test_a_server_with_other_answers_is_not_measured(up: Upstream, folder: Path) -> None:
    with DEAF.started(up.url, folder) as server, pytest.raises(rest.WrongAnswer):
        rest.check_answers("deaf", server)  # for the list it has the job too


def test_a_server_that_sends_no_create_upstream_is_not_measured(folder: Path) -> None:
    with pytest.raises(rest.WrongAnswer):
        rest.check_creates([DEAF], folder)


def test_a_server_that_does_not_start_shows_its_log(folder: Path) -> None:
    broken = Subject("broken", (sys.executable, "-c", "raise SystemExit('no such luck')"))
    with pytest.raises(RuntimeError, match="no such luck"), broken.started("", folder):
        pass


def test_job_and_list_have_the_sizes_that_are_reported() -> None:
    assert len(work.JOB) == work.JOB_BYTES
    assert abs(len(work.LIST) - work.LIST_BYTES) < 1024


def test_rounds_run_everything_once_each_in_changing_order() -> None:
    order: list[int] = []
    runs = {each: (lambda each=each: order.append(each) or each) for each in range(8)}
    assert rounds.interleaved(3, runs) == {each: [each] * 3 for each in range(8)}
    assert len({tuple(order[start : start + 8]) for start in (0, 8, 16)}) > 1


def sample(**figures: float) -> Sample:
    return replace(Sample(0, 0, 0, 0, 0, 0, 0), **figures)


def test_a_comparison_is_the_median_of_the_rounds_ratios() -> None:
    findings = Findings()
    ours, theirs = ([sample(cpu=each) for each in side] for side in ((10, 90, 20), (10, 30, 10)))
    findings.compare("work", "peer", "cpu", ours, theirs, "at most", 2.0)
    (bar,) = findings.bars
    assert (bar.value, bar.met, bar.ours, bar.theirs) == (2.0, True, "20.0 us", "10.0 us")


@pytest.mark.parametrize(
    ("bound", "value", "met"),
    [
        ("at most", 1.0, True),
        ("at most", 1.01, False),
        ("at least", 1.0, True),
        ("at least", 0.99, False),
        ("", 5.0, None),
    ],
)
def test_a_bar_is_met_up_to_its_limit(bound: str, value: float, met: bool | None) -> None:
    assert Bar("work", "peer", "p50", value, bound, 1.0).met is met
