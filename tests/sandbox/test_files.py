"""Files, uploaded and left by jobs. Source: Mistral's OpenAPI, files_api_routes_*."""

from __future__ import annotations

import io
import json
import uuid
from typing import Any

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
        "mimetype": "application/jsonl",
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
    "content",
    [
        b"",
        b"\n\n",
        b"{",
        b"[]",
        b'{"custom_id":"a"}',
        LINES + b"\n" + LINES,
        b'{"body":{"x":NaN}}',
        b'{"body":{"x":-Infinity}}',
        b'{"body":{"x":"\xff"}}',
        '{"body":{}}'.encode("utf-16"),
        '{"body":{}}'.encode("utf-16-le"),
        '{"body":{}}'.encode("utf-32"),
    ],
)
def test_bad_lines_are_taken_at_upload_and_fail_the_job(api: Api, content: bytes) -> None:
    status, file = api.upload(content)
    assert status == 200
    job = api.finish(api.create(requests=None, input_files=[file["id"]]))
    assert job["status"] == "FAILED"
    assert job["errors"]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"custom_id":"a","body":{}}\n{"custom_id":"b","body":{}}',
        b'\r\n{"custom_id":"a","body":{}}\r\n\r\n{"custom_id":"b","body":{}}\r\n\n',
        b' {"custom_id":"a","body":{}}\n\t\n{"custom_id":"b","body":{}} ',
    ],
    ids=["mark", "crlf", "blanks"],
)
def test_what_mistral_is_not_known_to_refuse_in_a_file_runs(api: Api, content: bytes) -> None:
    _, file = api.upload(content)
    assert file["num_lines"] == 2
    job = api.finish(api.create(requests=None, input_files=[file["id"]]), inline="true")
    assert sorted(row["custom_id"] for row in job["outputs"]) == ["a", "b"]


def test_a_job_of_more_requests_than_fit_inline_runs_from_a_file(api: Api) -> None:
    content = b"".join(
        b'{"custom_id":"%d","body":{"prompt":"%d"}}\n' % (n, n) for n in range(10_001)
    )
    _, file = api.upload(content)
    assert file["num_lines"] == 10_001
    job = api.create(requests=None, input_files=[file["id"]])
    api.call("DELETE", f"/v1/files/{file['id']}")  # a job needs its file no more
    job = api.finish(job)
    assert (job["status"], job["succeeded_requests"]) == ("SUCCESS", 10_001)
    results = api.call("GET", f"/v1/files/{job['output_file']}/content").data.splitlines()
    answers = {row["custom_id"]: row["response"]["body"] for row in map(json.loads, results)}
    assert len(answers) == 10_001
    assert answers["9999"]["choices"][0]["message"]["content"] == "Sandbox answer to: 9999"


