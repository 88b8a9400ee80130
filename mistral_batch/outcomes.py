"""What a line of a job's results says: whose it is, and its answer, or what it failed of and whether it may succeed when sent again.

Mistral's documents do not say what a failed line looks like; all forms that were reported are read, and those like them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from .sources import UNREADABLE

AGAIN = frozenset({408, 409, 429})
"""HTTP statuses, beside 500 and above, after which the same request may well succeed."""

NEVER = frozenset({400, 401, 403, 404, 413, 422})
"""HTTP statuses after which the same request would fail again. Of all others that is unknown."""

SAID = ("message", "detail", "msg", "error", "errors", "title", "description", "reason")
"""Members of an error that say what it is, the most telling first."""

STATUS = ("status_code", "raw_status_code", "status", "http_status", "code")
"""Members of an error that may have its HTTP status."""

LONG = 2_000
"""Characters of an error that are kept."""

_IN_TEXT = re.compile(r"(?i)\b(?:http|status|code|error)(?:[ _]code)?[ :=]{1,2}([45][0-9]{2})\b")
_MAY_PASS = re.compile(r"(?i)\btimed?[ -]?out\b|\brate[ _-]?limit|\btoo many requests\b")


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """`custom_id` is None when the line has none. `answer` is the answer's body, None when there is an `error`, which is one line.

    `again` says whether an error may pass (None: unknown). `usage` has the counts that the body tells, by Mistral's names:
    `prompt_tokens`, `completion_tokens`, `pages_processed` and the like.
    """

    custom_id: str | None
    answer: Any
    error: str
    again: bool | None
    usage: dict[str, int | float]


def read(line: bytes) -> Outcome:
    """The outcome on a line of an output or error file. ValueError when it is no JSON object."""
    try:
        row = _decode(line)
    except UNREADABLE:
        row = _read_slowly(line)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    custom_id, error = row.get("custom_id"), row.get("error")
    if not isinstance(custom_id, str):
        custom_id = None
    status, body = _response(row.get("response"))
    if isinstance(body, str):
        body = _parsed(body) if body.strip() else None
    usage = _usage(body) if isinstance(body, dict) else {}
    said = _said(error) if error else ""
    well = status is None or 200 <= status < 300
    if not said and well and not _is_error(body):
        if body or body == 0:
            return Outcome(custom_id, body, "", None, usage)
        return Outcome(custom_id, None, "no answer", True, usage)
    said = said or _said(body)
    status = (None if well else status) or _status(error) or _status(body) or _status_in(said)
    if status and status != _status_in(said) and not said.startswith(f"{status} "):
        said = f"{status} {said}" if said else f"HTTP status {status}"
    said = said if len(said) <= LONG else f"{said[:LONG]}…"
    return Outcome(custom_id, None, said, _may_pass(status, said), usage)


def _read_slowly(line: bytes) -> Any:
    """A line with what JSON has not, or no text can hold: NaN, halves of a surrogate pair, bytes that are not UTF-8 (U+FFFD instead)."""
    try:
        value = json.loads(line.decode(errors="replace"))
        text = json.dumps(value, ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is cut off, or no JSON: {error}") from error


def _response(response: Any) -> tuple[int | None, Any]:
    """The HTTP status, None when none is told, and the body."""
    if not isinstance(response, dict):
        return None, response
    status = response.get("status_code")
    if isinstance(status, str) and status.isdigit():
        status = int(status)
    known = isinstance(status, int)
    body = response.get("body") if known or "body" in response else response
    return status if known else None, body


def _parsed(text: str) -> Any:
    """What a text is the JSON of, when that is an object or an array; else the text."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return _decode(text)
    except UNREADABLE:
        return text


def _is_error(body: Any) -> bool:
    """Whether a body is an error although its status does not say so."""
    return isinstance(body, dict) and (body.get("object") == "error" or bool(body.get("error")))


def _usage(body: dict[str, Any]) -> dict[str, int | float]:
    told = body.get("usage") or body.get("usage_info")
    if not isinstance(told, dict):
        return {}
    return {name: count for name, count in told.items() if type(count) in (int, float)}


def _said(error: Any, depth: int = 0) -> str:
    """What an error says, in whatever form it came, as one line; empty when it says nothing."""
    if depth == 10 or error in (None, "", {}, []):
        return ""
    if isinstance(error, str):
        inner = _parsed(error)
        return " ".join(error.split()) if inner is error else _said(inner, depth + 1)
    if isinstance(error, list):
        return "; ".join(filter(None, dict.fromkeys(_said(each, depth + 1) for each in error[:10])))
    if not isinstance(error, dict):
        return str(error)
    for name in SAID:
        if said := _said(error.get(name), depth + 1):
            # Where in the request it is, as FastAPI says it: ["body", "messages", 0].
            place = error.get("loc") if name in ("msg", "message") else None
            steps = [*map(str, place)] if isinstance(place, list) else []
            steps = steps[steps[:1] == ["body"] :]
            return f"{'.'.join(steps)}: {said}" if steps else said
    return msgspec.json.encode(error).decode() if any(error.values()) else ""


def _status(error: Any, depth: int = 0) -> int | None:
    """The HTTP status in an error object, or in one in it."""
    error = _parsed(error) if isinstance(error, str) else error
    if not isinstance(error, dict) or depth == 10:
        return None
    for name in STATUS:
        value = str(error.get(name))
        if len(value) == 3 and value.isdigit() and "400" <= value < "600":
            return int(value)
    inner = (_status(error.get(name), depth + 1) for name in SAID)
    return next(filter(None, inner), None)


def _status_in(said: str) -> int | None:
    found = _IN_TEXT.search(said)
    return int(found[1]) if found else None


def _may_pass(status: int | None, said: str) -> bool | None:
    if status is None:
        return True if _MAY_PASS.search(said) else None
    if status in AGAIN or status >= 500:
        return True
    return False if status in NEVER else None


_decode = msgspec.json.Decoder().decode
