"""Faults, on real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from sandbox.faults import FAULT_TYPES
from tests.sandbox.api import JOBS, Api, body
from tests.support.processes import Sandbox, wait_until

AUTH = {"Authorization": "Bearer k"}


def send(
    server: Sandbox, fault: str = "", method: str = "POST", **options: Any
) -> requests.Response:
    """The answer to a request, a create by default, under a fault."""
    headers = AUTH | ({"X-Sandbox-Fault": fault} if fault else {})
    if method == "POST":
        options.setdefault("json", body())
    return requests.request(
        method, server.url + JOBS, headers=headers, timeout=10, allow_redirects=False, **options
    )


def raw(server: Sandbox, fault: str) -> bytes:
    """All bytes that come back on a list request."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), 10) as connection:
        connection.sendall(
            f"GET {JOBS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
            f"X-Sandbox-Fault: {fault}\r\n\r\n".encode()
        )
        return b"".join(iter(lambda: connection.recv(65536), b""))


def total(server: Sandbox) -> int:
    """The number of jobs."""
    return int(send(server, method="GET").json()["total"])


@pytest.mark.parametrize(
    ("fault", "status", "type"),
    [
        ("html-502", 502, "text/html"),
        ("html-503", 503, "text/html"),
        ("html-504", 504, "text/html"),
        ("status; status=418", 418, "application/json"),
        ("unauthorized", 401, "application/json"),
        ("payment-required", 402, "application/json"),
        ("forbidden", 403, "application/json"),
        ("rate-limited", 429, "application/json"),
        ("redirect", 307, "text/plain"),
        ("redirect; status=308", 308, "text/plain"),
    ],
)
def test_an_answer_can_be_replaced(server: Sandbox, fault: str, status: int, type: str) -> None:
    response = send(server, fault)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith(type)
    assert response.headers["X-Sandbox"] == "mistral-batch-gateway-sandbox"
    assert response.headers["X-Sandbox-Fault"] == fault.partition(";")[0]
    assert total(server) == 0


def test_a_status_can_have_any_body(server: Sandbox) -> None:
    server.faults({"fault": "status", "status": 400, "body": {"message": "no"}})
    assert send(server).json() == {"message": "no"}
    assert send(server, 'status; status=500; body={"a":[1,2]}').json() == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("form", "check"),
    [
        ("seconds", lambda value: int(value) == 2),
        ("date", lambda value: value.endswith(" GMT")),
        ("negative", lambda value: int(value) < 0),
        ("huge", lambda value: int(value) > 10**9),
        ("garbage", lambda value: not value.isdigit()),
        ("absent", lambda value: value is None),
        ("17", lambda value: value == "17"),
    ],
)
def test_retry_after_takes_every_form(
    server: Sandbox, form: str, check: Callable[[str | None], bool]
) -> None:
    response = send(server, f"rate-limited; retry_after={form}")
    assert check(response.headers.get("Retry-After"))
    assert response.headers["x-ratelimit-limit-req-minute"] == "60"


def test_a_quota_of_zero_shows_in_the_headers(server: Sandbox) -> None:
    response = send(server, "rate-limited; zero_quota=true")
    assert response.headers["x-ratelimit-limit-req-minute"] == "0"


@pytest.mark.parametrize(("fault", "jobs"), [("drop-before", 0), ("drop-after", 1)])
@pytest.mark.parametrize("reset", ["false", "true"])
def test_a_dropped_connection_gives_no_answer_whether_or_not_the_job_exists(
    server: Sandbox, fault: str, jobs: int, reset: str
) -> None:
    with pytest.raises(requests.ConnectionError) as failure:
        send(server, f"{fault}; reset={reset}")
    assert ("ConnectionResetError" in repr(failure.value)) == (reset == "true")
    assert total(server) == jobs
    wait_until(lambda: server.ledger()[0]["outcome"] != "open")
    [entry] = server.ledger(method="POST")
    assert (entry["outcome"], entry["status"]) == ("cut", None)
    assert (entry["job_id"] is not None) == bool(jobs)


def test_latency_delays_the_real_answer(server: Sandbox) -> None:
    started = time.monotonic()
    assert send(server, "latency; seconds=0.3").json()["status"] == "QUEUED"
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("fault", ["hang", "latency; seconds=60"])
@pytest.mark.parametrize("processed", [True, False])
def test_a_client_that_leaves_is_noticed_long_before_the_answer_was_due(
    server: Sandbox, fault: str, processed: bool
) -> None:
    headers = AUTH | {
        "Content-Type": "application/json",
        "X-Sandbox-Fault": f"{fault}; processed={processed}",
    }
    with contextlib.closing(http.client.HTTPConnection(urlsplit(server.url).netloc)) as client:
        client.request("POST", JOBS, json.dumps(body()), headers)
        wait_until(server.ledger)
        left = time.time()
    wait_until(lambda: server.ledger()[0]["client_closed_at"] is not None)
    [entry] = server.ledger()
    assert 0 <= entry["client_closed_at"] - left < 10
    assert (entry["outcome"], entry["status"]) == ("client left", None)
    assert total(server) == int(processed)


def test_a_hanging_answer_ends_in_a_closed_connection(server: Sandbox) -> None:
    with pytest.raises(requests.ConnectionError):
        send(server, "hang; seconds=0.1")


