"""The ledger and the rest of the admin API."""

from __future__ import annotations

import hashlib
import json

import pytest

from sandbox import demo
from sandbox.jobs import STATUSES
from tests.sandbox.api import JOBS, Api, body

SECRET = "sk-very-secret-0123456789"


def test_the_ledger_holds_what_was_received(api: Api) -> None:
    sent = json.dumps(body(metadata={"ä": "ö"}), ensure_ascii=False).encode()
    headers = {"X-Other": "Value"}
    job = api.call(
        "POST", f"{JOBS}?a=1&a=%20", data=sent, content_type="application/json", headers=headers
    ).json
    [entry] = api.json("GET", "/sandbox/ledger")[1]
    assert entry["body"].encode() == sent
    assert (entry["body_bytes"], entry["body_sha256"]) == (
        len(sent),
        hashlib.sha256(sent).hexdigest(),
    )
    expected = {"method": "POST", "path": JOBS, "query": "a=1&a=%20", "job_id": job["id"]}
    expected |= {"outcome": "answered", "status": 200, "workspace": "default", "user": "default"}
    assert {name: entry[name] for name in expected} == expected
    assert entry["headers"]["x-other"] == "Value"
    assert entry["headers"]["content-type"] == "application/json"
    assert entry["received_at"] <= entry["answered_at"]


def test_bytes_that_are_no_text_are_kept_in_base64(api: Api) -> None:
    api.call("POST", JOBS, data=b"\xff\x00", content_type="application/json")
    [entry] = api.json("GET", "/sandbox/ledger")[1]
    assert (entry["body"], entry["body_base64"]) == (None, "/wA=")


def test_a_long_body_is_cut_but_measured_whole(api: Api) -> None:
    sent = ("ä" * 200_001).encode()
    api.call("POST", JOBS, data=b"x" + sent, content_type="application/json")
    [entry] = api.json("GET", "/sandbox/ledger")[1]
    assert len(entry["body"].encode()) < entry["body_bytes"] == len(sent) + 1


def test_a_key_is_kept_nowhere_but_two_keys_can_be_told_apart(api: Api) -> None:
    api.create(key=SECRET)
    api.call("GET", JOBS, key=SECRET + "x")
    api.call("GET", JOBS, key=SECRET)
    whole = api.call("GET", "/sandbox/ledger")
    assert SECRET not in whole.text
    first, second, third = (row["headers"]["authorization"] for row in whole.json)
    assert first.startswith("Bearer sha256:")
    assert first == third != second


def test_the_ledger_can_be_searched_and_cleared(api: Api) -> None:
    api.create()
    api.list()
    _, posts = api.json("GET", f"/sandbox/ledger?method=POST&path={JOBS}")
    assert [row["method"] for row in posts] == ["POST"]
    api.call("DELETE", "/sandbox/ledger")
    assert api.json("GET", "/sandbox/ledger")[1] == []


def test_the_ledger_remembers_the_last_requests_only() -> None:
    api = Api(ledger_entries=3)
    for page in range(5):
        api.list(page=page)
    assert [row["query"] for row in api.json("GET", "/sandbox/ledger")[1]] == [
        "page=2",
        "page=3",
        "page=4",
    ]


def test_requests_to_wrong_paths_and_without_keys_are_in_the_ledger_too(api: Api) -> None:
    api.call("GET", "/elsewhere")
    api.call("GET", JOBS, key=None)
    rows = api.json("GET", "/sandbox/ledger")[1]
    assert [(row["path"], row["status"]) for row in rows] == [("/elsewhere", 404), (JOBS, 401)]


def test_the_admin_api_needs_no_key_and_stays_out_of_the_ledger(api: Api) -> None:
    for path in ("/", "/sandbox/state", "/sandbox/ledger", "/sandbox/faults"):
        assert api.call("GET", path, key=None).status_code == 200
    assert api.json("GET", "/sandbox/ledger")[1] == []


@pytest.mark.parametrize("path", ["/", "/sandbox/state", JOBS, "/v1/nothing"])
def test_every_answer_says_that_this_is_a_sandbox_and_has_trace_ids(api: Api, path: str) -> None:
    headers = api.call("GET", path).headers
    assert headers["X-Sandbox"] == "mistral-batch-gateway-sandbox"
    assert headers["mistral-correlation-id"]
    assert headers["x-kong-request-id"]


def test_reset_makes_everything_as_new(api: Api) -> None:
    first = api.create()
    api.advance(10_000)
    api.call("POST", "/sandbox/faults", json={"fault": "hang"})
    _, state = api.json("POST", "/sandbox/reset")
    assert (state["jobs"], state["files"], state["faults"]) == ({}, 0, 0)
    assert api.list() == []
    assert api.create()["id"] == first["id"]


@pytest.mark.parametrize("seconds", ["-1", '"x"', "null", "NaN", "1e300", "Infinity"])
def test_the_clock_moves_forward_by_numbers_only(api: Api, seconds: str) -> None:
    body = f'{{"seconds": {seconds}}}'
    assert api.json("POST", "/sandbox/clock/advance", data=body)[0] == 422


def test_the_demonstration_has_a_job_in_every_status_and_stays_the_same(api: Api) -> None:
    _, state = api.json("POST", "/sandbox/demo")
    assert state["jobs"].keys() == set(STATUSES)
    ids = api.list()
    api.advance(500_000)
    api.call("POST", "/sandbox/demo")
    assert api.list() == ids
    assert api.json("GET", "/sandbox/state")[1]["jobs"] == state["jobs"]


def test_the_demonstration_has_two_users_and_two_workspaces(api: Api) -> None:
    api.call("POST", "/sandbox/demo")
    mine = set(api.list(created_by_me="true"))
    colleague = set(api.list(key="demo-colleague", created_by_me="true"))
    assert mine and colleague and not mine & colleague
    assert set(api.list(key="demo-colleague")) == set(api.list()) == mine | colleague
    assert len(api.list(key="demo-stranger")) == 1


def test_the_demonstration_results_can_be_read(api: Api) -> None:
    api.call("POST", "/sandbox/demo")
    for job_id in api.list(status="SUCCESS"):
        job = api.get({"id": job_id}, inline="true")
        assert len(job["outputs"]) == job["total_requests"]
        for name in ("output_file", "error_file"):
            if job[name]:
                assert api.call("GET", f"/v1/files/{job[name]}/content").status_code == 200


def test_the_demonstration_is_the_same_everywhere() -> None:
    def ids(seed: int) -> list[str]:
        api = Api(seed=seed, demo=True)
        demo.load(api.app.extensions["sandbox"])
        return api.list()

    assert ids(1) == ids(2)
