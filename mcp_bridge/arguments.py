"""The arguments of a tool call: read, checked once, and in their one plain form.

Clients differ in how they hand arguments over: what can be meant in one way only is read that way. What a client adds for
itself, `toolCallId` for one, is left out, unless it asks for less than the deed, as `dry_run` does. Everything else is refused
before anything is sent, with all that is wrong named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import PydanticSerializationError

from mcp_bridge import safeguards
from mcp_bridge.asked import Asked, what_is_asked
from mcp_bridge.canonical import BUILT, LARGE, is_dense, meaning, spell
from mcp_bridge.own_arguments import read_seconds
from mcp_bridge.tools import Argument, CallableTool
from openapi.contract import Schema
from openapi.json_text import values_in
from openapi.partial_json import TooLarge, read
from openapi.scalars import read_items, read_scalar, write_scalar
from openapi.validation import SMALL, UNREADABLE

MAX_UNKNOWN = 50
"""Arguments of a call that its tool does not have: more of them no client adds."""


class BadArguments(ValueError):
    """The arguments cannot be sent; `violations` are sentences, one for each reason. `note` is what else to tell the caller."""

    def __init__(self, violations: list[str], note: str = "") -> None:
        super().__init__("; ".join(violations))
        self.violations = violations
        self.note = note


def read_call(tool: CallableTool, given: Mapping[str, Any] | Raw, caller: str) -> Asked:
    """What calling `tool` with `given`, or its JSON text, asks for; BadArguments when it cannot be sent.

    `caller` tells callers apart: the same arguments from two of them are not a repeat.
    """
    try:
        if isinstance(given, Raw) and len(given) >= LARGE:
            arguments, note = _read_large(tool, given)
        elif isinstance(given, Raw):
            arguments, note = _read(tool, _object(msgspec.json.decode(given)))
        else:
            arguments, note = _read(tool, given)
        return replace(what_is_asked(tool, arguments, caller), note=note)
    except (
        PydanticSerializationError,
        UnicodeError,
        RecursionError,
        msgspec.DecodeError,
    ) as error:
        reason = f"{UNREADABLE}, or has a number in it that JSON does not have"
        raise BadArguments([f"what is given {reason}"]) from error


def _object(value: Any) -> dict[str, Any]:
    if value is None:  # as the SDK has it for small calls
        return {}
    if not isinstance(value, dict):
        raise BadArguments(["what is given must be an object"])
    return value


def _read(tool: CallableTool, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The arguments in their one plain form, defaults filled in, and a note of what was left out; BadArguments with all that is wrong."""
    texts = _Texts()
    arguments, violations = _unwrapped(tool, _present(tool, given), texts)
    arguments, refused = _asking_less(tool, arguments)
    violations += refused
    arguments, misspelt, note = _known(tool, _present(tool, arguments))
    if misspelt or any(_violations(tool, arguments)):
        arguments = _present(tool, texts.read(tool.check.schema, arguments))
        violations += [*misspelt, *_violations(tool, arguments)]
    if violations:
        raise BadArguments(violations, note)
    return _plain(tool, arguments), note


def _read_large(tool: CallableTool, text: Raw) -> tuple[dict[str, Any], str]:
    """As `_read`, for the JSON of large arguments: what is for the body stays text, unless it has to be read in another way."""
    try:
        written, value = read(text, tool.check.schema)
    except TooLarge as error:
        violation = error.violation
        raise BadArguments([f"{dotted(violation.pointer)} {violation.detail}"]) from error
    read_values = _object(value)
    texts = msgspec.json.decode(written, type=dict[str, Raw])
    # What was read has something empty also in place of what nobody looks at.
    small = {
        name: msgspec.json.decode(each) if len(each) < SMALL else ...
        for name, each in texts.items()
    }
    arguments = {name: read_values[name] for name in _present(tool, small)}
    known, note, violations = arguments, "", [_PACKED]
    if not _is_packed(tool, arguments):
        _, refused = _asking_less(tool, {name: small[name] for name in arguments})
        known, misspelt, note = _known(tool, arguments)
        violations = [*refused, *misspelt, *_violations(tool, known)]
    if violations:
        if is_dense(text):
            raise BadArguments(violations, note)
        # A text where one is wanted means nothing else, so no more of it has to be built.
        for name in arguments:
            schema = tool.arguments[name].schema if name in tool.arguments else {}
            if schema.get("type") != "string" or "x-unread" in schema:
                arguments[name] = msgspec.json.decode(texts[name])
        return _read(tool, arguments)
    for name in known:
        argument = tool.arguments[name]
        if argument.location in _AS_TEXT and argument.schema.get("type") not in _SCALAR:
            known[name] = texts[name]
    return _plain(tool, known), note


