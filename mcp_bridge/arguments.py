"""A tool call as a REST request: arguments made plain, checked, and put where REST takes them.

Clients differ in how they hand arguments over: what can be meant in one way only is read that way.
Everything else is refused before anything is sent, with every fault named.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw
from pydantic_core import PydanticSerializationError, to_json

from mcp_bridge.messages import LARGE
from mcp_bridge.tools import KEY, KEY_HEADER, Argument, CallableTool
from openapi.contract import Schema
from openapi.json_text import holds_more, values_in
from openapi.partial_json import TEXT, TooLarge, read
from openapi.validation import UNREADABLE

BUILT = 300_000
"""Values that are made of one call where reading it needs more than its schema, as JSON within texts does: some 40 MB."""


class BadArguments(ValueError):
    """The arguments cannot be sent; `faults` are sentences, one for each reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class RestCall:
    """One request of the REST service; `target` is path and query, percent-encoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None


def rest_call(tool: CallableTool, given: Mapping[str, Any] | Raw, caller: str) -> RestCall:
    """The request that calling `tool` with `given`, or its JSON text, means; BadArguments when it cannot be sent.

    `caller` tells callers apart: the same arguments from two of them are not a repeat.
    """
    try:
        arguments = _from_text(tool, given) if isinstance(given, Raw) else plain(tool, given)
        return _request(tool, arguments, caller)
    except (
        PydanticSerializationError,
        UnicodeError,
        RecursionError,
        msgspec.DecodeError,
    ) as error:
        raise BadArguments([f"what is given {UNREADABLE}"]) from error


def _request(tool: CallableTool, arguments: Mapping[str, Any], caller: str) -> RestCall:
    path = tool.operation.path
    query: list[tuple[str, str]] = []
    headers = {"Accept": "application/json"}
    members: dict[str, Any] = {}
    for name, value in arguments.items():
        argument = tool.arguments[name]
        if argument.location == "path":
            path = path.replace(f"{{{argument.target}}}", quote(_text(value), safe=""))
        elif argument.location == "query":
            query += _query(argument, value)
        elif argument.location == "header":
            headers[argument.target] = _text(value)
        elif argument.location == "member":
            members[argument.target] = value
    if tool.keyed and KEY_HEADER.lower() not in map(str.lower, headers):
        headers[KEY_HEADER] = _key(caller, tool, arguments)
    body = None
    if tool.operation.body and (tool.operation.body.required or members or "body" in arguments):
        headers["Content-Type"] = "application/json"
        body = _body(arguments.get("body", members))
    target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
    return RestCall(tool.operation.method, target, headers, body)


def plain(tool: CallableTool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in their one plain form, defaults filled in; BadArguments with every fault."""
    texts = _Texts()
    arguments, faults = _unwrapped(tool, given, texts)
    arguments = {n: v for n, v in arguments.items() if not _left_out(tool.arguments.get(n), v)}
    if tool.check.violations(arguments):
        arguments = texts.read(tool.check.schema, arguments)
    faults += _faults(tool, arguments)
    if faults:
        raise BadArguments(faults)
    return {**tool.declared.defaults, **_advertised(tool), **arguments}


def _from_text(tool: CallableTool, text: Raw) -> dict[str, Any]:
    """As `plain`, for the JSON of large arguments: what is for the body stays text, unless it has to be read in another way."""
    try:
        written, value = read(text, tool.check.schema)
    except TooLarge as error:
        violation = error.violation
        raise BadArguments([f"{dotted(violation.pointer)} {violation.detail}"]) from error
    if not isinstance(value, dict):
        raise BadArguments(["what is given must be an object"])
    arguments = {n: v for n, v in value.items() if not _left_out(tool.arguments.get(n), v)}
    texts = msgspec.json.decode(written, type=dict[str, Raw])
    if faults := [*_faults(tool, arguments)]:
        if _is_dense(text):
            raise BadArguments(faults)
        # A text where one is wanted means nothing else, so no more of it has to be built.
        return plain(
            tool,
            {
                name: value if _wants_text(tool, name) else msgspec.json.decode(texts[name])
                for name, value in arguments.items()
            },
        )
    for name in arguments:
        if tool.arguments[name].location in ("member", "body"):
            arguments[name] = texts[name]
    return {**tool.declared.defaults, **_advertised(tool), **arguments}


def _wants_text(tool: CallableTool, name: str) -> bool:
    return name in tool.arguments and tool.arguments[name].schema.get("type") == "string"


