"""A job's life. Sources: Mistral's OpenAPI (schema BatchJob), its documentation of batch jobs."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from sandbox.results import BODIES
from tests.sandbox.api import CHAT, JOBS, Api, body

RUNNING_AGE = 20.0  # job seconds; queueing takes 13.5 to 16.5 of them


def test_a_fresh_job_is_queued_with_all_counters_zero(api: Api) -> None:
    job = api.create(metadata={"a": "b"}, timeout_hours=1)
    uuid.UUID(job["id"])
    expected = {
        "object": "batch",
        "metadata": {"a": "b"},
        "endpoint": CHAT,
        "model": "mistral-small-latest",
        "agent_id": None,
        "output_file": None,
        "error_file": None,
        "errors": [],
        "outputs": None,
        "status": "QUEUED",
        "total_requests": 0,
        "completed_requests": 0,
        "succeeded_requests": 0,
        "failed_requests": 0,
        "started_at": None,
        "completed_at": None,
    }
    assert {name: job[name] for name in expected} == expected
    assert job.keys() - expected.keys() == {"id", "input_files", "created_at"}
    assert type(job["created_at"]) is int


def test_a_job_goes_from_queued_through_running_to_success(api: Api) -> None:
    job, seen = api.create(), []
    for _ in range(80):
        status = api.get(job)["status"]
        seen += [status] if status not in seen else []
        api.advance(1)
    assert seen == ["QUEUED", "RUNNING", "SUCCESS"]


def test_the_total_is_known_before_the_job_runs(api: Api) -> None:
    job = api.create()
    api.advance(10)
    now = api.get(job)
    assert (now["status"], now["total_requests"]) == ("QUEUED", 3)


def test_counters_grow_add_up_and_stay_within_the_total(api: Api) -> None:
    job = api.create(["x", "sandbox:fail"] * 20)
    last = 0
    while (now := api.get(job))["status"] != "SUCCESS":
        done = now["completed_requests"]
        assert last <= done <= now["total_requests"] or done == 0
        assert done == now["succeeded_requests"] + now["failed_requests"]
        last = done
        api.advance(1)
    assert (now["succeeded_requests"], now["failed_requests"]) == (20, 20)


def test_a_job_that_is_a_success_has_completed_every_request(api: Api) -> None:
    jobs = [api.create(["x"] * total) for total in range(1, 60)]
    api.advance(3600)
    counts = [api.get(job)["completed_requests"] for job in jobs]
    assert counts == list(range(1, 60))


def test_started_and_completed_are_unix_seconds_in_order(api: Api) -> None:
    now = api.finish(api.create())
    assert now["created_at"] <= now["started_at"] < now["completed_at"]


def test_the_same_seed_gives_the_same_ids_and_results() -> None:
    def life() -> list[object]:
        api = Api(seed=9, failure_percent=50.0)
        job = api.finish(api.create(["x"] * 20), inline="true")
        rows = [(row["id"], row["custom_id"], row["error"]) for row in job["outputs"]]
        return [job["id"], job["output_file"], rows]

    assert life() == life()


def test_outputs_are_given_when_asked_for_and_finished(api: Api) -> None:
    job = api.create()
    assert api.get(job, inline="true")["outputs"] is None
    api.advance(3600)
    assert api.get(job)["outputs"] is None
    assert api.get(job, inline="false")["outputs"] is None
    assert len(api.get(job, inline="true")["outputs"]) == 3


def test_results_come_in_another_order_and_name_every_custom_id_once(api: Api) -> None:
    job = api.finish(api.create(["x"] * 50), inline="true")
    names = [row["custom_id"] for row in job["outputs"]]
    assert names != sorted(names, key=int)
    assert sorted(names, key=int) == [str(n) for n in range(50)]


def test_a_missing_custom_id_comes_back_as_null(api: Api) -> None:
    job = api.create(requests=[{"body": {}}, {"custom_id": None, "body": {}}])
    outputs = api.finish(job, inline="true")["outputs"]
    assert [row["custom_id"] for row in outputs] == [None, None]


def test_the_jobs_model_wins_over_the_one_in_a_request(api: Api) -> None:
    job = api.create(model="mistral-large-latest", requests=[{"body": {"model": "other"}}])
    [row] = api.finish(job, inline="true")["outputs"]
    assert row["response"]["body"]["model"] == "mistral-large-latest"


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_endpoint_answers_with_a_body(api: Api, endpoint: str) -> None:
    job = api.create(endpoint=endpoint, requests=[{"body": {"input": ["a", "b"]}}])
    [row] = api.finish(job, inline="true")["outputs"]
    assert row["response"]["status_code"] == 200
    assert "mistral-small-latest" in json.dumps(row["response"]["body"])


def test_failures_are_kept_apart_from_successes_and_summed_up(api: Api) -> None:
    texts = ["good", "sandbox:fail-string", "sandbox:fail-object", "sandbox:fail-object"]
    job = api.finish(api.create(texts))
    assert job["status"] == "SUCCESS"
    assert sorted(error["count"] for error in job["errors"]) == [1, 2]
    good, bad = (_rows(api, job[name]) for name in ("output_file", "error_file"))
    assert [row["custom_id"] for row in good] == ["0"]
    assert sorted(row["custom_id"] for row in bad) == ["1", "2", "3"]


def test_errors_of_requests_come_as_text_and_as_object(api: Api) -> None:
    job = api.finish(api.create(["sandbox:fail-string", "sandbox:fail-object"]), inline="true")
    kinds = {row["custom_id"]: type(row["error"]) for row in job["outputs"]}
    assert kinds == {"0": str, "1": dict}


def test_a_share_of_the_requests_can_be_made_to_fail() -> None:
    api = Api(failure_percent=30.0)
    assert 10 < api.finish(api.create(["x"] * 100))["failed_requests"] < 50


def test_a_job_whose_requests_all_failed_is_still_a_success(api: Api) -> None:
    job = api.finish(api.create(metadata={"sandbox_outcome": "all-failed"}))
    assert (job["status"], job["failed_requests"]) == ("SUCCESS", 3)
    assert job["output_file"] is None
    assert job["error_file"] is not None


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("failed", "FAILED"), ("timeout", "TIMEOUT_EXCEEDED"), ("some-failed", "SUCCESS")],
)
def test_metadata_choose_how_a_job_ends(api: Api, outcome: str, status: str) -> None:
    assert api.finish(api.create(metadata={"sandbox_outcome": outcome}))["status"] == status


@pytest.mark.parametrize(("outcome", "status"), [("stuck", "QUEUED"), ("endless", "RUNNING")])
def test_a_job_without_end_stops_at_its_timeout(api: Api, outcome: str, status: str) -> None:
    job = api.create(metadata={"sandbox_outcome": outcome}, timeout_hours=2)
    assert api.finish(job)["status"] == status
    now = api.finish(job)
    assert now["status"] == "TIMEOUT_EXCEEDED"
    assert now["completed_requests"] < now["total_requests"]


@pytest.mark.parametrize(
    "members",
    [
        {"model": "unknown-model"},
        {"requests": [{"custom_id": "same", "body": {}}, {"custom_id": "same", "body": {}}]},
    ],
)
def test_a_job_that_makes_no_sense_fails_with_a_reason(
    api: Api, members: dict[str, object]
) -> None:
    job = api.finish(api.create(**members))
    assert (job["status"], job["total_requests"]) == ("FAILED", 0)
    assert [error["count"] for error in job["errors"]] == [1]


def test_known_models_can_be_named() -> None:
    api = Api(models="a,b")
    assert api.finish(api.create(model="b"))["status"] == "SUCCESS"
    assert api.finish(api.create(model="mistral-small-latest"))["status"] == "FAILED"


def test_requests_without_any_model_fail_unless_accepted() -> None:
    assert (api := Api()).finish(api.create(model=None))["failed_requests"] == 3
    api = Api(missing_model="accept")
    assert api.finish(api.create(model=None))["failed_requests"] == 0


def test_a_cancelled_job_goes_through_two_steps_with_frozen_counters(api: Api) -> None:
    job = api.create(["x"] * 100)
    api.advance(RUNNING_AGE)
    status, asked = api.json("POST", f"{JOBS}/{job['id']}/cancel")
    assert (status, asked["status"]) == (200, "CANCELLATION_REQUESTED")
    done = asked["completed_requests"]
    assert 0 < done < 100
    ended = api.finish(job)
    assert (ended["status"], ended["completed_requests"]) == ("CANCELLED", done)
    assert ended["completed_at"] - ended["created_at"] == pytest.approx(RUNNING_AGE + 10, abs=2)


def test_a_queued_job_can_be_cancelled(api: Api) -> None:
    job = api.create()
    api.call("POST", f"{JOBS}/{job['id']}/cancel")
    ended = api.finish(job)
    assert (ended["status"], ended["started_at"]) == ("CANCELLED", None)


def test_cancelling_again_changes_nothing(api: Api) -> None:
    job = api.create()
    first = api.json("POST", f"{JOBS}/{job['id']}/cancel")
    api.advance(5)
    assert api.json("POST", f"{JOBS}/{job['id']}/cancel") == first


@pytest.mark.parametrize("status", [200, 400, 409])
def test_the_answer_to_cancelling_a_finished_job_is_a_setting(status: int) -> None:
    api = Api(cancel_finished_status=status)
    job = api.finish(api.create())
    answered, after = api.json("POST", f"{JOBS}/{job['id']}/cancel")
    assert answered == status
    assert api.get(job)["status"] == "SUCCESS"
    assert status != 200 or after == job


def _cancelled(api: Api, job: dict[str, Any]) -> None:
    api.advance(RUNNING_AGE)
    api.call("POST", f"{JOBS}/{job['id']}/cancel")


def _left_alone(api: Api, job: dict[str, Any]) -> None:
    pass


ENDS = {
    "CANCELLED": ({}, _cancelled),
    "FAILED": ({"metadata": {"sandbox_outcome": "failed"}}, _left_alone),
    "TIMEOUT_EXCEEDED": ({"metadata": {"sandbox_outcome": "timeout"}}, _left_alone),
}
"""How to end a job without success: members of its create, and what is done to it then."""


@pytest.fixture(params=[0.0, 30.0, 100.0], ids=["all worked", "some failed", "all failed"])
def failing(request: pytest.FixtureRequest) -> Api:
    return Api(failure_percent=request.param)


@pytest.mark.parametrize("status", ENDS)
def test_a_job_that_did_not_succeed_keeps_the_results_of_what_it_completed(
    failing: Api, status: str
) -> None:
    members, end = ENDS[status]
    job = failing.create(["x"] * 100, **members)
    end(failing, job)
    ended = failing.finish(job, inline="true")
    assert ended["status"] == status
    good, bad = (_rows(failing, ended[name]) for name in ("output_file", "error_file"))
    counted = ended["succeeded_requests"], ended["failed_requests"]
    assert (len(good), len(bad)) == counted
    assert 0 < sum(counted) == ended["completed_requests"] < ended["total_requests"]
    found, kept = ({row["custom_id"] for row in rows} for rows in (ended["outputs"], good + bad))
    assert found == kept
    assert sum(error["count"] for error in ended["errors"]) == len(bad) + (status == "FAILED")


@pytest.mark.parametrize("status", ENDS)
def test_that_it_keeps_none_is_a_setting(status: str) -> None:
    api = Api(partial_results=False)
    members, end = ENDS[status]
    job = api.create(["x"] * 100, **members)
    end(api, job)
    ended = api.finish(job, inline="true")
    assert ended["completed_requests"] > 0
    assert [ended[name] for name in ("output_file", "error_file", "outputs")] == [None] * 3


@pytest.mark.parametrize("members", [{"model": "unknown"}, {"timeout_hours": 1}])
def test_a_job_that_completed_nothing_has_no_results(members: dict[str, Any]) -> None:
    api = Api()
    ended = api.finish(api.create(**members, metadata={"sandbox_outcome": "stuck"}), inline="true")
    assert ended["completed_requests"] == 0
    assert [ended[name] for name in ("output_file", "error_file", "outputs")] == [None] * 3


def test_a_job_has_no_results_while_it_stops(api: Api) -> None:
    job = api.create(["x"] * 100)
    _cancelled(api, job)
    stopping = api.get(job, inline="true")
    assert stopping["status"] == "CANCELLATION_REQUESTED"
    assert [stopping[name] for name in ("output_file", "error_file", "outputs")] == [None] * 3


def test_results_of_a_cancelled_job_can_be_deleted_and_outlive_the_job(api: Api) -> None:
    job = api.create(["x", "sandbox:fail"] * 50)
    _cancelled(api, job)
    good, bad = (api.finish(job)[name] for name in ("output_file", "error_file"))
    assert api.json("DELETE", f"/v1/files/{good}")[0] == 200
    assert api.json("GET", f"/v1/files/{good}/content")[0] == 404
    assert api.json("DELETE", f"{JOBS}/{job['id']}")[0] == 200
    assert _rows(api, bad)


def test_a_deleted_job_is_gone(api: Api) -> None:
    job = api.create()
    path = f"{JOBS}/{job['id']}"
    gone = {"id": job["id"], "object": "batch", "deleted": True}
    assert api.json("DELETE", path) == (200, gone)
    assert api.json("GET", path) == (404, {"detail": "Not Found"})
    assert api.list() == []


def test_a_trial_is_refused_a_big_job() -> None:
    api = Api(trial_requests=2)
    status, answer = api.json("POST", JOBS, json=body(["x"] * 3))
    assert (status, list(answer)) == (402, ["detail"])
    assert api.create(["x"] * 2)["status"] == "QUEUED"


def _rows(api: Api, file_id: str | None) -> list[dict[str, object]]:
    """The lines of a file; none without a file."""
    if file_id is None:
        return []
    response = api.call("GET", f"/v1/files/{file_id}/content")
    assert response.status_code == 200
    return [json.loads(line) for line in response.data.splitlines()]
