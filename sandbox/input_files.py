"""Input files of jobs: their lines are checked one by one, and a request is read again when it is asked for."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from sandbox.answers import Invalid
from sandbox.content import Content
from sandbox.jobs import FAIL_MARK, Request
from sandbox.validation import Line, checked, is_line, parse_json

MAX_REASONS = 100
"""Faulty lines that are told; a file of a million has no need of more."""

_BOM = b"\xef\xbb\xbf"
_MARK = FAIL_MARK.encode()


class InputFile(Sequence[Request]):
    """The requests of a file. In memory are only their places, and of each `custom_id` its hash.

    `reasons` say why the file makes a job fail. Mistral does not look at the lines on upload; what is wrong with them
    surfaces in the job. `marked`: whether a line has FAIL_MARK.
    """

    def __init__(self, content: Content) -> None:
        self.reasons: list[str] = []
        self.ids = array("q")
        self.marked = False
        self._content = content
        self._starts, self._sizes = array("Q"), array("I")
        for number, (start, line) in enumerate(content.places(), 1):
            if line.strip():
                self._read(number, start, line)
        if not len(self) and not self.reasons:
            self.reasons.append("The input is empty")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        """The request at an index."""
        value = _parse(self._content.read(self._starts[index], self._sizes[index]))
        return Request(value.get("custom_id"), value["body"])

    def _read(self, number: int, start: int, line: bytes) -> None:
        self.marked = self.marked or _MARK in line
        try:
            value = _parse(line)
            if not is_line(value):
                checked(Line, value)
        except Invalid as error:
            loc = ".".join(map(str, error.violations[0]["loc"]))
            self._refuse(f"Line {number}: {loc}: not valid")
        except (ValueError, RecursionError):
            self._refuse(f"Invalid JSON on line {number}")
        else:
            self._starts.append(start)
            self._sizes.append(len(line))
            if (name := value.get("custom_id")) is not None:
                self.ids.append(hash(name))

    def _refuse(self, reason: str) -> None:
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(reason)


def _parse(line: bytes) -> Any:
    """The value of a line, which is UTF-8; a byte order mark is passed over. Raises as `parse_json`."""
    return parse_json(line.removeprefix(_BOM).decode())


class Chain(Sequence[Request]):
    """Requests of several origins as one sequence."""

    def __init__(self, parts: Iterable[Sequence[Request]]) -> None:
        self._parts = [part for part in parts if part]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        """The request at an index, counted from the first of all."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]
