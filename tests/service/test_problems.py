"""Failures: every row of the problem table, and what hostile input gets. Expectations: RFC 9457 and docs/problems.md."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from openapi.contract import load
from service.edge import Edge
from service.problems import PROBLEMS, Problem
from service.request_context import current
from service.translation import parse_answer
from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID, credentials

ROOT = Path(__file__).parents[2]
JOBS = f"{UPSTREAM}/v1/batch/jobs"
MEMBERS = {
    "type",
    "title",
    "status",
    "detail",
    "instance",
    "request_id",
    "source",
    "retryable",
    "upstream_status",
    "errors",
    "upstream",
}
JSON = {"content-type": "application/json"}


def slug(answer: Any) -> str:
    """The kind of problem that an answer is; it must be a whole problem document."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert document.keys() <= MEMBERS
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    page, _, anchor = document["type"].partition("#")
    assert page == "/problems"
    return str(anchor)


# Mistral's bodies as reported by callers of the live API.
@pytest.mark.parametrize(
    ("status", "body", "expected", "kind", "retryable"),
    [
        (400, {"object": "error", "message": "no", "type": "invalid_model", "code": "1500"}, 400, "upstream-rejected", False),
        (401, {"detail": "Unauthorized"}, 502, "upstream-refused-key", False),
        (402, {"detail": "You cannot launch batch jobs this big with your free trial."}, 402, "upstream-rejected", False),
        (403, {"message": "tier", "type": "tier_not_allowed", "code": "1910"}, 502, "upstream-refused-key", False),
        (404, {"detail": "Not Found"}, 404, "upstream-rejected", False),
        (422, {"detail": [{"type": "x", "loc": ["body", "endpoint"], "msg": "bad"}]}, 422, "upstream-rejected", False),
        (429, {"message": "Rate limit exceeded"}, 429, "rate-limited", True),
        (500, {"message": "oops"}, 500, "upstream-failed", True),
        (503, {"message": "oops"}, 503, "upstream-failed", True),
    ],
)  # fmt: skip
def test_an_upstream_error_keeps_its_status_unless_it_concerns_the_key(
    status: int,
    body: Any,
    expected: int,
    kind: str,
    retryable: bool,
    mistral: RequestsMock,
    client: TestClient,
) -> None:
    mistral.get(JOBS, json=body, status=status)
    answer = client.get("/v1/batch/jobs")
    document = answer.json()
    assert (answer.status_code, slug(answer), document["retryable"]) == (expected, kind, retryable)
    assert (document["source"], document["upstream_status"], document["upstream"]) == (
        "upstream",
        status,
        body,
    )


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html", "<html>"),
        (302, "application/json", "{}"),
        (404, "text/html", "<html>"),
        (502, "text/html", "<html>"),
        (500, "application/json", "{broken"),
    ],
)
def test_an_answer_that_is_not_json_is_a_bad_response(
    status: int, content_type: str, body: str, mistral: RequestsMock, client: TestClient
) -> None:
    headers = {"Location": "http://169.254.169.254/"} if status == 302 else {}
    mistral.get(JOBS, body=body, status=status, content_type=content_type, headers=headers)
    answer = client.get("/v1/batch/jobs")
    assert (answer.status_code, slug(answer), answer.json()["upstream_status"]) == (
        502,
        "upstream-bad-response",
        status,
    )
    assert len(mistral.calls) == 1


def test_a_body_too_large_for_the_upstream_is_refused_in_whatever_words(
    mistral: RequestsMock, client: TestClient
) -> None:
    """RFC 9110 section 15.5.14; a proxy before the API says it in HTML. A 502 would have clients with retries send it all again."""
    mistral.post(JOBS, body="<html>", status=413, content_type="text/html")
    answer = client.post("/v1/batch/jobs", json={"endpoint": "/v1/ocr"})
    assert (answer.status_code, slug(answer)) == (413, "upstream-rejected")


def test_a_create_that_the_upstream_failed_has_an_unknown_outcome(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={"message": "oops"}, status=503)
    answer = client.post("/v1/batch/jobs", json={"endpoint": "/v1/ocr"})
    assert (answer.status_code, slug(answer)) == (504, "create-outcome-unknown")
    assert (answer.json()["retryable"], answer.json()["upstream_status"]) == (False, 503)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7", "7"),
        ("Fri, 31 Dec 2027 23:59:59 GMT", "Fri, 31 Dec 2027 23:59:59 GMT"),
        ("99999999", "86400"),
        ("-1", None),
        ("soon", None),
        (None, None),
    ],
)
def test_retry_after_is_kept_when_well_formed(
    given: str | None, kept: str | None, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={}, status=429, headers={"Retry-After": given} if given else {})
    assert client.get("/v1/batch/jobs").headers.get("retry-after") == kept


