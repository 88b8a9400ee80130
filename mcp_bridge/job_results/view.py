"""The results of a job as a call wants them: the job's own members, a summary of all results, and a page of them.

Pure. `read_job` takes an answer apart, `held` makes of the rows that came in it what is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.asked import Asked, Selection, without_brackets
from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results import notes as result_notes
from mcp_bridge.job_results.error_groups import ErrorGroups
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.job_results.places import Row, built, levelled
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.shortening import NoPart, Shortening, compact, kind_of, opened, weigh, without
from mcp_bridge.tools import PART, CallableTool
from openapi.job_hints import JobHints, ResultsHint
from openapi.json_text import UNREADABLE, read_json

SUMMARY = "summary"
NEXT = "next_from"

LONG = 1 << 16
"""Bytes of a member that names files, or a state; one that is longer names none."""


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
        value = _short(self.members.get(name))
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def ids(self, name: str) -> list[str]:
        """The ids in a member: none, one, or a list of them."""
        value = _short(self.members.get(name))
        several = value if isinstance(value, list) else [value]
        return [each for each in several if isinstance(each, str) and each]


def read_job(hints: JobHints, content: bytes | bytearray) -> Job | None:
    """The job that an answer shows, None when it is no object.

    ValueError for what is no JSON; AnswerTooLarge for too much in it. What is nested too deeply is null in it.
    """
    assert hints.results
    try:
        try:
            text = read_json(content, Raw)
        except RecursionError:
            text = read_json(levelled(content), Raw)
    except UNREADABLE as error:
        raise ValueError("the answer is not JSON") from error
    if kind_of(text) != b"{":
        return None
    members = opened(text)
    rows = members.pop(hints.results.member, None)
    state = _short(members.get(hints.state.member)) if hints.state else None
    return Job(
        members,
        opened(rows) if rows is not None and kind_of(rows) == b"[" else None,
        state if isinstance(state, str) else "",
        not hints.state or hints.state.is_final(state),
    )


def _short(text: Raw | None) -> Any:
    """The value of a member that is not longer than what it is for can be, else None."""
    return None if text is None or len(text) > LONG else built(text)


def _own(text: Raw) -> Any:
    """The value of a member; None for a number that is too large for one, or what is nested too deeply."""
    value = built(text)
    return None if isinstance(value, str) and kind_of(text) != b'"' else value


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
    gone: list[str] = field(default_factory=list)
    """Which results cannot be had any more: those that failed, or that succeeded."""
    unread: bool = False
    """Whether there are results in files that the caller may not read."""
    reordered: bool = False
    """Whether the input is not there any more, by which an earlier page may have been ordered."""

    def __post_init__(self) -> None:
        self.hint: ResultsHint = _results(self.tool)
        self.selection = self.asked.selection or Selection()
        self.reader = ResultRows(self.hint, self.secret)
        self.groups = ErrorGroups()
        self._room = self.limit - self.limit // 20  # for the note
        self._shortening = Shortening(self.secret)
        self._members = self._shortening.shorten(self._own(), self._room // 4)
        self._room -= weigh(compact(self._members), self.limit)

    def _own(self) -> Any:
        """The job's own members, built when they are not large."""
        text = Raw(msgspec.json.encode(dict(self.job.members)))
        if len(text) >= LARGE:
            return text
        return without(self.secret, {name: _own(each) for name, each in self.job.members.items()})

    @property
    def found(self) -> int:
        """How many results were counted."""
        return self.groups.succeeded + self.groups.failed

    @property
    def done(self) -> int:
        """How many results there are, as the job counts them itself; 0 when it does not."""
        progress = self.tool.operation.hints.progress
        return (progress and self.job.number(progress.done)) or 0

    def held(self, rows: Iterable[Row]) -> dict[str, Any]:
        """What is shown of rows that can be gone through twice. NoPart when the part is not there that is wanted."""
        if self.asked.part:
            return self._held_part(rows)
        joined = {name: _parts(name) for name in self.selection.ids if "," in name}
        asked = {*joined, *chain(*joined.values())}
        seen = set()
        for row in rows:
            self.groups.take(self.reader, row)
            if asked and (name := self.reader.id_text(row)) in asked:
                seen.add(name)
        self._take_apart(joined, seen)
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
            self.notes.append(result_notes.of_cuts(self._shortening.cuts))
        self.notes += result_notes.of_page(self, page)
        if not self.found and (not self.job.final or self.gone or self.unread):
            return {**self._members, self.hint.member: None}
        return {
            **self._members,
            SUMMARY: self.groups.shown(self._room // 6),
            self.hint.member: page.shown,
            NEXT: page.next_from,
        }

    def _take_apart(self, joined: Mapping[str, list[str]], seen: Collection[str | None]) -> None:
        """Has ids that were written into one text, with commas between them, count as several, where that is certain."""
        ids: list[str] = []
        for name in self.selection.ids:
            parts = joined.get(name, [])
            several = name not in seen and all(part in seen for part in parts)
            ids += parts if parts and several else [name]
        self.selection = replace(self.selection, ids=tuple(ids))

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
        if not (page.total or self.job.final) and path.partition(".")[0] == self.hint.member:
            raise NoPart(result_notes.NOT_FINAL)
        if path == self.hint.member:
            self.notes += result_notes.of_page(self, page)
            return {PART: {"of": path, "from": start, "value": page.shown, NEXT: page.next_from}}
        if path.startswith(f"{self.hint.member}."):
            if self._index is None or not page.shown:
                raise NoPart(f"{self.hint.member} has {page.total} items, counted from 0")
            within: Any = {self.hint.member: {str(self._index): page.shown[0]}}
        else:
            within = self._own()
            if isinstance(within, dict):  # for those who are told what there is
                within = {self.hint.member: None, **within}
        shortening = Shortening(self.secret)
        room = self.limit - self.limit // 20
        try:
            value, after = shortening.part(within, path, start, room)
        except NoPart:
            path = without_brackets(path)
            if path == self.asked.part:
                raise
            value, after = shortening.part(within, path, start, room)
        self.notes += result_notes.of_part(self, page, shortening)
        return {PART: {"of": path, "from": start, "value": value, NEXT: after}}


def _parts(name: str) -> list[str]:
    """The ids that a text may be, with commas between them."""
    return [part for each in name.split(",") if (part := each.strip())]


def _results(tool: CallableTool) -> ResultsHint:
    assert tool.operation.hints.results
    return tool.operation.hints.results
