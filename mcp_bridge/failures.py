"""What a failed call is told: what was wrong, where, and what to do. Pure.

The REST service's problem documents are for programs and their authors: they speak of its paths, settings and upstream. A model has
none of these, so each kind has a sentence of its own here, and of a document only what is about the arguments is passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_bridge.arguments import dotted
from mcp_bridge.asked import Asked
from mcp_bridge.own_arguments import KEY
from mcp_bridge.rest_client import Answer
from mcp_bridge.shortening import beginning, without
from mcp_bridge.tools import CallableTool
from serving.problems import words

SENTENCE = 16_384
"""Weight of each of an answer's own sentences in a failure."""

_SAID_LIMIT = 500
_CALLERS_FAULT = "The arguments need a change."
_NOT_CALLERS_FAULT = "The arguments are not at fault."
_OPERATOR = "Only the gateway's operator can help."
# What a status means for somebody who calls tools; RFC 9110 section 15.5.
_ADVICE = {
    401: f"The bridge's own token is not accepted. {_OPERATOR}",
    402: f"It has to be paid for first. {_OPERATOR}",
    403: f"The bridge's own token does not allow it. {_OPERATOR}",
    404: "Check the ids in the arguments.",
    409: "It conflicts with the present state.",
    413: "Send less in one call.",
    429: "It is the number of calls that is limited.",
}


@dataclass(frozen=True)
class Kind:
    """What a kind of problem is to a model, where {} is the provider. `advice` takes the place of what its status says.

    `detailed`: its detail is about the arguments.
    """

    what: str
    advice: str = ""
    detailed: bool = False


# A table: one row, one line.
# fmt: off
KINDS = {
    "misdirected-request": Kind("The bridge calls the gateway by a name that it does not know.", _OPERATOR),
    "cross-origin": Kind("The gateway takes the bridge for a web page.", _OPERATOR),
    "unauthenticated": Kind("The gateway does not accept the bridge's own token.", _OPERATOR),
    "insufficient-scope": Kind("The bridge's own token does not allow it.", _OPERATOR),
    "too-many-requests": Kind("The gateway is called too often.", _NOT_CALLERS_FAULT),
    "issuer-unreachable": Kind("The gateway cannot check tokens now.", _NOT_CALLERS_FAULT),
    "malformed-request": Kind("The arguments cannot be read.", detailed=True),
    "validation-failed": Kind("", detailed=True),
    "not-found": Kind("There is none."),
    "method-not-allowed": Kind("The gateway is of another version than this tool.", _OPERATOR),
    "content-too-large": Kind("What was given is larger than the gateway takes.", detailed=True),
    "request-timeout": Kind("What was given came too slowly.", _NOT_CALLERS_FAULT),
    "unsupported-media-type": Kind("The gateway is of another version than this tool.", _OPERATOR),
    "overloaded": Kind("The gateway is busy."),
    "gateway-unavailable": Kind("The gateway gave no complete answer."),
    "internal-error": Kind("The gateway failed; its log has the cause under the request id."),
    "create-outcome-unknown": Kind("Whether the call was carried out is not known: its answer was lost.", _NOT_CALLERS_FAULT),
    "outcome-still-unknown": Kind("Whether the first of these calls was carried out is still not known.", _NOT_CALLERS_FAULT),
    "idempotency-in-progress": Kind("The first of these calls is still under way; the same call again gets its answer.", _NOT_CALLERS_FAULT),
    "idempotency-key-reused": Kind(f"The {KEY} belongs to a call with other arguments.", "Give another for another call."),
    "idempotency-store-unavailable": Kind("The gateway cannot note the call now, by which a repeat would not act twice. Nothing was done."),
    "upstream-rejected": Kind("{} refused it."),
    "rate-limited": Kind("{} limits the number of calls.", _NOT_CALLERS_FAULT),
    "upstream-failed": Kind("{} failed."),
    "upstream-refused-key": Kind("{} does not allow it with the gateway's own key.", _OPERATOR),
    "upstream-bad-response": Kind("{} gave no answer that can be used."),
    "upstream-redirected": Kind("{} has the content elsewhere, where the gateway does not go.", _OPERATOR),
    "upstream-answer-too-large": Kind("The answer is too large."),
    "upstream-unreachable": Kind("{} cannot be reached. Nothing was done."),
    "upstream-timeout": Kind("{} did not answer in time."),
}
# fmt: on
"""By the ends of problems' types."""

