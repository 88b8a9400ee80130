"""An attempt carried out: each chunk once, whatever happens on the way, and all results that there are."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mistral_batch.api import BatchAPI, FilesRefused, Job, NoMoney, Refused, Trouble, Unclear
from mistral_batch.chunks import ChunkDamaged
from mistral_batch.engine import cancel, has_jobs
from mistral_batch.join import again
from mistral_batch.runs import Chunk, NotWritten, Run
from tests.mistral_batch.carrying import (
    ALL_DAY,
    TWO,
    asked,
    begin,
    carry_out,
    ends,
    lines,
    outcome,
    results,
    sent,
)
from tests.mistral_batch.conftest import Tokens
from tests.support.api import jobs
from tests.support.gateway import Gateway
from tests.support.processes import Sandbox

CREATE = {"method": "POST", "path": "/v1/batch/jobs$"}
CONTENT = {"method": "GET", "path": "/content$"}
LIST = {"method": "GET", "path": "/v1/batch/jobs$"}


class Killed(BaseException):
    """The end of a process, in the middle of what it does."""


class Calls:
    """An API whose pauses take no time and are noted."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.troubles: list[Trouble] = []

    def at(self, url: str, token: str = "any", patience: float = 900.0) -> BatchAPI:
        return BatchAPI(
            url, token, patience=patience, report=self.troubles.append, sleep=self.pauses.append
        )


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def api(calls: Calls, gateway: Gateway, tokens: Tokens, sandbox: Sandbox) -> BatchAPI:
    return calls.at(gateway.url, tokens.full)


@pytest.fixture
def direct(calls: Calls, sandbox: Sandbox) -> BatchAPI:
    """Straight at the sandbox, as at Mistral: no keys are kept."""
    return calls.at(sandbox.url)


@pytest.fixture
def ask(request: pytest.FixtureRequest) -> Callable[[int], list[bytes]]:
    """Makes requests that no other test makes."""
    return lambda count: lines(request.node.name, count)


Ask = Callable[[int], list[bytes]]


def test_a_place_is_a_gateway_by_its_answers(api: BatchAPI, direct: BatchAPI) -> None:
    assert api.keeps_keys and not direct.keeps_keys


