"""What a row of results says, by the document's hints: whose it is, whether it failed and of what, and its compact form.

A row is one of three things: answered, failed with an error, or nothing of both, which is failed too.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results.places import Places, Row, built, is_empty, is_vast, kind_of
from mcp_bridge.shortening import compact, without
from openapi.job_hints import ResultsHint
from openapi.json_text import texts_of

SAID = ("message", "detail", "msg", "error", "errors", "title", "description", "reason", "code")
"""Members of an error that say what it is, the most telling first."""

FEW = 10
"""Errors that are told of one row."""

LONG = 10_000
"""Characters of an error's text that are read, when it is a large one."""


class ResultRows:
    """Reads rows by a `hint`; `secret` is taken out of errors, which are cut."""

    def __init__(self, hint: ResultsHint, secret: str = "") -> None:
        self.hint = hint
        self.secret = secret
        self.id_name = hint.id.rpartition(".")[2]
        places = [hint.id, hint.status, hint.ended, *hint.answers, *hint.errors]
        self._places = Places(places)
        # The others are where an answer is too, so that something there is no error yet.
        self._certain = [place for place in hint.errors if place not in hint.answers]

    def row(self, text: Raw, failed: bool | None = None) -> Row:
        """A row, of which it may be known already whether it failed."""
        row = Row(self._places, text, failed)
        if row.failed is None:
            row.failed = self._has_failed(row)
        return row

    def _has_failed(self, row: Row) -> bool:
        for place in self._certain:
            if any(not is_empty(text) for text in row.at(place)):
                return True
        status = self.status(row)
        if status is not None and status >= 400:
            return True
        # The last place has the most in it, so that most rows are known by it.
        return not any(map(row.at, reversed(self.hint.answers)))

    def id(self, row: Row) -> Any:
        """Its id, None when it has none."""
        found = row.at(self.hint.id)
        if not found:
            return None
        if kind_of(found[0]) == b'"' and len(found[0]) < LARGE:
            return (
                bytes(found[0])[1:-1].decode(errors="replace")
                if _is_plain(found[0])
                else built(found[0])
            )
        return built(found[0])

    def id_text(self, row: Row) -> str | None:
        """Its id as a text, by which it is picked and put in order."""
        value = self.id(row)
        return value if isinstance(value, str) or value is None else compact(value)

    def status(self, row: Row) -> int | None:
        """Its HTTP status; None when it says none."""
        found = row.at(self.hint.status) if self.hint.status else []
        text = bytes(found[0])[:9].strip(b'"') if found else b""
        return int(text) if text.isdigit() else None

    def bad_status(self, row: Row) -> int | None:
        """Its HTTP status when that is known and no success."""
        status = self.status(row)
        return None if status is None or 200 <= status < 300 else status

    def error(self, row: Row) -> str:
        """What it failed of, as one line."""
        for place in self.hint.errors:
            for text in row.at(place):
                if said := one_line(text, self.secret):
                    return said
        if kind_of(row.text) != b"{":
            return f"the result is no object but {one_line(row.text, self.secret)[:200] or 'empty'}"
        status = self.status(row)
        return f"HTTP status {status}" if status is not None else "no answer"

    def compact(self, row: Row) -> dict[str, Any]:
        """Its id, and its answer or its error; Raw for an answer that is large."""
        form: dict[str, Any] = {self.id_name: self.id(row)}
        if not row.failed:
            form["answer"] = self._answer(row)
            if ended := self._ended(row):
                form["ended"] = ended
            return form
        form["error"] = self.error(row)
        if (status := self.bad_status(row)) is not None:
            form["status"] = status
        return form

    def full(self, row: Row) -> Any:
        """The row as it came; Raw when it is large. One that cannot be shown as an object has the compact form."""
        value = _value(row.text)
        known = isinstance(value, dict) or (value is row.text and kind_of(row.text) == b"{")
        return value if known else self.compact(row)

    def _answer(self, row: Row) -> Any:
        """What is at the first place that has something; at the last that is there when none has."""
        found: list[Raw] = []
        for place in self.hint.answers:
            there = row.at(place)
            found = there or found
            if any(not is_empty(text) for text in there):
                break
        values = [_value(text) for text in found]
        return values[0] if len(values) == 1 else values

    def _ended(self, row: Row) -> Any:
        """How its answer ended, where that is not as usual."""
        values = [_value(text) for text in row.at(self.hint.ended)] if self.hint.ended else []
        if all(value in self.hint.usual for value in values):
            return None
        return values[0] if len(values) == 1 else values


def _is_plain(text: Raw) -> bool:
    return b"\\" not in bytes(text)


def _value(text: Raw) -> Any:
    return text if len(text) >= LARGE else built(text)


def one_line(text: Raw, secret: str = "") -> str:
    """What an error says, in whatever form it came: as one line of text without `secret`, empty when it says nothing."""
    if is_empty(text) or is_vast(text):
        return ""
    if len(text) < LARGE:
        return str(without(secret, _said(built(text))))
    in_text = kind_of(text) == b'"'
    error = "".join(islice(texts_of(text), 1)) if in_text else msgspec.json.decode(text)
    return f"{without(secret, _said(error))[:LONG]}…"


def _said(error: Any, depth: int = 0) -> str:
    if depth == FEW:
        return ""
    if isinstance(error, str):
        return _said_in_text(error.strip(), depth)
    if isinstance(error, list):
        several = [*dict.fromkeys(filter(None, (_said(each, depth + 1) for each in error[:FEW])))]
        more = f"; and {len(error) - FEW} more" if len(error) > FEW else ""
        return "; ".join(several) + more if several else ""
    if not isinstance(error, dict):
        return "" if error is None else str(error)
    for name in SAID:
        if said := _said(error.get(name), depth + 1):
            place = _place(error.get("loc")) if name in ("msg", "message") else ""
            return f"{place}: {said}" if place else said
    return compact(error) if error else ""


def _said_in_text(text: str, depth: int) -> str:
    """A text as one line; of an error that was written as JSON into a text, what that says."""
    if text.startswith(("{", "[")):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict | list) and (said := _said(value, depth + 1)):
            return said
    return " ".join(text.split())


def _place(steps: Any) -> str:
    """Where in a request an error is, as FastAPI says it: ["body", "messages", 0] is messages.0."""
    if not isinstance(steps, list):
        return ""
    return ".".join(str(step) for step in steps[steps[:1] == ["body"] :])
