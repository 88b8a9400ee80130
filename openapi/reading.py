"""A JSON text read along a schema: what the schema describes is built, to be checked; what it leaves open stays bytes.

A create may carry ten thousand requests whose inner bodies nobody here looks at; they are neither built as objects nor
written again. As objects a text can take a hundred times its size, `{},` for one, so what is built is counted before: the
items of an array by the schema's `maxItems`, members and all else by VALUES. Of what the schema refuses for its type or its
length, and of members that it does not name, nothing is built: something small stands for it that is refused in the same words.
"""

from __future__ import annotations

import codecs
import math
import threading
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from .contract import Schema
from .validation import Validator, Violation, pointer_token, size_violation

VALUES = 100_000
"""Members of described objects, and values of all else that is built, in one text; a new name counts as another member, and
as one more for every TEXT characters. Some 20 MB."""

TEXT = 100
"""Bytes of text for each value beyond these: a long text may have more of them, and takes about twice its size."""

SHORT = 1024
"""Bytes of a text or number that is built without a look at its schema."""

FEW = 1000
"""Items, or members of items, that are built however few the schema allows, so that all that is wrong in them is told."""

SLICE = 1 << 16
"""Bytes that are looked through at a time, so that other threads have their turn."""

_Shape = TypeVar("_Shape")


class TooLarge(Exception):
    """The text has more than may be built; `violations` say where and of what."""

    def __init__(self, *violations: Violation) -> None:
        super().__init__(*violations)
        self.violations = list(violations)


def read(text: Raw, schema: Schema, at: str = "") -> tuple[Any, Any]:
    """(what to write, what to check) for one JSON text without space around it; `at` is the pointer to it.

    To write: `text` itself when nothing of it need be written anew, else an object or array with raw texts in it. To check:
    its value, with `{}` for open objects. RFC 8259 section 4 lets parsers choose which of two members of one name they mean,
    so where a member is repeated the structure around it is written anew with the one that is checked, the last.

    Raises TooLarge; msgspec.DecodeError and RecursionError for what is no JSON, which UTF-8 it must be already.
    """
    return _Reading().read(text, schema, at)


def check_utf8(content: bytes | bytearray) -> None:
    """Raises UnicodeDecodeError with the byte that is wrong; msgspec does not look inside what it leaves as bytes."""
    if content.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    with memoryview(content) as view:
        for start in range(0, len(view), SLICE):
            begun = start - len(decoder.getstate()[0])
            try:
                decoder.decode(view[start : start + SLICE], final=start + SLICE >= len(view))
            except UnicodeDecodeError as error:
                error.start += begun
                raise


def holds_more(text: Raw, limit: int) -> bool:
    """True when a JSON array or object has more than `limit` values in it; nothing is built, at the speed of C."""
    return len(text) > limit and values_in(text, limit) > limit  # a value has a byte at least


def values_in(text: Raw, limit: int) -> int:
    """How many values a JSON array or object has in it, counted until they are more than `limit`."""
    return _survey(text, limit)[0]


def _survey(text: Raw, limit: int) -> tuple[int, bool]:
    """How many values an array or object has in it, counted until they are more than `limit`; whether a slice is all one text."""
    found, long, in_text, left = 0, False, 0, b""
    view = memoryview(text)
    for start in range(0, len(view), SLICE):
        # Without its escapes, every other quotation mark begins a text.
        piece = (left + bytes(view[start : start + SLICE])).replace(rb"\\", b"")
        left = b"\\" if piece.endswith(b"\\") else b""
        parts = piece.removesuffix(left).replace(rb"\"", b"").split(b'"')
        structure = b'"'.join(parts[in_text::2]).translate(None, b" \t\r\n")
        found += structure.count(b",") + structure.count(b"[") + structure.count(b"{")
        found -= structure.count(b"[]") + structure.count(b"{}")
        if found > limit:
            break
        long = long or (in_text == 1 and len(parts) == 1)
        in_text ^= (len(parts) - 1) & 1
    return found, long


class _Name(str):
    """A member's name; msgspec has a type that is not its own made by a hook, which is called for every member."""

    __slots__ = ()


