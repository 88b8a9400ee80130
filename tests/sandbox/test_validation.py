"""What is refused, and how. Source of the limits: Mistral's OpenAPI, CreateBatchJobRequest."""

from __future__ import annotations

import uuid

import pytest

from tests.sandbox.api import JOBS, Api, body

ID = str(uuid.uuid4())
REQUEST = {"custom_id": "a", "body": {}}


@pytest.mark.parametrize(
    ("members", "loc", "type"),
    [
        ({"endpoint": None}, ["endpoint"], "missing"),
        ({"endpoint": "/v1/nothing"}, ["endpoint"], "enum"),
        ({"endpoint": 5}, ["endpoint"], "enum"),
        ({"model": 5}, ["model"], "string_type"),
        ({"timeout_hours": 0}, ["timeout_hours"], "greater_than_equal"),
        ({"timeout_hours": 169}, ["timeout_hours"], "less_than_equal"),
        ({"timeout_hours": 1.5}, ["timeout_hours"], "int_from_float"),
        ({"timeout_hours": "24.5"}, ["timeout_hours"], "int_parsing"),
        ({"timeout_hours": "day"}, ["timeout_hours"], "int_parsing"),
        ({"metadata": []}, ["metadata"], "dict_type"),
        ({"metadata": {"": "x"}}, ["metadata", "", "[key]"], "string_too_short"),
        ({"metadata": {"k" * 33: "x"}}, ["metadata", "k" * 33, "[key]"], "string_too_long"),
        ({"metadata": {"k": ""}}, ["metadata", "k"], "string_too_short"),
        ({"metadata": {"k": "v" * 513}}, ["metadata", "k"], "string_too_long"),
        ({"metadata": {"k": 1}}, ["metadata", "k"], "string_type"),
        ({"requests": {}}, ["requests"], "list_type"),
        ({"requests": ["x"]}, ["requests", 0], "dict_type"),
        ({"requests": [REQUEST, {}]}, ["requests", 1, "body"], "missing"),
        ({"requests": [{"body": "x"}]}, ["requests", 0, "body"], "dict_type"),
        ({"requests": [{"body": {}, "custom_id": 1}]}, ["requests", 0, "custom_id"], "string_type"),
        ({"requests": [{"body": {}}] * 10_001}, ["requests"], "too_long"),
        ({"requests": None, "input_files": "x"}, ["input_files"], "list_type"),
        ({"requests": None, "input_files": ["x"]}, ["input_files", 0], "uuid_parsing"),
        ({"requests": None}, [], "value_error"),
        ({"requests": [], "input_files": []}, [], "value_error"),
        ({"input_files": [ID]}, [], "value_error"),
    ],
)
def test_a_body_that_breaks_the_contract_is_refused(
    api: Api, members: dict[str, object], loc: list[object], type: str
) -> None:
    status, answer = api.json("POST", JOBS, json=body(**members))
    assert status == 422
    assert [(row["loc"], row["type"]) for row in answer["detail"]] == [(["body", *loc], type)]
    assert all(row.keys() == {"type", "loc", "msg", "input"} for row in answer["detail"])
    assert api.list() == []


def test_every_fault_is_named(api: Api) -> None:
    members = {"endpoint": "/v1/x", "model": 1, "timeout_hours": 0}
    status, answer = api.json("POST", JOBS, json=body(**members))
    assert status == 422
    assert {row["loc"][1] for row in answer["detail"]} == members.keys()


def test_limits_themselves_are_within_the_limits(api: Api) -> None:
    api.create(requests=[{"body": {}}] * 10_000, timeout_hours=168)
    api.create(metadata={"k" * 32: "v" * 512}, timeout_hours=1)


@pytest.mark.parametrize("hours", [24.0, "24.0", " 24 "])
def test_hours_may_be_written_as_pydantic_reads_them(api: Api, hours: object) -> None:
    assert api.create(timeout_hours=hours)["status"] == "QUEUED"


def test_null_is_as_good_as_absent_where_the_schema_allows_it(api: Api) -> None:
    names = ("input_files", "model", "agent_id", "metadata")
    status, _ = api.json("POST", JOBS, json={**body(), **dict.fromkeys(names)})
    assert status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a": NaN}'])
def test_a_body_that_is_no_json_is_a_400(api: Api, raw: bytes) -> None:
    status, answer = api.json("POST", JOBS, data=raw, content_type="application/json")
    assert (status, list(answer)) == (400, ["detail"])


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"x"', b"7"])
def test_a_body_that_is_no_object_is_a_422(api: Api, raw: bytes) -> None:
    assert api.json("POST", JOBS, data=raw, content_type="application/json")[0] == 422


def test_another_media_type_is_a_422(api: Api) -> None:
    assert api.json("POST", JOBS, data=b"{}", content_type="text/plain")[0] == 422


def test_unknown_members_are_ignored_unless_refused() -> None:
    wrong = body(timeoutHours=3)
    assert Api().json("POST", JOBS, json=wrong)[0] == 200
    status, answer = Api(unknown_members="refuse").json("POST", JOBS, json=wrong)
    assert status == 422
    assert [row["loc"] for row in answer["detail"]] == [["body", "timeoutHours"]]


def test_both_kinds_of_input_can_be_accepted() -> None:
    api = Api(both_inputs="accept")
    _, file = api.upload(b'{"body":{}}\n')
    job = api.finish(api.create(input_files=[file["id"]]))
    assert job["total_requests"] == 4


def test_the_start_of_loc_is_a_setting() -> None:
    _, answer = Api(error_loc="body.data").json("POST", JOBS, json={})
    assert answer["detail"][0]["loc"] == ["body", "data", "endpoint"]


@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("POST", "/cancel"), ("DELETE", "")])
def test_an_id_is_422_when_malformed_and_404_when_unknown(api: Api, method: str, tail: str) -> None:
    assert api.json(method, f"{JOBS}/nonsense{tail}")[0] == 422
    assert api.json(method, f"{JOBS}/{ID}{tail}") == (404, {"detail": "Not Found"})


def test_a_wrong_verb_is_a_405_that_names_the_right_ones(api: Api) -> None:
    response = api.call("PUT", JOBS)
    assert (response.status_code, response.json) == (405, {"detail": "Method Not Allowed"})
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", ["/v1/batch/jobs/", "/v1//batch/jobs", "/v1/nothing", "/v2"])
def test_an_unknown_path_is_a_404_and_never_a_redirect(api: Api, path: str) -> None:
    assert api.json("GET", path) == (404, {"detail": "Not Found"})


def test_a_body_above_the_limit_is_a_413() -> None:
    assert Api(max_body_bytes=100).json("POST", JOBS, json=body())[0] == 413