def _is_dense(text: Raw) -> bool:
    """True when so many values are in a text that as objects they would be many times its size."""
    return holds_more(text, max(BUILT, len(text) // TEXT))


def _advertised(tool: CallableTool) -> dict[str, Any]:
    """The defaults of body members, for calls with a key: left out or spelt out, a default means the same call."""
    if not tool.keyed:
        return {}
    members = [each for each in tool.arguments.values() if each.location == "member"]
    return {each.name: each.schema["default"] for each in members if "default" in each.schema}


def _unwrapped(
    tool: CallableTool, given: Mapping[str, Any], texts: _Texts
) -> tuple[dict[str, Any], list[str]]:
    """The arguments with the members of a `body` that the tool does not have put beside them."""
    arguments = dict(given)
    if "body" in tool.arguments or "body" not in arguments or not tool.operation.body:
        return arguments, []
    body = texts.read({"type": "object"}, arguments.pop("body"))
    if not isinstance(body, dict):
        return arguments, ["body must be an object, or left out with its members as arguments"]
    twice = [name for name in body if arguments.get(name, body[name]) != body[name]]
    faults = [
        f"{name} is given twice with different values, in body and beside it" for name in twice
    ]
    return {**body, **arguments}, faults


def _left_out(argument: Argument | None, value: Any) -> bool:
    """True for a null where none is advertised: it says that the argument was left out.

    Sent, it would make a repeat of a call look like another call, which acts a second time.
    """
    return value is None and argument is not None and not argument.required


class _Texts:
    """The JSON in texts of one call, of which no more than BUILT values are built altogether."""

    def __init__(self) -> None:
        self.left = BUILT

    def read(self, schema: Schema, value: Any) -> Any:
        """`value` with JSON text read where no text is expected, and one item in place of a list.

        What can be read in no such way stays for the check.
        """
        if isinstance(value, str) and schema.get("type", "string") != "string":
            with suppress(ValueError, RecursionError):
                return self.read(schema, self._json(value))
        item = schema.get("items", {}).get("type")
        if (isinstance(value, str) and item == "string") or (
            isinstance(value, dict) and item == "object"
        ):
            return self.read(schema, [value])
        if isinstance(value, dict):
            known = schema.get("properties", {})
            return {name: self.read(known.get(name, {}), member) for name, member in value.items()}
        if isinstance(value, list):
            return [self.read(schema.get("items", {}), item) for item in value]
        return value

    def _json(self, text: str) -> Any:
        """What the text is as JSON; ValueError when it is none, or has too much in it."""
        found = values_in(Raw(text.encode()), self.left)
        if found > self.left:
            raise ValueError
        self.left -= found
        return json.loads(text)


def _faults(tool: CallableTool, arguments: Mapping[str, Any]) -> Iterator[str]:
    misspelt, unknown = tool.check.unknown_members(arguments)
    for fault in [*misspelt, *tool.check.violations(arguments)]:
        yield f"{dotted(fault.pointer) or 'what is given'} {fault.detail}"
    for pointer in unknown:
        if pointer.count("/") == 1:  # deeper ones are for the service to judge
            listed = ", ".join(tool.arguments) or "none"
            yield f"{dotted(pointer)} is not an argument of {tool.declared.name}; it takes {listed}"
    for name, value in arguments.items():
        if name in tool.arguments:
            yield from _misplaced(tool, tool.arguments[name], value)


def dotted(pointer: str) -> str:
    """A JSON pointer as people write it: /requests/0/body is requests.0.body."""
    steps = pointer.lstrip("#/").split("/")
    return ".".join(step.replace("~1", "/").replace("~0", "~") for step in steps)


def _misplaced(tool: CallableTool, argument: Argument, value: Any) -> Iterator[str]:
    """What no schema says: values that would be read as something else where they are put."""
    if argument.location == "path" and _text(value) in ("", ".", ".."):
        yield f"{argument.name} must be more than dots"
    if argument.location == "header" and not (
        _text(value).isascii() and _text(value).isprintable()
    ):
        yield f"{argument.name} must be one line of plain text"
    if argument.members and isinstance(value, dict):
        queried = {each.target for each in tool.arguments.values() if each.location == "query"}
        for name in queried.intersection(value):
            yield f'{argument.name} cannot have a member "{name}", which is an argument itself'


def _query(argument: Argument, value: Any) -> list[tuple[str, str]]:
    if argument.members:
        return [(name, _text(member)) for name, member in value.items()]
    if not isinstance(value, list):
        return [(argument.target, _text(value))]
    items = [_text(item) for item in value]
    return [(argument.target, item) for item in (items if argument.explode else [",".join(items)])]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value).decode()


def _json(value: Any) -> bytes:
    """`value` as JSON; NaN as NaN, for the service to refuse, where faster writers say null."""
    return to_json(value, inf_nan_mode="constants")


def _body(value: Any) -> bytes:
    """As `_json`, for what may be a text, or an object with texts in it."""
    if isinstance(value, Raw):
        return bytes(value)
    if not (isinstance(value, dict) and any(isinstance(m, Raw) for m in value.values())):
        return _json(value)
    pieces: list[Any] = []
    for name, member in value.items():
        pieces += [b"," if pieces else b"{", _json(name), b":"]
        pieces.append(member if isinstance(member, Raw) else _json(member))
    return b"".join([*pieces, b"}"])


def _key(caller: str, tool: CallableTool, arguments: Mapping[str, Any]) -> str:
    """The Idempotency-Key of a call: made from the caller's own key, else from all arguments.

    The caller is part of it either way, since REST sees one caller only, the bridge.
    """
    meant = {KEY: arguments[KEY]} if arguments.get(KEY) else arguments
    digest = hashlib.sha256(b"[%b,%b,{" % (_ordered(caller), _ordered(tool.declared.name)))
    for index, name in enumerate(sorted(meant)):
        digest.update(b"%b%b:" % (b"," if index else b"", _ordered(name)))
        for piece in _pieces(meant[name]):
            digest.update(piece)
    digest.update(b"}]")
    return f"mcp-{base64.b32encode(digest.digest()).decode().rstrip('=').lower()}"


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    """The one JSON that all spellings of `value` have; a text's an item at a time, and as it is spelt where that is large."""
    if not isinstance(value, Raw):
        yield _ordered(value)
    elif memoryview(value)[0] == ord("[") and not _is_dense(value):
        yield b"["
        for index, item in enumerate(msgspec.json.decode(value, type=list[Raw])):
            yield b"," if index else b""
            yield _one_spelling(item)
        yield b"]"
    else:
        yield _one_spelling(value)


def _one_spelling(text: Raw) -> bytes | memoryview:
    return memoryview(text) if len(text) >= LARGE else _ordered(msgspec.json.decode(text))


def _ordered(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
