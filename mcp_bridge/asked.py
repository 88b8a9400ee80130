"""What a tool call asks for: a request of the REST service, and what of its answer is to be shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mcp_bridge.own_arguments import COUNT, KEY
from mcp_bridge.rest_client import RestRequest
from mcp_bridge.rest_request import rest_request
from mcp_bridge.tools import CallableTool
from openapi.job_hints import ResultsHint
from openapi.scalars import write_scalar

SHOWN = 5
"""Ids that a failure names."""

_BRACKETS = re.compile(r"\[([0-9]{1,9})\]")


@dataclass(frozen=True)
class Selection:
    """Which results of a job are wanted, and in which form.

    `only` is failed, succeeded or empty; `first` how many of those to skip, and `count` how many to show at most; `ids` the only
    ones that are wanted, when there are any. `full` wants rows as they came; `numbers` cuts lists of numbers.
    """

    only: str = ""
    first: int = 0
    count: int | None = None
    ids: tuple[str, ...] = ()
    full: bool = False
    numbers: int | None = None


@dataclass(frozen=True)
class Asked:
    """One call. `note` is for the caller, beside the answer.

    `lines`: those that are wanted of an answer that is no JSON; counted from 0. `part`: the place in the answer that is wanted, and
    `first` how much of that to skip. `selection`: which of the results, None when they are not asked for, and `without_results` is the
    request that then shows all else. `wait`: the seconds that the answer may take to show a final state. `ids` are the arguments by
    which the call means something that is there, with their values; `key_given` is true when the caller gave the call a key.
    """

    request: RestRequest
    lines: range | None = None
    part: str = ""
    first: int = 0
    selection: Selection | None = None
    without_results: RestRequest | None = None
    wait: int = 0
    ids: tuple[tuple[str, str], ...] = ()
    key_given: bool = False
    note: str = ""

    def noted(self, note: str) -> Asked:
        """The same with one more thing to say."""
        return replace(self, note=" ".join(filter(None, [self.note, note]))) if note else self


def what_is_asked(tool: CallableTool, arguments: Mapping[str, Any], caller: str) -> Asked:
    """What a call with arguments that were read and checked asks for; `caller` as in `rest_request`."""
    own = {
        argument.location: arguments[name]
        for name, argument in tool.arguments.items()
        if name in arguments
    }
    first, count, part = own.get("from", 0), own.get("count", COUNT), own.get("part", "")
    results = tool.operation.hints.results
    if results and part.startswith(f"{results.member}["):  # as in a programming language
        own["part"] = part = without_brackets(part, 1)
    selection = _selection(tool, results, arguments, own) if results else None
    plain = None
    if selection and results:
        asking = _asking(tool, results)
        rest = {name: value for name, value in arguments.items() if name not in asking}
        plain = rest_request(tool, rest, caller)
        arguments = {**arguments, **asking}
    return Asked(
        request=rest_request(tool, arguments, caller),
        lines=range(first, first + count) if tool.operation.answer_streamed else None,
        part=part,
        first=first,
        selection=selection,
        without_results=plain,
        wait=own.get("wait", 0),
        ids=tuple(islice(_ids(tool, arguments), SHOWN)),
        key_given=KEY in arguments,
    )


def without_brackets(place: str, count: int = 0) -> str:
    """A place that was written as in a programming language: outputs[3] is outputs.3; the first `count` brackets, 0 for all."""
    return _BRACKETS.sub(r".\1", place, count=count)


def _ids(tool: CallableTool, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The arguments by which a call means something that is there, and their values: those of the path, or else all with UUIDs."""
    found = [each for name, each in tool.arguments.items() if name in arguments]
    of_path = [each for each in found if each.location == "path"]
    for argument in of_path or found:
        value, schema = arguments[argument.name], argument.schema
        several = schema.get("items", {}).get("format") == "uuid"
        if several and isinstance(value, list):
            yield from ((argument.name, str(each)) for each in value)
        elif argument.location == "path" or schema.get("format") == "uuid":
            yield argument.name, write_scalar(value)


def _asking(tool: CallableTool, results: ResultsHint) -> dict[str, Any]:
    """The arguments with which an answer has results."""
    given = results.asked
    return {n: given[each.target] for n, each in tool.arguments.items() if each.target in given}


def _selection(
    tool: CallableTool,
    results: ResultsHint,
    arguments: Mapping[str, Any],
    own: Mapping[str, Any],
) -> Selection | None:
    """The results that are wanted; None when no argument asks for any, so that the answer is shown as it came."""
    part = own.get("part", "")
    asked = all(arguments.get(name) == value for name, value in _asking(tool, results).items())
    within = part == results.member or part.startswith(f"{results.member}.")
    chosen = any(own.get(each) for each in ("only", "count", "ids", "full"))
    if not (asked or within or chosen or "numbers" in own or ("from" in own and not part)):
        return None
    return Selection(
        only=own.get("only", ""),
        first=0 if part else own.get("from", 0),
        count=own.get("count"),
        ids=tuple(own.get("ids", ())),
        full=own.get("full", False),
        numbers=own.get("numbers"),
    )
