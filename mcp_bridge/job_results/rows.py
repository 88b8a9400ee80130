"""What a row of results says, by the document's hints: whose it is, whether it failed and of what, and its compact form.

A row is one of three things: answered, failed with an error, or nothing of both, which is failed too.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results.places import Places, Row, built, is_empty, is_vast
from mcp_bridge.shortening import compact, kind_of, opened, without
from openapi.job_hints import ResultsHint
from openapi.json_text import texts_of

SAID = ("message", "detail", "msg", "error", "errors", "title", "description", "reason", "code")
"""Members of an error that say what it is, the most telling first."""

FEW = 10
"""Errors that are told of one row."""

LONG = 10_000
"""Characters that are told of an error that is large."""

BEGUN = 1000
"""Characters of an id by which it is known, when it is large, beside a digest of all of it."""


class Over(Exception):
    """Rows are read no more, as the call that wanted them has ended."""


class ResultRows:
    """Reads rows by a `hint`; `secret` is taken out of errors, which are cut."""

    def __init__(self, hint: ResultsHint, secret: str = "") -> None:
        self.hint = hint
        self.secret = secret
        self.id_name = hint.id.rpartition(".")[2]
        self.over = False
        """Set when the call has ended: nobody is waited for who reads rows in a thread."""
        places = [hint.id, hint.status, hint.ended, hint.whole, *hint.answers, *hint.errors]
        self._places = Places(places)
        self._usual = frozenset(map(msgspec.json.encode, hint.usual))
        # The others are where an answer is too, so that something there is no error yet.
        self._certain = [place for place in hint.errors if place not in hint.answers]

    def row(self, text: Raw, failed: bool | None = None) -> Row:
        """A row, of which it may be known already whether it failed. Over when nobody wants it any more."""
        if self.over:
            raise Over
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
        """Its id, None when it has none; Raw when it is large."""
        found = row.at(self.hint.id)
        if not found:
            return None
        if kind_of(found[0]) == b'"' and len(found[0]) < LARGE and _is_plain(found[0]):
            return bytes(found[0])[1:-1].decode(errors="replace")
        return _value(found[0])

    def id_text(self, row: Row) -> str | None:
        """Its id as a text, by which it is picked and put in order; of a large one the beginning, and a digest."""
        value = self.id(row)
        if isinstance(value, Raw):
            begun = bytes(memoryview(value)[:BEGUN]).decode(errors="replace")
            return f"{begun}… {blake2b(value, digest_size=16).hexdigest()}"
        return value if isinstance(value, str) or value is None else compact(value)

    def status(self, row: Row) -> int | None:
        """Its HTTP status; None when it says none."""
        found = row.at(self.hint.status) if self.hint.status else []
        text = bytes(memoryview(found[0])[:9]).strip(b'"') if found else b""
        return int(text) if text.isdigit() else None

    def bad_status(self, row: Row) -> int | None:
        """Its HTTP status when that is known and no success."""
        status = self.status(row)
        return None if status is None or 200 <= status < 300 else status

    def error(self, row: Row) -> str:
        """What it failed of, as one line."""
        for place in self.hint.errors:
            for text in row.at(place):
                if said := said_in(text, self.secret):
                    return said
        if kind_of(row.text) != b"{":
            return f"the result is no object but {said_in(row.text, self.secret)[:200] or 'empty'}"
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
        """What is at the first place that has something for each of its items; at the last that is there when none has."""
        whole = self.hint.whole
        if whole and not all(map(is_empty, row.at(whole))):
            return _values(row.at(whole.rpartition(".")[0]))
        found: list[Raw] = []
        for place in self.hint.answers:
            there = row.at(place)
            found = there or found
            items = row.at(place[: place.rfind("*") + 1]) if "*" in place else there[:1]
            if there and len(there) == len(items) and not any(map(is_empty, there)):
                break
        return _values(found)

    def _ended(self, row: Row) -> Any:
        """How its answer ended, where that is not as usual."""
        found = row.at(self.hint.ended) if self.hint.ended else []
        if all(bytes(text) in self._usual for text in found):
            return None
        return _values(found)


def _is_plain(text: Raw) -> bool:
    return b"\\" not in bytes(text)


def _value(text: Raw) -> Any:
    return text if len(text) >= LARGE else built(text)


def _values(texts: list[Raw]) -> Any:
    """The value of each, of one alone not as a list; as they are when they are large together."""
    small = sum(map(len, texts)) < LARGE
    values = [built(text) for text in texts] if small else texts
    return values[0] if len(values) == 1 else values


def said_in(text: Raw, secret: str = "") -> str:
    """What an error says, in whatever form it came: as one line of text without `secret`, empty when it says nothing.

    Nothing large is built of it: of a large object or list no more than one level, and of a large text no more than its beginning.
    """
    if is_empty(text) or is_vast(text):
        return ""
    said = str(without(secret, _said(text)))
    return said if len(text) < LARGE else f"{said[:LONG]}…"


def _said(error: Any, depth: int = 0) -> str:
    if depth == FEW:
        return ""
    if isinstance(error, Raw):
        error = _level(error)
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
    return _written(error) if error else ""


def _level(text: Raw) -> Any:
    """The value of a text; of a large one its first level, or its beginning."""
    if len(text) < LARGE:
        return built(text)
    if kind_of(text) == b'"':
        return "".join(islice(texts_of(text), 1))[:LARGE]
    level = opened(text)
    return bytes(memoryview(text)[:LONG]).decode() if level is text else level  # a number


def _written(error: dict[str, Any]) -> str:
    """An object of which no member is known to say what it is; of a large one the first members."""
    if not any(isinstance(each, Raw) for each in error.values()):
        return compact(error)
    return compact({name: _said(each) for name, each in islice(error.items(), FEW)})


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
    steps = _level(steps) if isinstance(steps, Raw) else steps
    if not isinstance(steps, list) or any(isinstance(each, Raw) for each in steps):
        return ""
    return ".".join(str(step) for step in steps[steps[:1] == ["body"] :])
