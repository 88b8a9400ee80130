"""Where the results of a job come from: the answer that shows it, or the files that it names; the second when the first has none.

What is large is read in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import quote

from mcp_bridge.asked import Asked
from mcp_bridge.canonical import LARGE
from mcp_bridge.failures import tool_error
from mcp_bridge.job_results.files import FileRows, InputIds, WholeLines
from mcp_bridge.job_results.order import HeldRows
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.job_results.rows import Over
from mcp_bridge.job_results.tool_result import with_results
from mcp_bridge.job_results.view import Job, View, read_job
from mcp_bridge.rest_client import Answer, AnswerTooLarge, NoAnswer, RestClient, RestRequest
from mcp_bridge.results import Results
from mcp_bridge.shortening import without
from mcp_bridge.tools import CallableTool
from openapi.contract import Operation
from openapi.job_hints import ResultFiles
from serving.body_buffer import OutOfMemory, Reservation

GONE = (404, 410)
"""HTTP statuses of a file that is no more."""

MOST_FILES = 20
"""Files of one kind that are read for one call."""

NAMED = 10
"""Files that a failure names."""

_Made = TypeVar("_Made")


class Refused(Exception):
    """What was asked for besides was not had: the `answer` says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass
class ResultSource:
    """One call that wants results. `content` is the operation that reads files, None when the caller may not; `headers` are the call's."""

    results: Results
    rest: RestClient
    reading: ThreadPoolExecutor
    content: Operation | None
    headers: dict[str, str]
    end: float
    """When it has to have ended, by the event loop's clock."""
    reservation: Reservation
    """For the memory of an answer that shows the job."""
    held: Reservation = field(init=False)
    """For rows of files."""
    view: View | None = None
    """What is shown of the results, as soon as there is a job."""
    files: tuple[str, ...] = ()
    """The ids of files that have the results."""
    running: asyncio.Future[Any] | None = None
    """What goes on in the thread, with what is counted here, also when the caller has left."""

    def __post_init__(self) -> None:
        self.held = Reservation(self.rest.budget)

    async def result(
        self, tool: CallableTool, asked: Asked, answer: Answer | None
    ) -> dict[str, Any]:
        """The tool's result; `answer` shows the job, and is None when it was too large with the results in it."""
        try:
            async with asyncio.timeout_at(self.end):
                return await self._result(tool, asked, answer)
        except TimeoutError:
            return tool_error(f"{tool.declared.name} failed: {self._late(asked)}")
        finally:
            if self.view:
                self.view.reader.over = True
            self.held.release(self.running)

    async def _result(
        self, tool: CallableTool, asked: Asked, answer: Answer | None
    ) -> dict[str, Any]:
        hints = tool.operation.hints
        job: Job | None = None
        if answer is not None:
            try:
                job = await self._beside(answer, read_job, hints, answer.content)
            except AnswerTooLarge:
                useless, answer = answer, None
            if answer is None:
                _forget(useless)
        if answer is None:
            self.reservation.release()
            answer = await self._send(asked.without_results or asked.request)
            job = await self._beside(answer, read_job, hints, answer.content)
        if job is None:
            return self.results.success(tool, asked, answer)
        self.view = view = View(tool, asked, job, self.results.limit, self.results.secret)
        rows = await self._rows(view, answer)
        if isinstance(rows, HeldRows):
            positions = await self._positions(view, rows) if len(rows.texts) > 1 else None
            named = f"ordered by {view.reader.id_name}"
            view.order = "in the order of the input" if positions else named
            await self._beside(answer, rows.sort, positions)
        else:
            view.order = "in the order of their files"
        return await self._beside(answer, with_results, self.results, view, answer.headers, rows)

    async def _rows(self, view: View, answer: Answer) -> HeldRows | ResultPage:
        """All rows of the job; of those that are too many to be held a page."""
        rows = HeldRows(view.reader)
        if view.job.rows:
            await self._beside(answer, rows.add_all, view.job.rows)
        if view.job.final and view.hint.files and len(rows.texts) < max(view.done, 1):
            found = await self._from_files(view, view.hint.files, rows)
            if not isinstance(found, HeldRows) or len(found.texts) > len(rows.texts):
                return found
        return rows

    async def _from_files(
        self, view: View, files: ResultFiles, known: HeldRows
    ) -> HeldRows | ResultPage:
        """The rows of the files of those that succeeded and those that failed; first the file that the call wants."""
        kinds = [view.job.ids(files.succeeded), view.job.ids(files.failed)]
        if max(map(len, kinds)) > MOST_FILES:
            view.notes.append(f"Of its files of each kind no more than {MOST_FILES} are read.")
        named = [(name, failed) for failed in (False, True) for name in kinds[failed][:MOST_FILES]]
        if view.selection.only == "failed":
            named.reverse()
        if named and not self.content:
            view.unread = True
            return known
        rows = FileRows(view, self.rest.max_answer)
        self.files = tuple(name for name, _ in named)
        for name, failed in named:
            take = partial(rows.take, failed=True if failed else None)
            answer = await self._read(name, take, rows)
            if answer.status in GONE:
                view.gone.append("failed" if failed else "succeeded")
            elif not 200 <= answer.status < 300:
                raise Refused(answer)
        return rows.held or rows.page

    async def _positions(self, view: View, rows: HeldRows) -> dict[str, int] | None:
        """Where in the input each id stands; None when that is not known, and will not be in another call either."""
        files = view.hint.files
        named = view.job.ids(files.input) if files and files.input and self.content else []
        ids = InputIds(view.reader, rows.ids)
        for name in named if len(named) <= MOST_FILES else ():
            answer = await self._read(name, ids.take)
            passing = answer.status >= 500 or answer.status in (408, 429)
            if passing:  # another order than that of the last page would show some results twice
                raise Refused(answer)
            if not 200 <= answer.status < 300:
                view.reordered = True
                return None
        return ids.positions if named else None

    def _late(self, asked: Asked) -> str:
        """What to do about files that take too long."""
        sentence = "its results could not be read within the time that one call has."
        if asked.wait:
            return f"{sentence} Call again without a wait."
        reader = self.content and self.content.tool
        if not (reader and self.files):
            return f"{sentence} It changes nothing, so call again."
        files = " and ".join(name[:100] for name in self.files[:NAMED])
        if more := len(self.files[NAMED:]):
            files += f" and {more} more"
        sentence += f" {reader.name} reads them by lines, from the files {files}."
        return str(without(self.results.secret, sentence))

    async def _read(
        self, name: str, take: Callable[[bytes], bool], rows: FileRows | None = None
    ) -> Answer:
        """Has a file's lines taken. NoAnswer when there is no memory for all that are held."""
        assert self.content
        (variable,) = self.content.path_variables
        path = self.content.path.replace(f"{{{variable}}}", quote(name, safe=""))
        headers = {"Accept": self.content.response_media_type, **self.headers}

        async def feed(lines: bytes) -> bool:
            reading = asyncio.get_running_loop().run_in_executor(
                self.reading, _unless_over, take, lines
            )
            self.running = reading
            enough = bool(await asyncio.shield(reading))
            try:
                self.held.resize(rows.size if rows else 0)
            except OutOfMemory as error:
                sentence = "has more results than there is memory for at present"
                raise NoAnswer(sentence) from error
            return enough

        lines_of = WholeLines(feed, self.rest.max_answer // 4)
        request = RestRequest("GET", path, headers)
        return await self.rest.send(request, Reservation(self.rest.budget), lines_of.take)

    async def _send(self, request: RestRequest) -> Answer:
        headers = {**request.headers, **self.headers}
        answer = await self.rest.send(replace(request, headers=headers), self.reservation)
        if not 200 <= answer.status < 300:
            raise Refused(answer)
        return answer

    async def _beside(self, answer: Answer, call: Callable[..., _Made], *arguments: Any) -> _Made:
        """What `call` returns; called in the thread when there is much to read."""
        if len(answer.content) < LARGE and not self.held.size:
            return call(*arguments)
        made = asyncio.get_running_loop().run_in_executor(
            self.reading, _unless_over, call, *arguments
        )
        self.running = made
        return cast(_Made, await asyncio.shield(made))


def _unless_over(call: Callable[..., _Made], *arguments: Any) -> _Made | None:
    """What `call` returns; None when it was given up, since nobody is there to take it."""
    try:
        return call(*arguments)
    except Over:
        return None


def _forget(answer: Answer) -> None:
    """Gives the memory of an answer back, which its callers still hold."""
    if isinstance(answer.content, bytearray):
        with suppress(BufferError):  # something still looks at it
            answer.content.clear()
