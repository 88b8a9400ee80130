"""The list of jobs. Source: Mistral's OpenAPI, operation get_batch_jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.sandbox.api import JOBS, Api


@pytest.fixture
def three(api: Api) -> list[str]:
    """Ids of three jobs, ten seconds apart, oldest first."""
    members = (
        {"model": "a", "metadata": {"team": "x", "kind": "p"}},
        {"model": "b", "metadata": {"team": "x", "kind": "q"}},
        {"model": None, "agent_id": "ag:1", "metadata": {"team": "y"}},
    )
    ids = []
    for each in members:
        ids.append(api.create(**each)["id"])
        api.advance(10)
    return ids


def test_the_newest_job_comes_first(api: Api, three: list[str]) -> None:
    assert api.list() == three[::-1]
    assert api.list(order_by="-created") == three[::-1]
    assert api.list(order_by="created") == three


def test_pages_count_from_zero_and_name_the_number_of_all_matches(
    api: Api, three: list[str]
) -> None:
    query = {"page": 1, "page_size": 2, "order_by": "created"}
    status, page = api.json("GET", JOBS, query_string=query)
    assert status == 200
    assert page.keys() == {"data", "object", "total"}
    assert (page["object"], page["total"]) == ("list", 3)
    assert [job["id"] for job in page["data"]] == three[2:]


def test_a_page_beyond_the_end_is_empty(api: Api, three: list[str]) -> None:
    assert api.json("GET", f"{JOBS}?page=9")[1] == {"data": [], "object": "list", "total": 3}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("model=a", [0]),
        ("agent_id=ag:1", [2]),
        ("team=x", [0, 1]),
        ("team=x&kind=q", [1]),
        ("team=x&kind=none", []),
        ("status=QUEUED", [2]),
        ("status=QUEUED&status=RUNNING", [0, 1, 2]),
        ("status=SUCCESS", []),
        ("created_by_me=true", [0, 1, 2]),
        ("page_size=1&model=b", [1]),
    ],
)
def test_filters_choose_jobs(api: Api, three: list[str], query: str, found: list[int]) -> None:
    status, page = api.json("GET", f"{JOBS}?order_by=created&{query}")
    assert status == 200
    assert [job["id"] for job in page["data"]] == [three[n] for n in found]
    assert page["total"] == len(found)


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("zone", ["naive", "Z", "offset"])
def test_created_after_is_strict_and_utc_without_a_zone(
    api: Api, three: list[str], zone: str, tokyo: None
) -> None:
    state = api.app.extensions["sandbox"]
    moment = datetime.fromtimestamp(state.clock.wall(state.jobs[three[1]].created), UTC)
    text = moment.replace(tzinfo=None).isoformat()
    text += {"naive": "", "Z": "Z", "offset": "+00:00"}[zone]
    # Rounding to microseconds may put the moment just before the job itself.
    assert api.list(created_after=text)[0] == three[2]
    assert three[0] not in api.list(created_after=text)


@pytest.mark.parametrize(
    ("query", "loc"),
    [
        ("page=-1", "page"),
        ("page=x", "page"),
        ("page=%2B-1", "page"),
        ("page_size=0", "page_size"),
        ("status=running", "status"),
        ("status=QUEUED&status=", "status"),
        ("order_by=id", "order_by"),
        ("created_after=yesterday", "created_after"),
        ("created_by_me=maybe", "created_by_me"),
    ],
)
def test_a_parameter_that_cannot_be_read_is_refused(api: Api, query: str, loc: str) -> None:
    status, answer = api.json("GET", f"{JOBS}?{query}")
    assert status == 422
    assert [row["loc"][:2] for row in answer["detail"]] == [["query", loc]]


def test_a_new_job_can_be_missing_from_the_list_for_a_while() -> None:
    api = Api(list_lag_seconds=5.0)
    job = api.create()
    assert api.list() == []
    assert api.get(job)["status"] == "QUEUED"
    api.advance(6)
    assert api.list() == [job["id"]]