def test_a_zero_quota_is_not_called_retryable(mistral: RequestsMock, client: TestClient) -> None:
    mistral.get(JOBS, json={}, status=429, headers={"x-ratelimit-limit-req-minute": "0"})
    assert client.get("/v1/batch/jobs").json()["retryable"] is False


def test_no_connection_is_upstream_unreachable(client: TestClient) -> None:
    answer = client.get("/v1/batch/jobs")  # the upstream of the fixture is a closed port
    assert (answer.status_code, slug(answer), answer.json()["retryable"]) == (
        502,
        "upstream-unreachable",
        True,
    )


def test_an_unexpected_failure_is_an_internal_error_that_tells_nothing(
    mistral: RequestsMock, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    mistral.get(JOBS, body=ZeroDivisionError("/etc/passwd"))
    answer = client.get("/v1/batch/jobs")
    assert (answer.status_code, slug(answer)) == (500, "internal-error")
    assert "passwd" not in answer.text
    assert answer.json()["request_id"] in caplog.text


@pytest.mark.anyio
async def test_an_unexpected_failure_of_a_request_whose_client_left_is_logged_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handling = asyncio.get_running_loop().create_future()

    async def handle(*_: Any) -> None:
        current().handling = handling
        await asyncio.shield(handling)

    scope = {"type": "http", "method": "POST", "path": "/v1/batch/jobs", "headers": []}
    edge = Edge(handle, contract=load(), tracing="")
    request = asyncio.ensure_future(edge(scope, handle, handle))
    await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    handling.set_exception(ZeroDivisionError("ours"))
    await asyncio.sleep(0)
    assert "ZeroDivisionError: ours" in caplog.text


HOSTILE = [
    ("invalid UTF-8", b'{"endpoint":"\xff"}', JSON, 400, "malformed-request"),
    ("UTF-16", '{"endpoint":"/v1/ocr"}'.encode("utf-16"), JSON, 400, "malformed-request"),
    ("byte order mark", b"\xef\xbb\xbf{}", JSON, 422, "validation-failed"),
    ("two byte order marks", b"\xef\xbb\xbf\xef\xbb\xbf{}", JSON, 400, "malformed-request"),
    ("deep nesting", b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, 400, "malformed-request"),
    ("deep nesting in an open object", b'{"requests":[{"body":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}]}", JSON, 400, "malformed-request"),
    (
        "deep nesting where it does not belong",
        b'{"endpoint":"/v1/ocr","requests":[{"body":' + b"[" * 300 + b"]" * 300 + b"}]}",
        JSON,
        422,
        "validation-failed",
    ),
    ("a number of 5,000 digits", b'{"timeout_hours":' + b"9" * 5000 + b"}", JSON, 400, "malformed-request"),
    ("NaN", b'{"endpoint":"/v1/ocr","requests":[{"body":{"t":NaN}}]}', JSON, 400, "malformed-request"),
    ("a lone surrogate", b'{"endpoint":"\\ud800"}', JSON, 400, "malformed-request"),
    ("trailing garbage", b"{} {}", JSON, 400, "malformed-request"),
    ("no body", b"", JSON, 400, "malformed-request"),
    ("null", b"null", JSON, 422, "validation-failed"),
    ("an array", b"[]", JSON, 422, "validation-failed"),
    ("text", b'{"endpoint":"/v1/ocr"}', {"content-type": "text/plain"}, 415, "unsupported-media-type"),
    ("no content type", b'{"endpoint":"/v1/ocr"}', {}, 415, "unsupported-media-type"),
    ("a form", b"endpoint=x", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
    ("UTF-16", '{"endpoint":"/v1/ocr"}'.encode("utf-16"), {"content-type": "application/json; charset=utf-16"}, 400, "malformed-request"),
    ("UTF-16 without a mark", '{"endpoint":"/v1/ocr"}'.encode("utf-16-le"), {"content-type": "application/json; charset=utf-16"}, 400, "malformed-request"),
    ("latin-1", '{"endpoint":"é"}'.encode("latin-1"), {"content-type": "application/json; charset=latin-1"}, 400, "malformed-request"),
    ("gzip", b"\x1f\x8b\x08", {**JSON, "content-encoding": "gzip"}, 415, "unsupported-media-type"),
]  # fmt: skip


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json; charset=utf8",
        "application/json;charset=UTF-8",
        "Application/JSON ; odata=verbose",
        'application/json; charset="utf-8"; boundary=x',
        "application/json;",
        "application/json; charset=iso-8859-1",
    ],
)
def test_json_is_taken_whatever_parameters_its_type_has_and_a_byte_order_mark_is_not_sent_on(
    media_type: str, mistral: RequestsMock, client: TestClient
) -> None:
    body = '{"endpoint":"/v1/ocr","model":"é","requests":[{"custom_id":"1","body":{}}]}'.encode()
    mistral.post(JOBS, json={})
    for content in (body, b"\xef\xbb\xbf" + body):
        headers = {"content-type": media_type}
        answer = client.post("/v1/batch/jobs", content=content, headers=headers)
        assert answer.status_code == 200, answer.text
    assert [call.request.body for call in mistral.calls] == [body, body]


@pytest.mark.parametrize(
    ("content", "headers", "status", "kind"),
    [row[1:] for row in HOSTILE],
    ids=[row[0] for row in HOSTILE],
)
def test_a_hostile_body_is_refused_and_nothing_is_sent(
    content: bytes,
    headers: dict[str, str],
    status: int,
    kind: str,
    mistral: RequestsMock,
    client: TestClient,
) -> None:
    answer = client.post("/v1/batch/jobs", content=content, headers=headers)
    assert (answer.status_code, slug(answer)) == (status, kind)
    assert len(answer.content) < 1500
    assert len(mistral.calls) == 0


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/batch/jobs/%2e%2e", 422, "validation-failed"),
        ("/v1/batch/jobs/..%2fmodels", 404, "not-found"),
        ("/v1/batch/jobs/%252e%252e", 422, "validation-failed"),
        (f"/v1/batch/jobs/{JOB_ID}%3Fx=1", 422, "validation-failed"),
        (f"/v1/batch/jobs/{JOB_ID}%23f", 422, "validation-failed"),
        (f"/v1/batch/jobs/{JOB_ID}%00", 400, "malformed-request"),
        (f"/v1/batch/jobs/{JOB_ID}%0d%0aX:1", 400, "malformed-request"),
        (f"/v1/batch/jobs/{JOB_ID}/", 404, "not-found"),
        ("/v1/batch/jobs/", 404, "not-found"),
        ("/v1/batch/jobs/%D9%A1", 422, "validation-failed"),
        ("/v2/batch/jobs", 404, "not-found"),
        ("/v1/batch/jobs?page=1&page=2", 422, "validation-failed"),
        ("/v1/batch/jobs?page=%FF", 400, "malformed-request"),
        ("/v1/batch/jobs?page=-1", 422, "validation-failed"),
        ("/v1/batch/jobs?page=" + "9" * 3000, 422, "validation-failed"),
        ("/v1/batch/jobs?" + "&".join(f"k{i}=1" for i in range(201)), 400, "malformed-request"),
        ("/v1/batch/jobs?created_by_me=2", 422, "validation-failed"),
        ("/v1/batch/jobs?status=waiting", 422, "validation-failed"),
        ("/v1/batch/jobs?created_after=yesterday", 422, "validation-failed"),
        ("/v1/batch/jobs?created_after=2026-13-01", 422, "validation-failed"),
        ("/v1/batch/jobs?created_after=2026-11-24T24:00", 422, "validation-failed"),
        (f"/v1/batch/jobs/{JOB_ID}?inlin=true", 422, "validation-failed"),
    ],
)
def test_a_hostile_path_or_query_is_refused_and_nothing_is_sent(
    path: str, status: int, kind: str, mistral: RequestsMock, client: TestClient
) -> None:
    answer = client.get(path)
    assert (answer.status_code, slug(answer)) == (status, kind)
    assert len(mistral.calls) == 0


