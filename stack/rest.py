"""The REST service as its caller sees it: JSON in, JSON out, one connection per call."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from stack.config import Endpoint

JOBS = "/v1/batch/jobs"


class CallFailed(Exception):
    """A call was not answered with 200; the message is one line with what the answer says."""


class Answer(NamedTuple):
    """What came back; `server` is what calls itself so in the header of that name."""

    status: int
    content: bytes
    server: str


def answers(endpoint: Endpoint) -> bool:
    """True when the process at `endpoint` says that it serves."""
    try:
        return exchange(endpoint, "GET", endpoint.ready, seconds=2).status == 200
    except CallFailed:
        return False


def stranger(endpoint: Endpoint) -> str | None:
    """Who answers where the REST service should; empty for a gateway, None when nobody does."""
    try:
        answer = exchange(endpoint, "GET", "/no-such-page", seconds=2)
    except CallFailed:
        return None
    # Whatever a gateway refuses, with or without tokens, is one of its problems.
    if b"/problems#" in answer.content:
        return ""
    return f"{answer.server or 'a server without a name'}, which is no gateway"


def call(endpoint: Endpoint, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The JSON object that the service answers with; raises CallFailed for anything else."""
    status, content, _ = exchange(endpoint, method, path, body, token=endpoint.token)
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise CallFailed(f"{method} {path}: {status}, not JSON") from error
    if not isinstance(answer, dict):
        raise CallFailed(f"{method} {path}: {status} with something that is not a JSON object")
    if status != 200:
        said = ": ".join(str(answer[name]) for name in ("title", "detail") if answer.get(name))
        violations = [f"; {row['pointer']} {row['detail']}" for row in answer.get("errors", [])]
        request = f" (request {answer['request_id']})" if answer.get("request_id") else ""
        raise CallFailed(f"{method} {path}: {status} {said}{''.join(violations)}{request}")
    return answer


def exchange(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: Any = None,
    *,
    seconds: float = 60.0,
    token: str = "",
) -> Answer:
    """What the process at `endpoint` answers; raises CallFailed when it does not answer."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = HTTPConnection(endpoint.reach, endpoint.port, timeout=seconds)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read(), response.headers.get("Server", ""))
    except (OSError, HTTPException, ValueError) as error:
        raise CallFailed(f"{method} {path}: no answer from {endpoint.url} ({error})") from error
    finally:
        connection.close()
