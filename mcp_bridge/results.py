"""A REST answer as a tool result: data of a size that a model can take (`shortening`). What failed is told by `failures`.

Pure. Results are dicts in the wire form of MCP's CallToolResult.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw
from pydantic_core import to_json

from mcp_bridge.asked import Asked
from mcp_bridge.canonical import LARGE
from mcp_bridge.failures import as_arguments, encodable, tool_error
from mcp_bridge.lines import Lines
from mcp_bridge.own_arguments import KEY
from mcp_bridge.rest_client import Answer
from mcp_bridge.shortening import NAMED, NoPart, Shortening, compact, weigh, without
from mcp_bridge.tools import NOTE, PART, CallableTool


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
        notes = self.notes(tool, asked, answer.headers)
        room = self.limit - self.limit // 20  # for the note
        if asked.part or asked.first:
            return self._part(tool, asked, shortening, result, notes)
        text = "" if isinstance(result, Raw) else compact(result)
        if not text or weigh(text, self.limit) > self.limit:
            text = ""  # a large one is not kept beside what is cut
            result = shortening.shorten(result, room)
            notes += self._cuts(tool, asked, shortening)
        return data_result(result, notes, text)

    def no_part(self, tool: CallableTool, asked: Asked, error: NoPart) -> dict[str, Any]:
        """The result of a call that wants a part which there is not."""
        sentence = f"{tool.declared.name} has no part {asked.part[:200]} in its result: {error}. A part is names and numbers with points between them."
        return tool_error(without(self.secret, sentence))

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
            return self.no_part(tool, asked, error)
        part = {"of": path, "from": start, "value": value, "next_from": after}
        return data_result({PART: part}, notes + self._cuts(tool, asked, shortening))

    def _cuts(self, tool: CallableTool, asked: Asked, shortening: Shortening) -> list[str]:
        """What to say of what was left out of a result, and of how to get it."""
        cuts = shortening.cuts
        if not cuts:
            return []
        more = f"; and {len(cuts) - NAMED} places more" if len(cuts) > NAMED else ""
        notes = [f"Shortened: {'; '.join(cuts[:NAMED])}{more}.", tool.declared.shortened]
        names = tool.names_by_use
        if "part" in names and shortening.next:
            place, after = shortening.next
            given = [f'{names["part"]} "{place}"'] if place else []
            given += [f"{names['from']} {after}"] if after else []
            notes.append(f"To go on, call again with {' and '.join(given)}.")
        return [without(self.secret, note) for note in notes]

    def lines(
        self, tool: CallableTool, asked: Asked, answer: Answer, lines: Lines
    ) -> dict[str, Any]:
        """The result for a 2xx answer of which `lines` were read; a first member `_note` says what is not as it was."""
        notes = self.notes(tool, asked, answer.headers)
        if lines.cut:
            notes.append(f"{lines.cut}.")
        elif lines.short:
            notes += [f"No more than {len(lines.kept)} lines fit into one result."]
        if lines.replaced:
            notes.append("Bytes that are no UTF-8 are shown as \ufffd.")
        if not lines.kept:
            notes.append(f"There are {lines.seen} lines in all.")
        data = {"from": lines.first, "lines": lines.kept, "next_from": lines.next_from}
        result = without(self.secret, data)
        return data_result(result, notes, compact(result))

    def notes(self, tool: CallableTool, asked: Asked, headers: Mapping[str, str]) -> list[str]:
        """What there is to say of a success by its request and its headers."""
        notes = [asked.note] if asked.note else []
        if headers.get("Idempotency-Replayed", "").lower() == "true":
            notes.append(_repeat(tool, asked, headers.get("Age", "")))
        if "Gateway-Warning" in headers:
            warning = as_arguments(headers["Gateway-Warning"])
            notes.append(f"The gateway warns: {without(self.secret, warning)}.")
        return notes


def _repeat(tool: CallableTool, asked: Asked, age: str) -> str:
    """What a result is that an earlier call had, `age` seconds ago when that is known."""
    when = _ago(int(age)) if age.isascii() and age.isdecimal() else "before"
    same = f"A call with this {KEY}" if asked.key_given else "The same call"
    now = f"; {tool.look} shows how it is now" if tool.look else ""
    return (
        f"{same} was made {when}. This is the result of that earlier call, as it was then, and nothing was"
        f" done again{now}. To do it once more on purpose, call with an {KEY} that was never used."
    )


def _ago(seconds: int) -> str:
    """How long ago it is, in words, of its largest unit."""
    for unit, size in (("hour", 3600), ("minute", 60), ("second", 1)):
        if count := seconds // size:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def data_result(result: dict[str, Any], notes: list[str], text: str = "") -> dict[str, Any]:
    """A success; `text` is the JSON of `result`, where that is known."""
    if any(notes):
        result = {NOTE: " ".join(filter(None, notes)), **result}
    sent = _sendable(result)
    if any(notes) or sent is not result or not text:
        text = compact(sent)
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": sent,
        "isError": False,
        "resultType": "complete",
    }


def _sendable(result: dict[str, Any]) -> dict[str, Any]:
    """`result` as the SDK can write it: it does that when all else is done, and fails a call then."""
    try:
        to_json([[result]])  # two levels are what is around it in a message
    except ValueError:
        result = json.loads(encodable(compact(result)))
        to_json([[result]])
    return result
