"""Checking a value against a schema of the contract: every violation as a pointer and a sentence, never the value itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError

from .contract import Schema
from .json_schema import to_json_schema
from .names import Names

MAX_VIOLATIONS = 50
SMALL = 200
"""Members and items of a value whose violations are listed at once."""

UNREADABLE = "is nested too deeply or is no valid Unicode"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong: a JSON pointer (RFC 6901) to it and a sentence without a subject, such as `must be text`."""

    pointer: str
    detail: str


class Validator:
    """A schema, compiled. Thread-safe; make it once and keep it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._json_schema = to_json_schema(schema, null="type")
        self._compiled = _compiled(self._json_schema)
        self.is_valid: Callable[[Any], bool] = self._compiled.is_valid
        """Whether nothing is wrong with a value: the compiled validator's own method, for those that mostly ask for this."""
        # By the `properties` of the schema, once they are asked for.
        self._names: dict[int, Names] = {}

    def violations(self, value: Any, at: str = "") -> list[Violation]:
        """What is wrong with `value`, one violation a place, at most MAX_VIOLATIONS + 1; `at` is the pointer to `value`."""
        if self.is_valid(value):
            return []
        found: dict[str, Violation] = {}
        # ValueError: a violation in what cannot be shown, of more than 255 levels for one.
        with suppress(ValueError):
            several = _violations(value, self._json_schema, self._compiled, at)
            for violation in islice(several, 4 * MAX_VIOLATIONS):
                found.setdefault(violation.pointer, violation)
                if len(found) > MAX_VIOLATIONS:
                    break
        return list(found.values()) or [Violation(at, UNREADABLE)]

    def unknown_members(self, value: Any, at: str = "") -> tuple[list[Violation], list[str]]:
        """Members of `value` that the schema does not name: the likely typos as violations, pointers to the others.

        What a likely typo is, `Names` says. At most MAX_VIOLATIONS + 1 of each.
        """
        typos: list[Violation] = []
        others: list[str] = []
        for pointer, name, known in islice(_unknown(value, self.schema, at), 4 * MAX_VIOLATIONS):
            if id(known) not in self._names:
                self._names[id(known)] = Names(known)
            if meant := self._names[id(known)].meant(name):
                typos.append(Violation(pointer, f"is not a known member; did you mean {meant}?"))
            else:
                others.append(pointer)
        return typos[: MAX_VIOLATIONS + 1], others[: MAX_VIOLATIONS + 1]

    def item_ids(self, value: Any, at: str = "") -> tuple[list[Violation], list[str]]:
        """In arrays whose schema names its items' id (`x-item-id`; `$` is the item itself, whose case means nothing): ids that
        come twice, and sentences about items without.

        Looks at the members of `value`, which is valid. At most MAX_VIOLATIONS + 1 violations.
        """
        repeated: list[Violation] = []
        without: list[str] = []
        for name, schema in self.schema.get("properties", {}).items():
            member = schema.get("x-item-id")
            items = value.get(name) if member and isinstance(value, dict) else None
            itself = member == "$"
            ids = [item.lower() if itself else item.get(member) for item in items or ()]
            first: dict[str, int] = {}
            for index, each in enumerate(ids):
                if each is not None and first.setdefault(each, index) != index:
                    place = f"{at}/{name}/{index}" + ("" if itself else f"/{member}")
                    repeated.append(Violation(place, f"repeats that of {at}/{name}/{first[each]}"))
            missing = ids.count(None)
            if missing and len(ids) > 1:
                without.append(f"{missing} of {len(ids)} {name} have no {member}")
        return repeated[: MAX_VIOLATIONS + 1], without


def pointer_token(token: str | int) -> str:
    """`token` as one step of a JSON pointer (RFC 6901 section 3), cut at a length that no honest name has."""
    return str(token)[:100].replace("~", "~0").replace("/", "~1")


def broken_rule(at: str, rule: str, value: Any) -> Violation:
    """The violation at `at` of `rule`, such as maxItems, which has this value in the schema; an array of names for type."""
    sentence = _SENTENCES.get(rule)
    return Violation(at, sentence(value) if sentence else f"breaks the rule {rule}")


def _unknown(value: Any, schema: Schema, at: str) -> Iterator[tuple[str, str, dict[str, Schema]]]:
    """(pointer, name, known members) of each member that an object schema with named members does not name, the outer ones first."""
    if isinstance(value, dict) and (known := schema.get("properties")):
        for name in value:
            if name not in known:
                yield f"{at}/{pointer_token(name)}", name, known
        for name, member in value.items():
            if name in known:
                yield from _unknown(member, known[name], f"{at}/{name}")
    elif isinstance(value, list) and (known := schema.get("items", {}).get("properties")):
        names = known.keys()
        deep = any(child.get("properties") or child.get("items") for child in known.values())
        for index, item in enumerate(value):
            # The quick test keeps ten thousand well-spelt items cheap.
            if isinstance(item, dict) and (deep or not item.keys() <= names):
                yield from _unknown(item, schema["items"], f"{at}/{index}")


def _compiled(schema: Schema) -> Draft202012Validator:
    return Draft202012Validator(schema, validate_formats=True, mask="value")


def _violations(
    value: Any, schema: Schema, validator: Draft202012Validator, at: str
) -> Iterator[Violation]:
    """The violations of `value`, in no order that means anything; a pointer may occur twice, the best sentence first.

    The validator lists all that it finds before it shows one, a million in a body of a few megabytes. So a large value is
    walked along `properties` and `items`, and whoever has enough violations stops.
    """
    if validator.is_valid(value):
        return
    if not _is_large(value):
        # The format reads better than a pattern beside it.
        errors = validator.iter_errors(value)
        for error in sorted(errors, key=lambda error: error.kind.name != "format"):
            yield _violation(error, at, schema)
        return
    found = False
    for violation in _walk(value, schema, validator, at):
        found = True
        yield violation
    if not found:  # in its parts, so it is in the whole: of anyOf, for one
        try:
            validator.validate(value)
        except ValidationError as error:
            yield _violation(error, at, schema)