@pytest.mark.parametrize(
    ("most", "content", "reason"),
    [
        ({}, "Sandbox answer to: abcdef", "stop"),
        ({"max_tokens": 7}, "Sandbox answer to: abcdef", "stop"),
        ({"max_tokens": 5}, "Sandbox answer to: a", "length"),
        ({"max_tokens": 0}, "", "length"),
    ],
)
def test_an_answer_has_no_more_than_max_tokens(
    api: Api, most: dict[str, int], content: str, reason: str
) -> None:
    body = {"messages": [{"role": "user", "content": "abcdef"}], **most}
    job = api.finish(api.create(requests=[{"custom_id": "1", "body": body}]), inline="true")
    answer = job["outputs"][0]["response"]["body"]
    choice = answer["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)
    assert answer["usage"]["completion_tokens"] <= most.get("max_tokens", 7)


def test_of_a_file_full_of_bad_lines_no_more_than_a_hundred_are_told(api: Api) -> None:
    _, file = api.upload(b"{\n" * 1000)
    job = api.finish(api.create(requests=None, input_files=[file["id"]]))
    assert len(job["errors"]) == 100


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
        {"purpose": "Batch"},
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


@pytest.mark.parametrize(
    ("purpose", "sample_type"),
    [
        ("batch", "batch_request"),
        ("fine-tune", "instruct"),
        ("ocr", "ocr_input"),  # Mistral's documentation, Basic OCR
        ("audio", "audio_input"),
        ("agentic_safety", "agentic_safety_input"),
    ],
)
def test_an_upload_may_be_for_any_purpose_of_mistral(
    api: Api, purpose: str, sample_type: str
) -> None:
    status, file = api.upload(LINES, purpose=purpose)
    assert (status, file["purpose"], file["sample_type"]) == (200, purpose, sample_type)
    assert api.json("GET", f"/v1/files?sample_type={sample_type}")[1]["data"] == [file]


def test_the_purposes_are_a_setting() -> None:
    api = Api(purposes="batch,new")
    assert api.upload(LINES, purpose="new")[0] == 200
    assert api.upload(LINES, purpose="ocr")[0] == 422
    assert Api(purposes="").upload(LINES, purpose="anything")[0] == 200


@pytest.mark.parametrize(
    ("name", "mimetype"),
    [
        ("a.jsonl", "application/jsonl"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_media_type_of_an_upload_is_that_of_its_name(
    api: Api, name: str, mimetype: str
) -> None:
    data = {"purpose": "batch", "file": (io.BytesIO(LINES), name, "application/octet-stream")}
    assert api.json("POST", "/v1/files", data=data)[1]["mimetype"] == mimetype


def test_the_order_of_the_form_does_not_matter(api: Api) -> None:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
        + LINES
        + b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )
    kind = "multipart/form-data; boundary=b"
    status, file = api.json("POST", "/v1/files", data=form, content_type=kind)
    assert (status, file["purpose"], file["bytes"]) == (200, "batch", len(LINES))


def test_of_a_repeated_part_the_last_counts(api: Api) -> None:  # as in FastAPI
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part
        for part in [
            (b'file"; filename="one.jsonl', b"1"),
            (b"purpose", b"ocr"),
            (b'file"; filename="two.jsonl', b"22"),
            (b"purpose", b"batch"),
        ]
    )
    kind = "multipart/form-data; boundary=b"
    _, file = api.json("POST", "/v1/files", data=form + b"--b--\r\n", content_type=kind)
    assert (file["filename"], file["bytes"], file["purpose"]) == ("two.jsonl", 2, "batch")


def test_an_upload_without_a_file_is_refused(api: Api) -> None:
    status, answer = api.json("POST", "/v1/files", data={"purpose": "batch"})
    assert (status, answer["detail"][0]["type"]) == (422, "missing")


def test_a_file_of_another_type_is_refused_in_words(api: Api) -> None:
    status, answer = api.upload(b"PK", "in.zip")
    assert (status, answer["detail"]) == (422, "Invalid file format.")
    assert "application/zip" in answer["message"]


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("in.jsonl", "attachment; filename=in.jsonl"),
        ('a "b".jsonl', 'attachment; filename="a \\"b\\".jsonl"'),
        ("é.jsonl", "attachment; filename*=UTF-8''%C3%A9.jsonl"),
        ("a\r\nX-Evil: 1", "attachment; filename*=UTF-8''a%0D%0AX-Evil%3A%201"),
    ],
)
def test_content_is_sent_as_an_attachment_with_its_name_and_length(
    api: Api, name: str, disposition: str
) -> None:
    state = api.app.extensions["sandbox"]
    _, file = api.upload(LINES)
    state.files[file["id"]].filename = name
    answer = api.call("GET", f"/v1/files/{file['id']}/content")
    assert answer.headers["Content-Disposition"] == disposition
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(LINES))
    assert "Accept-Ranges" not in answer.headers


def test_a_look_at_content_sends_nothing_of_it(api: Api) -> None:
    _, file = api.upload(LINES)
    answer = api.call("HEAD", f"/v1/files/{file['id']}/content")
    assert (answer.headers["Content-Length"], answer.data) == (str(len(LINES)), b"")


def test_a_range_is_ignored_unless_that_is_set() -> None:
    api = Api()
    _, file = api.upload(LINES)
    answer = api.call("GET", f"/v1/files/{file['id']}/content", headers={"Range": "bytes=5-"})
    assert (answer.status_code, answer.data) == (200, LINES)


@pytest.mark.parametrize(
    ("headers", "status", "part", "content_range"),
    [
        ({}, 200, LINES, None),
        ({"Range": "bytes=0-0"}, 206, LINES[:1], f"bytes 0-0/{len(LINES)}"),
        ({"Range": "bytes=5-9"}, 206, LINES[5:10], f"bytes 5-9/{len(LINES)}"),
        ({"Range": "bytes=5-999"}, 206, LINES[5:], f"bytes 5-{len(LINES) - 1}/{len(LINES)}"),
        ({"Range": "bytes=-3"}, 206, LINES[-3:], None),
        ({"Range": f"bytes={len(LINES)}-"}, 416, b"", f"bytes */{len(LINES)}"),
        ({"Range": "bytes=1-2,4-5"}, 200, LINES, None),
        ({"Range": "lines=1-2"}, 200, LINES, None),
        ({"Range": "bytes=x"}, 200, LINES, None),
        ({"Range": "bytes=1-2", "If-Range": '"other"'}, 200, LINES, None),
    ],
)
def test_a_range_can_be_had_where_that_is_set(
    headers: dict[str, str], status: int, part: bytes, content_range: str | None
) -> None:
    api = Api(ranges=True)
    _, file = api.upload(LINES)
    answer = api.call("GET", f"/v1/files/{file['id']}/content", headers=headers)
    assert (answer.status_code, answer.data) == (status, part)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(len(part))
    if content_range:
        assert answer.headers["Content-Range"] == content_range


