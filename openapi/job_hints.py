"""What the document says of an operation that shows something that takes time: a job, say. For `openapi.contract`.

* `x-state`: which `member` of the answer is the state, and which values of it are `final`;
* `x-progress`: the members that count: the `total` of its units, and how many are `done`, have `succeeded` and have `failed`; the
  member with the Unix time at which it `started`; what a `unit` is called; and the states in which it is `running`, at its pace;
* `x-results`: where its results are, a row for each unit. `member` of the answer has the rows when it was asked for with the
  parameters `asked`; `files` names the members of the answer that have ids of files with a row a line, of those that `succeeded`
  and those that `failed` and of the `input`, which the operation `content` reads. Within a row, `id` is what its unit was called,
  `answers` and `errors` are where to look for what came of it, the first that has something, for all of its items;
  where there is something at `whole`, the answer is all that this is in. `status` is an HTTP status, and `ended` is where it says
  why the answer ends, which is as usual for the values `usual`.

A place within a row is names with points between them; `*` stands for each item of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StateHint:
    """What an operation shows changes by itself until the value of its answer's `member` is among the `final` ones."""

    member: str
    final: frozenset[str]

    def is_final(self, value: object) -> bool:
        """True for a final value of the member, which an answer may have as anything else than a text."""
        return isinstance(value, str) and value in self.final


@dataclass(frozen=True)
class ProgressHint:
    """Names of the members that tell how far it is; `unit` is what they count, as a plural.

    `running` are the states in which it goes on at its pace.
    """

    unit: str
    total: str
    done: str
    succeeded: str
    failed: str
    started: str
    running: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ResultFiles:
    """The operation that reads a file's content, and the members with ids: of one file each, and of those of the input."""

    content: str
    succeeded: str
    failed: str
    input: str = ""


@dataclass(frozen=True)
class ResultsHint:
    """Where results are, and what a row of them says; places are names with points between them."""

    member: str
    asked: Mapping[str, Any]
    id: str
    answers: tuple[str, ...]
    errors: tuple[str, ...]
    whole: str = ""
    status: str = ""
    ended: str = ""
    usual: tuple[str, ...] = ()
    files: ResultFiles | None = None


@dataclass(frozen=True)
class JobHints:
    """All that is said of one operation; None for what is not."""

    state: StateHint | None = None
    progress: ProgressHint | None = None
    results: ResultsHint | None = None


def read(declared: Mapping[str, Any]) -> JobHints:
    """The hints of an operation of the document."""
    state, progress = declared.get("x-state"), declared.get("x-progress")
    return JobHints(
        StateHint(state["member"], frozenset(state["final"])) if state else None,
        ProgressHint(**{**progress, "running": frozenset(progress.get("running", ()))})
        if progress
        else None,
        _results(declared["x-results"]) if "x-results" in declared else None,
    )


def _results(declared: Mapping[str, Any]) -> ResultsHint:
    ended = declared.get("ended", {})
    return ResultsHint(
        member=declared["member"],
        asked=declared.get("asked", {}),
        id=declared["id"],
        answers=tuple(declared["answers"]),
        errors=tuple(declared["errors"]),
        whole=declared.get("whole", ""),
        status=declared.get("status", ""),
        ended=ended.get("member", ""),
        usual=tuple(ended.get("usual", ())),
        files=ResultFiles(**declared["files"]) if "files" in declared else None,
    )
