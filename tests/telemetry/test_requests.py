"""What is told of each request: in this process, with a made-up upstream."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import requests
from responses import RequestsMock
from starlette.testclient import TestClient

from telemetry.metrics import REGISTRY
from tests.conftest import KEY, UPSTREAM
from tests.support.api import JOB_ID

JOBS = f"{UPSTREAM}/v1/batch/jobs"
CREATE = {"endpoint": "/v1/ocr", "model": "m", "input_files": [JOB_ID]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
FIELDS = {
    "request_id", "trace_id", "span_id", "caller", "method", "route", "operation", "status", "outcome", "bytes", "seconds",
}  # fmt: skip


class Told(logging.Handler):
    """Keeps the fields of records."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.loggers = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append({"level": record.levelname, **record.fields})  # type: ignore[attr-defined]

    def __enter__(self) -> Told:
        for logger, _ in self.loggers:
            logger.addHandler(self)
            logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        for logger, level in self.loggers:
            logger.removeHandler(self)
            logger.setLevel(level)


@pytest.fixture
def told() -> Any:
    with Told("gateway.requests") as handler:
        yield handler.lines


@pytest.fixture
def audited() -> Any:
    with Told("gateway.audit") as handler:
        yield handler.lines


def test_a_request_has_one_line_with_what_became_of_it(
    told: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(f"{JOBS}/{JOB_ID}", json={"id": JOB_ID})
    answer = client.get(
        f"/v1/batch/jobs/{JOB_ID}", headers={"X-Request-ID": "mine", "traceparent": PARENT}
    )
    (line,) = told
    assert line.keys() == {"level", *FIELDS, "upstream_status", "upstream_seconds"}
    assert 0 < line.pop("upstream_seconds") <= line.pop("seconds") < 10
    assert re.fullmatch(r"[0-9a-f]{16}", line.pop("span_id"))
    assert line == {
        "level": "INFO",
        "request_id": "mine",
        "trace_id": TRACE,
        "caller": "local",
        "method": "GET",
        "route": "/v1/batch/jobs/{job-id}",
        "operation": "getbatchjob",
        "status": 200,
        "outcome": "done",
        "bytes": len(answer.content),
        "upstream_status": 200,
    }


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere/a%1b%0ab", ("", 400, "refused", "malformed-request")),
        ("GET", "/v1/batch/jobs?page=x", ("/v1/batch/jobs", 422, "refused", "validation-failed")),
        ("DELETE", "/v1/batch/jobs", ("", 405, "refused", "method-not-allowed")),
        ("GET", "/docs", ("/docs", 200, "done", None)),
        ("GET", "/docs/assets/none.js", ("/docs/assets/{file}", 404, "refused", "not-found")),
    ],
)
def test_a_line_names_the_route_never_the_path(
    method: str, path: str, expected: Any, told: list[dict[str, Any]], client: TestClient
) -> None:
    client.request(method, path)
    (line,) = told
    assert (line["route"], line["status"], line["outcome"], line.get("problem")) == expected
    assert "path" not in line


def test_probes_are_told_of_only_at_debug(told: list[dict[str, Any]], client: TestClient) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)
    assert told == []


def test_a_failure_upstream_is_told_with_its_kind(
    told: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, body=requests.ConnectTimeout())
    client.get("/v1/batch/jobs")
    (line,) = told
    assert (line["status"], line["outcome"], line["problem"], line["upstream_status"]) == (
        502,
        "failed",
        "upstream-unreachable",
        0,
    )


@pytest.mark.parametrize("given", ["a b", "é", "a" * 129, "", "a\tb", "<script>"])
def test_a_malformed_request_id_is_replaced(
    given: str, told: list[dict[str, Any]], client: TestClient
) -> None:
    answer = client.get("/docs", headers={"X-Request-ID": given.encode("latin-1")})  # type: ignore[dict-item]
    (line,) = told
    assert line["request_id"] == answer.headers["x-request-id"] != given
    assert len(line["request_id"]) == 36


