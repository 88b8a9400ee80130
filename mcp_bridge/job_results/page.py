"""A page of results: those that a call wants, from where it wants them, as many as there is room for.

It takes all rows of a job, in their order, and keeps what it shows.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.asked import Selection
from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results.places import Row, built
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.rest_client import AnswerTooLarge
from mcp_bridge.shortening import (
    MOST,
    Shortening,
    beginning,
    compact,
    kind_of,
    opened,
    weigh,
    without,
)

LARGE_ID = 1000
"""Weight of what is shown of the id of a result that has too much in it."""

_HUGE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]{3,}")
"""A number that is shown as a text (`places.built`)."""


class ResultPage:
    """The results of a `selection`, as many as weigh `room`, or a few that are `whole`; `secret` is taken out of them."""

    def __init__(
        self,
        reader: ResultRows,
        selection: Selection,
        room: int,
        secret: str,
        *,
        whole: bool = False,
    ) -> None:
        self.shown: list[Any] = []
        self.total = 0
        """Results that are wanted, on all pages."""
        self.missing = dict.fromkeys(selection.ids)
        """Ids that are wanted, and that no result has yet."""
        self.unnamed = 0
        """Results here that have no id."""
        self.form = Form(reader, selection, secret)
        self.shortening: Shortening | None = None
        """Of the only result here, which is shown in part."""
        self.selection = selection
        self._reader = reader
        self._whole = whole
        self._wanted = frozenset(selection.ids)
        self._room = self._left = room
        self._full = False

    @property
    def next_from(self) -> int | None:
        """How many results to skip to go on; None when there are no more."""
        after = self.selection.first + len(self.shown)
        return after if after < self.total else None

    def take(self, row: Row) -> None:
        """Takes the next row."""
        if self._is_wanted(row):
            self.total += 1
            if self.total > self.selection.first and not self._full:
                self._show(row)

    def _is_wanted(self, row: Row) -> bool:
        if self._wanted:
            name = self._reader.id_text(row)
            if name not in self._wanted:
                return False
            self.missing.pop(name, None)
        return not self.selection.only or row.failed == (self.selection.only == "failed")

    def _show(self, row: Row) -> None:
        """Shows it when there is room for it; the first one in part, when it is too large by itself."""
        if len(self.shown) == self.selection.count:
            self._full = True
            return
        if self._whole:
            self.shown.append(self.form.of(row))
            return
        place = f"{self._reader.hint.member}.{self.total - 1}"
        shortening = Shortening(self.form.secret)
        try:
            shown = shortening.shorten(self.form.of(row), self._left, place)
        except AnswerTooLarge:
            name = without(self.form.secret, self._reader.id_text(row))
            shown = {self._reader.id_name: name and beginning(name, LARGE_ID)}
            shortening.cuts.append(f"{place} is left out, since it has more than {MOST} values")
        if shortening.cuts:
            self._full = True
            if self.shown:
                return
            self.shortening = shortening
        self.shown.append(shown)
        self.unnamed += self._reader.id_text(row) is None
        self._left -= weigh(compact(shown), self._room) + 2


class Form:
    """What is shown of a row; `cut` has the lengths of the lists of numbers that are not shown to their end."""

    def __init__(self, reader: ResultRows, selection: Selection, secret: str) -> None:
        self.secret = secret
        self.cut: set[int] = set()
        self._make = reader.full if selection.full else reader.compact
        self._numbers = selection.numbers

    def of(self, row: Row) -> Any:
        """The row as it is shown: values, or `Raw` when it is large."""
        value = self._make(row)
        if self._numbers is not None:
            value = self._without_numbers(value)
        value = _whole(value)
        return value if isinstance(value, Raw) else without(self.secret, value)

    def _without_numbers(self, value: Any) -> Any:
        """The value with its lists of numbers cut; of a text the text, so that nothing large is ever built as a whole."""
        if isinstance(value, Raw):
            if len(value) < LARGE:
                return Raw(compact(self._without_numbers(built(value))).encode())
            level = opened(value)
            return (
                value if level is value else Raw(msgspec.json.encode(self._without_numbers(level)))
            )
        if isinstance(value, dict):
            return {name: self._without_numbers(each) for name, each in value.items()}
        if not isinstance(value, list):
            return value
        if len(value) > (self._numbers or 0) and all(map(_is_number, value)):
            self.cut.add(len(value))
            value = value[: self._numbers]
        return [self._without_numbers(each) for each in value]


def _is_number(value: Any) -> bool:
    if isinstance(value, Raw):
        return kind_of(value) in b"-0123456789"
    if isinstance(value, str):
        return bool(_HUGE.fullmatch(value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """`value`, as one JSON text when there are large texts in it."""
    if not _has_text(value):
        return value
    return Raw(msgspec.json.encode(value))


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_text, value.values()))
    if isinstance(value, list):
        return any(map(_has_text, value))
    return isinstance(value, Raw)
