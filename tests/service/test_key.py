"""The key while the service runs: rotated without a restart, never mixed, refused aloud. And what readiness says of it."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

import service.upstream_key
from service.app import create_app
from service.config import Settings
from tests.conftest import UPSTREAM
from tests.support.api import credentials

JOBS = f"{UPSTREAM}/v1/batch/jobs"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("first-key\n")
    return file


@pytest.fixture
def client(key_file: Path, tmp_path: Path) -> TestClient:
    """A client of a gateway whose key is in a file."""
    environ = {
        "MISTRAL_AI_API_KEY_FILE": str(key_file),
        "GATEWAY_UPSTREAM_URL": f"{UPSTREAM}/v1",
        "GATEWAY_STORE": str(tmp_path / "keys.sqlite3"),
    }
    return TestClient(create_app(Settings.from_env(environ)), base_url="http://127.0.0.1:8080")


def sent_keys(mistral: RequestsMock) -> list[str]:
    return [call.request.headers["Authorization"] for call in mistral.calls]


def replace_file(file: Path, content: str) -> None:
    """As secret managers do: a new file in the place of the old one."""
    file.with_suffix(".new").write_text(content)
    file.with_suffix(".new").replace(file)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at for every request."""
    monkeypatch.setattr(service.upstream_key, "CHECK_PERIOD", -1.0)


@pytest.fixture
def only_when_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at when the upstream refuses the key, however slow the test is."""
    monkeypatch.setattr(service.upstream_key, "CHECK_PERIOD", 1000.0)


@pytest.mark.usefixtures("no_wait")
def test_a_new_key_in_the_file_is_used_without_a_restart(
    key_file: Path, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json={})
    client.get("/v1/batch/jobs")
    replace_file(key_file, "second-key\n")
    client.get("/v1/batch/jobs")
    assert sent_keys(mistral) == ["Bearer first-key", "Bearer second-key"]


@pytest.mark.usefixtures("no_wait")
def test_a_pipe_in_the_place_of_the_file_holds_no_request(
    key_file: Path, mistral: RequestsMock, client: TestClient
) -> None:
    """Nobody writes to it: to open it would take for ever."""
    mistral.get(JOBS, json={})
    key_file.unlink()
    os.mkfifo(key_file)
    assert client.get("/v1/batch/jobs").status_code == 200
    assert sent_keys(mistral) == ["Bearer first-key"]


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize("content", ["", "Bearer third", "'quoted'"])
def test_a_file_that_cannot_be_used_leaves_the_old_key(
    content: str,
    key_file: Path,
    mistral: RequestsMock,
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mistral.get(JOBS, json={})
    client.get("/v1/batch/jobs")
    replace_file(key_file, content)
    assert client.get("/v1/batch/jobs").status_code == 200
    assert sent_keys(mistral)[-1] == "Bearer first-key"
    assert "the old key stays" in caplog.text


def refuse_first_key(request: Any) -> tuple[int, dict[str, str], str]:
    return (401 if "first" in request.headers["Authorization"] else 200, {}, "{}")


@pytest.mark.usefixtures("only_when_refused")
def test_a_get_that_meets_a_401_is_repeated_with_the_renewed_key(
    key_file: Path, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.add_callback("GET", JOBS, refuse_first_key, content_type="application/json")
    replace_file(key_file, "second-key")
    assert client.get("/v1/batch/jobs").status_code == 200
    assert sent_keys(mistral) == ["Bearer first-key", "Bearer second-key"]


@pytest.mark.usefixtures("only_when_refused")
def test_a_create_that_meets_a_401_is_sent_once_and_may_be_repeated(
    key_file: Path, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.add_callback("POST", JOBS, refuse_first_key, content_type="application/json")
    replace_file(key_file, "second-key")
    answer = client.post("/v1/batch/jobs", json={"endpoint": "/v1/ocr"})
    assert (answer.status_code, answer.json()["retryable"]) == (502, True)
    assert client.post("/v1/batch/jobs", json={"endpoint": "/v1/ocr"}).status_code == 200
    assert sent_keys(mistral) == ["Bearer first-key", "Bearer second-key"]


def test_readiness_is_false_while_the_key_is_refused(
    key_file: Path, mistral: RequestsMock, client: TestClient
) -> None:
    assert client.get("/readyz").json() == {
        "status": "ok",
        "checks": {"key": "ok", "store": "ok", "audit": "ok"},
    }
    mistral.add_callback("GET", JOBS, refuse_first_key, content_type="application/json")
    client.get("/v1/batch/jobs")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["key"]) == (503, "refused by the upstream")
    replace_file(key_file, "second-key")
    client.get("/v1/batch/jobs")
    assert client.get("/readyz").status_code == 200


def test_a_gateway_that_no_request_reaches_becomes_ready_again_to_find_out(
    mistral: RequestsMock, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistral.get(JOBS, status=401, json={})
    client.get("/v1/batch/jobs")
    assert client.get("/readyz").status_code == 503
    monkeypatch.setattr(service.upstream_key, "REFUSAL_PERIOD", 0.0)
    assert client.get("/readyz").status_code == 200


def test_a_refused_key_is_logged_once_a_minute(
    mistral: RequestsMock, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    mistral.get(JOBS, status=401, json={"detail": "Unauthorized"})
    for _ in range(5):
        client.get("/v1/batch/jobs")
    assert caplog.text.count("refuses the key") == 1


@pytest.mark.usefixtures("no_wait")
def test_each_new_fault_of_the_file_is_logged_also_after_a_refusal(
    key_file: Path,
    mistral: RequestsMock,
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same one is not, until it was mended in between."""
    mistral.get(JOBS, status=401, json={})
    client.get("/v1/batch/jobs")
    for content in ("Bearer k", "Bearer k", '"k"', "good-key", '"k"'):
        replace_file(key_file, content)
        client.get("/v1/batch/jobs")
    lines = [r.getMessage() for r in caplog.records if "the key's file" in r.getMessage()]
    reasons = ["starts with 'Bearer'", "has quotes", "the new key is in use", "has quotes"]
    assert len(lines) == len(reasons)
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True))
    assert all("the old key stays" in line or "new key" in line for line in lines)


def test_a_key_file_with_a_byte_order_mark_is_read_without_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfa-key\r\n")
    settings = Settings.from_env({"MISTRAL_AI_API_KEY_FILE": str(tmp_path / "key")})
    assert credentials(settings) == {"token": "a-key"}


def test_all_workers_know_of_a_refusal_that_one_of_them_met(settings: Settings) -> None:
    key = service.upstream_key.UpstreamKey(
        settings, settings.contract.upstreams["batch-batch-jobs"].authentication
    )
    worker = multiprocessing.get_context("fork").Process(target=lambda: key.refuse(key.current()))
    worker.start()
    worker.join()
    assert (worker.exitcode, key.refused) == (0, True)


def test_liveness_does_not_depend_on_the_key(mistral: RequestsMock, client: TestClient) -> None:
    mistral.get(JOBS, status=401, json={})
    client.get("/v1/batch/jobs")
    assert client.get("/livez").status_code == 200
