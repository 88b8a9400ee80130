"""What a line of results says, in every form that Mistral or a service before it was seen to use, and in those like them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistral_batch.outcomes import read

CHAT = {"choices": [{"message": {"content": "Yes"}}], "usage": {"prompt_tokens": 3}}
MISTRAL = {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300", "raw_status_code": 429}  # fmt: skip
FASTAPI = {"detail": [{"type": "missing", "loc": ["body", "messages", 0, "role"], "msg": "Field required", "input": {}}]}  # fmt: skip
HTML = "<html>\n<head><title>502</title></head>\n</html>"


def line(**members: Any) -> bytes:
    return json.dumps({"id": "x", "custom_id": "a"} | members).encode()


def response(status: Any, body: Any) -> dict[str, Any]:
    return {"status_code": status, "body": body}


ANSWERED = {
    "as Mistral gives it": line(response=response(200, CHAT), error=None),
    "without error": line(response=response(200, CHAT)),
    "without status": line(response={"body": CHAT}, error=None),
    "body as text": line(response=response(200, json.dumps(CHAT)), error=None),
    "no body between": line(response=CHAT, error=None),
    "another success": line(response=response(201, CHAT), error=None),
    "status as text": line(response=response("200", CHAT), error=None),
    "error that is empty": line(response=response(200, CHAT), error={}),
    "error that says nothing": line(
        response=response(200, CHAT), error={"message": None, "code": None}
    ),
    "error as an empty text": line(response=response(200, CHAT), error=""),
    "error null in the body": line(response=response(200, CHAT | {"error": None}), error=None),
}


@pytest.mark.parametrize("text", ANSWERED.values(), ids=ANSWERED)
def test_an_answer_is_read_from_every_form(text: bytes) -> None:
    found = read(text)
    assert (found.custom_id, found.error, found.usage) == ("a", "", {"prompt_tokens": 3})
    assert found.answer | {"error": None} == CHAT | {"error": None}


FAILED: dict[str, tuple[bytes, str, bool | None]] = {
    "a text alone": (line(response=None, error="boom"), "boom", None),
    "a text without response": (line(error="boom"), "boom", None),
    "an object": (line(response=None, error={"message": "boom"}), "boom", None),
    "Mistral's object": (line(response=None, error=MISTRAL), "429 Rate limit exceeded", True),
    "object in an object": (line(response=None, error={"error": MISTRAL}), "429 Rate limit exceeded", True),
    "JSON in a text": (line(response=None, error=json.dumps(MISTRAL)), "429 Rate limit exceeded", True),
    "status and both": (line(response=response(429, MISTRAL), error=MISTRAL), "429 Rate limit exceeded", True),
    "status and body": (line(response=response(429, MISTRAL), error=None), "429 Rate limit exceeded", True),
    "status and body as text": (line(response=response(429, json.dumps(MISTRAL))), "429 Rate limit exceeded", True),
    "error in the body": (line(response=response(200, MISTRAL), error=None), "429 Rate limit exceeded", True),
    "nested in the body": (line(response={"body": {"error": {"message": "no", "code": 400}}}), "400 no", False),
    "an error beside an answer": (line(response=response(200, CHAT), error={"message": "boom", "code": "500"}), "500 boom", True),
    "FastAPI's": (line(response=response(422, FASTAPI), error=None), "422 messages.0.role: Field required", False),
    "a list": (line(response=response(400, {"detail": ["one", "two", "one"]})), "400 one; two", False),
    "a page": (line(response=response(502, HTML)), "502 <html> <head><title>502</title></head> </html>", True),
    "status without words": (line(response=response(503, None)), "HTTP status 503", True),
    "status as text": (line(response=response("422", {"message": "no"})), "422 no", False),
    "status in the text": (line(error="API error occurred: Status 422. Body: no"), "API error occurred: Status 422. Body: no", False),
    "timed out": (line(error="Request timed out"), "Request timed out", True),
    "timeout": (line(error={"type": "timeout", "message": "upstream timeout"}), "upstream timeout", True),
    "rate limit as text": (line(error="Rate limit exceeded"), "Rate limit exceeded", True),
    "a number": (line(error=17), "17", None),
    "an object of other members": (line(error={"why": "odd"}), '{"why":"odd"}', None),
    "a code that is no status": (line(error={"message": "no", "code": "3000"}), "no", None),
    "a year is no status": (line(error="error in 404 of 2026"), "error in 404 of 2026", None),
    "a redirection": (line(response=response(302, {"message": "there"})), "302 there", None),
    "several lines": (line(error="one\n  two\tthree"), "one two three", None),
    "no response, no error": (line(response=None, error=None), "no answer", True),
    "nothing": (line(), "no answer", True),
    "an empty body": (line(response=response(200, {}), error=None), "no answer", True),
    "no body": (line(response={"status_code": 200}, error=None), "no answer", True),
    "a blank body": (line(response=response(200, "  "), error=None), "no answer", True),
    "an empty response": (line(response={}, error={}), "no answer", True),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said", "again"), FAILED.values(), ids=FAILED)
def test_an_error_is_read_from_every_form(text: bytes, said: str, again: bool | None) -> None:
    found = read(text)
    assert (found.answer, found.error, found.again) == (None, said, again)


def test_a_body_that_is_a_text_is_an_answer() -> None:
    assert read(line(response=response(200, "WEBVTT [0:00]"))).answer == "WEBVTT [0:00]"
    assert read(line(response=response(200, "[laughs] yes"))).answer == "[laughs] yes"


def test_usage_is_what_is_counted_by_whatever_endpoint() -> None:
    pages = {"pages": [{}], "usage_info": {"pages_processed": 3, "doc_size_bytes": None}}
    assert read(line(response=response(200, pages))).usage == {"pages_processed": 3}
    odd = {"x": 1, "usage": {"prompt_tokens": 1, "details": {"a": 1}, "cached": True}}
    assert read(line(response=response(200, odd))).usage == {"prompt_tokens": 1}


def test_a_long_error_is_cut() -> None:
    assert len(read(line(error="x" * 100_000)).error) == 2_001


def test_an_error_that_is_nested_deeply_is_read_to_some_depth() -> None:
    error: Any = "deep"
    for _ in range(900):
        error = {"error": error}
    found = read(line(error=error))
    assert found.error and found.answer is None


def test_numbers_of_an_answer_stay_exact() -> None:
    big = b'{"custom_id":"a","response":{"body":{"n":123456789012345678901234567890}}}'
    assert read(big).answer["n"] == 123456789012345678901234567890


@pytest.mark.parametrize("text", [b"", b"[]", b'"a"', b'{"custom_id":"a"', b"null", b"{}{}"])
def test_a_line_that_is_no_object_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        read(text)
