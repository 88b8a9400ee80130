"""What is sent upstream and what its answer means, as pure functions: no socket, no clock, no settings.

`fill` makes an upstream request from one operation and checked inputs; `decipher` makes an answer or a problem
from a status, headers and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw

from openapi.contract import Operation
from openapi.json_text import UNREADABLE, check_utf8, read_json
from openapi.validation import Violation

from .problems import Problem

MAX_ERROR_BODY = 64 * 1024
MAX_RETRY_AFTER = 24 * 3600
MAX_HEADERS = 20
"""Headers of an answer that are passed on: many clients stop reading at a hundred of all."""

_SENTENCE = 300
_look_through = msgspec.json.Decoder(Raw).decode
_LIMITS = re.compile(r"(?:x-ratelimit-|ratelimit)[a-z0-9_-]*")

# Anything that a server on the way could read as another path, or as the end of this one.
_CHANGES_PATH = re.compile(r"^\.*$|\.\.|[\x00-\x1f\x7f/\\?#]|%(?:00|23|2e|2f|3f|5c)", re.IGNORECASE)


Content = bytes | bytearray
"""What a request's body or an answer's content is: whole, in memory. One that is a stream would be another of these."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A caller's checked inputs, by the names of the contract: `query` in the order they came, body as JSON bytes.

    `key` is the caller's Idempotency-Key, which goes no further than the gateway.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Iterable[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Content | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request as it will be sent, authentication apart. `target` is path and query, percent-encoded."""

    operation: Operation
    target: str
    headers: Mapping[str, str]
    body: Content | None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A success of the upstream: its status and its bytes, as they came."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def fill(operation: Operation, inputs: Inputs) -> UpstreamRequest:
    """The upstream request for `operation`: only declared inputs, each where the upstream takes it.

    Raises Problem (validation-failed) for a value that would change the path.
    """
    names, in_path = operation.upstream_names, operation.upstream_path_variables
    path_values = {names[name]: value for name, value in inputs.path.items()}
    query = [
        (constant.name, constant.value)
        for constant in operation.constants
        if constant.location == "query"
    ]
    for name, value in inputs.query:
        if names.get(name) in in_path:
            # An exposed path that lost this variable takes it as a query parameter.
            path_values[names[name]] = value
        else:
            query.append((names.get(name, name), value))
    headers = {
        constant.name: constant.value
        for constant in operation.constants
        if constant.location == "header"
    }
    headers |= {names[name]: value for name, value in inputs.headers.items()}
    target = _fill_path(operation, path_values)
    return UpstreamRequest(
        operation=operation,
        target=f"{target}?{urlencode(query, quote_via=quote)}" if query else target,
        headers=headers,
        body=inputs.body,
        key=inputs.key,
    )


def _fill_path(operation: Operation, values: Mapping[str, str]) -> str:
    target = operation.upstream_path
    for name, value in values.items():
        if _CHANGES_PATH.search(value):
            parameter = next(p for p in operation.parameters if p.upstream_name == name)
            raise Problem(
                "validation-failed",
                violations=[
                    Violation(
                        f"/{parameter.location}/{parameter.name}",
                        "has characters that would change the path",
                    )
                ],
            )
        target = target.replace(f"{{{name}}}", quote(value, safe=""))
    return target


