"""Mistral-like validation: every fault as a row `{type, loc, msg, input}` of a 422 answer.

Limits and names come from Mistral's OpenAPI; `type` and `msg` follow pydantic's, whose form the
rows have there (schema ValidationError).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sandbox.results import BODIES

Row = dict[str, Any]
Loc = tuple[str | int, ...]

MEMBERS = frozenset(
    ("endpoint", "input_files", "requests", "model", "agent_id", "metadata", "timeout_hours")
)
MAX_REQUESTS, MAX_KEY, MAX_VALUE, MAX_HOURS = 10_000, 32, 512, 168


class Invalid(Exception):
    """The request breaks the contract; carries the rows of the 422 answer."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(f"{len(rows)} faults")
        self.rows = list(rows)


def row(type: str, loc: Loc, msg: str, input: Any) -> Row:
    """One fault."""
    return {"type": type, "loc": list(loc), "msg": msg, "input": input}


def create_faults(body: Any, loc: Loc, *, refuse_unknown: bool, refuse_both: bool) -> list[Row]:
    """All faults of a create body; `loc` is where the body stands."""
    if not isinstance(body, dict):
        return [row("dict_type", loc, "Input should be a valid dictionary", body)]
    faults = [*_endpoint(body, loc)]
    for name, check in CHECKS.items():
        if name in body:
            faults += check(body[name], (*loc, name))
    files, requests = body.get("input_files"), body.get("requests")
    if not files and not requests and not faults:
        faults.append(row("value_error", loc, "Provide either input_files or requests", None))
    if files and requests and refuse_both:
        message = "Provide either input_files or requests, not both"
        faults.append(row("value_error", loc, message, None))
    if refuse_unknown:
        faults += [
            row("extra_forbidden", (*loc, name), "Extra inputs are not permitted", body[name])
            for name in body.keys() - MEMBERS
        ]
    return faults


def _endpoint(body: Row, loc: Loc) -> Iterator[Row]:
    if "endpoint" not in body:
        yield row("missing", (*loc, "endpoint"), "Field required", body)
    elif not isinstance(body["endpoint"], str) or body["endpoint"] not in BODIES:
        yield _not_among(tuple(BODIES), (*loc, "endpoint"), body["endpoint"])


def _not_among(names: Sequence[str], loc: Loc, value: Any) -> Row:
    allowed = ", ".join(f"'{name}'" for name in names)
    return row("enum", loc, f"Input should be {allowed}", value)


def _text_or_null(value: Any, loc: Loc) -> Iterator[Row]:
    if value is not None and not isinstance(value, str):
        yield row("string_type", loc, "Input should be a valid string", value)


def _input_files(value: Any, loc: Loc) -> Iterator[Row]:
    if value is None:
        return
    if not isinstance(value, list):
        yield row("list_type", loc, "Input should be a valid list", value)
        return
    for index, item in enumerate(value):
        if not isinstance(item, str) or as_uuid(item) is None:
            yield row("uuid_parsing", (*loc, index), "Input should be a valid UUID", item)


def _requests(value: Any, loc: Loc) -> Iterator[Row]:
    if value is None:
        return
    if not isinstance(value, list):
        yield row("list_type", loc, "Input should be a valid list", value)
        return
    if len(value) > MAX_REQUESTS:
        message = f"List should have at most {MAX_REQUESTS} items after validation"
        yield row("too_long", loc, message, None)
        return
    for index, item in enumerate(value):
        yield from request_faults(item, (*loc, index))


def request_faults(value: Any, loc: Loc) -> Iterator[Row]:
    """The faults of one request, inline or a line of an input file."""
    if not isinstance(value, dict):
        yield row("dict_type", loc, "Input should be a valid dictionary", value)
        return
    yield from _text_or_null(value.get("custom_id"), (*loc, "custom_id"))
    if "body" not in value:
        yield row("missing", (*loc, "body"), "Field required", value)
    elif not isinstance(value["body"], dict):
        yield row("dict_type", (*loc, "body"), "Input should be a valid dictionary", value["body"])