NO_QUOTA = "The quota is zero: no repeat helps before the plan is changed."


@dataclass(frozen=True)
class Failures:
    """Makes the results of calls that failed, none with `secret`, the bridge's own token. `provider` is who is behind the gateway."""

    provider: str
    secret: str = field(default="", repr=False)

    def refused(self, tool: CallableTool, asked: Asked, answer: Answer) -> dict[str, Any]:
        """The result for an answer that is no success: what happened, whose fault it is, whether and when to call again."""
        status = answer.status
        problem = _problem(answer.content) or {
            "title": "The gateway cannot be asked",
            "retryable": status == 429 or (status >= 500 and tool.operation.safe),
        }
        problem = without(self.secret, problem)
        upstream = problem.get("upstream_status")
        # As the REST service judges it: what else the upstream answered, it may have carried out.
        decisive = upstream if isinstance(upstream, int) else status
        certain = 400 <= decisive < 500 and upstream != 408
        answered = (
            f"; {self.provider} answered {upstream}" if upstream not in (None, status) else ""
        )
        parts = [
            f"{tool.declared.name} failed: {self._what(tool, asked, problem, status)}",
            self._said(problem),
            f"(HTTP {status}{answered}.)",
            self._advice(tool, asked, problem, status),
            self._repeat(tool, problem, certain, answer.headers),
            f"Request id: {problem['request_id']}." if "request_id" in problem else "",
            asked.note,
        ]
        return tool_error(
            without(self.secret, " ".join(beginning(part, SENTENCE) for part in parts if part))
        )

    def too_large(self, tool: CallableTool, what: str) -> dict[str, Any]:
        """The result for a success that `what` ("has more than ...")."""
        then = _less(tool) if tool.operation.safe else self._unclear(tool)
        return tool_error(f"{tool.declared.name} failed: the answer {what}. {then}")

    def no_response(self, tool: CallableTool, what: str) -> dict[str, Any]:
        """The result when the gateway `what` ("did not answer ...") after the request was sent."""
        then = "It changes nothing, so call again." if tool.operation.safe else self._unclear(tool)
        failed_how = f"{tool.declared.name} failed: the gateway {what}."
        return tool_error(f"{failed_how} {_NOT_CALLERS_FAULT} {then}")

    def not_sent(self, tool: CallableTool, why: str) -> dict[str, Any]:
        """The result of a call that could not be sent: `why` ("nothing answers ...")."""
        return tool_error(
            f"{tool.declared.name} failed: {why}. Nothing was sent, and the arguments are not at fault."
            f" The same call can work soon; if not, only the gateway's operator can help."
        )

    def _what(
        self, tool: CallableTool, asked: Asked, problem: Mapping[str, Any], status: int
    ) -> str:
        slug = str(problem.get("type")).rpartition("#")[2]
        kind = KINDS.get(slug)
        if slug in _NOT_THERE and status == 404:
            return _not_there(asked, "The gateway" if slug == "not-found" else self._named)
        if kind is None:
            kind = Kind(_ended(problem.get("title")), detailed=True)
        name = self._named if kind.what.startswith("{}") else self.provider
        what = kind.what.replace("{}", name)
        return " ".join(filter(None, [what, *(_faults(problem) if kind.detailed else ())]))

    def _said(self, problem: Mapping[str, Any]) -> str:
        """The provider's own words."""
        if not (upstream := problem.get("upstream")):
            return ""
        try:
            said = words(upstream)
        except RecursionError:
            return ""
        return f"{self._named} said: {_ended(said[:_SAID_LIMIT])}"

    @property
    def _named(self) -> str:
        """The provider at the beginning of a sentence."""
        return self.provider[:1].upper() + self.provider[1:]

    def _advice(
        self, tool: CallableTool, asked: Asked, problem: Mapping[str, Any], status: int
    ) -> str:
        slug = str(problem.get("type")).rpartition("#")[2]
        if slug == "rate-limited" and problem.get("retryable") is False:
            return NO_QUOTA
        if slug == "upstream-answer-too-large":
            return _less(tool)
        if slug in _NOT_THERE and status == 404 and not asked.ids:
            return _OPERATOR
        known = KINDS[slug].advice if slug in KINDS else ""
        blamed = _CALLERS_FAULT if 400 <= status < 500 else _NOT_CALLERS_FAULT
        return known or _ADVICE.get(status) or blamed

    def _repeat(
        self,
        tool: CallableTool,
        problem: Mapping[str, Any],
        certain: bool,
        headers: Mapping[str, str],
    ) -> str:
        """Whether to call again, and when; `certain` when a call that fails so has done nothing."""
        after = headers.get("Retry-After", "")
        if problem.get("retryable") is True:
            when = (
                f"in {after} seconds" if after.isdigit() else f"after {after}" if after else "soon"
            )
            once = "" if certain or not tool.keyed else ", and does not act twice"
            return f"The same call can work {when}{once}."
        if certain or tool.operation.safe:
            return "The same call would fail again."
        return self._unclear(tool)

    def _unclear(self, tool: CallableTool) -> str:
        if tool.keyed:
            same = "calling again with the same arguments sends the same key and does not act twice"
            return f"It may have taken effect: {same}; or check with {tool.checks}."
        return f"It may have taken effect: before any repeat, check with {tool.checks}."