def test_a_truncated_answer_is_shorter_than_announced(server: Sandbox) -> None:
    head, _, data = raw(server, "truncated").partition(b"\r\n\r\n")
    [length] = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
    assert 0 < len(data) < int(length.split(b":")[1])


def test_garbage_is_no_http(server: Sandbox) -> None:
    with pytest.raises(requests.ConnectionError) as failure:
        send(server, "garbage")
    assert "BadStatusLine" in repr(failure.value)


def test_the_real_answer_can_have_another_media_type(server: Sandbox) -> None:
    response = send(server, "wrong-type; type=text/html")
    assert response.headers["Content-Type"] == "text/html"
    assert response.json()["status"] == "QUEUED"


def test_the_real_answer_can_be_broken_json(server: Sandbox) -> None:
    response = send(server, "invalid-json")
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(ValueError):
        json.loads(response.content)


def test_the_real_answer_can_be_in_gzip(server: Sandbox) -> None:
    response = send(server, "gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.json()["status"] == "QUEUED"
    with pytest.raises((requests.exceptions.ContentDecodingError, requests.ConnectionError)):
        send(server, "gzip; corrupt=true")


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_can_be_huge(server: Sandbox, announced: bool) -> None:
    response = send(server, f"huge; bytes=3000000; announced={announced}")
    assert len(response.content) == 3_000_000
    assert ("Content-Length" in response.headers) == announced
    response.json()


@pytest.mark.parametrize("part", ["body", "headers"])
def test_an_answer_can_come_byte_by_byte(server: Sandbox, part: str) -> None:
    started = time.monotonic()
    answer = raw(server, f"slow; interval=0.005; part={part}")
    least = len(answer) if part == "headers" else len(answer.partition(b"\r\n\r\n")[2])
    assert time.monotonic() - started > least * 0.005
    assert answer.endswith(b'"total":0}')


def test_a_slow_answer_ends_when_the_client_leaves(server: Sandbox) -> None:
    headers = AUTH | {"X-Sandbox-Fault": "slow; interval=60"}
    with requests.get(server.url + JOBS, headers=headers, stream=True, timeout=10):
        pass  # its first byte is still to come
    wait_until(lambda: server.ledger()[0]["outcome"] == "client left")


def test_a_new_job_can_be_missing_from_the_list(server: Sandbox) -> None:
    job = send(server, "list-lag; seconds=30").json()
    assert total(server) == 0
    assert requests.get(f"{server.url}{JOBS}/{job['id']}", headers=AUTH, timeout=10).ok


def test_a_rule_strikes_the_requests_that_match_as_often_as_it_says(server: Sandbox) -> None:
    match = {"method": "get", "path": "^/v1/batch/jobs$", "query": "page=1"}
    server.faults({"fault": "html-502", "match": match, "times": 2})
    assert send(server).status_code == 200
    assert send(server, method="GET").status_code == 200
    statuses = [send(server, method="GET", params={"page": 1}).status_code for _ in range(3)]
    assert statuses == [502, 502, 200]
    [rule] = server.admin("GET", "/sandbox/faults")
    assert (rule["times"], rule["seen"]) == (0, 2)


def test_a_rule_can_wait_for_the_nth_match_and_hold_for_ever(server: Sandbox) -> None:
    server.faults({"fault": "html-503", "match": {"nth": 3}, "times": None})
    assert [send(server).status_code for _ in range(5)] == [200, 200, 503, 503, 503]
    server.admin("DELETE", "/sandbox/faults")
    assert send(server).status_code == 200


def test_rules_take_turns_in_the_order_given(server: Sandbox) -> None:
    server.faults({"fault": "html-502"}, {"fault": "html-504"})
    assert [send(server).status_code for _ in range(3)] == [502, 504, 200]


@pytest.mark.parametrize(
    "rule",
    [
        [],
        "hang",
        {"fault": "none"},
        {"fault": "hang", "second": 1},
        {"fault": "hang", "seconds": "x"},
        {"fault": "hang", "match": {"verb": "GET"}},
        {"fault": "hang", "match": {"path": "("}},
        {"fault": "hang", "match": []},
        {"fault": "hang", "times": "x"},
        None,
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(api: Api, rule: object) -> None:
    status, answer = api.json("POST", "/sandbox/faults", json=[rule])
    assert (status, list(answer)) == (422, ["detail"])
    assert api.json("GET", "/sandbox/faults")[1] == []


def test_an_unknown_fault_in_the_header_is_a_400(server: Sandbox) -> None:
    assert send(server, "nothing").status_code == 400


@pytest.mark.parametrize("name", FAULT_TYPES)
def test_every_type_of_fault_is_noted_in_the_ledger(server: Sandbox, name: str) -> None:
    silent = ("latency", "hang", "stalled", "upload-stalled")
    quick = dict.fromkeys(silent, "; seconds=0") | {"slow": "; interval=0"}
    with contextlib.suppress(requests.RequestException):
        send(server, name + quick.get(name, ""))
    wait_until(lambda: server.ledger()[0]["outcome"] != "open")
    assert server.ledger()[0]["fault"] == name
    assert len(server.output) == 2  # the banner and the ready line: nothing went wrong inside


def test_a_connection_is_kept_alive(server: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    ports = set()
    for _ in range(3):
        connection.request("GET", JOBS, headers=AUTH)
        assert connection.getresponse().read()
        assert connection.sock is not None
        ports.add(connection.sock.getsockname())
    assert len(ports) == 1
    connection.close()
