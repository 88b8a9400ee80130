"""Which files callers may touch, what is said of a bad one, and what the logs keep: against the sandbox."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

from openapi.contract import load
from service.app import create_app
from service.config import Settings
from service.json_body import BodyReader
from tests.support.processes import Sandbox

FILES = "/v1/files"
JOBS = "/v1/batch/jobs"
GOOD = b'{"custom_id": "a", "body": {}}\n{"custom_id": "b", "body": {}}\n'

Make = Callable[..., TestClient]


@pytest.fixture
def make(settings: Settings, sandbox: Sandbox) -> Make:
    """Makes a client of a gateway before the sandbox."""

    def made(**changes: Any) -> TestClient:
        app = create_app(replace(settings, upstream_url=f"{sandbox.url}/v1", **changes))
        return TestClient(app, base_url="http://127.0.0.1:8080")

    return made


def upload(
    client: TestClient, content: bytes = GOOD, purpose: str = "batch", **headers: str
) -> Any:
    files = {"file": ("private name.jsonl", content)}
    return client.post(FILES, files=files, data={"purpose": purpose}, headers=headers)


def foreign(sandbox: Sandbox, purpose: str = "ocr") -> str:
    """The id of a file that another program has in the workspace."""
    answer = requests.post(
        f"{sandbox.url}{FILES}",
        files={"file": ("training.jsonl", GOOD)},
        data={"purpose": purpose},
        headers={"Authorization": "Bearer another"},
        timeout=10,
    )
    return str(answer.json()["id"])


def asked(sandbox: Sandbox, start: int) -> list[str]:
    return [f"{row['method']} {row['path']}" for row in sandbox.ledger()[start:]]


def test_a_file_goes_up_is_found_comes_down_and_is_deleted(make: Make) -> None:
    client = make()
    file = upload(client).json()
    assert [each["id"] for each in client.get(FILES).json()["data"]] == [file["id"]]
    assert client.get(f"{FILES}/{file['id']}").json()["bytes"] == len(GOOD)
    assert client.get(f"{FILES}/{file['id']}/content").content == GOOD
    assert client.delete(f"{FILES}/{file['id']}").json()["deleted"] is True
    assert client.get(f"{FILES}/{file['id']}").status_code == 404


# ------------------------------------------------------------------------------------------------------------ purposes
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("GET", "/content"), ("HEAD", "/content"), ("GET", "/url")],
)
def test_a_file_of_another_purpose_is_not_there(
    method: str, path: str, make: Make, sandbox: Sandbox
) -> None:
    hidden = foreign(sandbox)
    client, start = make(signed_urls="on"), len(sandbox.ledger())
    answer = client.request(method, f"{FILES}/{hidden}{path}")
    unknown = client.request(method, f"{FILES}/{uuid.uuid4()}{path}")
    assert (answer.status_code, unknown.status_code) == (404, 404)
    assert {each.split()[0] for each in asked(sandbox, start)} == {"GET"}
    assert not any(each.endswith(("/content", "/url")) for each in asked(sandbox, start))
    if method != "HEAD":
        hide = dict.fromkeys(("instance", "request_id"))
        assert answer.json() | hide == unknown.json() | hide


def test_the_purpose_of_a_file_is_asked_once(make: Make, sandbox: Sandbox) -> None:
    file = upload(make()).json()["id"]
    client, start = make(), len(sandbox.ledger())
    for _ in range(3):
        assert client.get(f"{FILES}/{file}/content").status_code == 200
    content, looked_up = f"GET {FILES}/{file}/content", f"GET {FILES}/{file}"
    assert asked(sandbox, start) == [looked_up, content, content, content]


def test_the_purpose_of_an_uploaded_file_is_known(make: Make, sandbox: Sandbox) -> None:
    client = make()
    file = upload(client).json()["id"]
    start = len(sandbox.ledger())
    assert client.delete(f"{FILES}/{file}").status_code == 200
    assert asked(sandbox, start) == [f"DELETE {FILES}/{file}"]


def test_a_list_has_allowed_purposes_alone(make: Make, sandbox: Sandbox) -> None:
    foreign(sandbox)
    client = make()
    file = upload(client).json()["id"]
    assert [each["id"] for each in client.get(FILES).json()["data"]] == [file]
    assert client.get(f"{FILES}?purpose=batch").json()["total"] == 1
    refused = client.get(f"{FILES}?purpose=ocr")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/query/purpose")


def test_other_purposes_can_be_allowed_and_are_not_read_by_lines(
    make: Make, sandbox: Sandbox
) -> None:
    client = make(file_purposes=("batch", "ocr"))
    file = upload(client, b"%PDF-1.7 no lines", "ocr").json()["id"]
    assert client.get(f"{FILES}/{file}").status_code == 200
    assert client.get(f"{FILES}?purpose=ocr").json()["total"] == 1
    assert client.get(FILES).status_code == 422  # one list has one purpose


def test_an_upload_of_another_purpose_is_refused_and_never_there(
    make: Make, sandbox: Sandbox
) -> None:
    refused = upload(make(), purpose="fine-tune")
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"pointer": "/body/purpose", "detail": "must be batch (GATEWAY_FILE_PURPOSES)"}
    ]
    assert stored(sandbox) == []


def test_a_signed_url_is_off_unless_it_is_switched_on(make: Make, sandbox: Sandbox) -> None:
    client = make()
    file = upload(client).json()["id"]
    start = len(sandbox.ledger())
    assert client.get(f"{FILES}/{file}/url").status_code == 404
    assert asked(sandbox, start) == []
    assert make(signed_urls="on").get(f"{FILES}/{file}/url").json()["url"].startswith("http")


# ----------------------------------------------------------------------------------------------------------- the check
def stored(sandbox: Sandbox) -> list[Any]:
    """What the sandbox has."""
    headers = {"Authorization": "Bearer x"}
    found: list[Any] = requests.get(f"{sandbox.url}{FILES}", headers=headers, timeout=10).json()[
        "data"
    ]
    return found


def test_a_bad_file_is_refused_by_its_lines_and_never_there(make: Make, sandbox: Sandbox) -> None:
    refused = upload(make(), GOOD + b'{"custom_id": "a", "body": {}}\n[]\n')
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"pointer": "/file/line/3", "detail": "custom_id repeats that of line 1."},
        {"pointer": "/file/line/4", "detail": "It must be an object, is an array."},
    ]
    assert stored(sandbox) == []


def test_nothing_is_asked_upstream_for_a_small_file_that_is_refused(
    make: Make, sandbox: Sandbox
) -> None:
    assert upload(make(), b"[]\n").status_code == upload(make(), purpose="ocr").status_code == 422
    assert sandbox.ledger(method="POST") == []


def test_a_hundred_faults_of_a_file_are_told_and_all_are_counted(make: Make) -> None:
    refused = upload(make(), b"[]\n" * 250).json()
    assert [each["pointer"] for each in refused["errors"]] == [
        f"/file/line/{line}" for line in range(1, 101)
    ]
    assert refused["detail"].startswith("250 faults in the file")


@pytest.mark.parametrize("line", [b"{}\n", b"a\n", b"[1]\n"])
def test_a_file_of_faults_alone_is_refused_before_all_of_it_was_read(
    line: bytes, make: Make
) -> None:
    refused = upload(make(), line * 300_000).json()
    assert refused["detail"].startswith("10000 faults or more in the file")
    assert len(refused["errors"]) == 100


@pytest.mark.parametrize(
    ("content", "warned"),
    [
        (GOOD, ""),
        (b"\xef\xbb\xbf" + GOOD, "begins with a byte order mark"),
        (GOOD.replace(b"\n", b"\r\n"), "has lines that end with CR LF"),
        (b"\n" + GOOD + b"  \n", "has blank lines"),
        (GOOD[:-1], "has a last line without its end"),
        (GOOD[:-1] + b"\n\n", "has blank lines"),
        (b"\n" + GOOD[:-1], "has a last line without its end, has blank lines"),
    ],
)
def test_what_mistral_may_not_take_passes_with_a_warning(
    content: bytes, warned: str, make: Make
) -> None:
    answer = upload(make(), content)
    said = f"the file {warned}: Mistral may not take that" if warned else ""
    assert (answer.status_code, answer.headers.get("gateway-warning", "")) == (200, said)


def test_a_file_of_unknown_length_is_taken(make: Make) -> None:
    client = make()
    request = client.build_request(
        "POST", FILES, files={"file": ("a.jsonl", GOOD)}, data={"purpose": "batch"}
    )
    body, headers = request.read(), {"Content-Type": request.headers["content-type"]}
    answer = client.post(FILES, content=iter([body[:50], body[50:]]), headers=headers)
    assert (answer.status_code, "content-length" in answer.request.headers) == (200, False)
    assert answer.json()["bytes"] == len(GOOD)


def test_the_check_can_be_switched_off(make: Make) -> None:
    assert upload(make(check_files="off"), b"[]\n").status_code != 422


def test_a_file_over_the_limit_is_refused(make: Make, sandbox: Sandbox) -> None:
    refused = upload(make(max_file=1000), GOOD * 100)
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems#content-too-large")
    assert "GATEWAY_MAX_FILE" in refused.json()["detail"]
    assert stored(sandbox) == []


def test_an_idempotency_key_of_an_upload_is_warned_of(make: Make) -> None:
    answer = upload(make(), **{"Idempotency-Key": "a"})
    assert "Idempotency-Key" in answer.headers["gateway-warning"]


# -------------------------------------------------------------------------------------------------------- inline ids
def creation(*ids: str | None) -> dict[str, Any]:
    requests = [{"body": {}} if each is None else {"custom_id": each, "body": {}} for each in ids]
    return {"endpoint": "/v1/ocr", "model": "m", "requests": requests}


def test_a_create_with_an_id_that_comes_twice_is_refused(make: Make, sandbox: Sandbox) -> None:
    refused = make().post(JOBS, json=creation("a", "b", "a", "a"))
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"pointer": f"/body/requests/{n}/custom_id", "detail": "repeats that of /body/requests/0"}
        for n in (2, 3)
    ]
    assert sandbox.ledger(method="POST") == []


@pytest.mark.parametrize(
    ("ids", "warned"),
    [((None, "b", None), "2 of 3 requests have no custom_id"), (("a", "b"), ""), ((None,), "")],
)
def test_a_create_with_requests_that_cannot_be_told_apart_is_warned_of(
    ids: tuple[str | None, ...], warned: str, make: Make
) -> None:
    answer = make().post(JOBS, json=creation(*ids))
    assert answer.status_code == 200
    assert answer.headers.get("gateway-warning", "") == warned


M: dict[str, Any] = {"model": "m"}
NAMELESS = "have no model or agent_id, of their own or for all"


@pytest.mark.parametrize(
    ("job", "bodies", "warned"),
    [
        ({}, [M, {}, {"agent_id": "a"}, {"model": None}, {"model": ""}], f"3 of 5 requests {NAMELESS}"),
        ({}, [{}], f"1 of 1 requests {NAMELESS}"),
        ({}, [M, {"agent_id": "a", "x": [1]}], ""),
        ({"model": None, "agent_id": ""}, [{}, M], f"1 of 2 requests {NAMELESS}"),
        (M, [{}, {}], ""),
        ({"agent_id": "a"}, [{}], ""),
        ({"input_files": [str(uuid.UUID(int=1))]}, None, "there is no model or agent_id for all requests, so that each needs its own"),
        ({"input_files": [str(uuid.UUID(int=1))], **M}, None, ""),
    ],
)  # fmt: skip
def test_a_create_that_does_not_say_what_runs_its_requests_is_warned_of(
    job: dict[str, Any], bodies: list[dict[str, Any]] | None, warned: str
) -> None:
    body = load().operations["createbatchjob"].body
    assert body
    given = {"endpoint": "/v1/ocr", **job}
    if bodies is not None:
        given["requests"] = [{"custom_id": str(n), "body": b} for n, b in enumerate(bodies)]
    content = json.dumps(given).encode()
    assert BodyReader(body).read(content) == (content, warned)


# ---------------------------------------------------------------------------------------------------------------- logs
def test_who_moved_or_deleted_which_file_is_in_the_audit_log_without_its_name(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.audit")
    client = make(signed_urls="on")
    file = upload(client, b'{"custom_id": "a", "body": {"id": "of the content"}}\n').json()["id"]
    client.get(f"{FILES}/{file}")
    size = len(client.get(f"{FILES}/{file}/content").content)
    client.get(f"{FILES}/{file}/url")
    client.delete(f"{FILES}/{file}")
    rows = [r.fields for r in caplog.records if r.name == "gateway.audit"]  # type: ignore[attr-defined]
    assert [(row["operation"], row["id"], row["outcome"]) for row in rows] == [
        (operation, file, "done")
        for operation in ("uploadfile", "downloadfile", "getfilesignedurl", "deletefile")
    ]
    assert rows[0]["request_bytes"] > size == rows[1]["bytes"]
    assert "private name" not in json.dumps(rows) + caplog.text


def test_bytes_are_counted_in_both_directions(make: Make) -> None:
    client = make()
    before = _transferred(client)
    file = upload(client).json()["id"]
    client.get(f"{FILES}/{file}/content")
    up, down = (now - then for now, then in zip(_transferred(client), before, strict=True))
    assert up > len(GOOD) and down > len(GOOD)


def _transferred(client: TestClient) -> tuple[float, float]:
    samples = dict(
        line.rsplit(" ", 1)
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("gateway_transferred_bytes_total")
    )
    up, down = (
        float(samples[f'gateway_transferred_bytes_total{{direction="{direction}"}}'])
        for direction in ("up", "down")
    )
    return up, down
