"""Answers, and the errors among them, in the forms that Mistral's live API is reported to use."""

from __future__ import annotations

import json
from typing import Any

from werkzeug.wrappers import Response

Body = dict[str, Any]


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; a text is taken to be JSON already. Everything that succeeds is exactly 200."""
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, content_type="application/json")


def page(status: int) -> Response:
    """An error as a proxy answers it: in HTML."""
    text = f"<html><head><title>{status}</title></head><body>cloudflare</body></html>\n"
    return Response(text, status, content_type="text/html; charset=UTF-8")


class HTTPError(Exception):
    """The answer is an error: its status, JSON body and further headers."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"answered with {status}")
        self.status, self.body, self.headers = status, body, headers


class Invalid(HTTPError):
    """The request breaks the contract: a 422 with a row for each violation (schema ValidationError)."""

    def __init__(self, violations: list[Body]) -> None:
        super().__init__(422, {"detail": violations})
        self.violations = violations


def violation(type: str, loc: tuple[str | int, ...], msg: str, input: Any) -> Body:
    """A row of a 422 answer."""
    return {"type": type, "loc": list(loc), "msg": msg, "input": input}


def not_found() -> HTTPError:
    """What Mistral answers for an id that is unknown, or belongs to another workspace."""
    return HTTPError(404, {"detail": "Not Found"})


def inference_error(message: str, type: str, code: str, status: int) -> Body:
    """An error body in the form of Mistral's inference services."""
    return {
        "object": "error",
        "message": message,
        "type": type,
        "param": None,
        "code": code,
        "raw_status_code": status,
    }


RATE_LIMITED = inference_error("Rate limit exceeded", "rate_limited", "1300", 429)


def quota_headers(limit: int, remaining: int) -> dict[str, str]:
    """The rate limit headers that Mistral's live API sends."""
    return {
        "x-ratelimit-limit-req-minute": str(limit),
        "x-ratelimit-remaining-req-minute": str(remaining),
    }
