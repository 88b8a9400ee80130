"""A place and its answers: what is sent to it, and what is said when it is not what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import responses

from mistral_batch.api import BatchAPI, NoMoney, Refused, Trouble, Unclear, Unreachable
from tests.support.upstreams import Upstream

URL = "https://batch.test"
LIST = f"{URL}/v1/batch/jobs"
JOB = {"id": "j", "status": "QUEUED"}
GATEWAY = {"Server-Timing": "upstream;dur=1.0, gateway;dur=2.0"}


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def api(pauses: list[float]) -> BatchAPI:
    return BatchAPI(URL, "secret", patience=20, sleep=pauses.append)


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"{URL}/v1", f"{URL}/v1/"])
def test_a_place_may_be_named_with_its_version_or_without(
    url: str, mistral: responses.RequestsMock
) -> None:
    mistral.get(LIST, json={"data": []})
    assert not BatchAPI(url).keeps_keys


def test_the_token_is_shown_and_no_other_that_this_machine_has_for_the_host(
    mistral: responses.RequestsMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine batch.test login user password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    mistral.get(LIST, json={"data": []}, headers=GATEWAY)
    assert BatchAPI(URL, "secret").keeps_keys and BatchAPI(URL).keeps_keys
    shown = [call.request.headers.get("Authorization") for call in mistral.calls]
    assert shown == ["Bearer secret", None]


@pytest.mark.parametrize("timing", ["api-gateway;dur=3", "cdn;desc=gateway", "", "gateways;dur=1"])
def test_what_stands_before_a_place_makes_no_gateway_of_it(
    timing: str, mistral: responses.RequestsMock
) -> None:
    mistral.get(LIST, json={"data": []}, headers={"Server-Timing": timing})
    assert not BatchAPI(URL).keeps_keys


def test_nobody_there_is_said_soon(closed_port: int, pauses: list[float]) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    with pytest.raises(Unreachable, match=f"{url} cannot be reached.*--url"):
        _ = BatchAPI(url, sleep=pauses.append).keeps_keys
    assert sum(pauses) < 10


def test_a_certificate_that_is_not_trusted_is_said_at_once(
    certificate: tuple[str, str], pauses: list[float]
) -> None:
    upstream = Upstream(certificate)
    try:
        api = BatchAPI(f"https://localhost:{upstream.port}", sleep=pauses.append)
        with pytest.raises(Unreachable, match="certificate"):
            _ = api.keeps_keys
    finally:
        upstream.close()
    assert not pauses


@pytest.mark.parametrize("body", ["<html>", "[]", "7", "null", '{"hello": 1}', ""])
def test_what_is_no_such_api_is_given_up(
    body: str, api: BatchAPI, mistral: responses.RequestsMock
) -> None:
    mistral.get(LIST, body=body)
    with pytest.raises(Unreachable, match="gave no whole answer; given up after 20 seconds"):
        _ = api.keeps_keys


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"detail": "Unauthorized"}, r"Unauthorized \(HTTP 401\); .*MISTRAL_BATCH_TOKEN"),
        (404, {"object": "error", "message": "No such"}, r"No such \(HTTP 404\)"),
        (422, {"detail": [{"loc": ["body", "model"], "msg": "wrong"}]}, "body.model: wrong"),
        (422, {"title": "Broken", "detail": "/body/a is missing"}, "/body/a is missing"),
        (400, {"detail": {"message": "deep"}}, "deep"),
        (400, ["a", {"error": "b"}], "a; b"),
        (400, {"detail": None, "message": ""}, "Bad Request"),
        (307, {}, "Temporary Redirect"),
    ],
)
def test_a_refusal_says_what_the_place_said(
    status: int, body: object, words: str, api: BatchAPI, mistral: responses.RequestsMock
) -> None:
    mistral.get(f"{LIST}/j", json=body, status=status)
    with pytest.raises(Refused, match=words) as raised:
        api.get_job("j")
    assert raised.value.status == status and "secret" not in str(raised.value)


def problem(kind: str, status: int, retryable: bool) -> dict[str, object]:
    """As a gateway words it."""
    return {
        "type": f"/problems#{kind}",
        "title": kind,
        "status": status,
        "retryable": retryable,
    }


@pytest.mark.parametrize(
    ("kind", "status", "retryable"),
    [
        ("idempotency-in-progress", 409, True),
        ("outcome-still-unknown", 409, True),
        ("create-outcome-unknown", 504, False),
        ("gateway-unavailable", 502, False),
        ("overloaded", 503, True),
        ("too-many-requests", 429, True),
        ("upstream-unreachable", 502, True),
    ],
)
def test_a_gateway_is_asked_again_with_the_same_key_until_it_knows(
    kind: str,
    status: int,
    retryable: bool,
    api: BatchAPI,
    pauses: list[float],
    mistral: responses.RequestsMock,
) -> None:
    mistral.get(LIST, json={"data": []}, headers=GATEWAY)
    retry = {"Retry-After": "3"}
    mistral.post(LIST, json=problem(kind, status, retryable), status=status, headers=retry)
    mistral.post(LIST, json=JOB)
    assert api.create_job({}, "key") == JOB
    creates = [call.request.headers for call in mistral.calls if call.request.method == "POST"]
    assert [headers["Idempotency-Key"] for headers in creates] == ["key", "key"]
    assert pauses == [3.0]


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("upstream-refused-key", 502, Refused),
        ("idempotency-key-reused", 422, Refused),
        ("outcome-still-unknown", 409, Refused),
        ("upstream-rejected", 402, NoMoney),
        ("rate-limited", 429, NoMoney),
    ],
)
def test_a_gateway_is_not_asked_again_in_vain(
    kind: str, status: int, error: type[Refused], api: BatchAPI, mistral: responses.RequestsMock
) -> None:
    mistral.get(LIST, json={"data": []}, headers=GATEWAY)
    mistral.post(LIST, json=problem(kind, status, retryable=False), status=status)
    with pytest.raises(error) as raised:
        api.create_job({}, "key")
    assert raised.value.kind == kind


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_without_keys_a_create_is_not_repeated_that_may_have_been_carried_out(
    status: int, api: BatchAPI, mistral: responses.RequestsMock
) -> None:
    mistral.get(LIST, json={"data": []})
    mistral.post(LIST, body="<html>", status=status)
    with pytest.raises(Unclear):
        api.create_job({}, "key")


@pytest.mark.parametrize("after", ["soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_a_pause_that_says_nothing_is_one_of_our_own(
    after: str, api: BatchAPI, pauses: list[float], mistral: responses.RequestsMock
) -> None:
    mistral.get(f"{LIST}/j", status=429, headers={"Retry-After": after})
    mistral.get(f"{LIST}/j", json=JOB)
    assert api.get_job("j") == JOB
    assert pauses == [1.0]


def test_who_looks_on_is_told_of_each_repeat(mistral: responses.RequestsMock) -> None:
    told: list[Trouble] = []
    api = BatchAPI(URL, report=told.append, sleep=lambda _: None)
    mistral.get(f"{LIST}/j", status=503, headers={"Retry-After": "7"})
    mistral.get(f"{LIST}/j", json=JOB)
    api.get_job("j")
    assert told == [Trouble("Service Unavailable (HTTP 503)", 7.0)]


def test_all_pages_are_looked_through_and_what_is_not_meant_is_left_out(
    api: BatchAPI, mistral: responses.RequestsMock
) -> None:
    ours = {**JOB, "metadata": {"run": "a", "more": "b"}}
    mistral.get(LIST, json={"data": [JOB, ours] * 50, "total": 102})
    mistral.get(LIST, json={"data": [ours, JOB], "total": 102})
    assert list(api.find_jobs({"run": "a"})) == [ours] * 51
    assert [call.request.params["page"] for call in mistral.calls] == ["0", "1"]


def test_an_upload_takes_no_memory_and_has_all_of_the_file(
    api: BatchAPI, mistral: responses.RequestsMock, tmp_path: Path
) -> None:
    sent: list[bytes] = []

    def take(request: Any) -> tuple[int, dict[str, str], str]:
        pieces = list(request.body)
        assert max(map(len, pieces)) <= 1 << 16
        sent.append(b"".join(pieces))
        assert request.headers["Content-Length"] == str(len(sent[-1]))
        return (503, {}, "") if len(sent) == 1 else (200, {}, '{"id": "f"}')

    content = b"line\n" * 50_000
    (tmp_path / "requests").write_bytes(content)
    mistral.add_callback("POST", f"{URL}/v1/files", take)
    assert api.upload(tmp_path / "requests", "name.jsonl") == "f"
    assert sent[0] == sent[1] and content in sent[0]
