"""Checking a value against a schema of the contract: every violation as a pointer and a sentence, never the value itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

from jsonschema_rs import Draft202012Validator, ValidationError

from .contract import Schema
from .json_schema import to_json_schema

MAX_VIOLATIONS = 50
SMALL = 200
"""Members and items of a value whose violations are listed at once."""

UNREADABLE = "is nested too deeply or is no valid Unicode"
_NEAR = 0.75


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong: a JSON pointer (RFC 6901) to it and a sentence without a subject, such as `must be text`."""

    pointer: str
    detail: str


class Validator:
    """A schema, compiled. Thread-safe; make it once and keep it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._lowered = to_json_schema(schema, null="type")
        self._validator = _compiled(self._lowered)

    def violations(self, value: Any, at: str = "") -> list[Violation]:
        """What is wrong with `value`, a violation a place, at most MAX_VIOLATIONS + 1 of them; `at` is the pointer to `value`."""
        if self._validator.is_valid(value):
            return []
        found: dict[str, Violation] = {}
        # ValueError: a violation in what cannot be shown, of more than 255 levels for one.
        with suppress(ValueError):
            several = _violations(value, self._lowered, self._validator, at)
            for violation in islice(several, 4 * MAX_VIOLATIONS):
                found.setdefault(violation.pointer, violation)
                if len(found) > MAX_VIOLATIONS:
                    break
        return list(found.values()) or [Violation(at, UNREADABLE)]

    def unknown_members(self, value: Any, at: str = "") -> tuple[list[Violation], list[str]]:
        """Members of `value` that the schema does not name, as (violations, pointers).

        A violation is a member that looks like a misspelling of a known one, or is one of its `x-aliases`; the pointers
        are those of all other unknown members. At most MAX_VIOLATIONS + 1 of each.
        """
        violations: list[Violation] = []
        unknown: list[str] = []
        for pointer, name, properties in islice(
            _strangers(value, self.schema, at), 4 * MAX_VIOLATIONS
        ):
            meant = near_name(name, properties)
            if meant:
                violations.append(
                    Violation(pointer, f"is not a known member; did you mean {meant}?")
                )
            else:
                unknown.append(pointer)
        return violations[: MAX_VIOLATIONS + 1], unknown[: MAX_VIOLATIONS + 1]


def near_name(name: str, properties: dict[str, Schema] | Iterable[str]) -> str | None:
    """The known name that `name` probably stands for: an alias, the same letters in another case style, or a near spelling."""
    schemas = properties if isinstance(properties, dict) else {known: {} for known in properties}
    spellings = {letters(known): known for known in schemas}
    for known, schema in schemas.items():
        spellings |= {letters(alias): known for alias in schema.get("x-aliases", ())}
    near = get_close_matches(letters(name[:200])[:64], spellings, n=1, cutoff=_NEAR)
    return spellings[near[0]] if near else None


def pointer_token(token: str | int) -> str:
    """`token` as one step of a JSON pointer (RFC 6901 section 3), cut at a length that no honest name has."""
    return str(token)[:100].replace("~", "~0").replace("/", "~1")


def size_violation(at: str, rule: str, limit: int) -> Violation:
    """The violation of a value that breaks `rule`, such as maxItems, whose limit is given."""
    return Violation(at, _SENTENCES[rule](limit))


def letters(name: str) -> str:
    """The name without case, hyphens and underscores, which is how names are compared that should have been the same."""
    return name.replace("_", "").replace("-", "").lower()


def _strangers(value: Any, schema: Schema, at: str) -> Iterator[tuple[str, str, dict[str, Schema]]]:
    """(pointer, name, known properties) of each member that an object schema with named properties does not name."""
    if isinstance(value, dict) and (properties := schema.get("properties")):
        for name, member in value.items():
            if name in properties:
                yield from _strangers(member, properties[name], f"{at}/{name}")
            else:
                yield f"{at}/{pointer_token(name)}", name, properties
    elif isinstance(value, list) and (properties := schema.get("items", {}).get("properties")):
        known = properties.keys()
        deep = any(child.get("properties") or child.get("items") for child in properties.values())
        for index, item in enumerate(value):
            # The quick test keeps ten thousand well-spelt items cheap.
            if isinstance(item, dict) and (deep or not item.keys() <= known):
                yield from _strangers(item, schema["items"], f"{at}/{index}")


def _compiled(schema: Schema) -> Draft202012Validator:
    return Draft202012Validator(schema, validate_formats=True, mask="value")


def _violations(
    value: Any, schema: Schema, validator: Draft202012Validator, at: str
) -> Iterator[Violation]:
    """The violations of `value`, in no order that means anything; a pointer may occur twice, the best sentence first.

    The validator lists all that it finds before it shows one, a million violations in a body of a few megabytes. So a
    large value is taken apart along the schema, and whoever has enough violations stops.
    """
    if validator.is_valid(value):
        return
    if not _is_large(value):
        errors = validator.iter_errors(value)
        # The format reads better than a pattern beside it.
        for error in sorted(errors, key=lambda error: error.kind.name != "format"):
            yield _violation(error, at, schema)
        return
    found = False
    for violation in _size_violations(value, schema, at) if _is_container(value) else ():
        found = True
        yield violation
    for part, its_schema, its_validator, place in _parts(value, schema):
        for violation in _violations(part, its_schema, its_validator, f"{at}{place}"):
            found = True
            yield violation
    if not found:
        yield _violation(_first(value, validator), at, schema)


def _first(value: Any, validator: Draft202012Validator) -> ValidationError:
    """An error of the large `value`; showing one takes as long as the value is large, so its type is looked at first."""
    for error in validator.iter_errors(type(value)()):
        if error.kind.name == "type":
            return error
    try:
        validator.validate(value)
    except ValidationError as error:
        return error
    raise ValueError("valid after all")


def _parts(value: Any, schema: Schema) -> Iterator[tuple[Any, Schema, Draft202012Validator, str]]:
    """(part, schema, validator, pointer) of the parts that a large value can be checked by, each smaller than it."""
    if isinstance(value, list) and "items" in schema:
        validator = _compiled(schema["items"])
        for index, item in enumerate(value):
            yield item, schema["items"], validator, f"/{index}"
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        inner = {name for name in properties if _is_container(value.get(name))}
        for name in inner:
            yield value[name], properties[name], _compiled(properties[name]), f"/{name}"
        if inner or len(value) > SMALL:
            yield from _members(value, schema, inner)


def _members(
    value: dict[str, Any], schema: Schema, inner: set[str]
) -> Iterator[tuple[Any, Schema, Draft202012Validator, str]]:
    """As `_parts`: the members of an object but for the `inner` ones, its named ones together, the others some at a time."""
    properties = {n: child for n, child in schema.get("properties", {}).items() if n not in inner}
    required = [name for name in schema.get("required", ()) if name not in inner]
    shared = {k: v for k, v in schema.items() if k not in _OF_ALL_MEMBERS}
    named = {**shared, "properties": properties, "required": required}
    yield {n: value[n] for n in properties if n in value}, named, _compiled(named), ""
    others = {k: v for k, v in shared.items() if k not in ("properties", "required")}
    names = (name for name in value if name not in properties and name not in inner)
    validator = _compiled(others)
    while some := {name: value[name] for name in islice(names, SMALL // 4)}:
        yield some, others, validator, ""


def _size_violations(value: Any, schema: Schema, at: str) -> Iterator[Violation]:
    """What its parts do not show: that there are too many of them, or too few."""
    least, most = (
        ("minItems", "maxItems") if isinstance(value, list) else ("minProperties", "maxProperties")
    )
    if len(value) > schema.get(most, math.inf):
        yield size_violation(at, most, schema[most])
    if len(value) < schema.get(least, 0):
        yield size_violation(at, least, schema[least])


# What is said of an object as a whole, and not of any of its parts.
_OF_ALL_MEMBERS = {"minProperties", "maxProperties", "allOf", "anyOf", "oneOf", "not"}


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list)


def _is_large(value: Any) -> bool:
    """True when `value` has more than SMALL members and items, however deep."""
    waiting, seen = [value], 0
    while waiting and seen <= SMALL:
        node = waiting.pop()
        seen += 1
        if _is_container(node):
            children = node.values() if isinstance(node, dict) else node
            waiting.extend(islice(children, SMALL))
    return seen > SMALL


def _violation(error: ValidationError, at: str, schema: Schema) -> Violation:
    kind = error.kind
    pointer = at + "".join(f"/{pointer_token(step)}" for step in error.instance_path)
    if kind.name == "required":
        return Violation(f"{pointer}/{pointer_token(kind.value)}", "is required")
    if kind.name == "propertyNames":
        return Violation(pointer, f"has a member whose name {_sentence(kind.value.kind)}")
    example = _example(error, schema) if kind.name == "pattern" else None
    return Violation(pointer, f"must look like {example}" if example else _sentence(kind))


def _example(error: ValidationError, schema: Any) -> str | None:
    """The example beside the rule that was broken, if it has one: a pattern is hard to read."""
    for step in error.schema_path[:-1]:
        schema = schema[step]
    return next(iter(schema.get("examples", ())), None)


def _sentence(kind: Any) -> str:
    sentence = _SENTENCES.get(kind.name)
    return sentence(kind.value) if sentence else f"breaks the rule {kind.name}"


_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


def _one_of(values: list[Any]) -> str:
    return f"must be one of {', '.join(str(value) for value in values if value is not None)}"


_SENTENCES: dict[str, Callable[[Any], str]] = {
    "type": lambda types: f"must be {' or '.join(_TYPES[name] for name in types)}",
    "enum": _one_of,
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
