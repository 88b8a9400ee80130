"""A JSON text read along a schema: what the schema describes is built, to be checked; what it leaves open stays text.

A create may carry ten thousand requests whose inner bodies nobody here looks at; they are neither built as objects nor
written again. As objects a text can take a hundred times its size, `{},` for one, so what is built is counted before: the
items of an array by the schema's `maxItems`, members and all else by VALUES. Of what the schema refuses for its type or its
length, and of members that it does not name, nothing is built: something small stands for it that is refused in the same words.
A text whose schema has `x-unread` is not even read: any text is meant, and whoever uses it does that.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Set
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from .contract import Schema
from .json_text import holds_more, values_in
from .validation import Violation, broken_rule, pointer_token

VALUES = 100_000
"""Members of described objects, and as many values of all else, that are built of one text; a new name counts as another
member, and as one more for every TEXT characters. Some 20 MB."""

TEXT = 100
"""Bytes of text for each value beyond these: a long text may have more of them, and takes about twice its size."""

SHORT = 1024
"""Bytes of a text or number that is built without a look at its schema."""

FEW = 1000
"""Items, or members of items, that are built however few the schema allows, so that all that is wrong in them is told."""

_Shape = TypeVar("_Shape")


class TooLarge(Exception):
    """The text has more than may be built; `violation` says where and of what."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation)
        self.violation = violation


def read(text: Raw, schema: Schema, at: str = "") -> tuple[Raw, Any]:
    """(what to send on, what to check) for one JSON text without space around it; `at` is the pointer to it.

    To check: its value, with `{}` for open objects. To send on: `text` itself, unless a described object has a member twice.
    RFC 8259 section 4 lets parsers choose which of the two they mean, so what the schema describes is then written anew with
    the one that is checked, the last.

    Raises TooLarge; msgspec.DecodeError and RecursionError for what is no JSON, which UTF-8 it must be already.
    """
    reading = _Reading(text)
    value = reading.value(text, schema, at)
    if not reading.repeated:
        return text, value
    return Raw(msgspec.json.encode(_without_repeats(text, schema))), value


class _Name(str):
    """A member's name; msgspec has a type that is not its own made by a hook, which is called for every member."""

    __slots__ = ()


class TooMany(Exception):
    """An array has more items than were asked for."""


_items = threading.local()  # how many items the thread has `seen`, and the `most` that it may


class _Item(msgspec.Struct, frozen=True, gc=False):
    """An object of which nothing is built; the one too many ends the reading."""

    def __post_init__(self) -> None:
        _items.seen += 1
        if _items.seen > _items.most:
            raise TooMany


_OBJECTS = list[dict[_Name, Raw]]
# An empty object has no member that would be counted.
_FILLED = list[Annotated[dict[_Name, Raw], Meta(min_length=1)]]
_scalar = msgspec.json.Decoder(str | int | float | bool | None).decode


