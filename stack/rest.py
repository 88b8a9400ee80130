"""The REST service as its caller sees it: JSON in, JSON out, one connection per call."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any

from stack.config import Door

JOBS = "/v1/batch/jobs"
_SECONDS = 60.0


class CallFailed(Exception):
    """A call was not answered with 200; the message is one line with what the answer says."""


def answers(door: Door) -> bool:
    """True when the process at `door` says that it serves."""
    try:
        return _exchange(door, "GET", door.ready, seconds=2)[0] == 200
    except CallFailed:
        return False


def call(door: Door, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object that the service answers with; CallFailed for anything else."""
    status, content = _exchange(door, method, path, body)
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise CallFailed(f"{method} {path}: {status}, not JSON") from error
    if status != 200 or not isinstance(answer, dict):
        raise CallFailed(f"{method} {path}: {status} {_explanation(answer)}")
    return answer


def text(door: Door, path: str) -> str:
    """What the process at `door` answers to GET, whatever it is."""
    return _exchange(door, "GET", path)[1].decode("utf-8", "replace")


def _exchange(
    door: Door,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    seconds: float = _SECONDS,
) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection = HTTPConnection(door.reach, door.port, timeout=seconds)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        raise CallFailed(f"{method} {path}: no answer from {door.url} ({error})") from error
    finally:
        connection.close()


def _explanation(problem: Any) -> str:
    if not isinstance(problem, dict):
        return "with something that is not a JSON object"
    said = [str(problem[member]) for member in ("title", "detail") if problem.get(member)]
    faults = [f"{fault['pointer']} {fault['detail']}" for fault in problem.get("errors", [])]
    identity = f" (request {problem['request_id']})" if problem.get("request_id") else ""
    return ": ".join(said) + "".join(f"; {fault}" for fault in faults) + identity
