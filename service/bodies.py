"""A JSON body read once: what the contract describes is parsed and checked, what it leaves open stays bytes.

A create may carry ten thousand requests whose inner bodies nobody here looks at; they are neither built as objects
nor written again. What was read goes upstream as it came, unless a member is repeated: RFC 8259 section 4 lets parsers
choose which of the two they mean, so the structure around it is then written anew with the one that was checked, the last.
"""

from __future__ import annotations

from functools import lru_cache
from operator import is_
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from openapi.checks import Check
from openapi.contract import Body, Schema

from .errors import Problem

Content = bytes | bytearray
_Shape = TypeVar("_Shape")


class _Name(str):
    """A member's name; msgspec has a type that is not its own made by a hook, which is called for every member."""

    __slots__ = ()


_MEMBERS = dict[_Name, Raw]
_OBJECTS = list[dict[_Name, Raw]]


class BodyReader:
    """Reads bodies of one operation. Thread-safe."""

    def __init__(self, body: Body) -> None:
        self.required = body.required
        self._check = Check(body.schema)

    def read(self, content: Content) -> tuple[Content, list[str]]:
        """The body as it goes upstream, and pointers to its members that the contract does not name.

        Raises Problem: malformed-request when it is not JSON in UTF-8, validation-failed with every fault otherwise.
        """
        forwarded, value = _parse(content, self._check.schema)
        misspelt, unknown = self._check.misspelt(value, "/body")
        if faults := [*misspelt, *self._check.faults(value, "/body")]:
            raise Problem("validation-failed", faults=faults)
        if isinstance(forwarded, Raw):
            return content, unknown
        return msgspec.json.encode(forwarded), unknown


def _parse(content: Content, schema: Schema) -> tuple[Any, Any]:
    try:
        if not content.isascii():
            content.decode()  # msgspec does not look inside what it leaves as bytes
        # Where members are described, reading them is what finds out whether it is JSON.
        text = Raw(content) if "properties" in schema else msgspec.json.decode(content, type=Raw)
        return _read(text, schema)
    except msgspec.DecodeError as error:
        raise Problem("malformed-request", f"The body is not JSON: {_reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise Problem(
            "malformed-request", f"The body is not UTF-8 at byte {error.start}."
        ) from error
    except RecursionError as error:
        raise Problem("malformed-request", "The body is nested too deeply.") from error


def _reason(error: msgspec.DecodeError) -> str:
    """What is wrong and at which byte, without a piece of the body."""
    said = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]
    # In other words than these msgspec does not say that a \u escape is half of a surrogate pair.
    half = said.startswith(("Input data was truncated", "unexpected end of hex escape"))
    return f"{said}, or half of a surrogate pair" if half else said


def _read(raw: Raw, schema: Schema) -> tuple[Any, Any]:
    """(what to write, what to check) for one JSON text.

    To write: `raw` itself when nothing of it need be written anew, else an object or array with raw texts in it. To check:
    its value, with `{}` for open objects.
    """
    if _is_open(schema) and _is_object(raw):
        return raw, {}
    try:
        if _has_members(schema):
            return _read_members(raw, schema)
        if _has_members(schema.get("items", {})):
            return _read_objects(raw, schema["items"])
    except msgspec.ValidationError:
        pass  # JSON of another shape than the schema's: the check says so
    value = msgspec.json.decode(raw)
    return (value if schema.keys() & _COMBINED else raw), value


def _read_members(raw: Raw, schema: Schema) -> tuple[Any, Any]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    other = others if isinstance(others, dict) else _ANYTHING
    members, count = _counted(raw, _MEMBERS)
    read = {str(name): _read(text, properties.get(name, other)) for name, text in members.items()}
    value = {name: pair[1] for name, pair in read.items()}
    written = {name: pair[0] for name, pair in read.items()}
    same = len(members) == count and all(map(is_, written.values(), members.values()))
    return (raw if same else written), value


def _read_objects(raw: Raw, schema: Schema) -> tuple[Any, Any]:
    """As `_read`, for an array of objects of `schema`."""
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    children = [*properties.values(), *([others] if isinstance(others, dict) else [])]
    if not any(_has_members(child) or "items" in child for child in children):
        return _read_flat(raw, {name for name, child in properties.items() if _is_open(child)})
    texts = msgspec.json.decode(raw, type=list[Raw])
    pairs = [_read(text, schema) for text in texts]
    written = [pair[0] for pair in pairs]
    return (raw if all(map(is_, written, texts)) else written), [pair[1] for pair in pairs]


def _read_flat(raw: Raw, opened: set[str]) -> tuple[Any, Any]:
    """As `_read`, for an array of objects that have none in them but `opened` members: where a large body spends its time."""
    objects, count = _counted(raw, _OBJECTS)
    decode = msgspec.json.decode
    values = [
        {
            str(name): {} if name in opened and _is_object(text) else decode(text)
            for name, text in members.items()
        }
        for members in objects
    ]
    if sum(map(len, objects)) == count:
        return raw, values
    return [{str(name): text for name, text in members.items()} for members in objects], values


def _counted(raw: Raw, shape: type[_Shape]) -> tuple[_Shape, int]:
    """`raw` as an object or objects, in which the last of a repeated name is left, and how many members were in `raw`."""
    named = lru_cache(maxsize=None)(str.__new__)  # a call in C, and a count of calls
    decoded = msgspec.json.decode(raw, type=shape, dec_hook=named)
    calls = named.cache_info()
    return decoded, calls.hits + calls.misses


_ANYTHING: Schema = {"type": "object"}


def _has_members(schema: Schema) -> bool:
    """True when the schema says something about the members of an object."""
    described = "properties" in schema or schema.get("type") == "object"
    return described and not _is_open(schema) and not schema.keys() & _COMBINED


def _is_open(schema: Schema) -> bool:
    """True when any object satisfies the schema, so that its inside need not be looked at."""
    return (
        schema.get("type") == "object"
        and not (schema.keys() & _LOOKED_AT)
        and schema.get("additionalProperties", True) is True
    )


_COMBINED = {"allOf", "anyOf", "oneOf", "not"}  # each may say something about any member
_LOOKED_AT = {
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "x-propertyNames",
    *_COMBINED,
}


def _is_object(raw: Raw) -> bool:
    return memoryview(raw)[0] == 0x7B
