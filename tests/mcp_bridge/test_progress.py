"""What is told of something that is not final, whatever its members say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_bridge.progress import Report, note, read
from openapi.contract import Contract
from openapi.job_hints import JobHints, StateHint

NOW = 1_790_000_000.0
RUNNING = {"status": "RUNNING", "total_requests": 1000, "completed_requests": 412}


@pytest.fixture(scope="module")
def hints(contract: Contract) -> JobHints:
    return contract.operations["getbatchjob"].hints


def said(hints: JobHints, age: float = 0, wait: str = "wait 45", **members: Any) -> str:
    shown = read(hints, json.dumps(members).encode())
    assert shown
    return note(shown, now=NOW, age=age, wait=wait)


def test_a_job_that_runs_says_how_far_it_is_how_long_it_may_take_and_what_to_do_next(
    hints: JobHints,
) -> None:
    assert said(hints, **RUNNING, failed_requests=3, started_at=NOW - 250) == (
        "RUNNING: 412 of 1000 requests done, 3 failed; about 6 minutes left at this pace."
        " Call again with wait 45, or do other work first."
    )


@pytest.mark.parametrize(
    ("seconds", "done", "words"),
    [
        (100, 1000, "less than a minute left"),
        (1, 500, "less than a minute left"),
        (70, 500, "about a minute left"),
        (1000, 500, "about 17 minutes left"),
        (3600, 200, "about 4 hours left"),
        (86_400, 250, "about 3 days left"),
    ],
)
def test_the_time_left_is_in_words_of_its_size(
    seconds: int, done: int, words: str, hints: JobHints
) -> None:
    told = said(hints, **{**RUNNING, "completed_requests": done}, started_at=NOW - seconds)
    assert f"; {words} at this pace." in told


def test_who_would_wait_long_is_told_to_come_back_later(hints: JobHints) -> None:
    told = said(hints, **RUNNING, started_at=NOW - 3600)
    assert told.endswith(
        "Do other work first, and call again with wait 45 when most of that time is over."
    )


@pytest.mark.parametrize(
    "started",
    [None, 0, -5, NOW, NOW + 1, NOW + 3600, NOW * 1000, 1, "yesterday", True, [], 1e308],
    ids=str,
)
def test_no_time_is_told_that_clocks_and_members_do_not_give(started: Any, hints: JobHints) -> None:
    told = said(hints, **{**RUNNING, "completed_requests": 1}, started_at=started)
    assert told.startswith("RUNNING: 1 of 1000 requests done. Call again")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"status": "QUEUED", "total_requests": 0}, "QUEUED: requests not counted yet."),
        ({"status": "QUEUED"}, "QUEUED: requests not counted yet."),
        (
            {**RUNNING, "total_requests": 0, "completed_requests": 0},
            "RUNNING: requests not counted yet.",
        ),
        ({**RUNNING, "total_requests": None}, "RUNNING: 412 requests done."),
        ({**RUNNING, "total_requests": 7}, "RUNNING: 412 requests done."),
        ({**RUNNING, "completed_requests": None}, "RUNNING: 1000 requests."),
        ({**RUNNING, "completed_requests": "412"}, "RUNNING: 1000 requests."),
        ({**RUNNING, "completed_requests": -1, "failed_requests": 2}, "RUNNING: 1000 requests."),
        ({**RUNNING, "completed_requests": 0}, "RUNNING: 0 of 1000 requests done."),
        ({**RUNNING, "failed_requests": 413}, "RUNNING: 412 of 1000 requests done."),
        ({**RUNNING, "failed_requests": 0}, "RUNNING: 412 of 1000 requests done."),
        ({**RUNNING, "failed_requests": "3"}, "RUNNING: 412 of 1000 requests done."),
        ({**RUNNING, "total_requests": 1e3}, "RUNNING: 412 of 1000 requests done."),
        ({**RUNNING, "total_requests": 10**30}, "RUNNING: 412 requests done."),
        ({**RUNNING, "total_requests": True}, "RUNNING: 412 requests done."),
        ({**RUNNING, "status": None}, "In no known state: 412 of 1000 requests done."),
        ({**RUNNING, "status": ["RUNNING"]}, "In no known state: 412 of 1000 requests done."),
        ({**RUNNING, "status": "x" * 100}, "In no known state: 412 of 1000 requests done."),
        ({"status": "PAUSED", "completed_requests": {}}, "PAUSED: requests not counted yet."),
    ],
    ids=str,
)
def test_what_members_do_not_say_is_not_told(
    members: dict[str, Any], words: str, hints: JobHints
) -> None:
    assert said(hints, **members) == f"{words} Call again with wait 45, or do other work first."


@pytest.mark.parametrize("number", ["1e999", "-0", "9" * 400, "1.5e308"])
def test_a_number_without_measure_is_none(number: str, hints: JobHints) -> None:
    content = f'{{"status":"RUNNING","total_requests":{number},"started_at":{number}}}'.encode()
    shown = read(hints, content)
    assert shown
    assert note(shown, now=NOW, age=0, wait="").startswith("RUNNING: requests not counted yet.")


@pytest.mark.parametrize("state", ["CANCELLATION_REQUESTED", "PAUSED", "running"])
def test_a_state_that_is_neither_running_nor_final_promises_no_time(
    state: str, hints: JobHints
) -> None:
    told = said(hints, **{**RUNNING, "status": state}, started_at=NOW - 250)
    assert told.startswith(f"{state}: 412 of 1000 requests done. Call again with wait 45")


@pytest.mark.parametrize("members", [{}, {"status": None}, {"completed_requests": "many"}])
def test_of_what_shows_nothing_nothing_is_told(members: dict[str, Any], hints: JobHints) -> None:
    assert said(hints, **members) == ""


@pytest.mark.parametrize("state", ["SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"])
def test_what_is_final_needs_no_word(state: str, hints: JobHints) -> None:
    assert said(hints, **{**RUNNING, "status": state}) == ""


def test_an_old_state_is_called_old(hints: JobHints) -> None:
    assert "seen" not in said(hints, age=15, **RUNNING)
    told = said(hints, age=30.4, **RUNNING, started_at=NOW - 280)
    assert "; as seen 30 s ago: nothing newer could be had since. Call" in told
    assert "about 5 minutes left" in told  # 250 s for 412 requests, and 30 s of the rest are over


def test_a_call_that_cannot_wait_is_not_told_to(hints: JobHints) -> None:
    assert said(hints, wait="", **RUNNING).endswith(" Call again later, or do other work first.")


def test_where_nothing_counts_the_state_alone_is_told() -> None:
    hints = JobHints(state=StateHint("phase", frozenset({"over"})))
    assert said(hints, phase="under way") == (
        "under way. Call again with wait 45, or do other work first."
    )
    assert said(hints, phase="over") == ""


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b'{"status":', b'{"a":"\xff', b"[" * 9999])
def test_what_is_no_object_shows_nothing(content: bytes, hints: JobHints) -> None:
    assert read(hints, content) is None


@pytest.mark.anyio
async def test_progress_is_told_only_when_there_is_more_of_it(hints: JobHints) -> None:
    """MCP has its number grow with each notification."""
    told: list[Any] = []

    async def tell(*given: Any) -> None:
        told.append(given)

    report = Report(tell)
    for done in (None, 0, 1, 1, 0, 5):
        members = {
            **RUNNING,
            "total_requests": 0 if done is None else 9,
            "completed_requests": done,
        }
        shown = read(hints, json.dumps(members).encode())
        assert shown
        await report(shown)
    assert told == [
        (0, None, "RUNNING: requests not counted yet"),
        (1, 9, "RUNNING: 1 of 9 requests done"),
        (5, 9, "RUNNING: 5 of 9 requests done"),
    ]
