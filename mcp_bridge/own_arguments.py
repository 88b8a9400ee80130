"""Arguments that are the bridge's own, beside those of the operation: what of an answer to show, how long to wait, and the key.

Each is a name, a `location` as in `tools.Argument`, and a schema. What there is to show of an operation, its document says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from openapi.contract import Operation, Schema
from openapi.job_hints import ResultsHint

Own = tuple[str, str, Schema]

KEY = "idempotency_key"
COUNT = 20
"""Lines in a result, unless the call says otherwise."""

MAX_LINES = 100_000
"""JSON objects that a file may be given as."""

MAX_IDS = 10_000
"""Ids of results that one call may ask for."""

KEY_SCHEMA: Schema = {
    "type": "string",
    "pattern": "^[!-~]+$",
    "maxLength": 255,
    "description": (
        "A name without spaces for this one action, such as run-2: calls with the same key act"
        " once, and a repeat gets the first result. Left out, it is made from the other arguments;"
        " give a new one to do the same thing again on purpose."
    ),
    "example": "run-2",
    "x-aliases": [
        *("key", "nonce", "client_request_id", "client_token", "request_key", "request_token"),
        *("idempotency", "idempotency_token", "idempotent_key", "dedup_key", "deduplication_key"),
    ],
}
_SKIPPED: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**53 - 1,
    "x-aliases": [
        *("offset", "start", "skip", "begin", "cursor", "start_index", "next_from", "next"),
    ],
}
_FROM_LINE: Schema = {
    **_SKIPPED,
    "default": 0,
    "description": "How many lines to skip. Go on with the last result's next_from.",
    "x-aliases": [
        *_SKIPPED["x-aliases"],
        *("line_start", "start_line", "first_line", "from_line"),
        *("line", "line_number", "line_offset"),
    ],
}
_COUNTED: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_LINES,
    "x-aliases": [
        *("limit", "n", "size", "page_size", "length", "max", "take", "top", "head", "first"),
    ],
}
_COUNT_LINES: Schema = {
    **_COUNTED,
    "default": COUNT,
    "description": "How many lines to read; fewer come when they are long.",
    "x-aliases": [
        *_COUNTED["x-aliases"],
        *("lines", "max_lines", "num_lines", "n_lines", "line_count", "line_limit"),
        "number_of_lines",
    ],
}
_PART: Schema = {
    "type": "string",
    "maxLength": 1024,
    "description": "Shows only this place, from a shortened result's _note.",
}
_FROM_PART: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**53 - 1,
    "description": "How many of its items or characters to skip.",
}
_FROM_RESULT: Schema = {
    **_SKIPPED,
    "description": (
        "How many results to skip: go on with the last one's next_from. With part, how many of its"
        " items or characters."
    ),
    "x-aliases": [*_SKIPPED["x-aliases"], "page", "page_number", "page_token", "page_index"],
}
_COUNT_RESULTS: Schema = {
    **_COUNTED,
    "description": "How many results to show; fewer come when they are long.",
}
_WAIT: Schema = {
    "type": "integer",
    "minimum": 0,
    "x-seconds": True,
    "description": (
        "Seconds to wait for a final state, such as 45; more are cut to what one call may take."
    ),
    "x-aliases": [
        *("timeout", "wait_seconds", "wait_for", "max_wait", "block", "poll", "timeout_seconds"),
    ],
}
_ONLY: Schema = {
    "type": "string",
    "enum": ["failed", "succeeded"],
    "description": "Shows only the results that failed, or those that succeeded.",
    "x-aliases": ["filter", "show", "outcome", "result_filter", "status", "state", "only_failed"],
}
_FULL: Schema = {
    "type": "boolean",
    "description": "Shows all of each result, not only id and answer or error.",
    "x-aliases": ["raw", "verbose", "complete", "detailed"],
}
_NUMBERS: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": 2**31 - 1,
    "description": "Cuts each long list of numbers, such as an embedding, to its first so many.",
    "x-aliases": ["max_numbers", "dimensions", "first_numbers", "numbers_limit"],
}


def own_arguments(operation: Operation, *, large: bool) -> Iterator[Own]:
    """Those that say what of the answer to show; `large` when it can be too much for one result."""
    if operation.hints.state:
        yield "wait", "wait", _WAIT
    if operation.answer_streamed:
        yield "from", "from", _FROM_LINE
        yield "count", "count", _COUNT_LINES
        return
    results = operation.hints.results
    if results:
        yield "only", "only", _ONLY
        yield "from", "from", _FROM_RESULT
        yield "count", "count", _COUNT_RESULTS
        yield from _of_rows(results)
    if large:
        yield "part", "part", _PART
        if not results:
            yield "from", "from", _FROM_PART


def _of_rows(results: ResultsHint) -> Iterator[Own]:
    name = results.id.rpartition(".")[2]
    ids: Schema = {
        "type": "array",
        "maxItems": MAX_IDS,
        "items": {"type": "string", "x-as-text": True},  # numbers too
        "description": f"Shows only the results with these {name}s.",
        "x-aliases": ["ids", name, "only_ids", "result_ids", "request_ids"],
    }
    yield f"{name}s", "ids", ids
    yield "full", "full", _FULL
    yield "numbers", "numbers", _NUMBERS


def read_seconds(value: Any) -> Any:
    """The whole seconds that `value` means: a number, a text such as "30s" or "1.5 min", or true for as many as there may be.

    The value itself where that is not certain, for the check to refuse.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "false"):
            value = text == "true"
        elif duration := _DURATION.fullmatch(text):
            value = float(duration["number"]) * _UNITS[duration.lastgroup or ""]
    if isinstance(value, bool):
        return 2**31 if value else 0
    return math.ceil(value) if isinstance(value, float) and math.isfinite(value) else value


_DURATION = re.compile(
    r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
    r"(?:(?P<ms>ms|milliseconds?)|(?P<s>s|secs?|seconds?)|(?P<m>m|mins?|minutes?)|(?P<h>h|hrs?|hours?))?"
)
_UNITS = {"number": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600}
