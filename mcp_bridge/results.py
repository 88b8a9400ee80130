"""A REST answer as a tool result: data of a size that a model can take (`shortening`), or a sentence on a failure.

Pure. Results are dicts in the wire form of MCP's CallToolResult.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from pydantic_core import to_json

from mcp_bridge.arguments import dotted
from mcp_bridge.asked import Asked
from mcp_bridge.canonical import LARGE
from mcp_bridge.lines import Lines
from mcp_bridge.own_arguments import KEY
from mcp_bridge.rest_client import Answer
from mcp_bridge.shortening import NAMED, NoPart, Shortening, beginning, compact, weigh, without
from mcp_bridge.tools import NOTE, PART, CallableTool

SENTENCE = 16_384
"""Weight of each of an answer's own sentences in a failure."""

_SAID_LIMIT = 500
_REPEAT = (
    "This is the result of an earlier call with the same idempotency key, as it was then; nothing"
    f" was done again. To do it once more on purpose, call with an {KEY} that was never used."
)
_CALLERS_FAULT = "The arguments need a change."
_NOT_CALLERS_FAULT = "The arguments are not at fault."
# What a status means for somebody who calls tools; RFC 9110 section 15.5.
_ADVICE = {
    401: "The bridge's own token is not accepted; only the gateway's operator can help.",
    402: "It has to be paid for first; only the gateway's operator can help.",
    403: "The bridge's own token does not allow it; only the gateway's operator can help.",
    404: "Check the ids in the arguments.",
    409: "It conflicts with the present state.",
    413: "Send less in one call.",
    429: "It is the number of calls that is limited.",
}


@dataclass(frozen=True)
class Results:
    """Makes the results of calls, their JSON of about the weight `limit` at most, and none with `secret`, the bridge's own token."""

    limit: int
    secret: str = field(default="", repr=False)

    def success(self, tool: CallableTool, asked: Asked, answer: Answer) -> dict[str, Any]:
        """The result for a 2xx answer.

        A first member `_note` says that this is a repeat, or what was left out and how to get it.
        ValueError when the content is not JSON, or nested too deeply to be passed on; AnswerTooLarge when it has too much in it.
        """
        shortening = Shortening(self.secret)
        large = len(answer.content) >= LARGE
        result: Any = shortening.read(answer.content) if large or answer.content.strip() else None
        if isinstance(result, Raw) and bytes(memoryview(result)[:1]) != b"{":
            result = Raw(b'{"result":%b}' % result)
        elif not isinstance(result, dict | Raw):
            result = {"result": result}
        notes = self._notes(asked, answer.headers)
        room = self.limit - self.limit // 20  # for the note
        if asked.part or asked.first:
            return self._part(tool, asked, shortening, result, notes)
        text = "" if isinstance(result, Raw) else compact(result)
        if not text or weigh(text, self.limit) > self.limit:
            text = ""  # a large one is not kept beside what is cut
            result = shortening.shorten(result, room)
            notes += self._cuts(tool, asked, shortening)
        return _result(result, notes, text)

    def _part(
        self,
        tool: CallableTool,
        asked: Asked,
        shortening: Shortening,
        result: Any,
        notes: list[str],
    ) -> dict[str, Any]:
        """The result of a call that wants a part of the answer."""
        path, start = asked.part, asked.first
        try:
            value, after = shortening.part(result, path, start, self.limit - self.limit // 20)
        except NoPart as error:
            sentence = f"{tool.declared.name} has no part {path[:200]} in its result: {error}."
            return tool_error(without(self.secret, sentence))
        part = {"of": path, "from": start, "value": value, "next_from": after}
        return _result({PART: part}, notes + self._cuts(tool, asked, shortening))

    def _cuts(self, tool: CallableTool, asked: Asked, shortening: Shortening) -> list[str]:
        """What to say of what was left out of a result, and of how to get it."""
        cuts = shortening.cuts
        if not cuts:
            return []
        more = f"; and {len(cuts) - NAMED} places more" if len(cuts) > NAMED else ""
        notes = [f"Shortened: {'; '.join(cuts[:NAMED])}{more}.", tool.declared.shortened]
        names = {each.location: each.name for each in tool.arguments.values()}
        if "part" in names and shortening.next:
            place, after = shortening.next
            given = [f'{names["part"]} "{place}"'] if place else []
            given += [f"{names['from']} {after}"] if after else []
            notes.append(f"To go on, call again with {' and '.join(given)}.")
        if tool.operation.safe:
            notes.append(_whole(asked))
        return [without(self.secret, note) for note in notes]

    def lines(
        self, tool: CallableTool, asked: Asked, answer: Answer, lines: Lines
    ) -> dict[str, Any]:
        """The result for a 2xx answer of which `lines` were read; a first member `_note` says what is not as it was."""
        notes = self._notes(asked, answer.headers)
        if lines.cut:
            notes += [f"{lines.cut}.", f"{_whole(asked)}."]
        elif lines.short:
            notes += [f"No more than {len(lines.kept)} lines fit into one result."]
        if lines.replaced:
            notes.append("Bytes that are no UTF-8 are shown as \ufffd.")
        if not lines.kept:
            notes.append(f"There are {lines.seen} lines in all.")
        data = {"from": lines.first, "lines": lines.kept, "next_from": lines.next_from}
        result = without(self.secret, data)
        return _result(result, notes, compact(result))

    def http_error(self, tool: CallableTool, answer: Answer, note: str = "") -> dict[str, Any]:
        """The result for any other answer: what happened, whose fault, whether and when to call again; with the request's `note`."""
        status = answer.status
        problem = _problem(answer.content) or {
            "title": "the REST service's answer is no problem document",
            "retryable": status == 429 or (status >= 500 and tool.operation.safe),
        }
        problem = without(self.secret, problem)
        upstream = problem.get("upstream_status")
        # As the REST service judges it: what else the upstream answered, it may have carried out.
        decisive = upstream if isinstance(upstream, int) else status
        certain = 400 <= decisive < 500 and upstream != 408
        asked = f"; the upstream answered {upstream}" if upstream else ""
        parts = [
            f"{tool.declared.name} failed: {_ended(problem.get('title'))}",
            *_faults(problem),
            _said(problem),
            f"(HTTP {status} from the gateway{asked}.)",
            _ADVICE.get(status) or (_CALLERS_FAULT if 400 <= status < 500 else _NOT_CALLERS_FAULT),
            self._repeat(tool, problem, certain, answer.headers),
            f"Request id: {problem['request_id']}." if "request_id" in problem else "",
            note,
        ]
        return tool_error(
            without(self.secret, " ".join(beginning(part, SENTENCE) for part in parts if part))
        )

    def too_large(self, tool: CallableTool, asked: Asked, what: str) -> dict[str, Any]:
        """The result for a success that `what` ("has more than ...")."""
        less = tool.declared.shortened or "Ask for less in one call."
        then = f"{less} {_whole(asked)}." if tool.operation.safe else self._unclear(tool)
        return tool_error(f"{tool.declared.name} failed: the REST service's answer {what}. {then}")

    def no_response(self, tool: CallableTool, what: str) -> dict[str, Any]:
        """The result when the REST service `what` ("did not answer ...") after the request was sent."""
        then = "It changes nothing, so call again." if tool.operation.safe else self._unclear(tool)
        failed_how = f"{tool.declared.name} failed: the gateway's REST service {what}."
        return tool_error(f"{failed_how} {_NOT_CALLERS_FAULT} {then}")

    def _notes(self, asked: Asked, headers: Mapping[str, str]) -> list[str]:
        """What there is to say of a success by its request and its headers."""
        notes = [asked.note] if asked.note else []
        if headers.get("Idempotency-Replayed", "").lower() == "true":
            notes.append(_REPEAT)
        if "Gateway-Warning" in headers:
            notes.append(f"The gateway warns: {without(self.secret, headers['Gateway-Warning'])}.")
        return notes

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
            return f"The same call can work {when}."
        if certain or tool.operation.safe:
            return "The same call would fail again."
        return self._unclear(tool)

    def _unclear(self, tool: CallableTool) -> str:
        if tool.keyed:
            same = "calling again with the same arguments sends the same key and does not act twice"
            return f"It may have taken effect: {same}; or check with {tool.checks}."
        return f"It may have taken effect: before any repeat, check with {tool.checks}."


def _result(result: dict[str, Any], notes: list[str], text: str = "") -> dict[str, Any]:
    """A success; `text` is the JSON of `result`, where that is known."""
    if notes:
        result = {NOTE: " ".join(filter(None, notes)), **result}
    sent = _sendable(result)
    if notes or sent is not result or not text:
        text = compact(sent)
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": sent,
        "isError": False,
        "resultType": "complete",
    }


