"""What is sent upstream and what its answer means, as pure functions: no socket, no clock, no settings.

`build_request` makes an upstream request from one operation and checked inputs; `parse_answer` makes an answer or a problem
from a status, headers and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw
from starlette.types import Receive

from openapi.contract import Operation
from openapi.json_text import UNREADABLE, check_utf8, read_json
from openapi.validation import Violation
from serving.problems import words

from .problems import Problem

MAX_ERROR_BODY = 64 * 1024
MAX_RETRY_AFTER = 24 * 3600
MAX_HEADERS = 20
"""Headers of an answer that are passed on: many clients stop reading at a hundred of all."""

_look_through = msgspec.json.Decoder(Raw).decode
_LIMITS = re.compile(r"(?:x-ratelimit-|ratelimit)[a-z0-9_-]*")

# Anything that a server on the way could read as another path, or as the end of this one.
_CHANGES_PATH = re.compile(r"^\.*$|\.\.|[\x00-\x1f\x7f/\\?#]|%(?:00|23|2e|2f|3f|5c)", re.IGNORECASE)


class ByteStream(Protocol):
    """A body that passes in pieces, once."""

    content_type: str
    length: int | None
    """In bytes; None where it is not known."""
    complete: bool
    """True when its end was handed on: before that, what receives it cannot have taken it for whole."""

    @property
    def received(self) -> int:
        """Bytes that came so far."""

    async def fill(self, receive: Receive) -> None:
        """Receives it, in the event loop."""

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, in a thread."""


Headers = tuple[tuple[str, str], ...]
RequestBody = bytes | bytearray
"""A body that is whole, in memory."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A caller's checked inputs, by the names of the contract: `query` in the order they came, body as JSON bytes.

    `key` is the caller's Idempotency-Key, which goes no further than the gateway.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: RequestBody | None = None
    key: str | None = None
    stream: ByteStream | None = None
    only_head: bool = False
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request as it will be sent, authentication apart. `target` is path and query, percent-encoded.

    `filters` are the query's names that are no parameter of the operation's.
    `wait`: seconds that the caller would wait for a state that is final.
    """

    operation: Operation
    target: str
    headers: Mapping[str, str]
    body: RequestBody | None
    key: str | None = None
    stream: ByteStream | None = None
    only_head: bool = False
    filters: Sequence[str] = ()
    wait: float = 0.0

    @property
    def method(self) -> str:
        """The upstream's, but HEAD where only the head is wanted of what would be a stream."""
        return "HEAD" if self.only_head else self.operation.upstream_method


@dataclass(frozen=True, slots=True)
class Answer:
    """A success of the upstream: its status and its bytes, as they came; `stream` are the pieces of a body that is not whole."""

    status: int
    content_type: str
    body: bytes
    headers: Headers = ()
    stream: Iterator[bytes] | None = None


def build_request(operation: Operation, inputs: Inputs) -> UpstreamRequest:
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
        stream=inputs.stream,
        only_head=inputs.only_head,
        filters=[*dict.fromkeys(name for name, _ in inputs.query if name not in names)],
        wait=inputs.wait,
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


def parse_answer(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    passed_headers: frozenset[str] = frozenset(),
) -> Answer:
    """The upstream's answer when it is a success, otherwise a Problem raised.

    | status         | content                               | outcome                            |
    |----------------|---------------------------------------|------------------------------------|
    | 2xx            | JSON, or none where none is promised  | the answer                         |
    | 2xx            | anything else                         | upstream-bad-response              |
    | 3xx, none      | -                                     | upstream-bad-response              |
    | 413            | anything                              | upstream-rejected, status kept     |
    | 4xx, 5xx       | anything but JSON                     | upstream-bad-response              |
    | 401, 403       | JSON                                  | upstream-refused-key               |
    | 429            | JSON                                  | rate-limited                       |
    | 4xx            | JSON                                  | upstream-rejected, status kept     |
    | 5xx            | JSON                                  | upstream-failed, status kept       |

    `headers` is case-insensitive; `passed_headers` are lower-case names of answer headers that reach the caller
    beside those that every gateway passes (see `_passes`).
    """
    bad_response = partial(Problem, "upstream-bad-response", upstream_status=status)
    content_type = headers.get("Content-Type", "")
    is_json = _is_json(content_type)
    if not 200 <= status < 600:
        # RFC 9110 section 15: there are no such statuses; those below 200 are never an answer.
        detail = f"The upstream answered with the status {status}, which is none."
        raise bad_response(detail, retryable=operation.repeatable)
    passing = (
        (name, value)
        for name, value in headers.items()
        if _passes(name.lower(), value, passed_headers)
    )
    passed = tuple(islice(passing, MAX_HEADERS))
    if status < 300:
        promised = bool(operation.response_schema) and status not in (204, 205)
        if (is_json and _is_whole(content)) if content else not promised:
            shown = content_type.isascii() and content_type.isprintable()
            return Answer(status, content_type if shown else "application/json", content, passed)
        detail = "The upstream answered with a success that is not JSON."
        raise bad_response(detail, retryable=operation.repeatable)
    if status < 400:
        detail = f"The upstream answered with a redirect ({status}), which is never followed."
        kind = "upstream-redirected" if operation.answer_streamed else "upstream-bad-response"
        raise Problem(kind, detail, upstream_status=status)
    error = _json_error(content) if is_json else None
    # RFC 9110 section 15.5.9: after a 408 a client may repeat.
    retryable = operation.repeatable and (status >= 500 or status == 408)
    if error is None:
        detail = f"The upstream answered {status} with a body that is not readable as JSON."
        # RFC 9110 section 15.5.14: about the request's size alone, so whoever is before the API may say it, in a page of its own.
        if status == 413:
            raise Problem("upstream-rejected", detail, status=status, upstream_status=status)
        raise bad_response(detail, retryable=retryable, headers=_retry_after(headers))
    raise _refusal(status, headers, error, retryable, (*passed, *_retry_after(headers)))