def _metadata(value: Any, loc: Loc) -> Iterator[Row]:
    if value is None:
        return
    if not isinstance(value, dict):
        yield row("dict_type", loc, "Input should be a valid dictionary", value)
        return
    for name, text in value.items():
        yield from _length(name, MAX_KEY, (*loc, name, "[key]"))
        if not isinstance(text, str):
            yield row("string_type", (*loc, name), "Input should be a valid string", text)
        else:
            yield from _length(text, MAX_VALUE, (*loc, name))


def _length(text: str, limit: int, loc: Loc) -> Iterator[Row]:
    if not text:
        yield row("string_too_short", loc, "String should have at least 1 character", text)
    elif len(text) > limit:
        message = f"String should have at most {limit} characters"
        yield row("string_too_long", loc, message, text)


def _timeout_hours(value: Any, loc: Loc) -> Iterator[Row]:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        yield row("int_type", loc, "Input should be a valid integer", value)
    elif value < 1:
        message = "Input should be greater than or equal to 1"
        yield row("greater_than_equal", loc, message, value)
    elif value > MAX_HOURS:
        message = f"Input should be less than or equal to {MAX_HOURS}"
        yield row("less_than_equal", loc, message, value)


CHECKS: dict[str, Callable[[Any, Loc], Iterator[Row]]] = {
    "input_files": _input_files,
    "requests": _requests,
    "model": _text_or_null,
    "agent_id": _text_or_null,
    "metadata": _metadata,
    "timeout_hours": _timeout_hours,
}


def as_uuid(text: str) -> str | None:
    """The canonical form of a UUID, or None."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def path_id(text: str, name: str) -> str:
    """The id in a path, in canonical form.

    Raises:
        Invalid: it is not a UUID.
    """
    canonical = as_uuid(text)
    if canonical is None:
        message = "Input should be a valid UUID"
        raise Invalid([row("uuid_parsing", ("path", name), message, text)])
    return canonical


BOOLEANS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


class Query:
    """Reads query parameters and gathers their faults; `check` raises when there are any."""

    def __init__(self, values: Any) -> None:
        self.values = values  # a werkzeug MultiDict
        self.faults: list[Row] = []

    def integer(self, name: str, default: int, minimum: int, maximum: int | None = None) -> int:
        """An integer within bounds."""
        text = self.values.get(name)
        if text is None:
            return default
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None
        if number is None:
            self._fault("int_parsing", name, "Input should be a valid integer")
        elif number < minimum:
            message = f"Input should be greater than or equal to {minimum}"
            self._fault("greater_than_equal", name, message)
        elif maximum is not None and number > maximum:
            message = f"Input should be less than or equal to {maximum}"
            self._fault("less_than_equal", name, message)
        return default if number is None else number

    def boolean(self, name: str) -> bool:
        """A boolean, False when absent; the words are pydantic's."""
        text = self.values.get(name, "false")
        if text.lower() not in BOOLEANS:
            self._fault("bool_parsing", name, "Input should be a valid boolean")
        return BOOLEANS.get(text.lower(), False)

    def choices(self, name: str, allowed: Sequence[str]) -> list[str]:
        """All values of a parameter, each one of the allowed."""
        values: list[str] = self.values.getlist(name)
        for index, value in enumerate(values):
            if value not in allowed:
                self.faults.append(_not_among(allowed, ("query", name, index), value))
        return values

    def moment(self, name: str) -> float | None:
        """A date and time as Unix time; one without a zone is UTC."""
        text = self.values.get(name)
        if text is None:
            return None
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            self._fault("datetime_from_date_parsing", name, "Input should be a valid datetime")
            return None
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()

    def check(self) -> None:
        """Raise Invalid with all faults found so far, if there are any."""
        if self.faults:
            raise Invalid(self.faults)

    def _fault(self, type: str, name: str, message: str) -> None:
        self.faults.append(row(type, ("query", name), message, self.values.get(name)))