class _Items(threading.local):
    """How many items were seen by the thread, and how many may be."""

    seen = most = 0


_items = _Items()


class _TooMany(Exception):
    pass


class _Item(msgspec.Struct, frozen=True, gc=False):
    """An object of which nothing is built; the one too many ends the reading."""

    def __post_init__(self) -> None:
        _items.seen += 1
        if _items.seen > _items.most:
            raise _TooMany


_MEMBERS = dict[_Name, Raw]
_OBJECTS = list[dict[_Name, Raw]]
# An empty object has no member that would be counted.
_FILLED = list[Annotated[dict[_Name, Raw], Meta(min_length=1)]]
_SCALARS = list[str | int | float | bool | None]
_scalar = msgspec.json.Decoder(str | int | float | bool | None).decode


class _Reading:
    """One text while it is read; `left` is how many members may still be built."""

    def __init__(self) -> None:
        self.left = VALUES

    def read(self, raw: Raw, schema: Schema, at: str) -> tuple[Any, Any]:
        """As the function of this name."""
        kind = _KINDS.get(memoryview(raw)[0], "number")
        if schema.keys() & _COMBINED:
            value = _built(raw, schema, at)
            return value, value
        if kind not in _kinds(schema):
            return raw, _EMPTY[kind]()
        if kind == "object" and _is_open(schema):
            return raw, {}
        if kind == "object" and _has_members(schema):
            members, count = self._counted(raw, _MEMBERS, at)
            written, value, same = self._object(members, schema, at)
            return (raw if same and len(members) == count else written), value
        if kind == "array" and _has_members(schema.get("items", {})):
            return self._objects(raw, schema, at)
        if kind == "string" and (stand_in := _overlong(raw, schema)):
            return raw, stand_in
        return raw, _built(raw, schema, at)

    def _object(
        self, members: dict[_Name, Raw], schema: Schema, at: str
    ) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """As `read`, for the members of an object; true when none of them is written anew."""
        written, value, same = {}, {}, True
        properties, others = schema.get("properties", {}), _others(schema)
        for name, text in members.items():
            # Nobody looks at a member of which the schema says nothing.
            new, seen = text, None
            if child := properties.get(name, others):
                new, seen = self.read(text, child, f"{at}/{pointer_token(name)}")
            written[str(name)], value[str(name)] = new, seen
            same = same and new is text
        return written, value, same

    def _objects(self, raw: Raw, schema: Schema, at: str) -> tuple[Any, Any]:
        """As `read`, for an array of described objects."""
        # No more than a few members an object, or else the objects are counted first, which takes as long again.
        few = max(4 * schema.get("maxItems", VALUES), FEW)
        try:
            objects, count = self._counted(raw, _FILLED, at, few)
        except (TooLarge, msgspec.ValidationError):
            if not _look_through(raw, schema, at):
                return raw, _built(raw, {}, at)
            objects, count = self._counted(raw, _OBJECTS, at)
        same = sum(map(len, objects)) == count
        if (values := _flat(objects, schema["items"])) is not None:
            return (raw if same else _plain(objects)), values
        read = [
            self._object(members, schema["items"], f"{at}/{index}")
            for index, members in enumerate(objects)
        ]
        same = same and all(each[2] for each in read)
        return (raw if same else [each[0] for each in read]), [each[1] for each in read]

    def _counted(
        self, raw: Raw, shape: type[_Shape], at: str, most: int = VALUES
    ) -> tuple[_Shape, int]:
        """`raw` as an object or objects, in which the last of a repeated name is left, and how many members were in `raw`."""
        limit = left = min(self.left, most)
        count = 0
        names: dict[str, _Name] = {}

        def named(kind: type[_Name], name: str) -> _Name:
            nonlocal count, left
            known = names.get(name)
            count += 1
            left -= 1 if known is not None else 2 + len(name) // TEXT
            if left < 0:
                raise TooLarge(Violation(at, "has too many members, or too long names"))
            if known is None:
                known = kind(name)
                names[known] = known
            return known

        decoded = msgspec.json.decode(raw, type=shape, dec_hook=named)
        self.left -= limit - left
        return decoded, count


