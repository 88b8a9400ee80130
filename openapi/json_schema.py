"""OpenAPI 3.0 schemas as JSON Schema 2020-12, which validators and MCP clients read.

Facts: OpenAPI 3.0.3 "Schema Object" (`nullable`, boolean `exclusiveMinimum`, `example`) against JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

Null = Literal["type", "anyOf", "drop"]
_Rewrite = Callable[[Any], Any]

_OPENAPI_ONLY = ("nullable", "discriminator", "xml", "externalDocs", "readOnly", "writeOnly")

# What rewrites the value of a keyword with schemas in it, given what rewrites a schema; others stay as they are.
_INNER: dict[str, Callable[[Any, _Rewrite], Any]] = {
    **dict.fromkeys(
        ("items", "not", "additionalProperties"),
        lambda inner, rewrite: rewrite(inner) if isinstance(inner, dict) else inner,
    ),
    **dict.fromkeys(
        ("allOf", "anyOf", "oneOf"), lambda inner, rewrite: [rewrite(each) for each in inner]
    ),
    "properties": lambda inner, rewrite: {name: rewrite(each) for name, each in inner.items()},
}


def to_json_schema(schema: dict[str, Any], *, null: Null) -> dict[str, Any]:
    """The JSON Schema 2020-12 form of an OpenAPI 3.0 `schema` that holds no `$ref`.

    `null` says how a nullable schema admits null: `type` by a type array (shortest, for our own validators),
    `anyOf` by an alternative (for clients that refuse type arrays), `drop` not at all (for inputs where absence
    says the same). Members that start with `x-` are dropped, but for `x-propertyNames`, which says what OpenAPI 3.0
    has no keyword for and which our own validators enforce.
    """
    rewrite = partial(to_json_schema, null=null)
    lowered = {
        key: _INNER[key](value, rewrite) if key in _INNER else value
        for key, value in schema.items()
        if key not in _OPENAPI_ONLY and not key.startswith("x-")
    }
    if null == "type" and "x-propertyNames" in schema:
        lowered["propertyNames"] = schema["x-propertyNames"]
    if "example" in lowered:
        lowered["examples"] = [lowered.pop("example")]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(lowered.get(exclusive), bool) and lowered.pop(exclusive):
            lowered[exclusive] = lowered.pop(bound)
    return _admit_null(lowered, null) if schema.get("nullable") else lowered


def _admit_null(schema: dict[str, Any], null: Null) -> dict[str, Any]:
    if null == "drop":
        if "enum" in schema:
            schema["enum"] = [value for value in schema["enum"] if value is not None]
        return schema
    if null == "type" and "type" in schema:
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    outer: dict[str, Any] = {
        key: schema.pop(key)
        for key in ("title", "description", "default", "examples")
        if key in schema
    }
    return {**outer, "anyOf": [schema, {"type": "null"}]}