def parse_streamed_answer(
    operation: Operation,
    status: int,
    headers: Mapping[str, str],
    pieces: Iterator[bytes],
    passed_headers: frozenset[str],
) -> Answer:
    """The answer to an operation that answers with a stream, whose status is a success; Problem for one that is compressed or in part."""
    unusable = partial(
        Problem,
        "upstream-bad-response",
        retryable=operation.repeatable,
        upstream_status=status,
    )
    if headers.get("Content-Encoding", "identity") != "identity":
        detail = "The upstream's answer is compressed, which was not asked for."
        raise unusable(detail)
    if status == 206:
        raise unusable("The upstream answered with a part of the content, which was not asked for.")
    passing = {name.lower() for name in _OF_CONTENT} | passed_headers
    passed = [
        # A length that was given twice is one length.
        (name, value.partition(",")[0] if name.lower() == "content-length" else value)
        for name, value in headers.items()
        if _passes(name.lower(), value, frozenset(passing))
    ]
    disposition = headers.get("Content-Disposition", "")
    kind = disposition.partition(";")[0].strip().lower()
    if kind != "attachment" or not _passes("", disposition, frozenset({""})):
        disposition = "attachment"
    content_type = headers.get("Content-Type", "")
    if not content_type or not _passes("", content_type, frozenset({""})):
        content_type = operation.response_media_type
    shown = (*islice(passed, MAX_HEADERS), ("Content-Disposition", disposition))
    return Answer(status, content_type, b"", shown, pieces)


# Not those of ranges, which are not asked for.
_OF_CONTENT = ("Content-Length", "ETag", "Last-Modified")


def _refusal(
    status: int, headers: Mapping[str, str], error: Any, retryable: bool, response_headers: Headers
) -> Problem:
    """The problem that an error of the upstream is, which could be read."""
    refusal = partial(Problem, upstream_status=status, upstream=error)
    try:
        said = words(error)
    except RecursionError:
        said = "an error that is nested too deeply to be read"
    if status in (401, 403):
        return refusal("upstream-refused-key", f"The upstream refused the gateway's key: {said}")
    if status == 429:
        limits = [v for n, v in headers.items() if n.lower().startswith("x-ratelimit-limit")]
        empty = any(limit.strip() == "0" for limit in limits)
        hint = "The quota is zero: repeating cannot help until the plan changes. " if empty else ""
        detail = f"{hint}The upstream said: {said}"
        return refusal("rate-limited", detail, retryable=not empty, headers=response_headers)
    return refusal(
        "upstream-rejected" if status < 500 else "upstream-failed",
        f"The upstream said: {said}",
        status=status,
        retryable=retryable,
        headers=response_headers,
    )


def _is_whole(content: bytes) -> bool:
    """True for well-formed JSON, which is looked through but not built."""
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


def _retry_after(headers: Mapping[str, str]) -> Headers:
    """Retry-After as it came when it is well-formed, at most a day; RFC 9110 section 10.2.3 allows seconds or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return (("Retry-After", str(min(int(value[:9]), MAX_RETRY_AFTER))),)
    try:
        parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return ()
    return (("Retry-After", value),) if len(value) < 40 else ()
