"""A tool call as a REST request: arguments read, checked once, and put where REST takes them.

Clients differ in how they hand arguments over: what can be meant in one way only is read that way.
Everything else is refused before anything is sent, with all that is wrong named.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw
from pydantic_core import PydanticSerializationError, to_json
from urllib3.filepost import encode_multipart_formdata

from mcp_bridge.rest_client import RestRequest
from mcp_bridge.tools import COUNT, KEY, KEY_HEADER, Argument, CallableTool
from openapi.contract import JSON, Schema
from openapi.json_text import SLICE, holds_more, values_in
from openapi.partial_json import TEXT, TooLarge, read
from openapi.validation import UNREADABLE

LARGE = 1 << 18
"""Bytes of JSON text from which it is not built as objects, which are some 20 MB at worst of less."""

BUILT = 300_000
"""Values that are made of one call where reading it needs more than its schema, as JSON within texts does: some 40 MB."""


class BadArguments(ValueError):
    """The arguments cannot be sent; `violations` are sentences, one for each reason."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__("; ".join(violations))
        self.violations = violations


def rest_request(tool: CallableTool, given: Mapping[str, Any] | Raw, caller: str) -> RestRequest:
    """The request that calling `tool` with `given`, or its JSON text, means; BadArguments when it cannot be sent.

    `caller` tells callers apart: the same arguments from two of them are not a repeat.
    """
    try:
        if isinstance(given, Raw) and len(given) >= LARGE:
            arguments = _read_text(tool, given)
        elif isinstance(given, Raw):
            arguments = _read(tool, _object(msgspec.json.decode(given)))
        else:
            arguments = _read(tool, given)
        return _request(tool, arguments, caller)
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