def tool_error(sentence: str) -> dict[str, Any]:
    """A result that tells the model what went wrong, and nothing else."""
    return {
        "content": [{"type": "text", "text": _encodable(sentence)}],
        "isError": True,
        "resultType": "complete",
    }


def invalid_arguments(tool: CallableTool, violations: list[str], note: str = "") -> dict[str, Any]:
    """The result for arguments that were not sent; `note` is what else there is to say of them."""
    listed = "".join(f"\n- {violation}" for violation in violations)
    return tool_error(
        f"Nothing was sent: {tool.declared.name} cannot be called like this."
        f" Correct {'this' if len(violations) == 1 else 'all of this'} and call again:{listed}"
        + (f"\n{note}" if note else "")
    )


def _whole(asked: Asked) -> str:
    return f"The REST service gives the whole answer: {asked.request.method} {asked.request.target}"


def _sendable(result: dict[str, Any]) -> dict[str, Any]:
    """`result` as the SDK can write it: it does that when all else is done, and fails a call then."""
    try:
        to_json([[result]])  # two levels are what is around it in a message
    except ValueError:
        result = json.loads(_encodable(compact(result)))
        to_json([[result]])
    return result


def _encodable(text: str) -> str:
    """`text` with a question mark for each half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


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
        yield _ended(problem.get("detail"))
    yield " ".join(
        f"{_place(str(fault.get('pointer')))} {_POINTER.sub(_argument, _ended(fault.get('detail')))}".strip()
        for fault in faults
    )


_POINTER = re.compile(r"(?<!\S)/(?:body|query|path|header)/[^\s,;]+(?=\.(?:\s|$)|[\s,;]|$)")


def _argument(pointer: re.Match[str]) -> str:
    return _place(pointer[0])


def _place(pointer: str) -> str:
    """Where a fault is: in an argument, or in a line of a file that was given."""
    step, _, line = pointer.rpartition("/line/")
    return f"line {line}:" if step.count("/") == 1 and line else dotted(pointer).partition(".")[2]


def _said(problem: Mapping[str, Any]) -> str:
    """The upstream's own words, unless the detail has them."""
    upstream = problem.get("upstream")
    if not upstream or "upstream said" in str(problem.get("detail")):
        return ""
    # Not `compact`: these are words for a reader, who may be told of a number that JSON does not have.
    said = json.dumps(upstream, ensure_ascii=False, separators=(",", ":"))
    return f"The upstream said: {said[:_SAID_LIMIT]}"


def _ended(text: Any) -> str:
    text = str(text or "").strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
