"""How many results succeeded and failed, and of what: errors by their messages, the most frequent first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mcp_bridge.job_results.places import Row
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.shortening import beginning, compact, weigh, without

KINDS = 20
"""Groups that are shown; and distinct messages from which on those of one status that differ in ids and other numbers alone are one."""

MOST_KINDS = 10_000
"""Groups that are told apart."""

LONG = 300
"""Weight of a message, and of an example's id, in a group."""

_KEPT = 1000
"""Characters of a message by which it is told from others."""

# A word with a digit in it: a number, an id, a part of a UUID. Each word is gone through once: an upstream writes these texts.
_NUMBERED = re.compile(r"(?<![A-Za-z_-])[A-Za-z_-]*+[0-9][\w-]*+")
_STATUS = re.compile(r"(?i)\b(?:http|status|code|error)[ :=]{1,2}([45][0-9]{2})(?![\w-])")


@dataclass(slots=True)
class _Group:
    error: str
    count: int = 0
    example: str | None = None
    status: int | None = None
    several: bool = False  # statuses
    alike: bool = False  # other messages than the first one's are counted here

    def add(self, count: int, example: str | None, status: int | None) -> None:
        self.count += count
        if self.example is None:
            self.example = example
        if self.status is None:
            self.status = status
        self.several |= status is not None and status != self.status

    def shown(self) -> dict[str, Any]:
        """The group as a summary has it."""
        short = self.example and beginning(self.example, LONG)
        shown = {"error": cut(self.error), "count": self.count, "example": short}
        if self.status is not None and not self.several:
            shown["status"] = self.status
        if self.alike:
            shown["others_differ_in"] = "ids and numbers"
        return shown


class ErrorGroups:
    """Counts results, which are added in the order in which they are shown: a group has the words and the id of its first one."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self._groups: dict[str, _Group] = {}
        self._alike = False  # messages are compared without numbers and ids
        self._others = 0

    def take(self, reader: ResultRows, row: Row) -> None:
        """Counts a row."""
        if row.failed:
            name = without(reader.secret, reader.id_text(row))
            self.add(reader.error(row), name, reader.bad_status(row))
        else:
            self.succeeded += 1

    def add(self, error: str, example: str | None, status: int | None) -> None:
        """Counts one that failed; `status` when it is known and no success."""
        self.failed += 1
        self._add(error, 1, example, status)
        if not self._alike and len(self._groups) > KINDS:
            self._alike = True
            groups, self._groups = self._groups, {}
            for each in groups.values():
                self._add(each.error, each.count, each.example, each.status, several=each.several)

    def _add(
        self,
        error: str,
        count: int,
        example: str | None,
        status: int | None,
        *,
        several: bool = False,
    ) -> None:
        error = error[:_KEPT]
        message = error
        if self._alike:
            statuses = [] if several else [status, *_STATUS.findall(error)]
            message = f"{statuses} {without_ids(error, example)}"
        group = self._groups.get(message)
        if group is None:
            if len(self._groups) == MOST_KINDS:
                self._others += count
                return
            group = self._groups[message] = _Group(error)
        group.add(count, example, status)
        group.several |= several
        group.alike |= group.error != error

    def shown(self, room: int) -> dict[str, Any]:
        """The summary, of which as many groups stay as weigh `room`."""
        ordered = sorted(self._groups.values(), key=lambda each: -each.count)
        errors: list[dict[str, Any]] = []
        for group in ordered[:KINDS]:
            room -= weigh(compact(group.shown())) + 2
            if room < 0 and errors:
                break
            errors.append(group.shown())
        summary: dict[str, Any] = {
            "succeeded": self.succeeded,
            "failed": self.failed,
            "errors": errors,
        }
        if rest := ordered[len(errors) :]:
            count = sum(each.count for each in rest) + self._others
            summary["more_errors"] = {"kinds": len(rest) + bool(self._others), "count": count}
        return summary


def cut(text: str) -> str:
    """A text that is not too long for a summary."""
    short = beginning(text, LONG)
    return text if short == text else f"{short}…"


def without_ids(error: str, own: str | None = None) -> str:
    """A message with # for its row's `own` id and for each word with a digit."""
    if own and len(own) > 2:
        error = error.replace(own, "#")
    return _NUMBERED.sub("#", error)


def listed(names: Iterable[str], most: int) -> str:
    """Some of them, and how many more there are."""
    known = [*names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(name[:100] for name in known[:most]) + more
