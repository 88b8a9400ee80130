"""Runs on disk: which is which, what they are called, and who has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistral_batch.chunks import INLINE, Limits, is_inline, plan
from mistral_batch.errors import InputError
from mistral_batch.runs import NoSuchRun, NotWritten, Run, Runs, identity, written

TERMS = {"model": "m", "endpoint": "/v1/ocr"}
PLACE = "http://127.0.0.1:8080"


def begin(runs: Runs, requests: str = "ab", source: str = "table.csv", **more: Any) -> Run:
    return runs.begin(requests, TERMS, PLACE, source=source, digest="cd", options={}, **more)


def finish(run: Run) -> None:
    """As if all of it had been fetched."""
    attempt = plan(run, 1, [b"{}"])
    attempt.chunks[0].job_id, attempt.chunks[0].fetched = "j", True
    run.save()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "not there yet")


def test_a_run_is_its_requests_terms_and_place_and_not_its_table(runs: Runs) -> None:
    run = begin(runs)
    assert begin(runs, source="elsewhere/other.parquet").folder == run.folder
    assert begin(runs, "other requests").folder != run.folder
    terms = {**TERMS, "agent_id": None}
    assert identity("ab", terms) == run.manifest.identity
    for other in (("ac", TERMS), ("ab", {"model": "m"}), ("ab", TERMS, 1)):
        assert identity(*other) != run.manifest.identity


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://127.0.0.1:8080", "http://localhost:8080/", True),
        ("http://[::1]:8080", "HTTP://LOCALHOST:8080", True),
        ("https://A.example", "https://a.example:443", True),
        ("http://a.example", "https://a.example", False),
        ("http://a.example/x", "http://a.example/y", False),
    ],
)
def test_a_place_may_be_spelt_in_several_ways(runs: Runs, one: str, other: str, same: bool) -> None:
    first = runs.begin("ab", TERMS, one, source="t.csv", digest="d", options={})
    second = runs.begin("ab", TERMS, other, source="t.csv", digest="d", options={})
    assert (first.folder == second.folder) is same
    # By whatever name, a place that has the jobs is to know them by their metadata and keys.
    assert first.manifest.identity == second.manifest.identity


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("of/reviews.parquet", "reviews"),
        ("reviews.jsonl.gz", "reviews"),
        ('a "b" c.csv', "a-b-c"),
        ("../../отзывы.csv", "table"),
        ("", "table"),
        ("n" * 300, "n" * 40),
    ],
)
def test_a_run_is_called_as_its_table(source: str, stem: str, runs: Runs) -> None:
    name = begin(runs, source=source).manifest.name
    assert name.rpartition("-")[0] == stem and len(name.rpartition("-")[2]) == 4


def test_names_are_as_long_as_it_takes(runs: Runs) -> None:
    run = begin(runs)
    name, what = run.manifest.name, run.manifest.identity
    run.manifest.identity = "of another"
    run.save()
    other = begin(runs)
    assert other.manifest.name == f"table-{what[:5]}" and name == f"table-{what[:4]}"
    assert runs.named(name).manifest.identity == "of another"


def test_a_run_is_found_by_what_its_name_alone_begins_with(runs: Runs) -> None:
    first = begin(runs, source="one.csv")
    with pytest.raises(NoSuchRun):
        runs.named("")  # though there is but one
    begin(runs, "x", source="two.csv")
    assert runs.named("on").folder == first.folder
    for name in ("", "three", "../one", first.manifest.name + "/"):
        with pytest.raises(NoSuchRun, match=first.manifest.name) as raised:
            runs.named(name)
        assert isinstance(raised.value, InputError)


def test_runs_are_listed_from_the_oldest_without_what_cannot_be_read(runs: Runs) -> None:
    names = []
    for number, requests in enumerate("cab"):
        run = begin(runs, requests)
        run.manifest.created_at = number
        run.save()
        names.append(run.manifest.name)
    broken = runs.home / "broken" / "run.json"
    broken.parent.mkdir()
    broken.write_text('{"version": 1')
    assert [run.manifest.name for run in runs] == names
    with pytest.raises(NoSuchRun, match="cannot be read"):
        runs.named("broken")


def test_again_is_another_run_once_the_last_one_has_finished(runs: Runs) -> None:
    first = begin(runs)
    assert begin(runs, again=True).folder == first.folder
    finish(first)
    assert begin(runs).folder == first.folder
    second = begin(runs, again=True)
    assert second.folder != first.folder
    assert begin(runs, again=True).folder == second.folder  # as after a crash
    assert begin(runs).folder == first.folder  # nothing was sent anew yet
    finish(second)
    assert begin(runs).folder == second.folder
    found = runs.find("ab", TERMS, PLACE)
    assert found and found.folder == second.folder
    assert runs.find("none", TERMS, PLACE) is None


def test_again_is_no_run_of_which_the_place_has_jobs(runs: Runs) -> None:
    bought = {identity("ab", TERMS, again) for again in (0, 1)}
    assert begin(runs, again=True, has_jobs=bought.__contains__).manifest.again == 2


def test_a_run_is_had_by_one_at_a_time_and_the_next_has_it_as_it_is_by_then(runs: Runs) -> None:
    run, other = begin(runs), Run.open(begin(runs).folder)
    waits = threading.Event()
    seen: list[int] = []

    def next_one() -> None:
        with other.lock(waits.set):
            seen.append(len(other.manifest.attempts))

    thread = threading.Thread(target=next_one)
    with run.lock():
        thread.start()
        assert waits.wait(10) and not seen
        plan(run, 1, [b"{}"])
    thread.join()
    assert seen == [1]


def test_who_does_not_want_to_wait_for_a_run_gives_up(runs: Runs) -> None:
    run = begin(runs)

    def busy() -> None:
        raise InputError("busy")

    with run.lock(), pytest.raises(InputError), Run.open(run.folder).lock(busy):
        raise AssertionError("it was had twice")


def test_chunks_have_all_lines_in_order_and_keep_both_limits(runs: Runs) -> None:
    lines = [b"x" * size for size in (1, 9, 3, 3, 3, 40, 1)]
    run = begin(runs)
    chunks = plan(run, 1, iter(lines), Limits(3, 12)).chunks
    contents = [(run.folder / chunk.content).read_bytes() for chunk in chunks]
    assert b"".join(contents) == b"".join(line + b"\n" for line in lines)
    assert [chunk.requests for chunk in chunks] == [2, 3, 1, 1]
    assert [chunk.size for chunk in chunks] == [len(content) for content in contents]


def test_a_plan_that_was_broken_off_is_made_again_and_a_whole_one_stays(runs: Runs) -> None:
    run = begin(runs)

    def broken() -> Iterator[bytes]:
        yield from [b"1", b"2", b"3"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan(run, 1, broken(), Limits(2, 100))
    assert not Run.open(run.folder).manifest.attempts
    attempt = plan(run, 1, [b"1", b"2"], Limits(2, 100))
    assert plan(run, 1, [b"other"]) == attempt == Run.open(run.folder).manifest.attempts[0]


def test_what_fits_into_a_create_goes_without_a_file(runs: Runs) -> None:
    for requests, inline in ((INLINE.requests, True), (INLINE.requests + 1, False)):
        run = begin(runs, f"{requests}")
        assert is_inline(plan(run, 1, [b"{}"] * requests)) == inline
    assert not is_inline(plan(begin(runs, "large"), 1, [b"x" * INLINE.size]))
    assert not is_inline(plan(begin(runs, "two"), 1, [b"1", b"2"], Limits(1, 9)))


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotWritten, match=f"{home} cannot be written"):
            begin(Runs(home))
    (tmp_path / "lock").mkdir()
    with pytest.raises(NotWritten, match="Is a directory"):
        begin(Runs(tmp_path))


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "private.csv"
    path.touch(0o600)
    with written(path) as target:
        target.write(b"x")
    assert path.stat().st_mode & 0o777 == 0o600
