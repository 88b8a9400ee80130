"""Half of a surrogate pair in an answer, such as "\\ud83d": RFC 8259 section 8.2 lets it stand, and it is no character.

The standard library's reading of JSON is what ours is compared with, since it takes such halves.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from responses import RequestsMock
from starlette.testclient import TestClient

from openapi.contract import load
from openapi.json_text import UNREADABLE, legible, read_json
from tests.conftest import KEY, UPSTREAM
from tests.support.api import JOB_ID, JOBS

CREATE = {"endpoint": "/v1/ocr", "requests": [{"body": {"a": 1}}]}
HALF = rb'{"id":"a\ud83d", "object":"batch",  "\ude00":["\\ud83d","\ud83d\ude00","\uD83Dx"]}'


@pytest.mark.parametrize(
    "operation",
    [each for each in load().operations.values() if each.namespace == "batch-batch-jobs"],
    ids=lambda operation: operation.id,
)
def test_a_success_that_has_one_passes_byte_for_byte(
    operation: Any, mistral: RequestsMock, client: TestClient
) -> None:
    path = operation.path.replace("{job-id}", JOB_ID)
    mistral.add(operation.upstream_method, UPSTREAM + path, HALF, content_type="application/json")
    answer = client.request(operation.method, path, json=CREATE if operation.body else None)
    assert (answer.status_code, answer.content) == (200, HALF)


def test_an_error_that_has_one_is_passed_on_with_a_replacement_for_it(
    mistral: RequestsMock, client: TestClient
) -> None:
    body = rb'{"message":"no \ud83d","type":"\ud83d\ude00"}'
    mistral.get(UPSTREAM + JOBS, body=body, status=400, content_type="application/json")
    problem = client.get(JOBS).json()
    assert problem["type"] == "/problems#upstream-rejected"
    assert problem["upstream"] == {"message": "no \ufffd", "type": "\U0001f600"}
    assert problem["detail"].endswith("no \ufffd")


def test_an_error_that_has_one_hides_the_key_all_the_same(
    mistral: RequestsMock, client: TestClient
) -> None:
    escaped = "".join(f"\\u{ord(character):04x}" for character in KEY)
    body = rf'{{"message":"\ud83d {escaped}"}}'
    mistral.get(UPSTREAM + JOBS, body=body, status=400, content_type="application/json")
    assert client.get(JOBS).json()["upstream"] == {"message": "\ufffd ***"}


@pytest.mark.parametrize("body", [rb'{"endpoint":"\ud83d"}', rb'{"endpoint":"\ud83d and more"}'])
def test_a_body_that_has_one_is_refused_and_told_why(
    body: bytes, mistral: RequestsMock, client: TestClient
) -> None:
    answer = client.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems#malformed-request")
    assert "surrogate pair" in answer.json()["detail"]
    assert not mistral.calls


PIECES = [
    "\\\\", "\\\"", "\\n", "\\u", "\\u0041", "\\ud83d", "\\uD83D", "\\uDBFF", "\\ude00", "\\uDE00",
    "ud83d", "d83d", "x", "é", "", '"', "\\",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=1000, deadline=None, database=None)
def test_what_stands_for_half_a_pair_and_what_only_looks_like_it(pieces: list[str]) -> None:
    text = f'["{"".join(pieces)}"]'
    try:
        expected = [
            "".join("\ufffd" if "\ud800" <= each < "\ue000" else each for each in value)
            for value in json.loads(text)
        ]
    except ValueError:
        with pytest.raises(UNREADABLE):
            read_json(text.encode(), list[str])
        return
    assert len(legible(text.encode())) == len(text.encode())
    assert read_json(text.encode(), list[str]) == expected
    assert msgspec.json.decode(legible(text.encode())) == expected