# Arguments whose JSON goes into the body as it came, or is read there in another way.
_AS_TEXT = ("member", "body", "file-text", "file-lines")
_SCALAR = ("integer", "number", "boolean")


def _present(tool: CallableTool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without those that say that they were left out: nulls, and what is empty.

    Sent, they would filter by nothing, or make a repeat of a call look like another call, which acts a second time.
    """
    known = tool.arguments
    return {
        name: value
        for name, value in given.items()
        if name not in known or known[name].required or not _is_absent(value, known[name].schema)
    }


def _is_absent(value: Any, schema: Schema) -> bool:
    """True for null, and for a blank text, an empty array or object unless the schema says that it means something.

    It does by naming it in `enum`, or by writing out a least length or number of 0, which is the default of every schema.
    """
    if value is None:
        return True
    if isinstance(value, str):
        blank = not value if "x-unread" in schema else not value.strip()
        return blank and schema.get("minLength") != 0 and value not in schema.get("enum", ())
    least = "minItems" if isinstance(value, list) else "minProperties"
    return isinstance(value, list | dict) and not value and schema.get(least) != 0


def _asking_less(tool: CallableTool, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The arguments without those that want less than the tool does, and why these are refused; all of a tool that only reads."""
    kept, refused = dict(arguments), []
    for name, value in arguments.items():
        if name in tool.arguments or tool.declared.read_only:
            continue
        several = {name: value, **(value if isinstance(value, dict) else {})}  # as in `options`
        if reasons := [*filter(None, map(safeguards.lacking, several, several.values()))]:
            del kept[name]
            acts = f"{tool.declared.name} acts at once, and {reasons[0]}"
            refused.append(f"{name[:100]} cannot be had: {acts}")
    return kept, refused


def _known(tool: CallableTool, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[str], str]:
    """The arguments that the tool has, which of the others are misspelt ones, and a note that names those that are unlike all."""
    strange = [name for name in arguments if name not in tool.arguments]
    if len(strange) > MAX_UNKNOWN:
        raise BadArguments([f"there are {len(strange)} arguments that {_takes(tool)}"])
    meant = {name: tool.names.meant(name) for name in strange}
    misspelt = [
        f"{name[:100]} is not a known member; did you mean {right}?"
        for name, right in meant.items()
        if right
    ]
    known = {name: value for name, value in arguments.items() if name not in meant}
    dropped = ", ".join(name[:100] for name, right in meant.items() if not right)
    note = f"Left out of the call, since {_takes(tool)}: {dropped}." if dropped else ""
    filters = [each.name for each in tool.arguments.values() if each.members]
    if dropped and filters:
        note += f" To find only what has such a member, give it within {filters[0]}."
    return known, misspelt, note


def _takes(tool: CallableTool) -> str:
    return f"{tool.declared.name} takes only {', '.join(tool.arguments) or 'calls without any'}"


_PACKED = "body has too much in it to be taken apart; give its members as arguments"


def _is_packed(tool: CallableTool, arguments: Mapping[str, Any]) -> bool:
    """True when there is a `body` that the tool does not have, with arguments in it."""
    return bool(tool.operation.body) and "body" in arguments and "body" not in tool.arguments


def _unwrapped(
    tool: CallableTool, arguments: dict[str, Any], texts: _Texts
) -> tuple[dict[str, Any], list[str]]:
    """The arguments with the members of a `body` that the tool does not have put beside them; what is wrong with it."""
    if not _is_packed(tool, arguments):
        return arguments, []
    body = texts.read({"type": "object"}, arguments.pop("body"))
    if not isinstance(body, dict):
        return arguments, ["body must be an object, or left out with its members as arguments"]
    twice = [
        name
        for name in body
        if name in arguments and spell(arguments[name], {}) != spell(body[name], {})
    ]
    return {**body, **arguments}, [
        f"{name} is given twice with different values, in body and beside it" for name in twice
    ]


class _Texts:
    """The JSON in texts of one call, of which no more than BUILT values are built altogether."""

    def __init__(self) -> None:
        self.left = BUILT

    def read(self, schema: Schema, value: Any) -> Any:
        """`value` with JSON text read where no text is expected, and one item in place of a list.

        What can be read in no such way stays for the check.
        """
        if "x-seconds" in schema:
            return read_seconds(value)
        if "x-as-text" in schema and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and schema.get("type", "string") != "string":
            meant = read_scalar(value.strip(), schema)
            if meant != value.strip():
                return meant
            with suppress(ValueError, RecursionError):
                return self.read(schema, self._json(value))
        if schema.get("type") == "boolean" and isinstance(value, int | float):
            return bool(value) if value in (0, 1) else value
        if isinstance(value, str) and "enum" in schema:
            return read_scalar(value, schema)
        item = schema.get("items", {}).get("type")
        if isinstance(value, str) and item == "string":
            return read_items([value], schema, explode=True)
        if isinstance(value, dict) and item == "object":
            return self.read(schema, [value])
        if isinstance(value, dict) and "properties" in schema:
            known = schema["properties"]
            return {n: self.read(known[n], v) if n in known else v for n, v in value.items()}
        if isinstance(value, list) and "items" in schema:
            return [self.read(schema["items"], item) for item in value]
        return value

    def _json(self, text: str) -> Any:
        """What the text is as JSON; ValueError when it is none, or has too much in it."""
        found = values_in(Raw(text.encode()), self.left)
        if found > self.left:
            raise ValueError
        self.left -= found
        return json.loads(text)


def _violations(tool: CallableTool, arguments: Mapping[str, Any]) -> Iterator[str]:
    misspelt, _ = tool.check.unknown_members(arguments)  # others are for the service to judge
    for violation in [*misspelt, *tool.check.violations(arguments)]:
        yield f"{dotted(violation.pointer) or 'what is given'} {violation.detail}"
    for file in tool.files:
        given = {file.text, file.lines}.intersection(arguments)
        if len(given) == 2:
            yield f"{file.lines} and {file.text} are one content given twice; give one of them"
        elif file.required and not given:
            yield f"{file.lines} or {file.text} is required"
    for name, value in arguments.items():
        yield from _misplaced(tool, tool.arguments[name], value)


def dotted(pointer: str) -> str:
    """A JSON pointer as people write it: /requests/0/body is requests.0.body."""
    steps = pointer.lstrip("#/").split("/")
    return ".".join(step.replace("~1", "/").replace("~0", "~") for step in steps)


def _misplaced(tool: CallableTool, argument: Argument, value: Any) -> Iterator[str]:
    """What no schema says: values that would be read as something else where they are put."""
    if argument.location == "path" and write_scalar(value) in ("", ".", ".."):
        yield f"{argument.name} must be more than dots"
    if argument.location == "header" and not (
        write_scalar(value).isascii() and write_scalar(value).isprintable()
    ):
        yield f"{argument.name} must be one line of plain text"
    if argument.members and isinstance(value, dict):
        queried = {each.target for each in tool.arguments.values() if each.location == "query"}
        for name in queried.intersection(value):
            yield f'{argument.name} cannot have a member "{name}", which is an argument itself'


def _plain(tool: CallableTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with their defaults, and integers spelt as such.

    For calls with a key also what the service takes them to be: left out or spelt out, a default means the same call.
    """
    advertised = {
        each.name: each.schema["default"]
        for each in tool.arguments.values()
        if tool.keyed
        and each.location in ("member", "query", "header")
        and "default" in each.schema
    }
    given = {
        name: value if tool.arguments[name].location in _AS_TEXT else meaning(value, {})
        for name, value in arguments.items()
    }
    return {**tool.declared.defaults, **advertised, **given}
