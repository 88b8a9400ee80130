"""A REST answer as a tool result: data of a size that a model can take, or a sentence on a failure.

Pure. Results are dicts in the wire form of MCP's CallToolResult.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate, count, islice, takewhile
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import to_json

from mcp_bridge.arguments import LARGE, RestRequest, dotted
from mcp_bridge.rest_client import Answer, AnswerTooLarge
from mcp_bridge.tools import KEY, NOTE, CallableTool
from openapi.json_text import holds_more
from openapi.partial_json import TooMany, count_objects

LEVELS = 10
"""Levels at which a result is cut, each of which takes another look at all that is below it."""

MEMBERS = 100
"""Members of an object up to which none is left out."""

MOST = 300_000
"""Values that are built of one answer, some 40 MB, and items of a list that are counted."""

SENTENCE = 16_384
"""Characters of each of an answer's own sentences in a failure."""

_SAID_LIMIT = 500
_FIRST = re.compile(rb"\s*(.)")
_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
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


def success(
    tool: CallableTool, request: RestRequest, answer: Answer, limit: int, secret: str = ""
) -> dict[str, Any]:
    """The result for a 2xx answer, its JSON of about `limit` characters at most, without `secret`.

    A first member `_note` says that this is a repeat, or what was left out and how to get it.
    ValueError when the content is not JSON, or nested too deeply to be passed on; AnswerTooLarge when it has too much in it.
    """
    content, headers = answer.content, answer.headers
    data = _built(content, limit) if content.strip() else None
    result = data if isinstance(data, dict) else {"result": data}
    notes = [_REPEAT] if headers.get("Idempotency-Replayed", "").lower() == "true" else []
    if "Gateway-Warning" in headers:
        notes.append(f"The gateway warns: {_without(secret, headers['Gateway-Warning'])}.")
    if secret and compact(secret)[1:-1] in compact(result):
        result = _without(secret, result)
    if len(compact(result)) > limit:
        cuts: list[str] = []
        result = shorten(result, limit, "", cuts)
        notes += [f"Shortened: {'; '.join(cuts)}.", tool.declared.shortened]
        notes.append(_whole(request))
    if notes:
        result = {NOTE: " ".join(filter(None, notes)), **result}
    result = _sendable(result)
    return {
        "content": [{"type": "text", "text": compact(result)}],
        "structuredContent": result,
        "isError": False,
        "resultType": "complete",
    }


def _whole(request: RestRequest) -> str:
    return f"The REST service gives the whole answer: {request.method} {request.target}"


def tool_error(sentence: str) -> dict[str, Any]:
    """A result that tells the model what went wrong, and nothing else."""
    return {
        "content": [{"type": "text", "text": _encodable(sentence)}],
        "isError": True,
        "resultType": "complete",
    }


def invalid_arguments(tool: CallableTool, violations: list[str]) -> dict[str, Any]:
    """The result for arguments that were not sent."""
    listed = "".join(f"\n- {violation}" for violation in violations)
    return tool_error(
        f"Nothing was sent: {tool.declared.name} cannot be called like this."
        f" Correct {'this' if len(violations) == 1 else 'all of this'} and call again:{listed}"
    )


def http_error(tool: CallableTool, answer: Answer, checks: str, secret: str = "") -> dict[str, Any]:
    """The result for any other answer: what happened, whose fault, whether and when to call again; without `secret`.

    `checks` names the tools that show whether a call took effect.
    """
    status = answer.status
    problem = _problem(answer.content) or {
        "title": "the REST service's answer is no problem document",
        "retryable": status == 429 or (status >= 500 and tool.operation.safe),
    }
    problem = _without(secret, problem)
    upstream = problem.get("upstream_status")
    worst = min(status, upstream) if isinstance(upstream, int) else status
    asked = f"; the upstream answered {upstream}" if upstream else ""
    parts = [
        f"{tool.declared.name} failed: {_ended(problem.get('title'))}",
        _faults(problem) or _ended(problem.get("detail")),
        _said(problem),
        f"(HTTP {status} from the gateway{asked}.)",
        _ADVICE.get(status) or (_CALLERS_FAULT if 400 <= status < 500 else _NOT_CALLERS_FAULT),
        _repeat(tool, problem, worst < 500, answer.headers, checks),
        f"Request id: {problem['request_id']}." if "request_id" in problem else "",
    ]
    return tool_error(_without(secret, " ".join(part[:SENTENCE] for part in parts if part)))