def _walk(
    value: Any, schema: Schema, validator: Draft202012Validator, at: str
) -> Iterator[Violation]:
    """As `_violations`, of the parts of a large array or object and of their number."""
    for error in validator.iter_errors(type(value)()):
        if error.kind.name == "type":
            yield _violation(error, at, schema)
            return
    is_list = isinstance(value, list)
    least, most = ("minItems", "maxItems") if is_list else ("minProperties", "maxProperties")
    if len(value) > schema.get(most, math.inf):
        yield broken_rule(at, most, schema[most])
    if len(value) < schema.get(least, 0):
        yield broken_rule(at, least, schema[least])
    if not is_list:
        yield from _walk_members(value, schema, at)
    elif "items" in schema:
        item_validator = _compiled(schema["items"])
        for index, item in enumerate(value):
            yield from _violations(item, schema["items"], item_validator, f"{at}/{index}")


def _walk_members(value: dict[str, Any], schema: Schema, at: str) -> Iterator[Violation]:
    """Arrays and objects each by its own schema, all other members some at a time."""
    for name in schema.get("required", ()):
        if name not in value:
            yield Violation(f"{at}/{pointer_token(name)}", "is required")
    shared = {rule: child for rule, child in schema.items() if rule not in _OF_THE_WHOLE}
    shared_validator = _compiled(shared)
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    others_validator = _compiled(others) if isinstance(others, dict) else None
    some: dict[str, Any] = {}
    for name, member in value.items():
        if not isinstance(member, dict | list):
            some[name] = member
        elif name in properties:
            child = properties[name]
            yield from _violations(member, child, _compiled(child), f"{at}/{pointer_token(name)}")
        elif others and others_validator:
            place = f"{at}/{pointer_token(name)}"
            yield from _violations(member, others, others_validator, place)
        else:
            some[name] = None  # what it is matters to no rule
        if len(some) > SMALL // 2:
            yield from _violations(some, shared, shared_validator, at)
            some = {}
    yield from _violations(some, shared, shared_validator, at)


_OF_THE_WHOLE = {
    *("enum", "required", "minProperties", "maxProperties"),
    *("allOf", "anyOf", "oneOf", "not"),
}
"""What is said of an object as a whole, and not of any of its members."""


def _is_large(value: Any) -> bool:
    """True when `value` has more than SMALL members and items, however deep."""
    waiting, seen = [value], 0
    while waiting and seen <= SMALL:
        node = waiting.pop()
        seen += 1
        if isinstance(node, dict | list):
            children = node.values() if isinstance(node, dict) else node
            waiting.extend(islice(children, SMALL))
    return seen > SMALL


def _violation(error: ValidationError, at: str, schema: Schema) -> Violation:
    kind = error.kind
    pointer = at + "".join(f"/{pointer_token(step)}" for step in error.instance_path)
    if kind.name == "required":
        return Violation(f"{pointer}/{pointer_token(kind.value)}", "is required")
    if kind.name == "propertyNames":
        inner = kind.value.kind
        said = _at(schema, error.schema_path[:-1]).get("description")
        if inner.name == "pattern" and said:
            return Violation(pointer, f"has a member whose name {said}")
        return Violation(
            pointer, f"has a member whose name {broken_rule('', inner.name, inner.value).detail}"
        )
    # The example beside the rule that was broken, if it has one: a pattern is hard to read.
    ruled = _at(schema, error.schema_path[:-1]) if kind.name == "pattern" else {}
    if examples := ruled.get("examples"):
        return Violation(pointer, f"must look like {examples[0]}")
    return broken_rule(pointer, kind.name, kind.value)


def _at(schema: Schema, path: Sequence[str | int]) -> Any:
    """What is in a schema at a place."""
    found: Any = schema
    for step in path:
        found = found[step]
    return found


_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


_SENTENCES: dict[str, Callable[[Any], str]] = {
    "type": lambda types: f"must be {' or '.join(_TYPES[name] for name in types)}",
    "enum": lambda values: (
        f"must be one of {', '.join(str(value) for value in values if value is not None)}"
    ),
    "const": lambda value: f"must be {value}",
    "format": lambda name: f"must be a valid {name}",
    "pattern": lambda pattern: f"must match {pattern}",
    "minLength": lambda limit: f"must have at least {limit} character{'' if limit == 1 else 's'}",
    "maxLength": lambda limit: f"must have at most {limit} characters",
    "minimum": lambda limit: f"must be at least {limit}",
    "maximum": lambda limit: f"must be at most {limit}",
    "exclusiveMinimum": lambda limit: f"must be above {limit}",
    "exclusiveMaximum": lambda limit: f"must be below {limit}",
    "multipleOf": lambda step: f"must be a multiple of {step}",
    "minItems": lambda limit: f"must have at least {limit} item{'' if limit == 1 else 's'}",
    "maxItems": lambda limit: f"must have at most {limit} items",
    "uniqueItems": lambda _: "must not repeat an item",
    "minProperties": lambda limit: f"must have at least {limit} member{'' if limit == 1 else 's'}",
    "maxProperties": lambda limit: f"must have at most {limit} members",
    "additionalProperties": lambda names: (
        f"has {len(names)} unknown member{'' if len(names) == 1 else 's'}"
    ),
    "not": lambda _: "is not allowed",
    "anyOf": lambda _: "fits none of the allowed forms",
    "oneOf": lambda _: "must fit exactly one of the allowed forms",
}
