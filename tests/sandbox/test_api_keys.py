"""Keys, workspaces, users and rate limits."""

from __future__ import annotations

import pytest

from tests.sandbox.api import JOBS, Api, body

UNAUTHORIZED = (401, {"detail": "Unauthorized"})
PLACES = "ann=team/ann,bob=team/bob,eve=other/eve"


def test_any_key_will_do(api: Api) -> None:
    assert api.json("GET", JOBS, key="whatever")[0] == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_no_usable_key_is_a_401(api: Api, value: str) -> None:
    response = api.call("GET", JOBS, key=None, headers={"Authorization": value})
    assert (response.status_code, response.json) == UNAUTHORIZED
    assert api.json("GET", JOBS, key=None) == UNAUTHORIZED
    assert api.json("GET", "/v1/files", key=None) == UNAUTHORIZED


def test_a_revoked_key_is_a_401() -> None:
    api = Api(revoked_keys="old, older")
    assert api.json("GET", JOBS, key="old") == UNAUTHORIZED
    assert api.json("GET", JOBS, key="older") == UNAUTHORIZED


def test_only_named_keys_will_do_when_strict() -> None:
    api = Api(keys="good", strict_keys=True)
    assert api.json("GET", JOBS, key="good")[0] == 200
    assert api.json("GET", JOBS, key="bad") == UNAUTHORIZED


def test_a_workspace_sees_its_own_jobs_and_no_others() -> None:
    api = Api(keys=PLACES)
    job = api.create(key="ann")
    assert api.list(key="bob") == [job["id"]]
    assert api.list(key="eve") == []
    for method, tail in (("GET", ""), ("POST", "/cancel"), ("DELETE", "")):
        answer = api.json(method, f"{JOBS}/{job['id']}{tail}", key="eve")
        assert answer == (404, {"detail": "Not Found"})


def test_created_by_me_is_the_keys_own_user() -> None:
    api = Api(keys=PLACES)
    job = api.create(key="ann")
    assert api.list(key="ann", created_by_me="true") == [job["id"]]
    assert api.list(key="bob", created_by_me="true") == []


def test_the_files_of_another_workspace_are_unknown() -> None:
    api = Api(keys=PLACES)
    api.create(key="ann")
    [file_id] = next(iter(api.app.extensions["sandbox"].jobs.values())).input_files
    assert api.json("GET", f"/v1/files/{file_id}", key="ann")[0] == 200
    assert api.json("GET", f"/v1/files/{file_id}", key="eve")[0] == 404
    members = body(requests=None, input_files=[file_id])
    assert api.json("POST", JOBS, json=members, key="eve")[0] == 404


def test_too_many_requests_of_one_key_are_a_429_with_mistrals_headers() -> None:
    api = Api(rate_limit=2)
    answers = [api.call("GET", JOBS) for _ in range(3)]
    if [answer.status_code for answer in answers] == [200, 200, 200]:  # the minute turned over
        answers = [*answers[1:], api.call("GET", JOBS), api.call("GET", JOBS)]
    last = answers[-1]
    assert (last.status_code, last.json["type"]) == (429, "rate_limited")
    assert int(last.headers["Retry-After"]) > 0
    assert last.headers["x-ratelimit-limit-req-minute"] == "2"
    assert last.headers["x-ratelimit-remaining-req-minute"] == "0"
    assert api.call("GET", JOBS, key="another").status_code == 200