def decipher(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    passed_headers: frozenset[str] = frozenset(),
) -> Answer:
    """The upstream's answer when it is a success, otherwise a Problem raised.

    `headers` is case-insensitive; `passed_headers` are lower-case names of answer headers that reach the caller
    beside those that every gateway passes (see `_passes`).
    """
    if not 200 <= status < 600:
        # RFC 9110 section 15: there are no such statuses; those below 200 are never an answer.
        raise Problem(
            "upstream-bad-response",
            f"The upstream answered with the status {status}, which is none.",
            upstream_status=status,
            retryable=operation.repeatable,
        )
    content_type = headers.get("Content-Type", "")
    is_json = _is_json(content_type)
    passing = (
        (name, value)
        for name, value in headers.items()
        if _passes(name.lower(), value, passed_headers)
    )
    passed = tuple(islice(passing, MAX_HEADERS))
    promised = bool(operation.response_schema) and status not in (204, 205)
    if status < 300 and (_is_whole_json(is_json, content) if content else not promised):
        shown = content_type.isascii() and content_type.isprintable()
        return Answer(status, content_type if shown else "application/json", content, passed)
    if status < 400:
        said = (
            "a success that is not JSON"
            if status < 300
            else f"a redirect ({status}), which is never followed"
        )
        raise Problem(
            "upstream-bad-response",
            f"The upstream answered with {said}.",
            upstream_status=status,
            retryable=operation.repeatable and status < 300,
        )
    error = _json_error(content) if is_json else None
    if error is None:
        raise Problem(
            "upstream-bad-response",
            f"The upstream answered {status} with a body that is not readable as JSON.",
            upstream_status=status,
            retryable=operation.repeatable and status >= 500,
            headers=_retry_after(headers),
        )
    raise _refusal(operation, status, headers, error, passed)


def _refusal(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    error: Any,
    passed: tuple[tuple[str, str], ...],
) -> Problem:
    said = _said(error)
    common = {"upstream_status": status, "upstream": error}
    if status in (401, 403):
        return Problem(
            "upstream-refused-key", f"The upstream refused the gateway's key: {said}", **common
        )
    response_headers = (*passed, *_retry_after(headers))
    if status == 429:
        empty = any(
            n.lower().startswith("x-ratelimit-limit") and v.strip() == "0"
            for n, v in headers.items()
        )
        detail = (
            "The quota is zero: repeating cannot help until the plan changes. " if empty else ""
        )
        return Problem(
            "rate-limited",
            f"{detail}The upstream said: {said}",
            retryable=not empty,
            headers=response_headers,
            **common,
        )
    slug = "upstream-rejected" if status < 500 else "upstream-failed"
    retryable = (status >= 500 or status == 408) and operation.repeatable
    return Problem(
        slug,
        f"The upstream said: {said}",
        status=status,
        retryable=retryable,
        headers=response_headers,
        **common,
    )


def _is_whole_json(is_json: bool, content: bytes) -> bool:
    """True for well-formed JSON, which is looked through but not built."""
    if not is_json:
        return False
    try:
        if not content.isascii():
            check_utf8(content)
        with suppress(
            msgspec.DecodeError
        ):  # as for half of a surrogate pair, which `read_json` takes
            _look_through(content)
            return True
        read_json(content, Raw)
    except UNREADABLE:
        return False
    return True


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _passes(name: str, value: str, passed_headers: frozenset[str]) -> bool:
    named = name in passed_headers or _LIMITS.fullmatch(name)
    return bool(named) and len(value) <= 256 and value.isascii() and value.isprintable()


def _json_error(content: bytes) -> Any:
    """The parsed error body; None when it is not JSON; a note in its place when it is too large to pass on."""
    if len(content) > MAX_ERROR_BODY:
        return {"note": f"error body of {len(content)} bytes left out"}
    try:
        return read_json(content, object)
    except UNREADABLE:
        return None


def _said(error: Any) -> str:
    try:
        return _sentence(error)
    except RecursionError:
        return "an error that is nested too deeply to be read"


def _sentence(error: Any) -> str:
    """What an error body says, for people: its message, or the list of its validation messages."""
    if isinstance(error, dict):
        for member in ("detail", "message", "error", "title"):
            if error.get(member):
                return _sentence(error[member])
    if isinstance(error, list):
        return "; ".join(_located(item) for item in error[:5])[:_SENTENCE]
    return " ".join(str(error).split())[:_SENTENCE]


def _located(item: Any) -> str:
    if isinstance(item, dict) and isinstance(item.get("loc"), list) and "msg" in item:
        return f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}"
    return _sentence(item)


def _retry_after(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Retry-After as it came when it is well-formed, at most a day; RFC 9110 section 10.2.3 allows seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return (("Retry-After", str(min(int(value[:9]), MAX_RETRY_AFTER))),)
    try:
        parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return ()
    return (("Retry-After", value),) if len(value) < 40 else ()