# What was asked for by an id, and the gateway or its upstream has not.
_NOT_THERE = ("not-found", "upstream-rejected")


def _not_there(asked: Asked, who: str) -> str:
    """A sentence on what was not found, by its argument; `who` was asked."""
    ids = [f'{name} "{value}"' for name, value in asked.ids]
    if len(ids) > 1:
        return f"One of these was not found: {', '.join(ids)}."
    return f"Nothing was found for {ids[0]}." if ids else f"{who} knows no such call."


def _less(tool: CallableTool) -> str:
    return tool.declared.shortened or "Ask for less in one call."


def tool_error(sentence: str) -> dict[str, Any]:
    """A result that tells the model what went wrong, and nothing else."""
    return {
        "content": [{"type": "text", "text": encodable(sentence)}],
        "isError": True,
        "resultType": "complete",
    }


def encodable(text: str) -> str:
    """`text` with a question mark for each half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def invalid_arguments(tool: CallableTool, violations: list[str], note: str = "") -> dict[str, Any]:
    """The result for arguments that were not sent; `note` is what else there is to say of them."""
    listed = "".join(f"\n- {violation}" for violation in violations)
    return tool_error(
        f"Nothing was sent: {tool.declared.name} cannot be called like this."
        f" Correct {'this' if len(violations) == 1 else 'all of this'} and call again:{listed}"
        + (f"\n{note}" if note else "")
    )


def is_too_large(answer: Answer) -> bool:
    """True for a failure by which a success would have had too much in it."""
    problem = _problem(answer.content) if answer.status >= 400 else None
    return str((problem or {}).get("type")).endswith("#upstream-answer-too-large")


def is_lasting(answer: Answer) -> bool:
    """True for a failure that, by the service's own word, the same request would meet again."""
    problem = _problem(answer.content) if answer.status >= 400 else None
    return (problem or {}).get("retryable") is False


def _problem(content: bytes | bytearray) -> dict[str, Any] | None:
    try:
        problem = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and "title" in problem else None


def _faults(problem: Mapping[str, Any]) -> Iterator[str]:
    """The detail, unless it is that of the only fault, and the faults with their places as arguments: /body/x/0 is x.0."""
    errors = problem.get("errors")
    faults = (
        [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    )
    if len(faults) != 1:
        yield _SETTING.sub("", _ended(problem.get("detail")))
    yield " ".join(
        f"{_place(str(fault.get('pointer')))} {as_arguments(_ended(fault.get('detail')))}".strip()
        for fault in faults
    )


_POINTER = re.compile(r"(?<!\S)/(?:body|query|path|header)/[^\s,;]+(?=\.(?:\s|$)|[\s,;]|$)")
_SETTING = re.compile(r" \([A-Z]+(?:_[A-Z]+)+\)")
"""The name of the setting that a limit has, for the gateway's operator."""


def as_arguments(text: str) -> str:
    """A sentence with the names of arguments in place of pointers, and without settings."""
    return _SETTING.sub("", _POINTER.sub(lambda pointer: _place(pointer[0]), text))


def _place(pointer: str) -> str:
    """Where a fault is: in an argument, or in a line of a file that was given."""
    step, _, line = pointer.rpartition("/line/")
    return f"line {line}:" if step.count("/") == 1 and line else dotted(pointer).partition(".")[2]


def _ended(text: Any) -> str:
    text = str(text or "").strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