def too_large(tool: CallableTool, request: RestRequest, what: str, checks: str) -> dict[str, Any]:
    """The result for a success that `what` ("has more than ...")."""
    less = tool.declared.shortened or "Ask for less in one call."
    then = f"{less} {_whole(request)}." if tool.operation.safe else _unclear(tool, checks)
    return tool_error(f"{tool.declared.name} failed: the REST service's answer {what}. {then}")


def no_response(tool: CallableTool, what: str, checks: str) -> dict[str, Any]:
    """The result when the REST service `what` ("did not answer ...") after the request was sent."""
    then = "It changes nothing, so call again." if tool.operation.safe else _unclear(tool, checks)
    failed_how = f"{tool.declared.name} failed: the gateway's REST service {what}."
    return tool_error(f"{failed_how} {_NOT_CALLERS_FAULT} {then}")


def shorten(
    value: Any, budget: int, place: str, cuts: list[str], *, size: int = -1, depth: int = 0
) -> Any:
    """`value` with its longest lists, then texts, cut until its JSON has about `budget` characters.

    `cuts` receives a phrase for each cut, by the path `place` to it. `size` is how many characters it has, where that is known.
    """
    if (len(compact(value)) if size < 0 else size) <= budget:
        return value
    if isinstance(value, dict | list) and depth == LEVELS:
        cuts.append(f"{place} is left out")
        return type(value)()
    if isinstance(value, dict):
        return _shorten_members(value, budget, place, cuts, depth)
    if isinstance(value, list):
        return _shorten_list(value, budget, place, cuts, depth)
    if isinstance(value, str):
        room = max(budget - 2, 0)
        cuts.append(f"{place} has the first {room} of {len(value)} characters")
        return value[:room]
    return value


def compact(value: Any) -> str:
    """`value` as JSON without spaces."""
    return _COMPACT.encode(value)