def test_a_range_of_what_has_not_changed_can_be_had() -> None:
    api = Api(ranges=True)
    _, file = api.upload(LINES)
    path = f"/v1/files/{file['id']}/content"
    etag = api.call("GET", path).headers["ETag"]
    answer = api.call("GET", path, headers={"Range": "bytes=1-2", "If-Range": etag})
    assert (answer.status_code, answer.data) == (206, LINES[1:3])


def test_the_same_file_again_is_a_new_one_or_the_old_one_as_it_is_set() -> None:
    for setting, outcome, files in (("new", "kept", 2), ("old", "same", 1)):
        api = Api(same_file=setting)
        first, second = api.upload(LINES)[1], api.upload(LINES)[1]
        assert (first["id"] == second["id"]) == (outcome == "same")
        assert api.json("GET", "/v1/files")[1]["total"] == files
        entry = api.json("GET", "/sandbox/ledger")[1][1]["upload"]
        assert (entry["outcome"], entry["file_id"]) == (outcome, second["id"])


@pytest.mark.parametrize(
    "other",
    [
        {"content": LINES + b"\n"},
        {"name": "other.jsonl"},
        {"purpose": "ocr"},
        {"visibility": "user"},
    ],
)
def test_another_file_is_never_the_same(other: dict[str, Any]) -> None:
    api = Api(same_file="old")
    first = api.upload(LINES)[1]["id"]
    assert api.upload(**{"content": LINES, **other})[1]["id"] != first
    assert api.upload(LINES)[1]["id"] == first
    api.call("DELETE", f"/v1/files/{first}")
    assert api.upload(LINES)[1]["id"] != first


def test_a_file_of_another_workspace_is_never_the_same() -> None:
    api = Api(same_file="old", keys="b=elsewhere/one")
    form = {"purpose": "batch", "file": (io.BytesIO(LINES), "in.jsonl")}
    file = api.json("POST", "/v1/files", data=form, key="b")[1]
    assert api.upload(LINES)[1]["id"] != file["id"]


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
    api.advance(7199)
    assert api.json("GET", f"/v1/files/{file['id']}")[0] == 200
    api.advance(2)
    for tail in ("", "/content", "/url"):
        assert api.json("GET", f"/v1/files/{file['id']}{tail}")[0] == 404
    assert api.json("GET", "/v1/files")[1]["data"] == []
    members = {"endpoint": CHAT, "input_files": [file["id"]]}
    assert api.json("POST", JOBS, json=members)[0] == 404


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
    assert listed("purpose=batch&purpose=ocr") == ["b.pdf"]  # as FastAPI reads it
    assert listed("purpose=none") == []
    assert listed("search=c.js") == ["c.jsonl"]
    assert listed("sample_type=batch_request&source=upload") == ["c.jsonl", "a.jsonl"]
    assert listed("sample_type=batch_request&sample_type=ocr_input") == names[::-1]
    assert listed("source=mistral&source=repository") == []
    assert listed("mimetypes=none/none") == []
    assert listed("mimetypes=application/jsonl") == ["c.jsonl", "a.jsonl"]
    assert listed("mimetypes=application/jsonl&mimetypes=application/pdf") == names[::-1]
    assert api.json("GET", "/v1/files?purpose=batch&page_size=1")[1]["total"] == 2
    assert api.json("GET", "/v1/files")[1]["total"] == 3
    assert api.json("GET", "/v1/files?include_total=false")[1]["total"] is None


def test_a_signed_address_gives_the_file_without_a_key_until_it_expires(api: Api) -> None:
    _, file = api.upload(LINES)
    path = f"/v1/files/{file['id']}/url"
    status, answer = api.json("GET", path, query_string={"expiry": 2})
    assert status == 200
    opened = api.call("GET", answer["url"], key=None)
    assert opened.data == LINES
    assert opened.headers["Content-Disposition"] == "attachment; filename=in.jsonl"
    [entry] = api.json("GET", "/sandbox/ledger")[1][-1:]  # so that who follows a link is found out
    assert entry["path"].startswith("/blob/")
    api.advance(7201)
    assert api.call("GET", answer["url"], key=None).status_code == 404
    assert api.json("GET", path, query_string={"expiry": 169})[0] == 422


@pytest.mark.parametrize("status", [302, 307])
def test_content_can_be_elsewhere(status: int) -> None:
    api = Api(content_redirect=status)
    _, file = api.upload(LINES)
    answer = api.call("GET", f"/v1/files/{file['id']}/content")
    assert (answer.status_code, answer.data) == (status, b"")
    assert api.call("GET", answer.headers["Location"], key=None).data == LINES


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