def _flat(objects: list[dict[_Name, Raw]], schema: Schema) -> list[dict[str, Any]] | None:
    """The values of objects in which all is short and no array or object, but for open ones; None when there is more in them.

    A large body spends its time here. The general way takes three times as long: 30 ms more for ten thousand objects.
    """
    opened = {name for name, child in schema.get("properties", {}).items() if _is_open(child)}
    try:
        return [
            {
                str(name): {} if name in opened and _is_object(text) else _short(text)
                for name, text in members.items()
            }
            for members in objects
        ]
    except msgspec.ValidationError:
        return None


def _short(text: Raw) -> Any:
    if len(text) > SHORT:
        raise msgspec.ValidationError
    return _scalar(text)


def _plain(objects: list[dict[_Name, Raw]]) -> list[dict[str, Raw]]:
    return [{str(name): text for name, text in members.items()} for members in objects]


def _look_through(raw: Raw, schema: Schema, at: str) -> bool:
    """True when all items of an array are objects; builds none of them.

    TooLarge when there are more than the schema allows, or in a long array at the first item that is something else.
    """
    limit = schema.get("maxItems", VALUES)
    _items.seen, _items.most = 0, max(limit, FEW)
    try:
        msgspec.json.decode(raw, type=list[_Item])
    except _TooMany:
        raise TooLarge(size_violation(at, "maxItems", limit)) from None
    except msgspec.ValidationError:
        if not holds_more(raw, VALUES):
            return False
        if schema["items"].get("nullable"):  # it may be null
            raise TooLarge(Violation(at, f"has more than {VALUES} values")) from None
        wrong = Validator(schema["items"]).violations([], f"{at}/{_items.seen}")
        raise TooLarge(*wrong) from None
    return True


def _built(raw: Raw, schema: Schema, at: str) -> Any:
    """The value of all of `raw`; TooLarge when it has too much in it."""
    limit, items = max(VALUES, len(raw) // TEXT), schema.get("items", {})
    of_scalars = items.get("type") in _SCALAR
    most = max(limit, schema.get("maxItems", 0)) if of_scalars else limit
    if len(raw) > limit:  # a value has a byte at least
        found, long = _survey(raw, most)
        if of_scalars and long and 12 * _longest(items) < SLICE:
            raise TooLarge(Violation(at, "has an item that is too long"))
        if limit < found <= most:
            with suppress(msgspec.ValidationError):
                return msgspec.json.decode(raw, type=_SCALARS)
        if found > limit:
            told = most if found > most else limit
            raise TooLarge(Violation(at, f"has more than {told} values"))
    return msgspec.json.decode(raw)


def _longest(schema: Schema) -> float:
    """Characters of the longest text that the schema allows."""
    texts = [len(value) for value in schema.get("enum", ()) if isinstance(value, str)]
    return float(schema.get("maxLength", max(texts, default=math.inf)))


def _overlong(raw: Raw, schema: Schema) -> str:
    """What stands for a text that is certainly longer than its schema allows, in memory up to four times its size; else nothing."""
    longest = _longest(schema)
    # A character has up to twelve bytes: two escapes of six.
    return "x" * int(longest + 1) if len(raw) > 12 * longest + 2 else ""


def _kinds(schema: Schema) -> Set[str]:
    """The JSON types that the schema allows."""
    kind = schema.get("type")
    if kind is None:
        return _EMPTY.keys()
    return {"number" if kind == "integer" else kind, *(["null"] if schema.get("nullable") else [])}


def _others(schema: Schema) -> Schema:
    """What the schema says of members that it does not name; empty for nothing."""
    others = schema.get("additionalProperties")
    return others if isinstance(others, dict) else {}


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


def _is_object(raw: Raw) -> bool:
    return memoryview(raw)[0] == 0x7B


_COMBINED = {"allOf", "anyOf", "oneOf", "not"}  # each may say something about any member
_LOOKED_AT = {
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "x-propertyNames",
    *_COMBINED,
}
_SCALAR = ("string", "integer", "number", "boolean")
_KINDS = {
    ord("{"): "object",
    ord("["): "array",
    ord('"'): "string",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
}
_EMPTY: dict[str, Callable[[], Any]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": int,
    "boolean": bool,
    "null": lambda: None,
}