def test_the_callers_trace_goes_on_upstream(
    mistral: RequestsMock, client: TestClient, told: Any
) -> None:
    mistral.get(JOBS, json={})
    client.get("/v1/batch/jobs", headers={"traceparent": PARENT, "tracestate": "vendor=1"})
    sent = mistral.calls[-1].request.headers
    version, trace_id, span_id, flags = sent["traceparent"].split("-")
    assert (version, trace_id, flags, sent["tracestate"]) == ("00", TRACE, "01", "vendor=1")
    assert span_id not in (PARENT, told[0]["span_id"])


def test_answers_of_the_api_say_where_the_time_went(
    mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={})
    timing = client.get("/v1/batch/jobs").headers["server-timing"]
    assert re.fullmatch(r"upstream;dur=\d+\.\d, gateway;dur=\d+\.\d", timing)
    refused = client.get("/v1/batch/jobs?page=x").headers["server-timing"]
    assert re.fullmatch(r"gateway;dur=\d+\.\d", refused)
    assert "server-timing" not in client.get("/docs").headers


def test_a_create_whose_answer_was_lost_is_counted(
    mistral: RequestsMock, client: TestClient
) -> None:
    before = _value("gateway_create_outcome_unknown_total")
    mistral.post(JOBS, status=504, body="<html>")
    client.post("/v1/batch/jobs", json=CREATE)
    assert _value("gateway_create_outcome_unknown_total") == before + 1


def test_a_changing_call_has_an_audit_line_and_a_reading_one_has_none(
    audited: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={})
    mistral.get(f"{JOBS}/{JOB_ID}", json={"id": JOB_ID})
    mistral.post(JOBS, json={"id": JOB_ID, "prompt": "CANARY"})
    mistral.post(f"{JOBS}/{JOB_ID}/cancel", json={"id": JOB_ID})
    client.get("/v1/batch/jobs")
    client.get(f"/v1/batch/jobs/{JOB_ID}")
    created = client.post("/v1/batch/jobs", json=CREATE)
    client.post(f"/v1/batch/jobs/{JOB_ID}/cancel")
    assert [(line["operation"], line["outcome"], line["id"]) for line in audited] == [
        ("createbatchjob", "done", JOB_ID),
        ("cancelbatchjob", "done", JOB_ID),
    ]
    assert audited[0].keys() == {
        "level", *FIELDS, "upstream_status", "upstream_seconds", "id", "request_bytes",
    }  # fmt: skip
    assert audited[0]["request_id"] == created.headers["x-request-id"]
    assert audited[0]["request_bytes"] == len(created.request.content)
    assert "CANARY" not in str(audited)