def test_a_text_of_the_wrong_form_is_answered_with_an_example(client: TestClient) -> None:
    (fault,) = client.get("/v1/batch/jobs?created_after=yesterday").json()["errors"]
    assert fault == {
        "pointer": "/query/created_after",
        "detail": "must look like 2026-11-24T08:00:00Z",
    }


def test_a_page_answers_other_methods_with_405_and_names_its_own(client: TestClient) -> None:
    answer = client.post("/docs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_an_unknown_method_is_405_and_names_the_known_ones(client: TestClient) -> None:
    answer = client.delete("/v1/batch/jobs")
    assert (answer.status_code, slug(answer)) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_a_body_over_the_limit_is_413(settings: Any, client: TestClient) -> None:
    answer = client.post("/v1/batch/jobs", content=b" " * (settings.max_body + 1), headers=JSON)
    assert (answer.status_code, slug(answer)) == (413, "content-too-large")


def test_every_fault_is_listed_with_its_place(client: TestClient) -> None:
    body = {
        "timeout_hours": 900,
        "input_files": ["x"],
        "metadata": {"k" * 33: "v"},
        "requests": [{"custom_id": "1"}],
    }
    answer = client.post("/v1/batch/jobs", json=body)
    pointers = {fault["pointer"] for fault in answer.json()["errors"]}
    assert pointers == {
        "/body/endpoint",
        "/body/timeout_hours",
        "/body/input_files/0",
        "/body/metadata",
        "/body/requests/0/body",
    }


def test_ten_thousand_faults_give_a_short_answer_that_echoes_nothing(client: TestClient) -> None:
    secret = "do-not-echo-this"
    answer = client.post("/v1/batch/jobs", json={"endpoint": secret, "requests": [secret] * 10_000})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 50
    assert len(answer.content) < 10_000
    assert secret not in answer.text


def test_our_key_in_an_upstream_error_is_not_passed_on(
    settings: Any, mistral: RequestsMock, client: TestClient
) -> None:
    key = credentials(settings)["token"]
    mistral.get(JOBS, json={"detail": f"bad key {key}"}, status=400)
    assert key not in client.get("/v1/batch/jobs").text


# The document of each kind, in the three places that tell of it.
@pytest.mark.parametrize("kind", PROBLEMS)
def test_every_problem_is_documented_with_status_and_source(kind: str, client: TestClient) -> None:
    row = PROBLEMS[kind]
    status = "(?:[^,]* own)" if row.keeps_status else row.status
    told = "yes" if row.retryable else "(?:no|only when)"
    page = re.compile(
        rf"^## {kind}\n\n{re.escape(row.title)}\. Status {status}, source `{row.source}`, retryable: {told}\b"
        rf"(?:(?!^## ).*\n)*?\*\*What to do:\*\* {re.escape(row.advice)}",
        re.MULTILINE,
    )
    assert page.search((ROOT / "docs/problems.md").read_text())
    assert f'<h2 id="{kind}">' in client.get("/problems").text
    assert f"`{kind}`" in (ROOT / "README.md").read_text()


GET = load().operations["getbatchjob"]
JSON_TYPE = {"Content-Type": "application/json"}


def test_parse_answer_answers_a_success_of_any_2xx_status_with_no_content() -> None:
    assert parse_answer(GET, 204, {}, b"").body == b""


@pytest.mark.parametrize(
    "content",
    [b"", b'{"data":[],"object', b"{} {}", b'{"id":"a","\xff":1}', b"[" * 5000 + b"]" * 5000],
)
def test_parse_answer_takes_no_success_that_is_not_whole_json(content: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_answer(GET, 200, JSON_TYPE, content)
    assert caught.value.slug == "upstream-bad-response"


def test_parse_answer_passes_on_no_media_type_that_would_break_an_answer() -> None:
    answer = parse_answer(GET, 200, {"Content-Type": "application/json; x=\x0b"}, b"{}")
    assert answer.content_type == "application/json"


def test_parse_answer_passes_on_a_few_well_formed_headers_only() -> None:
    many = {f"X-RateLimit-{number}": "1" for number in range(90)}
    odd = {"X-RateLimit-A(b)": "1", "RateLimit-\xe4": "1", "RateLimit": "\xe4"}
    passed = parse_answer(GET, 200, {**JSON_TYPE, **odd, **many}, b"{}").headers
    assert [name for name, _ in passed] == [f"X-RateLimit-{number}" for number in range(20)]


ODD_ERRORS = [{"errors": 5}, {"detail": 5}, {"detail": [{"loc": 5, "msg": 1}]}, {"error": [None]}]


@pytest.mark.parametrize("error", [*ODD_ERRORS, {"detail": {"message": True}}, [[]], 5, None, ""])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_of_any_form_is_a_problem_that_has_it(error: Any, status: int) -> None:
    with pytest.raises(Problem) as caught:
        parse_answer(GET, status, JSON_TYPE, json.dumps(error).encode())
    assert (caught.value.upstream_status, caught.value.upstream) == (status, error)
    json.dumps(caught.value.document("/", "r"))


@pytest.mark.parametrize("depth", [10, 300, 900, 5000])
def test_an_error_of_any_depth_is_passed_on_or_said_to_be_unreadable(
    depth: int, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, status=400, body="[" * depth + "]" * depth, content_type="application/json")
    answer = client.get("/v1/batch/jobs")
    assert (answer.status_code, slug(answer)) in (
        (400, "upstream-rejected"),
        (502, "upstream-bad-response"),
    )
