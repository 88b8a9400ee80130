"""The benchmark measures what it says, and nothing that does not do its work. No figure is judged here."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from bench import comparison, files, tables, targets, upstream, work
from bench.__main__ import measure
from bench.load import Caller, WrongAnswer, load, small_requests
from bench.processes import Server, ServerFailed, Target
from bench.run import QUICK, RoundFailed, Run, check_answers
from bench.upstream import Upstream
from bench.waiters import waiters
from bench.work import Request
from tests.support.processes import wait_until
from tests.support.tools_available import needed

GATEWAY = replace(targets.GATEWAY, command=(sys.executable, *targets.GATEWAY.command[1:]))
DEAF = Target("deaf", (sys.executable, "-m", "bench.slow", "{port}", "0"))
"""Answers every request with the job, and asks nobody."""


def server(name: str, handle: str) -> Target:
    """A target that handles one request after another by this Python statement; `number` counts them."""
    program = (
        "import socketserver, sys, time\n"
        "number = 0\n"
        "class Handler(socketserver.StreamRequestHandler):\n"
        "    def answer(self, status):\n"
        "        self.wfile.write(b'HTTP/1.1 %d Said\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' % status)\n"
        "    def handle(self):\n"
        "        global number\n"
        "        self.rfile.readline()\n"
        "        number += 1\n"
        f"        {handle}\n"
        "class Server(socketserver.TCPServer):\n"
        "    request_queue_size = 1024\n"
        "Server(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n"
    )
    return Target(name, (sys.executable, "-c", program, "{port}"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Upstream]:
    needed("nginx", "install nginx")
    needed("wrk", "install wrk")
    with upstream.started(folder, Path(sys.executable)) as started:
        yield started


@pytest.fixture
def run(running: Upstream, folder: Path) -> Run:
    return Run(running, folder, QUICK)


def test_a_tiny_run_counts_answers_cpu_memory_and_connections(run: Run) -> None:
    request = work.create_job(work.create_body(2), keyed=True)
    store = run.folder / "tiny.sqlite3"
    target = GATEWAY.with_settings(GATEWAY_STORE=store)
    with target.started(run.upstream.url, run.folder) as server:
        check_answers(server, listing=True)
        before = run.upstream.connections()
        got = load(server, 2, 1, work.GET_JOB)
        created = load(server, 2, 1, request)
        server.forget_peak()
        resident = server.resident()
        assert server.peak() >= resident > 1
    assert min(*got.values(), *created.values()) > 0
    assert run.upstream.connections() - before >= created["answers"], (
        "each create has a connection of its own"
    )
    with closing(sqlite3.connect(store)) as db:
        ((keys,),) = db.execute("SELECT count(*) FROM record")
    assert keys >= created["answers"], "each create has a key of its own"


def test_small_requests_beside_another_are_timed(run: Run) -> None:
    deaf = DEAF.started("", run.folder)
    with deaf as server, small_requests(server) as beside, Caller(server) as caller:
        caller.expect(work.create_job(work.create_body(1)))
    assert min(beside) > 0


def test_a_server_with_other_answers_is_not_measured(run: Run) -> None:
    with pytest.raises(RoundFailed, match=r"^deaf, before the rounds: "), run.started(DEAF):
        pass  # for the list it has the job too


def test_a_server_that_sends_no_create_upstream_is_not_measured(run: Run) -> None:
    with pytest.raises(WrongAnswer):
        comparison.check_creates(run, DEAF)


def test_a_server_that_does_not_start_shows_its_log(run: Run) -> None:
    broken = Target("broken", (sys.executable, "-c", "raise SystemExit('no such luck')"))
    with pytest.raises(ServerFailed, match="no such luck"), broken.started("", run.folder):
        pass


@pytest.mark.parametrize(
    ("handle", "what"),
    [
        ("self.answer(200) if number == 1 else time.sleep(60)", "0 answers"),
        ("self.answer(200 if number == 1 else 500)", "'status'"),
    ],
    ids=["nothing", "errors"],
)
def test_a_round_in_which_a_peer_answers_nothing_or_errors_fails_its_part(
    run: Run, handle: str, what: str
) -> None:
    def broken(run: Run) -> None:
        target = server("the peer", handle)
        with target.started("", run.folder) as started:
            samples = run.load({target.name: started}, 1)
        run.medians("broken", samples)

    def sound(run: Run) -> None:
        run.figure("work", "figure", 1.0, "ms")

    (failure,) = measure(run, [broken, sound])
    assert failure.startswith("broken: the peer, round 1: ")
    assert what in failure
    assert (len(run.tables["bars"]["rows"]), [*run.tables]) == (1, ["bars"]), (
        "of the others there are figures"
    )


def test_what_one_load_leaves_in_a_queue_takes_nothing_from_the_next(run: Run) -> None:
    """Worked off in its time, it once left a peer a second without an answer, and 1,000,000 us of CPU for "each"."""
    busy = "end = time.process_time() + 0.01\n        while time.process_time() < end: pass\n        self.answer(200)"
    target = server("busy", busy)
    with target.started("", run.folder) as started:
        assert load(started, 200, 1, work.GET_JOB)["answers"] < 200, "enough is left"
        assert load(started, 1, 1, work.GET_JOB)["answers"] > 0


def test_a_store_is_filled_with_records_that_the_gateway_takes_for_its_own(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = run.folder / "filled.sqlite3"
    monkeypatch.setattr(comparison, "GATEWAY", GATEWAY)
    comparison.remember(run, store, 50)
    target = GATEWAY.with_settings(GATEWAY_STORE=store)
    with target.started(run.upstream.url, run.folder) as server, Caller(server) as caller:
        caller.expect(work.create_job(work.create_body(1), keyed=True))
    with closing(sqlite3.connect(store)) as db:
        assert [*db.execute("SELECT count(*) FROM record")] == [(52,)]


@pytest.mark.parametrize("version", [work.MODERN, work.LEGACY])
def test_a_tools_answer_is_checked_in_both_versions(run: Run, version: str) -> None:
    bridge = targets.BRIDGES[version]
    bridge = replace(bridge, command=(sys.executable, *bridge.command[1:]))
    with bridge.started(run.upstream.url, run.folder) as server:
        check_answers(server, listing=False)
    deaf = replace(DEAF, request=bridge.request)
    with deaf.started("", run.folder) as server, pytest.raises(WrongAnswer):
        check_answers(server, listing=False)  # the job is no result


@pytest.fixture
def file_server(folder: Path) -> Iterator[Server]:
    with upstream.files(folder) as running:
        yield running


def test_files_of_a_tiny_run_go_both_ways_whole(folder: Path, file_server: Server) -> None:
    file = folder / "lines"
    file.write_bytes(b"".join(work.batch_lines(2_500)))
    with GATEWAY.started(file_server.url, folder) as server:
        files.check_upload(server, file_server)
        files.check_download(server)
        sent = files.upload(server, file)
        received = files.download(server, work.file_id(2 * work.PIECE + 1))
    for sample in (sent, received):
        assert {*sample} == {*files.TRANSFER}
        assert min(sample["MB/s"], sample["peak MiB"]) > 0


def test_a_server_that_passes_files_on_otherwise_is_not_measured(
    folder: Path, file_server: Server
) -> None:
    with DEAF.started("", folder) as deaf:
        for check in (
            partial(files.check_upload, deaf, file_server),
            partial(files.check_download, deaf),
        ):
            with pytest.raises(WrongAnswer):
                check()


def test_slow_transfers_are_all_under_way_or_it_is_told(folder: Path, file_server: Server) -> None:
    with (
        GATEWAY.started(file_server.url, folder) as server,
        files.slow_transfers(server),
        Caller(server) as caller,
    ):
        all_of_them = b"\ngateway_inflight_transfers 16"
        wait_until(lambda: all_of_them in caller.call(Request("/metrics"))[2])
        caller.expect(work.GET_JOB)
    few = GATEWAY.with_settings(GATEWAY_TRANSFERS=files.TRANSFERS - 1)
    with (
        few.started(file_server.url, folder) as server,
        pytest.raises(WrongAnswer, match="answered 503"),
        files.slow_transfers(server),
    ):
        wait_until(lambda: '"status":503' in server.log.read_text())


def test_callers_all_wait_or_it_is_told(run: Run) -> None:
    few = GATEWAY.with_settings(GATEWAY_WAITERS=9)
    with few.started(run.upstream.url, run.folder) as server, Caller(server) as caller:
        with waiters(server, 9):
            assert b"\ngateway_inflight_waits 9" in caller.call(Request("/metrics"))[2]
        with (
            pytest.raises(WrongAnswer, match=r"a waiter was answered b'HTTP/1\.1 503"),
            waiters(server, 10),
        ):
            pass


def test_an_upload_without_a_length_comes_whole_too(file_server: Server) -> None:
    with closing(HTTPConnection("127.0.0.1", file_server.port, timeout=10)) as connection:
        for pieces in ([b"a" * 70_000, b"b"], []):
            connection.request("POST", work.FILES_PATH, iter(pieces))
            assert json.loads(connection.getresponse().read()) == work.file(len(b"".join(pieces)))
            assert upstream.last_upload(file_server) == b"".join(pieces)


def test_lines_of_a_file_have_their_size_and_each_its_id() -> None:
    lines = b"".join(work.batch_lines(2_500)).splitlines(keepends=True)
    assert {len(line) for line in lines} == {work.LINE_BYTES}
    assert len({json.loads(line)["custom_id"] for line in lines}) == 2_500


def test_job_and_list_have_the_sizes_that_are_reported() -> None:
    assert len(work.JOB) == work.JOB_BYTES
    assert abs(len(work.LIST) - work.LIST_BYTES) < 1024


def bare(folder: Path) -> Run:
    """A run that measures nothing."""
    nothing: Any = None
    return Run(nothing, folder, QUICK)


def test_rounds_run_everything_once_each_in_changing_order(tmp_path: Path) -> None:
    order: list[str] = []
    runs = {str(each): partial(order.append, str(each)) for each in range(8)}
    bare(tmp_path).rounds(runs, 3)
    assert [sorted(order[start : start + 8]) for start in (0, 8, 16)] == [sorted(runs)] * 3
    assert len({tuple(order[start : start + 8]) for start in (0, 8, 16)}) > 1


def test_a_round_that_gives_up_names_who_and_which(tmp_path: Path) -> None:
    answers = iter([1, 2])

    def run() -> int:
        if number := next(answers, 0):
            return number
        raise TimeoutError("too long")

    with pytest.raises(RoundFailed, match=r"^the peer, round 3: too long$"):
        bare(tmp_path).rounds({("the peer", 16): run}, 5)


def test_a_comparison_is_the_median_of_the_rounds_ratios(tmp_path: Path) -> None:
    run = bare(tmp_path)
    rounds = {"gateway": (10.0, 90.0, 20.0), "other": (10.0, 30.0, 10.0)}
    samples = {(name, 1): [{"CPU us": each} for each in cpu] for name, cpu in rounds.items()}
    run.compare("work", samples, 1, "gateway", "other", "CPU us", peer="peer", at_most=2.0)
    (bar,) = run.tables["bars"]["rows"]
    assert bar == ["work", "peer", "CPU us", "2.00 x", "at most 2.00", "met", "20.0 / 10.0"]


@pytest.mark.parametrize(
    ("bound", "value", "verdict"),
    [
        ({"at_most": 1.0}, 1.0, "met"),
        ({"at_most": 1.0}, 1.01, "NOT MET"),
        ({"at_most": 0.0}, 1.0, "NOT MET"),
        ({"at_least": 1.0}, 1.0, "met"),
        ({"at_least": 1.0}, 0.99, "NOT MET"),
        ({}, 5.0, "reported"),
    ],
)
def test_a_bar_is_met_up_to_its_limit(
    bound: dict[str, float], value: float, verdict: str, tmp_path: Path
) -> None:
    run = bare(tmp_path)
    run.figure("work", "p50", value, "ms", **bound)
    assert run.tables["bars"]["rows"][0][5] == verdict


def test_what_was_found_can_be_written_as_json(tmp_path: Path) -> None:
    run = bare(tmp_path)
    run.medians("table", {("ours", 16): [{"answers/s": 2.0}]}, ("answers/s",))
    assert json.loads(json.dumps(run.tables))["table"] == {
        "columns": ["what", "clients", "answers/s"],
        "rows": [["ours", 16, 2.0]],
    }


def test_what_a_command_takes_is_that_of_its_whole_process_and_a_failure_has_no_figures(
    folder: Path,
) -> None:
    takes = "text = bytearray(64 << 20)"
    sample = tables.measured((sys.executable, "-c", takes), 10**6, folder)
    assert 64 < sample["peak MiB"] < 256
    assert sample["MB/s"] == pytest.approx(1 / sample["seconds"])
    with pytest.raises(WrongAnswer, match="no more memory"):
        tables.measured((sys.executable, "-c", "raise SystemExit('no more memory')"), 1, folder)
