"""What a tool call asks for: a request of the REST service, and what of its answer is to be shown."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_bridge.rest_client import RestRequest


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
