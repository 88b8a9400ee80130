"""The results of a job as a call wants them: the job's own members, a summary of all results, and a page of them.

Pure. `read_job` takes an answer apart, `held` makes of the rows that came in it what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.asked import Asked, Selection
from mcp_bridge.job_results import notes as result_notes
from mcp_bridge.job_results.error_groups import ErrorGroups
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.job_results.places import Row, built, kind_of
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.shortening import (
    NAMED,
    NoPart,
    Shortening,
    compact,
    opened,
    weigh,
)
from mcp_bridge.tools import PART, CallableTool
from openapi.job_hints import JobHints, ResultsHint
from openapi.json_text import UNREADABLE, read_json

SUMMARY = "summary"
NEXT = "next_from"


@dataclass(frozen=True)
class Job:
    """An answer that shows a job: its members as JSON texts, the results not among them.

    `rows` are the results that came with it, None for none; `state` is final when they are all that there will be.
    """

    members: Mapping[str, Raw]
    rows: list[Raw] | None
    state: str
    final: bool

    def number(self, name: str) -> int | None:
        """What a member counts; None when it counts nothing."""
        value = built(self.members[name]) if name in self.members else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def ids(self, name: str) -> list[str]:
        """The ids in a member: none, one, or a list of them."""
        value = built(self.members[name]) if name in self.members else None
        several = value if isinstance(value, list) else [value]
        return [each for each in several if isinstance(each, str) and each]


def read_job(hints: JobHints, content: bytes | bytearray) -> Job | None:
    """The job that an answer shows, None when it is no object. ValueError for what is no JSON; AnswerTooLarge for too much in it."""
    assert hints.results
    try:
        text = read_json(content, Raw)
    except UNREADABLE as error:
        raise ValueError("the answer is not JSON") from error
    if kind_of(text) != b"{":
        return None
    members = opened(text)
    rows = members.pop(hints.results.member, None)
    state = hints.state and built(members.get(hints.state.member, Raw(b"null")))
    return Job(
        members,
        opened(rows) if rows is not None and kind_of(rows) == b"[" else None,
        state if isinstance(state, str) else "",
        not hints.state or state in hints.state.final,
    )


@dataclass
class View:
    """What of a job's results one call is shown: `limit` is the weight of all, `secret` is taken out of it."""

    tool: CallableTool
    asked: Asked
    job: Job
    limit: int
    secret: str = field(repr=False)
    order: str = ""
    """What they are ordered by, in words."""
    notes: list[str] = field(default_factory=list)
    gone: bool = False
    """Whether there were results that cannot be had any more."""

    def __post_init__(self) -> None:
        self.hint: ResultsHint = _results(self.tool)
        self.selection = self.asked.selection or Selection()
        self.reader = ResultRows(self.hint, self.secret)
        self.groups = ErrorGroups()
        self._room = self.limit - self.limit // 20  # for the note
        self._shortening = Shortening(self.secret)
        text = Raw(msgspec.json.encode(dict(self.job.members)))
        self._members = self._shortening.shorten(text, self._room // 4)
        self._room -= weigh(compact(self._members), self.limit)

    def held(self, rows: Iterable[Row]) -> dict[str, Any]:
        """What is shown of rows that can be gone through twice. NoPart when the part is not there that is wanted."""
        if self.asked.part:
            return self._held_part(rows)
        for row in rows:
            self.groups.take(self.reader, row)
        page = self.page(self.groups.shown(self._room // 6))
        for row in rows:
            page.take(row)
        return self.shown(page)

    def page(self, summary: Mapping[str, Any] | None = None) -> ResultPage:
        """An empty page, of a size that leaves room for the summary; for the greatest one if that is None."""
        if self.asked.part:
            return self._part_page()
        taken = self._room // 6 if summary is None else weigh(compact(summary))
        return ResultPage(self.reader, self.selection, self._room - taken, self.secret)

    def shown(self, page: ResultPage) -> dict[str, Any]:
        """What is shown when the page has taken all rows; `notes` say what there is to say of it."""
        if self.asked.part:
            return self._part(page)
        if self._shortening.cuts:
            self.notes.append(f"Shortened: {'; '.join(self._shortening.cuts[:NAMED])}.")
        self.notes += result_notes.of_page(self, page)
        return {
            **self._members,
            SUMMARY: self.groups.shown(self._room // 6),
            self.hint.member: page.shown,
            NEXT: page.next_from,
        }

    def _held_part(self, rows: Iterable[Row]) -> dict[str, Any]:
        page = self._part_page()
        for row in rows:
            page.take(row)
        return self._part(page)

    def _part_page(self) -> ResultPage:
        """A page with what is needed of the results for the part that is wanted: some of them, or one."""
        index = self._index
        first, count = (self.asked.first, self.selection.count) if index is None else (index, 1)
        selection = replace(self.selection, first=first, count=count)
        room = self.limit - self.limit // 20
        return ResultPage(self.reader, selection, room, self.secret, whole=index is not None)

    @property
    def _index(self) -> int | None:
        """Which of the results a part is of; None for all of them."""
        step = self.asked.part.removeprefix(self.hint.member)[1:].partition(".")[0]
        return int(step) if step.isascii() and step.isdecimal() and len(step) < 10 else None

    def _part(self, page: ResultPage) -> dict[str, Any]:
        path, start = self.asked.part, self.asked.first
        if path == self.hint.member:
            self.notes += result_notes.of_page(self, page)
            return {PART: {"of": path, "from": start, "value": page.shown, NEXT: page.next_from}}
        if path.startswith(f"{self.hint.member}."):
            if self._index is None or not page.shown:
                raise NoPart(f"{self.hint.member} has {page.total} items, counted from 0")
            within: Any = {self.hint.member: {str(self._index): page.shown[0]}}
        else:
            within = Raw(msgspec.json.encode(dict(self.job.members)))
        shortening = Shortening(self.secret)
        value, after = shortening.part(within, path, start, self.limit - self.limit // 20)
        self.notes += result_notes.of_part(self, page, shortening)
        return {PART: {"of": path, "from": start, "value": value, NEXT: after}}


def _results(tool: CallableTool) -> ResultsHint:
    assert tool.operation.hints.results
    return tool.operation.hints.results
