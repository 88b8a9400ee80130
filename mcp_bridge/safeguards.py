"""Arguments by which a caller wants less than a tool's deed, or not yet: a rehearsal, a limit, a time, a question before it.

Left out, as other arguments are that a tool does not have, they would make a rehearsal the deed.
"""

from __future__ import annotations

import re
from typing import Any

from openapi.contract import Schema
from openapi.scalars import read_scalar

_SAFEGUARDS: tuple[tuple[re.Pattern[str], bool | None, str], ...] = tuple(
    (re.compile(words), harmless, reason)
    for words, harmless, reason in (
        (
            "dryrun|preview|simulat|rehears|pretend|whatif|noop|test(mode|run)|(check|plan|test|verify)only"
            "|^(only)?validat|^(dry|test|draft|mock|trial|paused|suspended)$|^estimate(only|cost)?$",
            False,
            "cannot only try or check",
        ),
        ("^soft|trash|recoverable|undoable|reversible|^archive$", False, "does nothing by halves"),
        ("^max(imum)?(cost|price|spend)|^(cost|spend(ing)?)?(budget|limit|cap)(usd|eur)?$", None, "keeps to no limit"),
        (
            "schedul|delay|defer|postpone|countdown|^cron|^(at|when|later|eta|if|unless|notbefore)$"
            "|^(run|start|execute|begin|send|submit|delete|cancel)s?(date|time|at|on|in|after|when|if)$|^(only)?(if|when)",
            False,
            "cannot wait for a time or a condition",
        ),
        ("confirm|^(ask|prompt|require)(first|user|approval)", None, "asks nobody before"),
        ("^(execute|apply|commit|proceed|approved?|submit|autostart|permanent(ly)?)$", True, "does it whole or not at all"),
    )
)  # fmt: skip
"""The letters of an argument, the value with which it wants no such thing, and why it is refused by a tool that changes something."""

_REHEARSAL = re.compile(
    "dryrun|(validate|check|plan|test)only|preview|simulat(e|ion)|testmode|whatif|noop"
)
_FLAG: Schema = {"type": "boolean"}


def lacking(name: str, value: Any) -> str | None:
    """Why an argument that a tool does not have cannot be left out of a call that changes something; None when it can."""
    letters = _letters(name)
    if isinstance(value, str) and _REHEARSAL.fullmatch(_letters(value)):  # as in `mode`
        return "cannot only try or check"
    for words, harmless, reason in _SAFEGUARDS:
        if words.search(letters):
            if isinstance(value, str):
                value = read_scalar(value.strip(), _FLAG)
            return None if value in (None, "") or value is harmless else reason
    return None


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text[:200].lower())