def test_an_audit_line_names_its_job_though_the_answer_has_half_of_a_surrogate_pair(
    audited: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    body = rf'{{"id":"{JOB_ID}","model":"\ud83d"}}'
    mistral.post(JOBS, body=body, content_type="application/json")
    assert client.post("/v1/batch/jobs", json=CREATE).text == body
    assert audited[0]["id"] == JOB_ID


def test_a_refused_changing_call_is_audited_with_what_it_was_about(
    audited: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(f"{JOBS}/{JOB_ID}/cancel", status=404, json={"id": "of the error"})
    client.post(f"/v1/batch/jobs/{JOB_ID}/cancel")
    client.post("/v1/batch/jobs", json={"endpoint": 1})
    assert [(line["id"], line["outcome"], line["problem"]) for line in audited] == [
        (JOB_ID, "refused", "upstream-rejected"),
        ("", "refused", "validation-failed"),
    ]


def test_a_call_that_is_turned_away_at_the_door_is_audited_too(
    audited: list[dict[str, Any]], told: list[dict[str, Any]], client: TestClient
) -> None:
    client.post(f"/v1/batch/jobs/{JOB_ID}/cancel", headers={"Origin": "https://elsewhere.example"})
    client.get(f"/v1/batch/jobs/{JOB_ID}", headers={"Origin": "https://elsewhere.example"})
    client.post("/v1/batch/jobs/nowhere/at/all", headers={"Origin": "https://elsewhere.example"})
    (line,) = audited
    assert (line["operation"], line["id"], line["problem"]) == (
        "cancelbatchjob",
        JOB_ID,
        "cross-origin",
    )
    assert [each["route"] for each in told] == [
        "/v1/batch/jobs/{job-id}/cancel", "/v1/batch/jobs/{job-id}", "",
    ]  # fmt: skip


def test_a_key_has_its_outcome_in_line_and_metric(
    audited: list[dict[str, Any]], mistral: RequestsMock, client: TestClient
) -> None:
    mistral.post(JOBS, json={"id": JOB_ID})
    before = {
        name: _value("gateway_idempotency_total", outcome=name) for name in ("first", "replayed")
    }
    headers = {"Idempotency-Key": f"seen-{id(audited)}"}
    for _ in range(3):
        client.post("/v1/batch/jobs", json=CREATE, headers=headers)
    assert [line["idempotency"] for line in audited] == ["first", "replayed", "replayed"]
    assert _value("gateway_idempotency_total", outcome="first") == before["first"] + 1
    assert _value("gateway_idempotency_total", outcome="replayed") == before["replayed"] + 2


def test_a_limited_upstream_is_counted(mistral: RequestsMock, client: TestClient) -> None:
    before = _value("gateway_upstream_ratelimited_total")
    mistral.get(JOBS, status=429, json={})
    client.get("/v1/batch/jobs")
    assert _value("gateway_upstream_ratelimited_total") == before + 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"body": requests.ConnectTimeout()}, "upstream-unreachable"),
        ({"status": 999, "json": {}}, "upstream-bad-response"),
    ],
    ids=["no connection", "a status that HTTP does not have"],
)
def test_an_upstream_without_an_answer_is_counted_by_the_kind_of_failure(
    answer: dict[str, Any], error: str, mistral: RequestsMock, client: TestClient
) -> None:
    labels = {
        "http_request_method": "POST",
        "http_route": "/batch/jobs",
        "http_response_status_code": "",
        "server_address": "127.0.0.1",
        "error_type": error,
    }
    before = _value("http_client_request_duration_seconds_count", **labels)
    mistral.post(JOBS, **answer)
    client.post("/v1/batch/jobs", json=CREATE)
    assert _value("http_client_request_duration_seconds_count", **labels) == before + 1


def test_no_metric_grows_with_what_clients_send(mistral: RequestsMock, client: TestClient) -> None:
    mistral.get(re.compile(f"{JOBS}/.*"), status=404, json={})

    def visit(number: int) -> None:
        job = f"{number:08}-7425-40de-944b-e07fc1f90ae7"
        client.get(f"/v1/batch/jobs/{job}", headers={"X-Request-ID": f"r{number}"})
        client.get(f"/nowhere/{number}")
        client.get(f"/docs/assets/{number}.js")
        client.get(f"/v1/batch/jobs?page={number}x")
        client.request(f"METHOD{number}", "/v1/batch/jobs")

    visit(0)
    before = len(_samples())
    for number in range(1, 20):
        visit(number)
    assert len(_samples()) == before


def test_nothing_secret_is_told(
    told: list[dict[str, Any]],
    audited: list[dict[str, Any]],
    mistral: RequestsMock,
    client: TestClient,
) -> None:
    mistral.get(JOBS, status=400, json={"message": f"bad key {KEY}"})
    client.get("/v1/batch/jobs?note=CANARY", headers={"Authorization": f"Bearer {KEY}"})
    mistral.post(JOBS, body=requests.ReadTimeout(f"CANARY {KEY}"))
    client.post("/v1/batch/jobs", json={**CREATE, "metadata": {"note": "CANARY"}})
    assert told and audited
    assert "CANARY" not in str(told + audited) + str(_samples())


def _samples() -> list[Any]:
    return [sample for family in REGISTRY.collect() for sample in family.samples]


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0
