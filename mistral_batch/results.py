"""Where the results of a run are: the line of each row in the files of each attempt, and what all attempts together came to.

Each attempt has its requests in the order of the rows, those that were sent again too. So of each attempt one chunk at a time is
known: by `custom_id`, where in its results' files the line is, which is read when it is its row's turn. What is in memory is bounded,
however many rows there are and however long their answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .errors import InputError, ResultsError
from .outcomes import Outcome, read
from .runs import Attempt, Chunk, Run
from .sources import UNREADABLE


class Found(NamedTuple):
    """What became of a row: the last answer, else the last error, of which attempt it is, and whether a retry is to send it.

    When `missing`, no attempt has a result for it, and the error says why.
    """

    outcome: Outcome
    attempt: int
    again: bool
    missing: bool


class Results:
    """The results of all attempts of a run, asked for row by row, in order. `size` counts the bytes that were read."""

    def __init__(self, run: Run) -> None:
        self.size = 0
        attempts = [attempt for attempt in run.manifest.attempts if attempt.planned]
        if not attempts:
            raise InputError(f"nothing of {run.manifest.name} was sent yet")
        self.attempts = [_Attempt(run.folder, attempt) for attempt in attempts]

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        for attempt in self.attempts:
            attempt.files.close()

    @property
    def over(self) -> bool:
        """True when all rows that were sent were asked for."""
        return all(attempt.over for attempt in self.attempts)

    def of(self, custom_id: str) -> Found | None:
        """None for a row that was not sent, or whose turn it is not."""
        shown: Outcome | None = None
        number = unknown = 0
        missing: Found | None = None
        for attempt in self.attempts:
            place = attempt.places.pop(custom_id, ASKED_NOT) if attempt.ready() else ASKED_NOT
            if place is ASKED_NOT:
                continue
            if place is None:
                why = Outcome(custom_id, None, attempt.why, not attempt.lost, {})
                missing = Found(why, attempt.number, not attempt.lost, True)
                continue
            outcome = attempt.read(place)
            self.size += place[2]
            unknown += outcome.again is None and bool(outcome.error)
            if shown is None or shown.error or not outcome.error:
                shown, number = outcome, attempt.number
        if shown is None:
            return missing
        return Found(shown, number, unknown < 2 if shown.again is None else shown.again, False)


def outcomes(run: Run) -> Iterator[Outcome]:
    """What all results that there are say, those of earlier attempts too, in no order. ResultsError for one that is broken."""
    for chunk in (chunk for attempt in run.manifest.attempts for chunk in attempt.chunks):
        for path in (run.folder / name for name in chunk.saved):
            with _opened(path) as lines:
                for number, line in enumerate(lines, 1):
                    if line.isspace():
                        continue
                    try:
                        yield read(line)
                    except ValueError as error:
                        raise _broken(path, number, error) from error


Place = tuple[int, int, int]
"""Of a line of results: the file, as an open descriptor, and where it begins and how long it is, in bytes."""

ASKED_NOT: Place = (0, 0, 0)


class _Attempt:
    """The results of one attempt. `places` has the rows of a chunk whose turn it was not yet, None for one that has no result."""

    def __init__(self, folder: Path, attempt: Attempt) -> None:
        self.folder = folder
        self.number = attempt.number
        self.left = list(reversed(attempt.chunks))
        self.places: dict[str, Place | None] = {}
        self.why = ""
        self.lost = False
        self.files = ExitStack()
        self.names: dict[int, Path] = {}

    @property
    def over(self) -> bool:
        """True when all its rows were asked for."""
        return not self.places and not self.left

    def ready(self) -> bool:
        """Has `places` of the next chunk when all of one had their turn; False when there are no more."""
        while not self.places and self.left:
            self._open(self.left.pop())
        return bool(self.places)

    def read(self, place: Place) -> Outcome:
        """The outcome at a place."""
        file, begin, size = place
        try:
            return read(os.pread(file, size, begin))
        except ValueError as error:
            path = self.names[file]
            with path.open("rb") as lines:
                number = lines.read(begin).count(b"\n") + 1
            raise _broken(path, number, error) from error

    def _open(self, chunk: Chunk) -> None:
        self.files.close()
        self.names = {}
        self.why, self.lost = _why(chunk), bool(chunk.lost)
        path = self.folder / chunk.content
        with _opened(path) as requests:
            self.places = dict.fromkeys(map(id_of, requests))
        for name in chunk.saved:
            path = self.folder / name
            file = self.files.enter_context(_opened(path))
            self.names[file.fileno()] = path
            self._index(path, file, file.fileno())

    def _index(self, path: Path, file: Any, descriptor: int) -> None:
        places, begin = self.places, 0
        for number, line in enumerate(file, 1):
            size = len(line)
            if not line.isspace():
                try:
                    custom_id = id_of(line)
                except ValueError as error:
                    raise _broken(path, number, error) from error
                if places.get(custom_id, ASKED_NOT) is not None:
                    known = custom_id in places
                    what = "has two results" if known else "was not asked by this job"
                    raise ResultsError(f"{path} line {number}: custom_id {custom_id!r} {what}")
                places[custom_id] = descriptor, begin, size
            begin += size


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from error


def _broken(path: Path, number: int, error: Exception) -> ResultsError:
    return ResultsError(
        f"{path} line {number} cannot be read: {error}. To fetch it anew, delete {path.parent} and run the same command again:"
        " nothing is bought twice"
    )


def _why(chunk: Chunk) -> str:
    """Why a request of a chunk has no result."""
    if chunk.lost:
        return f"no result: {chunk.lost}"
    if not chunk.fetched:
        return "no result yet" if chunk.job_id else "not sent yet"
    ended = {
        "CANCELLED": "the job was cancelled",
        "TIMEOUT_EXCEEDED": "the job timed out",
        "FAILED": "the job failed",
        "SUCCESS": "the job has none for it",
    }
    why = ended.get(chunk.status, f"the job ended as {chunk.status or 'unknown'}")
    return f"no result: {why}{f': {chunk.why}' if chunk.why and chunk.status != 'SUCCESS' else ''}"


class _Named(msgspec.Struct, gc=False):
    custom_id: str


_named = msgspec.json.Decoder(_Named).decode


def id_of(line: bytes) -> str:
    """The `custom_id` of a request or result. ValueError for a line that is broken or has none."""
    try:
        return _named(line).custom_id
    except UNREADABLE:
        custom_id = read(line).custom_id
    if custom_id is None:
        raise ValueError("it has no custom_id")
    return custom_id
