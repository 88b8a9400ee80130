"""A path at which there is nothing is answered with the one that was meant, and never with a redirect."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from openapi.names import Names
from tests.support.api import JOB_ID

JOBS = "/v1/batch/jobs"
JOB = f"{JOBS}/{{job-id}}"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        *((path, JOBS) for path in ("/v1/v1/batch/jobs", "/batch/jobs", "/v1/batch/job", "/v1/batch/jobs/", "//v1/batch/jobs")),
        *((path, JOBS) for path in ("/v1/batch//jobs", "/V1/Batch/Jobs", "/v2/batch/jobs", "/v1/batch_jobs", "/v1/batch-jobs/")),
        *((path, JOBS) for path in ("/v1/batches", "/v1/jobs", "/v1/batch", "/batches", "/jobs", "/v1/messages/batches")),
        *((path, JOBS) for path in ("/api/v1/batch/jobs", "/a/proxy/v1/batches/", "/v1/batch/jobs%2F")),
        *((path, JOB) for path in (f"/v1/batches/{JOB_ID}", f"{JOBS}/{JOB_ID}/", f"/v1/jobs/{JOB_ID}", f"{JOBS}/{JOB_ID}/results")),
        *((path, JOB) for path in (f"/batch/jobs/{JOB_ID}", f"/v1/v1/batch/jobs/{JOB_ID}", f"/v1/batch/job/{JOB_ID}")),
        *((path, f"{JOB}/cancel") for path in (f"{JOBS}/{JOB_ID}/cancle", f"/v1/batches/{JOB_ID}/cancel", f"{JOBS}/{JOB_ID}/cancel/")),
        *((path, "/v1/files") for path in ("/v1/file", "/files", "/v1/files/", "/v1/v1/files")),
        *((path, "/v1/files/{file-id}/content") for path in (f"/v1/files/{JOB_ID}/contents", f"/files/{JOB_ID}/download")),
        *((path, JOBS) for path in ("/proxy/batch/jobs", "/v1/batch-jobs", "/v1/jobs/")),
        *((path, JOB) for path in (f"/v1/messages/batches/{JOB_ID}", f"/jobs/{JOB_ID}", f"/v1/batch/{JOB_ID}", "/v1/batches/batch_abc1")),
        ("/health", "/livez"), ("/healthz", "/livez"), ("/health/ready", "/readyz"), ("/ready", "/readyz"), ("/swagger.json", "/openapi.json"),
        ("/docs/", "/docs"), ("/v1/openapi.json", "/openapi.json"), ("/livez/", "/livez"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_is_like_another_is_answered_with_that_one(
    method: str, path: str, meant: str, client: TestClient
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"Did you mean {meant}? ")


@pytest.mark.parametrize(
    "path",
    ["/v1", "/foo", "/v1/models", "/v1/chat/completions", "/v1/embeddings", f"{JOBS}/{JOB_ID}/x/y", "/a" * 4000,
     "/v1/fine_tuning/jobs", f"/v1/fine_tuning/jobs/{JOB_ID}", f"/v1/fine_tuning/jobs/{JOB_ID}/cancel", "/v1/conversations/x/files",
     "/v1/libraries/x/documents", "/v1/conversations/x/files/y1/content", "/fine_tuning/jobs",
     "/v1/batch/jobs.json", "/v1/batch/results", "/v1/batch/foo"],
)  # fmt: skip
def test_a_path_that_is_like_no_other_is_not_taken_for_one(path: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("The paths ")


@pytest.mark.parametrize(
    ("path", "methods"),
    [(JOBS, "GET, HEAD, OPTIONS, POST"), (f"{JOBS}/{JOB_ID}/cancel", "OPTIONS, POST")],
)
def test_a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has(
    path: str, methods: str, client: TestClient
) -> None:
    answer = client.delete(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert methods in answer.json()["detail"]


def test_of_a_path_only_its_last_steps_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    looked_at: list[str] = []
    meant = Names.meant
    monkeypatch.setattr(
        Names, "meant", lambda self, name: looked_at.append(name) or meant(self, name)
    )
    client.get("/a" * 4000)
    assert len(looked_at) == 12