def _read(tool: CallableTool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in their one plain form, defaults filled in; BadArguments with all that is wrong."""
    texts = _Texts()
    arguments, violations = _unwrapped(tool, _present(tool, given), texts)
    arguments = _present(tool, arguments)
    if any(_violations(tool, arguments)):
        arguments = texts.read(tool.check.schema, arguments)
        violations += _violations(tool, arguments)
    if violations:
        raise BadArguments(violations)
    return _plain(tool, arguments)


def _read_text(tool: CallableTool, text: Raw) -> dict[str, Any]:
    """As `_read`, for the JSON of large arguments: what is for the body stays text, unless it has to be read in another way."""
    try:
        written, value = read(text, tool.check.schema)
    except TooLarge as error:
        violation = error.violation
        raise BadArguments([f"{dotted(violation.pointer)} {violation.detail}"]) from error
    arguments = _present(tool, _object(value))
    texts = msgspec.json.decode(written, type=dict[str, Raw])
    if violations := [*_violations(tool, arguments)]:
        if _is_dense(text):
            raise BadArguments(violations)
        # A text where one is wanted means nothing else, so no more of it has to be built.
        for name in arguments:
            known = tool.arguments[name].schema if name in tool.arguments else {}
            if known.get("type") != "string" or "x-unread" in known:
                arguments[name] = _decode(texts[name])
        return _read(tool, arguments)
    for name in arguments:
        argument = tool.arguments[name]
        if argument.location in _AS_TEXT and argument.schema.get("type") != "integer":
            arguments[name] = texts[name]
    return _plain(tool, arguments)


# Arguments whose JSON goes into the body as it came, or is read there in another way.
_AS_TEXT = ("member", "body", "file-text", "file-lines")


def _is_dense(text: Raw) -> bool:
    """True when so many values are in a text that as objects they would be many times its size."""
    return holds_more(text, max(BUILT, len(text) // TEXT))


def _present(tool: CallableTool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without the nulls where none is advertised: they say that the argument was left out.

    Sent, they would make a repeat of a call look like another call, which acts a second time.
    """
    known = tool.arguments
    return {n: v for n, v in given.items() if v is not None or n not in known or known[n].required}


def _unwrapped(
    tool: CallableTool, arguments: dict[str, Any], texts: _Texts
) -> tuple[dict[str, Any], list[str]]:
    """The arguments with the members of a `body` that the tool does not have put beside them; what is wrong with it."""
    if "body" in tool.arguments or "body" not in arguments or not tool.operation.body:
        return arguments, []
    body = texts.read({"type": "object"}, arguments.pop("body"))
    if not isinstance(body, dict):
        return arguments, ["body must be an object, or left out with its members as arguments"]
    twice = [name for name in body if arguments.get(name, body[name]) != body[name]]
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
        if isinstance(value, str) and schema.get("type", "string") != "string":
            with suppress(ValueError, RecursionError):
                return self.read(schema, self._json(value))
        item = schema.get("items", {}).get("type")
        if (isinstance(value, str) and item == "string") or (
            isinstance(value, dict) and item == "object"
        ):
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
    misspelt, unknown = tool.check.unknown_members(arguments)
    for violation in [*misspelt, *tool.check.violations(arguments)]:
        yield f"{dotted(violation.pointer) or 'what is given'} {violation.detail}"
    for pointer in unknown:
        if pointer.count("/") == 1:  # deeper ones are for the service to judge
            listed = ", ".join(tool.arguments) or "none"
            yield f"{dotted(pointer)} is not an argument of {tool.declared.name}; it takes {listed}"
    for file in tool.files:
        given = {file.text, file.lines}.intersection(arguments)
        if len(given) == 2:
            yield f"{file.lines} and {file.text} are one content given twice; give one of them"
        elif file.required and not given:
            yield f"{file.lines} or {file.text} is required"
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


def _plain(tool: CallableTool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with their defaults, and integers spelt as such.

    For calls with a key also what the service takes them to be: left out or spelt out, a default means the same call.
    """
    advertised = {
        each.name: each.schema["default"]
        for each in tool.arguments.values()
        if tool.keyed and each.location == "member" and "default" in each.schema
    }
    given = {name: _integer(tool.arguments[name].schema, each) for name, each in arguments.items()}
    return {**tool.declared.defaults, **advertised, **given}


def _integer(schema: Schema, value: Any) -> Any:
    """24 for 24.0 where an integer is meant, alone or in a list: JSON has one meaning for both (RFC 8259 section 6)."""
    if isinstance(value, list) and schema.get("items", {}).get("type") == "integer":
        return [_integer(schema["items"], item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if whole and schema.get("type") == "integer" else value


def _request(tool: CallableTool, arguments: Mapping[str, Any], caller: str) -> RestRequest:
    path = tool.operation.path
    query: list[tuple[str, str]] = []
    headers = {"Accept": tool.operation.response_media_type}
    form = tool.operation.body is not None and tool.operation.body.form
    texts = _canonical(arguments) if tool.keyed or (tool.operation.body and not form) else {}
    members: dict[str, Raw] = {}
    fields: list[tuple[str, str]] = []
    first, count = 0, COUNT
    body: bytes | None = None
    for name, argument in tool.arguments.items():
        if name not in arguments:
            continue
        value = arguments[name]
        if argument.location == "path":
            path = path.replace(f"{{{argument.target}}}", quote(_text(value), safe=""))
        elif argument.location == "query":
            query += _query(argument, value)
        elif argument.location == "header":
            headers[argument.target] = _text(value)
        elif argument.location == "member":
            members[argument.target] = texts[name]
        elif argument.location == "body":
            body = bytes(texts[name])
        elif argument.location == "field":
            fields += _query(argument, value)
        elif argument.location == "from":
            first = value
        elif argument.location == "count":
            count = value
    if tool.keyed and KEY_HEADER.lower() not in map(str.lower, headers):
        headers[KEY_HEADER] = _key(caller, tool, texts)
    if body is None and tool.operation.body and (tool.operation.body.required or members):
        body = b"".join(_members(members))
    if form:
        body, headers["Content-Type"] = encode_multipart_formdata(
            [*fields, *_files(tool, arguments)]
        )
    elif body is not None:
        headers["Content-Type"] = JSON
    target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
    lines = range(first, first + count) if tool.operation.answer_streamed else None
    return RestRequest(tool.operation.method, target, headers, body, lines)


def _files(
    tool: CallableTool, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, bytes, str]]]:
    """The parts of the form that are files: name, file's name, content and media type."""
    known = [tool.arguments[name] for name in arguments]
    names = {each.target: arguments[each.name] for each in known if each.location == "file-name"}
    types = tool.operation.body.part_types if tool.operation.body else {}
    for argument in known:
        if argument.location in ("file-text", "file-lines"):
            write = _written if argument.location == "file-text" else _written_lines
            part, content = argument.target, write(arguments[argument.name])
            media_type = types.get(part, "application/octet-stream")
            yield part, (names.get(part, part), content, media_type)


def _written(text: str | Raw) -> bytes:
    """The UTF-8 of a text, or of the JSON of one, a piece at a time: as one `str` it could take four times its size."""
    if isinstance(text, str):
        return text.encode()
    content = bytearray()
    json_text = memoryview(text)[1:-1]
    start, end, size = 0, len(json_text), SLICE
    while start < end:
        piece = bytes(json_text[start : start + size])
        cut = len(piece) if start + len(piece) == end else _cut(piece)
        if not cut:
            size *= 2
            continue
        content += msgspec.json.decode(b'"%b"' % piece[:cut], type=str).encode()
        start, size = start + cut, SLICE
    return bytes(content)


# Twelve bytes are the longest escape, which a pair of surrogates has; then a character begins.
_BETWEEN = re.compile(rb"[^\\]{12}(?=[\x00-\x7f\xc0-\xff])")


def _cut(piece: bytes) -> int:
    """Where a part of a JSON text may end, within no escape and no character of several bytes; 0 when that is nowhere known."""
    if found := max(map(piece.rfind, (b" ", b",", b":"))) + 1:  # they stand in neither
        return found
    return max((match.end() for match in _BETWEEN.finditer(piece, len(piece) - 99)), default=0)


def _written_lines(objects: list[dict[str, Any]] | Raw) -> bytes:
    """JSON objects, or the JSON of a list of them, each as a line: a line break in JSON is a space (RFC 8259 section 2)."""
    text = objects if isinstance(objects, Raw) else to_json(objects, inf_nan_mode="constants")
    content = bytearray()
    for item in msgspec.json.decode(text, type=list[Raw]):
        content += bytes(item).replace(b"\n", b" ").replace(b"\r", b" ")
        content += b"\n"
    return bytes(content)


def _query(argument: Argument, value: Any) -> list[tuple[str, str]]:
    if argument.members:
        # In brackets a name is a member's, however like a parameter's it is.
        return [(f"{argument.target}[{name}]", _text(value[name])) for name in sorted(value)]
    if not isinstance(value, list):
        return [(argument.target, _text(value))]
    items = [_text(item) for item in value]
    return [(argument.target, item) for item in (items if argument.explode else [",".join(items)])]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, inf_nan_mode="constants").decode()


def _key(caller: str, tool: CallableTool, texts: Mapping[str, Raw]) -> str:
    """The Idempotency-Key of a call: made from the caller's own key, else from what all arguments mean.

    The caller is part of it either way, since REST sees one caller only, the bridge.
    """
    meant = {KEY: texts[KEY]} if KEY in texts else texts
    digest = hashlib.sha256(b"[%b,%b," % (_encode(caller), _encode(tool.declared.name)))
    for piece in _members(meant):
        digest.update(piece)
    digest.update(b"]")
    return f"mcp-{base64.b32encode(digest.digest()).decode().rstrip('=').lower()}"


def _members(texts: Mapping[str, Raw]) -> Iterable[bytes | Raw]:
    """The pieces of a JSON object of these members, in order of their names."""
    yield b"{"
    for index, name in enumerate(sorted(texts)):
        yield b"%b%b:" % (b"," if index else b"", _encode(name))
        yield texts[name]
    yield b"}"


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="deterministic").encode
_members_of = msgspec.json.Decoder(dict[str, Raw]).decode


def _canonical(arguments: Mapping[str, Any]) -> dict[str, Raw]:
    """Each argument in the one spelling of its JSON, members in order and no spaces: the service knows a repeat by its bytes.

    NaN is refused: msgspec would write null for it, and does not read what pydantic writes.
    """
    values = {name: value for name, value in arguments.items() if not isinstance(value, Raw)}
    texts = _members_of(_encode(_decode(to_json(values, inf_nan_mode="constants"))))
    return texts | {n: _respelt(text) for n, text in arguments.items() if isinstance(text, Raw)}


def _respelt(text: Raw) -> Raw:
    """As `_canonical`, for a text: an item at a time when it is large, and as it is when it is dense or no list."""
    if len(text) < LARGE:
        return Raw(_encode(_decode(text)))
    if memoryview(text)[0] != ord("[") or _is_dense(text):
        return text
    spelt = bytearray(b"[")  # not a list of pieces, whose memory would be kept beside the whole
    for index, item in enumerate(msgspec.json.decode(text, type=list[Raw])):
        spelt += b"," if index else b""
        spelt += _respelt(item)
    spelt += b"]"
    return Raw(spelt)
