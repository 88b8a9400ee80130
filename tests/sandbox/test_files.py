"""Files, uploaded and left by jobs. Source: Mistral's OpenAPI, files_api_routes_*."""

from __future__ import annotations

import io
import json
import uuid

import pytest

from tests.sandbox.api import CHAT, JOBS, Api

LINES = b'{"custom_id":"a","body":{}}\n{"custom_id":"b","body":{},"method":"POST","url":"/x"}'
RESULT = {
    "object": "file",
    "purpose": "batch",
    "sample_type": "batch_result",
    "source": "mistral",
    "num_lines": 3,
    "mimetype": "application/jsonl",
}


def test_an_upload_is_described_as_mistral_does(api: Api) -> None:
    status, file = api.upload(LINES, "in.jsonl")
    assert status == 200
    uuid.UUID(file.pop("id"))
    assert type(file.pop("created_at")) is int
    assert file == {
        "object": "file",
        "bytes": len(LINES),
        "filename": "in.jsonl",
        "purpose": "batch",
        "sample_type": "batch_request",
        "source": "upload",
        "num_lines": 2,
        "mimetype": file["mimetype"],
        "signature": None,
        "expires_at": None,
        "visibility": "workspace",
    }


def test_an_uploaded_file_can_be_read_and_deleted(api: Api) -> None:
    _, file = api.upload(LINES)
    path = f"/v1/files/{file['id']}"
    assert api.json("GET", path) == (200, {**file, "deleted": False})
    content = api.call("GET", f"{path}/content")
    assert (content.data, content.mimetype) == (LINES, "application/octet-stream")
    gone = {"id": file["id"], "object": "file", "deleted": True}
    assert api.json("DELETE", path) == (200, gone)
    for tail in ("", "/content", "/url"):
        assert api.json("GET", path + tail)[0] == 404


def test_a_job_runs_the_lines_of_its_input_files_in_turn(api: Api) -> None:
    files = [api.upload(LINES)[1]["id"], api.upload(b'{"custom_id":"c","body":{}}')[1]["id"]]
    job = api.create(requests=None, input_files=files)
    assert job["input_files"] == files
    outputs = api.finish(job, inline="true")["outputs"]
    assert sorted(row["custom_id"] for row in outputs) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"{", b"[]", b'{"custom_id":"a"}', LINES + b"\n" + LINES]
)
def test_bad_lines_are_taken_at_upload_and_fail_the_job(api: Api, content: bytes) -> None:
    status, file = api.upload(content)
    assert status == 200
    job = api.finish(api.create(requests=None, input_files=[file["id"]]))
    assert job["status"] == "FAILED"
    assert job["errors"]


@pytest.mark.parametrize("status", [404, 422])
def test_the_answer_to_an_unknown_input_file_is_a_setting(status: int) -> None:
    api = Api(unknown_file_status=status)
    members = {"endpoint": CHAT, "input_files": [str(uuid.uuid4())]}
    assert api.json("POST", JOBS, json=members)[0] == status


@pytest.mark.parametrize("status", [404, 422])
def test_the_answer_to_a_file_of_another_purpose_is_a_setting(status: int) -> None:
    api = Api(wrong_purpose_status=status)
    _, file = api.upload(LINES, purpose="ocr")
    members = {"endpoint": CHAT, "input_files": [file["id"]]}
    assert api.json("POST", JOBS, json=members)[0] == status


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "other"},
        {"expiry": "0"},
        {"expiry": "x"},
        {"expiry": "9" * 400},
        {"visibility": "all"},
    ],
)
def test_an_upload_with_a_wrong_field_is_refused(api: Api, fields: dict[str, str]) -> None:
    status, answer = api.upload(LINES, **fields)
    assert status == 422
    assert len(answer["detail"]) == 1


def test_an_upload_without_a_file_is_refused(api: Api) -> None:
    status, answer = api.json("POST", "/v1/files", data={"purpose": "batch"})
    assert (status, answer["detail"][0]["type"]) == (422, "missing")


def test_a_file_of_another_type_is_refused_in_words(api: Api) -> None:
    status, answer = api.upload(b"PK", "in.zip")
    assert (status, answer["detail"]) == (422, "Invalid file format.")
    assert "application/zip" in answer["message"]


