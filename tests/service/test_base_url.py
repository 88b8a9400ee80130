"""A base URL that is wrong is said to be: at the start, in the log, and to callers whose calls show it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from service.app import create_app
from service.config import Settings
from tests.support.api import JOB_ID

NOT_FOUND = {"detail": "Not Found"}
SETTING = "GATEWAY_UPSTREAM_URL"
Gateway = Callable[[str], TestClient]


@pytest.fixture
def gateway(settings: Settings) -> Gateway:
    """Makes a client of a gateway with this base URL."""

    def make(url: str) -> TestClient:
        app = create_app(replace(settings, upstream_url=url))
        return TestClient(app, base_url="http://127.0.0.1:8080")

    return make


@pytest.fixture(autouse=True)
def anywhere(mistral: RequestsMock) -> None:
    mistral.add("GET", re.compile(".*"), json=NOT_FOUND, status=404)
    mistral.add("POST", re.compile(".*"), json=NOT_FOUND, status=404)


@pytest.mark.parametrize(
    "path", ["", "/", "/v1/v1", "/v1/batch/jobs", "/v1beta", "/mistralv1", "/v1/v1/", "/V1"]
)
def test_a_base_url_that_does_not_end_as_the_capabilitys_own_is_doubted_at_the_start(
    path: str, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client = gateway(f"http://127.0.0.1:9{path}")
    assert SETTING in caplog.text and "/v1" in caplog.text
    # Whatever is not found there may be somewhere else.
    assert SETTING in client.get(f"/v1/batch/jobs/{JOB_ID}").json()["detail"]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/mistral/v1"])
def test_a_base_url_that_ends_so_is_not_doubted(
    path: str, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    client = gateway(f"http://127.0.0.1:9{path}")
    detail = client.get(f"/v1/batch/jobs/{JOB_ID}").json()["detail"]
    assert (caplog.text, detail) == ("", "The upstream said: Not Found")


def test_a_list_that_is_not_found_says_what_is_wrong_and_the_log_says_it_once(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    client = gateway("http://127.0.0.1:9/v1")
    for _ in range(2):
        answer = client.get("/v1/batch/jobs")
        assert (answer.status_code, SETTING in answer.json()["detail"]) == (404, True)
    told = [each for each in caplog.records if each.name == "gateway.upstream"]
    assert [SETTING in each.getMessage() for each in told] == [True]


@pytest.mark.parametrize(
    ("status", "headers"),
    [(200, {}), (404, {}), (301, {"Location": "https://127.0.0.1:9/v1/batch/jobs"})],
)
def test_pages_and_redirects_of_what_is_no_api_say_it_too(
    status: int, headers: Any, mistral: RequestsMock, gateway: Gateway
) -> None:
    mistral.replace(
        "GET",
        re.compile(".*"),
        body="<html>",
        content_type="text/html",
        status=status,
        headers=headers,
    )
    answer = gateway("http://127.0.0.1:9/v1").get("/v1/batch/jobs")
    assert (answer.status_code, SETTING in answer.json()["detail"]) == (502, True)


FILES = ["4690b445-b456-49b3-92a7-8db2aaccc9d4", JOB_ID]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}])
def test_a_create_that_is_not_found_names_the_ids_that_may_be_meant(
    key: dict[str, str], gateway: Gateway
) -> None:
    client = gateway("http://127.0.0.1:9/v1")
    body = {"endpoint": "/v1/ocr", "input_files": FILES}
    answer = client.post("/v1/batch/jobs", json=body, headers=key)
    detail = answer.json()["detail"]
    assert answer.status_code == 404
    assert all(each in detail for each in FILES) and SETTING not in detail


def test_a_create_without_ids_that_is_not_found_says_that_the_address_may_be_wrong(
    gateway: Gateway,
) -> None:
    client = gateway("http://127.0.0.1:9/v1")
    body = {"endpoint": "/v1/ocr", "requests": [{"body": {}}]}
    answer = client.post("/v1/batch/jobs", json=body)
    assert (answer.status_code, SETTING in answer.json()["detail"]) == (404, True)