@pytest.mark.parametrize("place", ["api", "direct"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_each_chunk_becomes_one_job_and_each_request_has_its_result(
    place: str,
    count: int,
    request: pytest.FixtureRequest,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    api = request.getfixturevalue(place)
    attempt = carry_out(api, tmp_path, ask(count), ends(sandbox), limits=TWO)
    assert sent(sandbox) == [200] * len(attempt.chunks) == [200] * -(-count // 2)
    assert results(tmp_path) == asked(ask(count))
    assert not attempt.chunks[0].file_id or count > 1  # what is small enough goes without a file


@pytest.mark.parametrize("nth", range(8))
def test_what_was_killed_anywhere_goes_on_and_buys_nothing_twice(
    nth: int,
    api: BatchAPI,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nth write to the manifest does not come to pass, nor anything after it."""
    left, write = iter(range(nth)), Run.save

    def some(run: Run) -> None:
        if next(left, None) is None:
            raise Killed
        write(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", some)
        with pytest.raises(Killed):
            carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    assert len(sandbox.uploads()) == 3
    assert sent(sandbox) == [200] * 3
    assert results(tmp_path) == asked(ask(5))


@pytest.mark.parametrize("place", ["api", "direct"])
def test_without_its_folder_a_run_finds_its_jobs(
    place: str, request: pytest.FixtureRequest, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    api = request.getfixturevalue(place)
    for home in (tmp_path / "lost", tmp_path / "new"):
        carry_out(api, home, ask(5), ends(sandbox), limits=TWO)
        carry_out(api, home, ask(5), ends(sandbox), limits=TWO, number=2)
        assert len(sent(sandbox)) == 6
    assert results(tmp_path / "new") == sorted(asked(ask(5)) * 2)


def test_without_its_folder_a_run_is_bought_anew_when_it_is_asked_for(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    carry_out(api, tmp_path / "lost", ask(1), ends(sandbox))
    run = begin(tmp_path / "new", api.url, ask(1), again=True, has_jobs=partial(has_jobs, api))
    assert run.manifest.again == 1
    carry_out(api, tmp_path / "new", ask(1), ends(sandbox))
    assert len(jobs(sandbox)) == 2


def test_a_job_that_lists_do_not_show_yet_is_found_by_its_key(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "list-lag", "seconds": 3600, "match": CREATE, "times": None})
    for home in (tmp_path / "lost", tmp_path / "new"):
        carry_out(api, home, ask(5), ends(sandbox), limits=TWO)
    assert len(sandbox.ledger(method="POST", path="/v1/files")) == 3
    made = {str(each["job_id"]) for each in sandbox.ledger(method="POST", path="/v1/batch/jobs")}
    assert len(made) == len(sent(sandbox)) == 3
    assert results(tmp_path / "new") == asked(ask(5))


def test_a_key_that_another_machine_used_with_its_own_file_leads_to_that_job(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *_) = carry_out(api, tmp_path / "a", ask(3), ends(sandbox), limits=TWO).chunks
    empty = {"fault": "status", "status": 200, "body": {"data": [], "object": "list", "total": 0}}
    sandbox.faults(
        {**empty, "match": {"method": "GET", "path": "/v1/files$"}, "times": 3},
        {**empty, "match": {**LIST, "query": "chunk=1.1-"}},
    )
    (again, *_) = carry_out(api, tmp_path / "b", ask(3), ends(sandbox), limits=TWO).chunks
    assert again.job_id == first.job_id and again.file_id != first.file_id
    assert sent(sandbox) == [200, 200]


def test_a_copied_folder_goes_on_elsewhere(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    def copied(chunk: Chunk) -> None:
        if not (tmp_path / "b").exists():
            shutil.copytree(tmp_path / "a", tmp_path / "b")
        ends(sandbox)(chunk)

    for home in ("a", "b"):
        carry_out(api, tmp_path / home, ask(5), copied, limits=TWO)
    assert sent(sandbox) == [200] * 3
    assert results(tmp_path / "b") == asked(ask(5))


def test_a_manifest_that_cannot_be_read_costs_nothing(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    (manifest,) = tmp_path.glob("*/run.json")
    manifest.write_bytes(manifest.read_bytes()[:100])
    carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    assert sent(sandbox) == [200, 200]


def test_a_chunk_that_was_damaged_is_not_sent(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "payment-required", "match": CREATE})
    with pytest.raises(NoMoney):
        carry_out(api, tmp_path, ask(3), limits=TWO)
    (content,) = tmp_path.glob("*/1.2-requests.jsonl")
    content.write_bytes(content.read_bytes()[:-9])
    with pytest.raises(ChunkDamaged, match="run the same command again"):
        carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    carry_out(api, tmp_path / "new", ask(3), ends(sandbox), limits=TWO)
    assert results(tmp_path / "new") == asked(ask(3))


@pytest.mark.parametrize("name", ["1.2-requests.jsonl", "1.2-output_file.jsonl"])
def test_a_full_disk_is_said_and_nothing_is_lost(
    name: str,
    api: BatchAPI,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(number: int) -> None:
        if name in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(NotWritten, match=r"No space left on device.*same command"):
            carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    assert sent(sandbox) == [200] * 3
    assert results(tmp_path) == asked(ask(5))


@pytest.mark.parametrize("caller", ["reader", "jobs_only"])
def test_who_may_not_send_files_is_told_before_anything_is_sent(
    caller: str,
    calls: Calls,
    gateway: Gateway,
    tokens: Tokens,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    api = calls.at(gateway.url, getattr(tokens, caller))
    with pytest.raises(FilesRefused, match=r"files are not open to you.*files:"):
        carry_out(api, tmp_path, ask(3), limits=TWO)
    assert not sandbox.ledger(method="POST")


def test_a_small_table_needs_no_files(
    calls: Calls, gateway: Gateway, tokens: Tokens, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    api = calls.at(gateway.url, tokens.jobs_only)
    carry_out(api, tmp_path, ask(3), ends(sandbox))
    assert results(tmp_path) == asked(ask(3))


REFUSALS = [
    ({"fault": "payment-required"}, NoMoney),
    ({"fault": "rate-limited", "zero_quota": True}, NoMoney),
    ({"fault": "status", "status": 400}, Refused),
]


@pytest.mark.parametrize(("fault", "error"), REFUSALS)
def test_a_refusal_ends_the_feeding_and_what_runs_is_fetched(
    fault: dict[str, Any], error: type[Refused], ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    # Jobs end at the second look at them: when the refusal has come, and not before.
    api = BatchAPI(sandbox.url, "any", sleep=lambda _: sandbox.advance(ALL_DAY))
    sandbox.faults({**fault, "match": {**CREATE, "nth": 3}, "times": None})
    with pytest.raises(error):
        carry_out(api, tmp_path, ask(9), limits=TWO)
    assert len(sent(sandbox)) == 3
    assert results(tmp_path) == asked(ask(4))


@pytest.mark.parametrize(("fault", "error"), REFUSALS)
def test_what_was_refused_through_a_gateway_goes_on_later(
    fault: dict[str, Any],
    error: type[Refused],
    api: BatchAPI,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    sandbox.faults({**fault, "match": {**CREATE, "nth": 2}, "times": None})
    with pytest.raises(error) as raised:
        carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    assert raised.value.exit_code == (6 if error is NoMoney else 1)
    sandbox.admin("DELETE", "/sandbox/faults")
    carry_out(api, tmp_path, ask(5), ends(sandbox), limits=TWO)
    assert len(jobs(sandbox)) == 3
    assert results(tmp_path) == asked(ask(5))


def test_no_more_is_under_way_than_was_said(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    running: set[int] = set()
    most = 0

    def changed(chunk: Chunk) -> None:
        nonlocal most
        (running.discard if chunk.final else running.add)(chunk.number)
        most = max(most, len(running))
        if len(running) == 2 or chunk.number == 5:
            sandbox.advance(ALL_DAY)

    carry_out(api, tmp_path, ask(10), changed, limits=TWO, pending=5)
    assert most == 2
    assert results(tmp_path) == asked(ask(10))


@pytest.mark.parametrize("ending", ["failed", "timeout", "some-failed", "all-failed"])
def test_of_a_job_that_ends_badly_all_results_are_fetched(
    ending: str, api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    metadata = outcome(ending)
    (chunk,) = carry_out(api, tmp_path, ask(8), ends(sandbox), metadata=metadata).chunks
    done = 8 if "some" in ending or "all" in ending else 4
    assert len(results(tmp_path)) == chunk.done == done
    assert chunk.fetched and not chunk.lost


def test_a_job_says_why_it_failed(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    (chunk,) = carry_out(api, tmp_path, ask(2), ends(sandbox), model="unknown").chunks
    assert (chunk.status, chunk.fetched, chunk.saved) == ("FAILED", True, [])
    assert chunk.why


def test_results_that_are_gone_are_said_to_be_lost_and_looked_for_once_each_time(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    gone = {"fault": "status", "status": 404, "match": CONTENT, "times": 2}
    sandbox.faults(gone)
    for _ in range(2):
        attempt = carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
        assert [bool(chunk.lost) for chunk in attempt.chunks] == [True, True]
        run = begin(tmp_path, api.url, ask(3))
        assert run.finished and not run.settled
        assert list(again(run)) == []  # they were paid
        assert list(again(run, everything=True)) == ask(3)
        sandbox.faults(gone)
    sandbox.admin("DELETE", "/sandbox/faults")
    attempt = carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    assert not any(chunk.lost for chunk in attempt.chunks)
    assert begin(tmp_path, api.url, ask(3)).settled
    assert results(tmp_path) == asked(ask(3))


def test_results_that_the_token_may_not_read_are_not_lost(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "status", "status": 403, "match": CONTENT, "times": 1})
    with pytest.raises(Refused):
        carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    assert results(tmp_path) == asked(ask(3))


@pytest.mark.parametrize(
    ("came", "there"), [(b"", 0), (b"{}\n", 1), (b"<html>\n<p>\n</html>\n", 0)]
)
def test_a_file_with_fewer_results_than_the_job_has_is_not_taken_for_whole(
    came: bytes,
    there: int,
    api: BatchAPI,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BatchAPI, "download", lambda _, __, target: target.write(came))
        first, _ = carry_out(api, tmp_path, ask(4), ends(sandbox), limits=TWO).chunks
    assert f"{there} of 2" in first.lost
    assert len(first.saved) == there
    carry_out(api, tmp_path, ask(4), ends(sandbox), limits=TWO)
    assert begin(tmp_path, api.url, ask(4)).settled
    assert results(tmp_path) == asked(ask(4))


def test_a_job_that_succeeded_and_names_no_file_has_lost_its_results(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare(api: BatchAPI, job_id: str, **given: Any) -> Job:
        return {**found(api, job_id, **given), "output_file": None}

    found = BatchAPI.get_job
    with monkeypatch.context() as patch:
        patch.setattr(BatchAPI, "get_job", bare)
        first, _ = carry_out(api, tmp_path, ask(4), ends(sandbox), limits=TWO).chunks
    assert "0 of 2" in first.lost and not first.saved


def test_a_job_that_is_gone_is_said_to_be_lost(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "status", "status": 404, "match": {"path": "/v1/batch/jobs/.+"}})
    (chunk,) = carry_out(api, tmp_path, ask(1)).chunks
    assert chunk.fetched and chunk.job_id in chunk.lost


def test_inline_results_are_had_where_files_are_gone(
    direct: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "status", "status": 404, "match": CONTENT, "times": None})
    metadata = outcome("some-failed")
    (chunk,) = carry_out(direct, tmp_path, ask(4), ends(sandbox), metadata=metadata).chunks
    assert not chunk.lost
    assert results(tmp_path) == asked(ask(4))


def test_a_cancelled_run_sends_no_more_and_keeps_what_it_has(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    asked_to_stop: list[int] = []

    def changed(chunk: Chunk) -> None:
        if chunk.number == 2 and not asked_to_stop:
            asked_to_stop.append(cancel(api, begin(tmp_path, api.url, ask(9))))
            sandbox.advance(ALL_DAY)

    attempt = carry_out(api, tmp_path, ask(9), changed, limits=TWO, pending=4)
    assert asked_to_stop == [2]
    assert [chunk.status for chunk in attempt.chunks] == ["CANCELLED"] * 5
    assert [bool(chunk.job_id) for chunk in attempt.chunks] == [True, True, False, False, False]
    assert begin(tmp_path, api.url, ask(9)).finished
    assert carry_out(api, tmp_path, ask(9), limits=TWO) == attempt
    assert cancel(api, begin(tmp_path, api.url, ask(9))) == 0
    later = carry_out(api, tmp_path, ask(9), ends(sandbox), limits=TWO, number=2)
    assert {chunk.status for chunk in later.chunks} == {"SUCCESS"}


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_job_that_has_just_ended_does_not_keep_others_from_being_cancelled(
    status: int, direct: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    def changed(chunk: Chunk) -> None:
        if chunk.number == 2 and not chunk.final:
            refusal = {"fault": "status", "status": status, "match": {"path": "/cancel$"}}
            sandbox.faults(refusal)
            assert cancel(direct, begin(tmp_path, direct.url, ask(3))) == 2
            sandbox.advance(ALL_DAY)

    endings = [
        chunk.status for chunk in carry_out(direct, tmp_path, ask(3), changed, limits=TWO).chunks
    ]
    assert sorted(endings) == ["CANCELLED", "SUCCESS"]


def test_a_job_is_cancelled_whose_making_was_not_written_down(
    api: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    def killed(_: Chunk) -> None:
        raise Killed

    with pytest.raises(Killed):
        carry_out(api, tmp_path / "a", ask(3), killed, limits=TWO)
    assert cancel(api, begin(tmp_path / "b", api.url, ask(3))) == 1


TROUBLES = [
    {"fault": "html-503", "match": CONTENT},
    {"fault": "truncated", "match": CONTENT},
    {"fault": "truncated", "reset": True, "match": CONTENT},
    {"fault": "drop-before", "match": {"method": "GET"}},
    {"fault": "html-502", "match": LIST},
    {"fault": "rate-limited", "match": {"path": "/v1/batch/jobs/.+"}},
    {"fault": "invalid-json", "match": {"method": "GET", "path": "/v1/batch/jobs/.+"}},
    {"fault": "upload-cut", "match": {"method": "POST", "path": "/v1/files$"}},
    {"fault": "html-503", "match": {"method": "POST", "path": "/v1/files$"}},
    {"fault": "rate-limited", "match": CREATE},
    {"fault": "drop-after", "match": CREATE},
]


@pytest.mark.parametrize("place", ["api", "direct"])
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda rule: f"{rule['fault']} {rule['match']}")
def test_troubles_on_the_way_pass(
    place: str,
    trouble: dict[str, Any],
    request: pytest.FixtureRequest,
    ask: Ask,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    api = request.getfixturevalue(place)
    assert api.keeps_keys == (place == "api")
    sandbox.faults(trouble)
    carry_out(api, tmp_path, ask(3), ends(sandbox), limits=TWO)
    assert len(jobs(sandbox)) == 2
    assert results(tmp_path) == asked(ask(3))


def test_straight_at_mistral_a_create_without_an_answer_is_not_repeated(
    direct: BatchAPI, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "drop-before", "match": CREATE})
    with pytest.raises(Unclear, match="run the same command again"):
        carry_out(direct, tmp_path, ask(1), ends(sandbox))
    assert len(sent(sandbox)) == 1
    carry_out(direct, tmp_path, ask(1), ends(sandbox))
    assert results(tmp_path) == asked(ask(1))


def test_a_pause_is_as_long_as_it_is_asked_for(
    direct: BatchAPI, calls: Calls, ask: Ask, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "rate-limited", "retry_after": "17", "match": LIST})
    assert not direct.keeps_keys
    assert calls.pauses == [17.0]
    assert "429" in calls.troubles[0].sentence