def _shorten_members(
    value: dict[str, Any], budget: int, place: str, cuts: list[str], depth: int
) -> dict[str, Any]:
    """Small members stay whole; the large ones share what these leave. Of very many the first ones stay."""
    if len(value) > MEMBERS:
        ends = accumulate(len(compact(name)) + 2 for name in value)
        first = sum(1 for _ in takewhile(budget.__ge__, ends))
        if first < len(value):
            cuts.append(f"{place or 'the result'} has the first {first} of {len(value)} members")
            value = dict(islice(value.items(), first))
    sizes = {name: len(compact(member)) for name, member in value.items()}
    left = budget - sum(len(compact(name)) + 2 for name in value)
    kept = {}
    for position, name in enumerate(sorted(value, key=sizes.__getitem__)):
        share = max(left // (len(value) - position), 0)
        at = f"{place}.{name}".lstrip(".")
        kept[name] = shorten(value[name], share, at, cuts, size=sizes[name], depth=depth + 1)
        left -= min(sizes[name], share)
    return {name: kept[name] for name in value}


def _shorten_list(
    value: list[Any], budget: int, place: str, cuts: list[str], depth: int
) -> list[Any]:
    """The first items that fit; when not even one does, the first one shortened."""
    kept: list[Any] = []
    left = budget - 1
    for item in value:
        left -= len(compact(item)) + 1
        if left < 0:
            break
        kept.append(item)
    if not kept and value and isinstance(value[0], dict):
        at = f"{place}.0".lstrip(".")
        kept = [shorten(value[0], budget - 2, at, cuts, depth=depth + 1)]
    total = value.total if isinstance(value, _FirstItems) else len(value)
    if len(kept) < total:
        cuts.append(f"{place} has the first {len(kept)} of {total} items")
    return kept


class _FirstItems(list[Any]):
    """The first items of a list of `total`."""

    total = 0


def _built(text: bytes | bytearray | Raw, limit: int, shapes: bytes = b"{[") -> Any:
    """The JSON `text`. Of a large list of objects, alone or a member, no more items are built than make `limit` characters.

    As objects a list can take a hundred times its size. `shapes`: what `text` may begin with, to be taken apart.
    """
    first = _FIRST.match(text)
    if len(text) >= LARGE and first and first[1] in shapes:
        with suppress(msgspec.MsgspecError, TooMany):
            if first[1] == b"{":
                members = _members(text)
                return {name: _built(member, limit, b"[") for name, member in members.items()}
            items = _FirstItems()
            items.total = count_objects(text, MOST)
            size = 0
            for item in msgspec.json.decode(text, type=list[Raw]):
                items.append(_built(item, limit, b""))
                size += len(compact(items[-1]))
                if size > limit:
                    break
            return items
    if holds_more(text, MOST):
        raise AnswerTooLarge(f"has more than {MOST} values in it")
    return json.loads(bytes(text) if isinstance(text, Raw) else text, parse_constant=_refuse)


class _Name(str):
    """A member's name, made by a hook, which msgspec calls for each."""


def _members(text: bytes | bytearray | Raw) -> dict[str, Raw]:
    """The members of a JSON object; TooMany when they are."""
    found = count()

    def named(kind: type[_Name], name: str) -> _Name:
        if next(found) > MEMBERS:
            raise TooMany
        return kind(name)

    return {
        str(name): member
        for name, member in msgspec.json.decode(text, type=dict[_Name, Raw], dec_hook=named).items()
    }


def _without(secret: str, value: Any) -> Any:
    """`value` with *** for each `secret` in it: the bridge's own token, should it be echoed."""
    if isinstance(value, str):
        return value.replace(secret, "***") if secret else value
    if isinstance(value, dict):
        return {_without(secret, name): _without(secret, each) for name, each in value.items()}
    if isinstance(value, list):
        value[:] = [_without(secret, each) for each in value]
    return value


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


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _problem(content: bytes | bytearray) -> dict[str, Any] | None:
    try:
        problem = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and "title" in problem else None


def _faults(problem: Mapping[str, Any]) -> str:
    """The faults with their places as arguments: /body/x/0 is x.0."""
    errors = problem.get("errors")
    faults = (
        [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    )
    return " ".join(
        f"{dotted(str(fault.get('pointer'))).partition('.')[2]} {_ended(fault.get('detail'))}".strip()
        for fault in faults
    )


def _said(problem: Mapping[str, Any]) -> str:
    """The upstream's own words, unless the detail has them."""
    upstream = problem.get("upstream")
    if not upstream or "upstream said" in str(problem.get("detail")):
        return ""
    return f"The upstream said: {compact(upstream)[:_SAID_LIMIT]}"


def _repeat(
    tool: CallableTool,
    problem: Mapping[str, Any],
    certain: bool,
    headers: Mapping[str, str],
    checks: str,
) -> str:
    """Whether to call again, and when; `certain` when a call that fails so has done nothing."""
    after = headers.get("Retry-After", "")
    if problem.get("retryable") is True:
        when = f"in {after} seconds" if after.isdigit() else f"after {after}" if after else "soon"
        return f"The same call can work {when}."
    if certain or tool.operation.safe:
        return "The same call would fail again."
    return _unclear(tool, checks)


def _unclear(tool: CallableTool, checks: str) -> str:
    if tool.keyed:
        same = "calling again with the same arguments sends the same key and does not act twice"
        return f"It may have taken effect: {same}; or check with {checks}."
    return f"It may have taken effect: before any repeat, check with {checks}."


def _ended(text: Any) -> str:
    text = str(text or "").strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