def test_results_are_files_once_the_job_is_finished(api: Api) -> None:
    job = api.create()
    assert api.json("GET", "/v1/files?source=mistral&sample_type=batch_result")[1]["data"] == []
    job = api.finish(job)
    status, file = api.json("GET", f"/v1/files/{job['output_file']}")
    assert status == 200
    assert {name: file[name] for name in RESULT} == RESULT
    assert file["bytes"] == len(api.call("GET", f"/v1/files/{file['id']}/content").data)
    assert file["created_at"] == job["completed_at"]


def test_there_is_no_result_file_before_the_job_is_finished(api: Api) -> None:
    job = api.create()
    output = api.app.extensions["sandbox"].jobs[job["id"]].output_file
    assert api.json("GET", f"/v1/files/{output}/content")[0] == 404
    api.advance(3600)
    assert api.call("GET", f"/v1/files/{output}/content").status_code == 200


def test_results_can_have_a_limited_life() -> None:
    api = Api(retention_hours=24.0)
    job = api.finish(api.create())
    path = f"/v1/files/{job['output_file']}/content"
    api.advance(22 * 3600)
    assert api.call("GET", path).status_code == 200
    api.advance(2 * 3600)
    assert api.call("GET", path).status_code == 404


def test_an_upload_can_have_a_limited_life(api: Api) -> None:
    _, file = api.upload(LINES, expiry="2")
    assert file["expires_at"] == pytest.approx(file["created_at"] + 7200, abs=1)
    api.advance(7201)
    assert api.json("GET", f"/v1/files/{file['id']}")[0] == 404


def test_inline_requests_become_an_input_file(api: Api) -> None:
    [file_id] = api.create(["hello"])["input_files"]
    content = api.call("GET", f"/v1/files/{file_id}/content").data
    assert json.loads(content)["body"]["messages"][0]["content"] == "hello"


def test_the_input_file_of_inline_requests_is_a_setting() -> None:
    assert Api(inline_input_file=False).create()["input_files"] == []


def test_files_are_listed_newest_first_in_pages_and_by_filter(api: Api) -> None:
    names = []
    for name, purpose in [("a.jsonl", "batch"), ("b.pdf", "ocr"), ("c.jsonl", "batch")]:
        names.append(api.upload(LINES, name, purpose=purpose)[1]["filename"])
        api.advance(1)

    def listed(query: str) -> list[str]:
        return [file["filename"] for file in api.json("GET", f"/v1/files?{query}")[1]["data"]]

    assert listed("") == names[::-1]
    assert listed("page=1&page_size=2") == ["a.jsonl"]
    assert listed("purpose=ocr") == ["b.pdf"]
    assert listed("search=c.js") == ["c.jsonl"]
    assert listed("sample_type=batch_request&source=upload") == ["c.jsonl", "a.jsonl"]
    assert listed("mimetypes=none/none") == []
    assert api.json("GET", "/v1/files")[1]["total"] == 3
    assert api.json("GET", "/v1/files?include_total=false")[1]["total"] is None


def test_a_signed_address_gives_the_file_without_a_key_until_it_expires(api: Api) -> None:
    _, file = api.upload(LINES)
    path = f"/v1/files/{file['id']}/url"
    status, answer = api.json("GET", path, query_string={"expiry": 2})
    assert status == 200
    assert api.call("GET", answer["url"], key=None).data == LINES
    api.advance(7201)
    assert api.call("GET", answer["url"], key=None).status_code == 404
    assert api.json("GET", path, query_string={"expiry": 169})[0] == 422


def test_a_file_above_the_limit_is_a_413() -> None:
    api = Api(max_file_bytes=1000)
    assert api.upload(b"x" * 1000)[0] == 200
    assert api.upload(b"x" * 1001)[0] == 413


def test_a_private_file_is_for_its_user_alone() -> None:
    api = Api(keys="a=w/one,b=w/two")
    headers = {"Authorization": "Bearer a"}
    data = {"purpose": "batch", "visibility": "user", "file": (io.BytesIO(LINES), "x.jsonl")}
    file = api.client.post("/v1/files", data=data, headers=headers).json
    path = f"/v1/files/{file['id']}"
    assert api.json("GET", path, key="a")[0] == 200
    assert api.json("GET", path, key="b")[0] == 404
