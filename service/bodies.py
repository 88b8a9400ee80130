"""A JSON body read once: what the contract describes is parsed and checked, what it leaves open stays bytes.

A create may carry ten thousand requests whose inner bodies nobody here looks at; they are neither built as objects
nor written again. The structure around them is written anew, so that a repeated member has one meaning for the
check and for the upstream: the last one, as RFC 8259 section 4 lets parsers choose.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from openapi.checks import Check
from openapi.contract import Body, Schema

from .errors import Problem

_ENCODER = msgspec.json.Encoder()
_MEMBERS = dict[str, Raw]
_OBJECTS = list[dict[str, Raw]]


class BodyReader:
    """Reads bodies of one operation. Thread-safe."""

    def __init__(self, body: Body) -> None:
        self.required = body.required
        self._check = Check(body.schema)

    def read(self, content: bytes) -> tuple[bytearray, list[str]]:
        """The body as it goes upstream, and pointers to its members that the contract does not name.

        Raises Problem: malformed-request when it is not JSON in UTF-8, validation-failed with every fault otherwise.
        """
        forwarded, value = _parse(content, self._check.schema)
        misspelt, unknown = self._check.misspelt(value, "/body")
        if faults := [*misspelt, *self._check.faults(value, "/body")]:
            raise Problem("validation-failed", faults=faults)
        target = bytearray(
            len(content)
        )  # the usual size, so that writing does not grow it step by step
        _ENCODER.encode_into(forwarded, target)
        return target, unknown


def _parse(content: bytes, schema: Schema) -> tuple[Any, Any]:
    try:
        if not content.isascii():
            content.decode()  # msgspec does not look inside what it leaves as bytes
        return _read(msgspec.json.decode(content, type=Raw), schema)
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
    return str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]


def _read(raw: Raw, schema: Schema) -> tuple[Any, Any]:
    """(what to write, what to check) for one well-formed JSON text: raw texts in the first, `{}` for open objects in the second."""
    if _is_open(schema) and _is_object(raw):
        return raw, {}
    try:
        if _has_members(schema):
            return _read_members(msgspec.json.decode(raw, type=_MEMBERS), schema)
        if _has_members(schema.get("items", {})):
            return _read_objects(msgspec.json.decode(raw, type=_OBJECTS), schema["items"])
    except msgspec.ValidationError:
        pass  # JSON of another shape than the schema's: the check says so
    value = msgspec.json.decode(raw)
    return (value if schema.keys() & _COMBINED else raw), value


def _read_members(members: dict[str, Raw], schema: Schema) -> tuple[Any, Any]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    other = others if isinstance(others, dict) else _ANYTHING
    read = {name: _read(member, properties.get(name, other)) for name, member in members.items()}
    return {name: pair[0] for name, pair in read.items()}, {
        name: pair[1] for name, pair in read.items()
    }


def _read_objects(objects: list[dict[str, Raw]], schema: Schema) -> tuple[Any, Any]:
    """As `_read_members` for each; the loop that a large body spends its time in, so flat objects take a short way."""
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    children = [*properties.values(), *([others] if isinstance(others, dict) else [])]
    if any(_has_members(child) or "items" in child for child in children):
        pairs = [_read_members(members, schema) for members in objects]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    opened = {name for name, child in properties.items() if _is_open(child)}
    decode = msgspec.json.decode
    values = [
        {
            name: {} if name in opened and _is_object(member) else decode(member)
            for name, member in members.items()
        }
        for members in objects
    ]
    return objects, values


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
