"""JSON in one spelling for all that means the same: the REST service knows a repeat of a call by its bytes.

What is large stays text, and is taken apart a level at a time.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import to_json

from openapi.contract import Schema
from openapi.json_text import holds_more
from openapi.partial_json import TEXT, TooMany, count_objects

LARGE = 1 << 18
"""Bytes of JSON text from which it is not built as objects, which are some 20 MB at worst of less."""

BUILT = 300_000
"""Values that are made of one call where reading it needs more than its schema, as JSON within texts does: some 40 MB."""

LEVELS = 10
"""Levels at which what is large is taken apart."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def spell(value: Any, schema: Schema) -> Raw:
    """`value`, or the JSON text that it is, in the one spelling of what it means by `schema`."""
    return _respelt(value, schema) if isinstance(value, Raw) else _spelt(_checked(value), schema)


def join(members: Mapping[str, Raw]) -> Iterable[bytes | Raw]:
    """The pieces of a JSON object of these members, in order of their names."""
    yield b"{"
    for index, name in enumerate(sorted(members)):
        yield b"%b%b:" % (b"," if index else b"", _encode(name))
        yield members[name]
    yield b"}"


def idempotency_key(caller: str, tool: str, meant: Mapping[str, Raw]) -> str:
    """The Idempotency-Key of a caller's call that means these arguments."""
    digest = hashlib.sha256(b"[%b,%b," % (_encode(caller), _encode(tool)))
    for piece in join(meant):
        digest.update(piece)
    digest.update(b"]")
    return f"mcp-{base64.b32encode(digest.digest()).decode().rstrip('=').lower()}"


def is_dense(text: Raw) -> bool:
    """True when so many values are in a text that as objects they would be many times its size."""
    return holds_more(text, max(BUILT, len(text) // TEXT))


def _checked(value: Any) -> Any:
    """`value`, as JSON has it. NaN is refused: msgspec would write null for it, and does not read what pydantic writes."""
    return _decode(to_json(value, inf_nan_mode="constants"))


def _spelt(value: Any, schema: Schema) -> Raw:
    """`value` as JSON: members in order, no spaces, and of what means the same one."""
    text = _encode(value)
    # All that `meaning` changes, in text that is looked through fast.
    odd = b".0" in text or b":null" in text or _is_of_ids(schema)
    return Raw(_encode(meaning(value, schema)) if odd else text)


def _respelt(text: Raw, schema: Schema, level: int = 0) -> Raw:
    """As `_spelt`, for a text: when it is large an item or member at a time. One that is large stays as it is where it is dense, or
    LEVELS deep, since each level takes another look at all that is in it.
    """
    if len(text) < LARGE:
        return _spelt(_decode(text), schema)
    kind = bytes(memoryview(text)[:1])
    if level == LEVELS or kind not in (b"[", b"{") or not _can_be_told_apart(text):
        return text
    spelt = bytearray(kind)  # not a list of pieces, whose memory would be kept beside the whole
    if kind == b"[":
        for index, item in enumerate(msgspec.json.decode(text, type=list[Raw])):
            spelt += b"," if index else b""
            spelt += _respelt(item, schema.get("items", {}), level + 1)
        spelt += b"]"
        return Raw(spelt)
    known = schema.get("properties", {})
    members = msgspec.json.decode(text, type=dict[str, Raw])
    for name in sorted(members):
        if bytes(members[name]) == b"null" and _means_nothing(name, schema):
            continue
        spelt += b"," if len(spelt) > 1 else b""
        spelt += b"%b:" % _encode(name)
        spelt += _respelt(members[name], known.get(name, {}), level + 1)
    spelt += b"}"
    return Raw(spelt)


def _can_be_told_apart(text: Raw) -> bool:
    """True when not too many texts come of one level of it."""
    try:
        count_objects(text, BUILT)
    except TooMany:
        return False
    except msgspec.ValidationError:  # no list of objects
        return not is_dense(text)
    return True


def _means_nothing(name: str, schema: Schema) -> bool:
    """True when null says that the member was left out."""
    known = schema.get("properties", {}).get(name, {})
    return bool(known.get("nullable")) and name not in schema.get("required", ())


def _is_of_ids(schema: Schema) -> bool:
    """True for a list of ids, whose case means nothing (`x-item-id`)."""
    return schema.get("x-item-id") == "$"


def meaning(value: Any, schema: Schema) -> Any:
    """`value` without null for members that the schema lets be null or left out, and with 24 for 24.0, however deep.

    JSON has one meaning for such numbers (RFC 8259 section 6); where no schema says so, null may mean something.
    """
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {
            name: meaning(each, known.get(name, {}))
            for name, each in value.items()
            if each is not None or not _means_nothing(name, schema)
        }
    if isinstance(value, list) and _is_of_ids(schema):
        return [each.lower() if isinstance(each, str) else each for each in value]
    if isinstance(value, list):
        return [meaning(each, schema.get("items", {})) for each in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53
    return int(value) if whole else value
