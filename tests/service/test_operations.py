"""The operations: what reaches the upstream, and what comes back. Expectations: the capability and Mistral's SDKs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from openapi.contract import load
from openapi.scalars import read_scalar
from service.app import create_app
from service.config import Settings
from tests.conftest import KEY, UPSTREAM
from tests.support.api import JOB_ID

JOBS = f"{UPSTREAM}/v1/batch/jobs"
CREATE = {
    "endpoint": "/v1/chat/completions",
    "model": "m",
    "requests": [{"custom_id": "0", "body": {"a": 1}}],
}


def last(mistral: RequestsMock) -> Any:
    """The last request that reached the upstream."""
    return mistral.calls[-1].request


@pytest.mark.parametrize(
    "operation",
    [each for each in load().operations.values() if each.namespace == "batch-batch-jobs"],
    ids=lambda operation: operation.id,
)
def test_every_operation_of_jobs_reaches_its_upstream_path(
    operation: Any, mistral: RequestsMock, client: TestClient
) -> None:
    path = operation.path.replace("{job-id}", JOB_ID)
    mistral.add(operation.upstream_method, f"{UPSTREAM}{path}", json={"ok": 1})
    body = CREATE if operation.body else None
    answer = client.request(operation.method, path, json=body)
    assert (answer.status_code, answer.json()) == (200, {"ok": 1})


def test_a_success_passes_through_byte_for_byte(mistral: RequestsMock, client: TestClient) -> None:
    body = b'{ "status":\n "SOME_FUTURE_STATUS", "n": 1.0, "n": 2 }'
    mistral.get(JOBS, body=body, content_type="application/json; charset=utf-8")
    answer = client.get("/v1/batch/jobs")
    assert (answer.content, answer.headers["content-type"]) == (
        body,
        "application/json; charset=utf-8",
    )


def test_only_the_gateways_own_headers_go_upstream(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={})
    client.get(
        "/v1/batch/jobs",
        headers={"Authorization": "Bearer callers", "Cookie": "a=b", "X-Forwarded-Host": "evil"},
    )
    sent = dict(last(mistral).headers)
    assert sent.pop("traceparent")[:3] == "00-"
    assert sent == {
        "User-Agent": f"mistral-batch-gateway/{load().version}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {KEY}",
    }


# Query strings as the official SDKs send them (mistralai 3.7.0, @mistralai/mistralai 2.7.0).
@pytest.mark.parametrize(
    "query",
    [
        "page=0&page_size=100&created_by_me=false&order_by=-created",
        "page=2&page_size=7&model=mistral-small-latest&agent_id=ag%3A1&job_type=testing&team=a%20b%26c"
        "&created_after=2026-01-02T03%3A04%3A05Z&created_by_me=true&status=QUEUED&status=RUNNING&order_by=created",
        "created_after=2026-01-02T03%3A04%3A05.678000",
        "created_after=2026-01-02T03%3A04%3A05.000Z",
        "created_after=2026-01-02T03%3A04%3A05%2B02%3A00",
        "status=SUCCESS",
        "job_type=testing",
        "a=%7B%27b%27%3A%201%7D",
        "t%C3%A9l=%C3%A9",
    ],
)
def test_list_filters_reach_the_upstream_as_they_were_sent(
    query: str, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={"total": 0})
    assert client.get(f"/v1/batch/jobs?{query}").status_code == 200
    assert last(mistral).url == f"{JOBS}?{query}"


def test_inline_reaches_the_upstream(mistral: RequestsMock, client: TestClient) -> None:
    mistral.get(f"{JOBS}/{JOB_ID}", json={})
    client.get(f"/v1/batch/jobs/{JOB_ID}?inline=true")
    assert last(mistral).url == f"{JOBS}/{JOB_ID}?inline=true"


def test_head_answers_as_get_without_a_body(mistral: RequestsMock, client: TestClient) -> None:
    mistral.get(JOBS, json={"total": 0})
    answer = client.head("/v1/batch/jobs")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (
        200,
        b"",
        "12",
    )


def test_options_names_the_methods_of_a_path(client: TestClient) -> None:
    answer = client.options(f"/v1/batch/jobs/{JOB_ID}/cancel")
    assert (answer.status_code, answer.headers["allow"]) == (204, "OPTIONS, POST")


@pytest.mark.parametrize(
    ("repeated", "sent"),
    [
        (
            b'{"endpoint": "/v1/ocr", "endpoint": "/v1/embeddings", "requests": [{"body": {}}]}',
            b'{"endpoint":"/v1/embeddings","requests":[{"body":{}}]}',
        ),
        (b'{"endpoint": "/v1/ocr", "metadata": {"a": "", "\\u0061": "b"}}', b'{"endpoint":"/v1/ocr","metadata":{"a":"b"}}'),
        (
            b'{"endpoint": "/v1/ocr", "requests": [{"body": {"x":  1}}, {"body": 1, "body": {"x":  2}}]}',
            b'{"endpoint":"/v1/ocr","requests":[{"body":{"x":  1}},{"body":{"x":  2}}]}',
        ),
        (b'{"endpoint": "/v1/ocr", "tomorrow": 1, "tomorrow":  2}', b'{"endpoint":"/v1/ocr","tomorrow":2}'),
    ],
)  # fmt: skip
def test_of_a_repeated_member_the_one_that_was_checked_is_sent_alone(
    repeated: bytes, sent: bytes, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={})
    assert posted(client, repeated).status_code == 200
    assert last(mistral).body == sent


def test_a_create_without_repeated_members_is_sent_as_it_came(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={})
    body = (
        b' {"endpoint" : "/v1/ocr", "metadata": {"\\u0061": "b"}, "tomorrow": [1.0],\n'
        b'"requests": [{"body": {"x":  1.00, "x": 2}}, {"custom_id": "\xc3\xa9", "body": {}}]} '
    )
    assert posted(client, body).status_code == 200
    assert last(mistral).body == body


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_that_comes_in_pieces_arrives_whole(
    announced: bool, mistral: RequestsMock, app: Any
) -> None:
    mistral.post(JOBS, json={})
    requests = [{"custom_id": str(number), "body": {"a": "é" * 500}} for number in range(1_000)]
    body = json.dumps({"endpoint": "/v1/ocr", "requests": requests}, ensure_ascii=False).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    async def post() -> int:
        headers = {"content-type": "application/json"}
        if announced:
            headers["content-length"] = str(len(body))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1:8080"
        ) as client:
            answer = await client.post("/v1/batch/jobs", content=pieces(), headers=headers)
        return answer.status_code

    assert asyncio.run(post()) == 200
    assert last(mistral).body == body


def test_requests_are_answered_without_connexions_view_and_the_context_that_it_needs(
    mistral: RequestsMock, settings: Settings
) -> None:
    def view(*_: Any, **__: Any) -> None:
        raise AssertionError("a view was called")

    app = create_app(settings)
    client = TestClient(app, base_url="http://127.0.0.1:8080")
    mistral.get(f"{JOBS}/{JOB_ID}", json={})
    client.get(f"/v1/batch/jobs/{JOB_ID}")  # the first request puts the pieces together
    app.app.view_functions.update(dict.fromkeys(app.app.view_functions, view))
    for method in ("GET", "HEAD"):
        assert client.request(method, f"/v1/batch/jobs/{JOB_ID}").status_code == 200


def posted(client: TestClient, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return client.post("/v1/batch/jobs", content=body, headers=headers)


def test_explicit_nulls_are_accepted_where_mistral_takes_them(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={})
    body = {**CREATE, "model": None, "agent_id": None, "metadata": None, "input_files": None}
    assert client.post("/v1/batch/jobs", json=body).status_code == 200
    assert json.loads(last(mistral).body) == body


@pytest.mark.parametrize(
    ("hours", "status"), [(b"24", 200), (b"24.0", 200), (b"2.4e1", 200), (b"24.5", 422)]
)
def test_a_number_without_a_fraction_is_an_integer_however_it_is_written(
    hours: bytes, status: int, mistral: RequestsMock, client: TestClient
) -> None:
    """JSON Schema Validation 2020-12, section 6.1.1."""
    mistral.assert_all_requests_are_fired = False
    mistral.post(JOBS, json={})
    body = json.dumps(CREATE).encode()[:-1] + b', "timeout_hours": ' + hours + b"}"
    assert posted(client, body).status_code == status
    assert [call.request.body for call in mistral.calls] == [body] * (status == 200)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "1_0", "007", "00.5", "+5", "5 5", "5.", ".5", "0x5", "5" * 41]
)
def test_a_parameter_that_json_would_not_call_a_number_is_left_for_the_check_to_refuse(
    text: str,
) -> None:
    assert read_scalar(text, {"type": "number"}) == text
    assert [read_scalar(good, {"type": "number"}) for good in ("5", "-5.5", "5e-1")] == [
        5,
        -5.5,
        0.5,
    ]


@pytest.mark.parametrize(
    ("repeated", "pointer"),
    [
        ({"requests": [{"custom_id": "a", "body": {}}, {"custom_id": "\x61", "body": {}}]}, "/requests/1/custom_id"),
        ({"requests": [{"custom_id": "", "body": {}}] * 2}, "/requests/1/custom_id"),
        ({"requests": [{"body": {}}, {"custom_id": "é", "body": {}}, {"custom_id": "é", "body": {"a": 1}}]}, "/requests/2/custom_id"),
        ({"input_files": [JOB_ID, "4690b445-b456-49b3-92a7-8db2aaccc9d4", JOB_ID.upper()]}, "/input_files/2"),
    ],
)  # fmt: skip
def test_what_would_give_two_results_one_name_is_refused_with_both_places(
    repeated: dict[str, Any], pointer: str, client: TestClient
) -> None:
    answer = client.post("/v1/batch/jobs", json={"endpoint": "/v1/ocr", **repeated})
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == f"/body{pointer}"
    assert "/body/" in error["detail"]


def test_a_member_of_tomorrow_is_forwarded_with_a_warning(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={})
    answer = client.post("/v1/batch/jobs", json={**CREATE, "priority": "low"})
    assert json.loads(last(mistral).body)["priority"] == "low"
    assert "/body/priority" in answer.headers["gateway-warning"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("input_file_id", "input_files"),
        ("timeoutHours", "timeout_hours"),
        ("completion_window", "timeout_hours"),
    ],
)
def test_a_member_that_mistral_would_ignore_is_refused_with_the_right_name(
    wrong: str, right: str, mistral: RequestsMock, client: TestClient
) -> None:
    answer = client.post("/v1/batch/jobs", json={**CREATE, wrong: 1})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": f"/body/{wrong}", "detail": f"is not a known member; did you mean {right}?"}
    ]
    assert len(mistral.calls) == 0


def test_trace_and_rate_headers_of_the_upstream_reach_the_caller(
    mistral: RequestsMock, client: TestClient
) -> None:
    headers = {
        "mistral-correlation-id": "c1",
        "x-ratelimit-remaining-req-minute": "5",
        "set-cookie": "a=b",
        "server": "x",
    }
    mistral.get(JOBS, json={}, headers=headers)
    answer = client.get("/v1/batch/jobs")
    assert {name: answer.headers.get(name) for name in headers} == {
        **headers,
        "set-cookie": None,
        "server": None,
    }


def test_a_request_id_is_echoed_when_well_formed_and_made_otherwise(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={})
    assert (
        client.get("/v1/batch/jobs", headers={"X-Request-ID": "a.b-1"}).headers["x-request-id"]
        == "a.b-1"
    )
    assert (
        len(client.get("/v1/batch/jobs", headers={"X-Request-ID": "a b"}).headers["x-request-id"])
        == 36
    )