class _Reading:
    """One text while it is read: how many members and other values may still be built, and whether a member was repeated."""

    def __init__(self, text: Raw) -> None:
        self.members = VALUES
        self.values = max(VALUES, len(text) // TEXT)
        self.repeated = False

    def value(self, text: Raw, schema: Schema, at: str) -> Any:
        """What is checked in the place of `text`."""
        if not schema:
            return None  # nobody looks at it
        kind, items = _kind(text), schema.get("items", {})
        if _needs_all(schema, kind):
            return self._built(text, schema, at)
        if kind not in _kinds(schema):
            return _EMPTY[kind]
        if kind == "object" and _is_open(schema):
            return {}
        if kind == "object" and _is_described(schema):
            members, count = self._counted(text, dict[_Name, Raw], at)
            self.repeated |= len(members) < count
            return self._object(members, schema, at)
        if kind == "array" and _is_described(items):
            return self._objects(text, schema, at)
        if kind == "string" and schema.get("x-unread"):
            return ""
        if kind == "array" and _is_open(items) and _all_objects(text, schema, at):
            return [{}] * int(_items.seen)
        if kind == "string" and (stand_in := _overlong(text, schema)):
            return stand_in
        return self._built(text, schema, at)

    def _object(self, members: dict[_Name, Raw], schema: Schema, at: str) -> dict[str, Any]:
        properties, others = schema.get("properties", {}), _others(schema)
        return {
            str(name): self.value(text, properties.get(name, others), f"{at}/{pointer_token(name)}")
            for name, text in members.items()
        }

    def _objects(self, text: Raw, schema: Schema, at: str) -> list[Any]:
        """The values of an array of described objects."""
        # No more than a few members an object, or else the objects are counted first, which takes as long again.
        few = max(4 * schema.get("maxItems", VALUES), FEW)
        try:
            objects, count = self._counted(text, _FILLED, at, few)
        except (TooLarge, msgspec.ValidationError):
            if not _all_objects(text, schema, at):
                return self._built(text, {}, at)  # type: ignore[no-any-return]
            objects, count = self._counted(text, _OBJECTS, at)
        self.repeated |= sum(map(len, objects)) < count
        values = _flat(objects, schema["items"])
        if values is None:
            return [
                self._object(members, schema["items"], f"{at}/{index}")
                for index, members in enumerate(objects)
            ]
        return values

    def _counted(
        self, text: Raw, shape: type[_Shape], at: str, most: int = VALUES
    ) -> tuple[_Shape, int]:
        """`text` as an object or objects of texts, and how many members it has: more than these have when one is repeated.

        msgspec calls the hook for each member before it keeps it, so the reading ends with the one too many. A name that
        many objects have is kept once.
        """
        limit = left = min(self.members, most)
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
                names[known] = known  # not `name`, which would be kept beside it
            return known

        decoded = msgspec.json.decode(text, type=shape, dec_hook=named)
        self.members -= limit - left
        return decoded, count

    def _built(self, text: Raw, schema: Schema, at: str) -> Any:
        """The value of all of `text`, whose values are counted before."""
        if _kind(text) not in ("array", "object"):
            return msgspec.json.decode(text)
        items, limit = schema.get("items", {}), self.values
        scalars = items.get("type") in _SCALAR
        if scalars and schema.get("maxItems", 0) > VALUES:
            limit = max(limit, schema["maxItems"])
        found = values_in(text, limit)
        if found > limit:
            raise TooLarge(Violation(at, f"has more than {limit} values"))
        self.values -= found
        if scalars and _kind(text) == "array" and len(text) > SHORT:
            texts = msgspec.json.decode(text, type=list[Raw])
            return [self.value(each, items, at) for each in texts]
        return msgspec.json.decode(text)


def count_objects(text: bytes | bytearray | Raw, most: int) -> int:
    """How many items an array has that are all objects; builds none of them.

    TooMany as soon as there are more than `most`; msgspec.ValidationError at the first item that is something else.
    """
    _items.seen, _items.most = 0, most
    msgspec.json.decode(text, type=list[_Item])
    return int(_items.seen)


def _all_objects(text: Raw, schema: Schema, at: str) -> bool:
    """True when all items of an array are objects; builds none of them.

    TooLarge when there are more than the schema allows, or in a long array at the first item that is something else.
    """
    limit = schema.get("maxItems", VALUES)
    try:
        count_objects(text, max(limit, FEW))
    except TooMany:
        raise TooLarge(broken_rule(at, "maxItems", limit)) from None
    except msgspec.ValidationError:
        if not holds_more(text, VALUES):
            return False
        if schema["items"].get("nullable"):  # it may be null
            raise TooLarge(Violation(at, f"has more than {VALUES} values")) from None
        raise TooLarge(broken_rule(f"{at}/{_items.seen}", "type", ["object"])) from None
    return True


def _flat(objects: list[dict[_Name, Raw]], schema: Schema) -> list[dict[str, Any]] | None:
    """The values of objects in which all is short and no array or object, but for open ones; None when there is more in them.

    A large body spends its time here. The general way takes three times as long: 30 ms more for ten thousand objects.
    """
    opened = {name for name, child in schema.get("properties", {}).items() if _is_open(child)}
    try:
        return [
            {
                str(name): {} if name in opened and _kind(text) == "object" else _short(text)
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


def _without_repeats(text: Raw, schema: Schema) -> Any:
    """The arrays and objects that the schema describes, with the last of each repeated member, and texts as they came in them."""
    kind, items = _kind(text), schema.get("items", {})
    if kind == "object" and _is_described(schema):
        properties, others = schema.get("properties", {}), _others(schema)
        members = msgspec.json.decode(text, type=dict[str, Raw])
        return {
            name: _without_repeats(member, properties.get(name, others))
            for name, member in members.items()
        }
    if kind == "array" and _is_described(items):
        return [_without_repeats(item, items) for item in msgspec.json.decode(text, type=list[Raw])]
    return text


def _overlong(text: Raw, schema: Schema) -> str:
    """What stands for a text that is certainly longer than its schema allows, in memory up to four times its size; else nothing."""
    allowed = [len(value) for value in schema.get("enum", ()) if isinstance(value, str)]
    longest = schema.get("maxLength", max(allowed, default=math.inf))
    # A character has up to twelve bytes: two escapes of six.
    return "x" * int(longest + 1) if len(text) > 12 * longest + 2 else ""


def _kind(text: Raw) -> str:
    return _KINDS.get(memoryview(text)[0], "number")


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


def _is_described(schema: Schema) -> bool:
    """True when the schema says something about the members of an object, one by one."""
    described = "properties" in schema or schema.get("type") == "object"
    return described and not _is_open(schema) and not _needs_all(schema, "object")


def _is_open(schema: Schema) -> bool:
    """True when any object satisfies the schema, so that its inside need not be looked at."""
    return (
        schema.get("type") == "object"
        and not schema.keys() & _OF_MEMBERS
        and schema.get("additionalProperties", True) is True
        and not _needs_all(schema, "object")
    )


def _needs_all(schema: Schema, kind: str) -> bool:
    """True when the schema may say something about any part of a value of this kind."""
    return bool(schema.keys() & _COMBINED) or (
        kind in ("array", "object") and ("enum" in schema or schema.get("uniqueItems") is True)
    )


_COMBINED = {"allOf", "anyOf", "oneOf", "not"}
_OF_MEMBERS = {"properties", "required", "minProperties", "maxProperties", "x-propertyNames"}
_SCALAR = ("string", "integer", "number", "boolean")
_KINDS = dict(
    zip(b'{["tfn', ("object", "array", "string", "boolean", "boolean", "null"), strict=True)
)
_EMPTY: dict[str, Any] = {
    "object": {},
    "array": [],
    "string": "",
    "number": 0,
    "boolean": False,
    "null": None,
}
