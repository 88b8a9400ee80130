"""Tools from the contract: each one's arguments, schemas and checks, as a pure function of it.

An argument is one flat name for one input of the REST operation: a parameter, a member of the JSON
body, or the whole body where the document does not say what is in it. Input schemas are strict and
use only what every large client accepts. Output schemas are lenient: a strict client throws away a
whole result for one value that it does not expect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openapi.contract import Body, Contract, ContractError, Operation, Schema, Tool
from openapi.json_schema import to_json_schema
from openapi.validation import Validator

KEY = "idempotency_key"
KEY_HEADER = "Idempotency-Key"
NOTE = "_note"
_KEY_SCHEMA: Schema = {
    "type": "string",
    "pattern": "^[!-~]{1,255}$",
    "description": (
        "Optional name for this one action, without spaces: calls with the same key act once, and"
        " a repeat gets the first result. Left out, it is made from the other arguments; give a"
        " new one to do the same thing again on purpose."
    ),
}
_NOTE_SCHEMA: Schema = {
    "type": "string",
    "description": "A remark on this result, such as what was left out of it.",
}
# Gemini refuses any other format of a text, and with it all tools of the session. Patterns stay.
_PORTABLE_FORMATS = ("date-time",)
_ANYTHING: list[Schema] = [
    {"type": name} for name in ("string", "number", "boolean", "object", "array", "null")
]
# Anthropic and OpenAI take none of these at a tool's root, so they are checked, not advertised.
_ROOT_RULES = ("allOf", "anyOf", "oneOf", "not", "minProperties", "maxProperties")


@dataclass(frozen=True)
class Argument:
    """One argument of a tool; `target` is its name at the REST service, `schema` OpenAPI 3.0.

    `location` is path, query, header, `member` (of the body), `body` (all of it) or `key`.
    `members` makes each member of the object a query parameter; `explode` false joins with commas.
    """

    name: str
    target: str
    location: str
    schema: Schema
    required: bool = False
    explode: bool = True
    members: bool = False


@dataclass(frozen=True)
class CallableTool:
    """A tool as the bridge offers it."""

    declared: Tool
    operation: Operation
    arguments: Mapping[str, Argument]
    check: Validator
    input_schema: Schema
    output_schema: Schema

    @property
    def keyed(self) -> bool:
        """True when a second call would act a second time, so that calls carry a key."""
        return not (self.declared.read_only or self.declared.idempotent)

    def listing(self) -> dict[str, Any]:
        """The tool as an item of `tools/list`."""
        return {
            "name": self.declared.name,
            "title": self.declared.title,
            "description": self.declared.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "annotations": {
                "title": self.declared.title,
                "readOnlyHint": self.declared.read_only,
                "destructiveHint": self.declared.destructive,
                "idempotentHint": self.declared.idempotent,
                "openWorldHint": self.declared.open_world,
            },
        }


def build_tools(contract: Contract) -> dict[str, CallableTool]:
    """The contract's tools by name, in the document's order."""
    return {
        operation.tool.name: _callable(operation, operation.tool)
        for operation in contract.operations.values()
        if operation.tool
    }


def _callable(operation: Operation, tool: Tool) -> CallableTool:
    arguments = {argument.name: argument for argument in _arguments(operation, tool)}
    if strange := tool.defaults.keys() - arguments.keys():
        raise ContractError(f"{tool.name}: defaults for {sorted(strange)}, which are no arguments")
    flat: Schema = {
        "type": "object",
        "properties": {argument.name: argument.schema for argument in arguments.values()},
        "required": [argument.name for argument in arguments.values() if argument.required],
    }
    whole = operation.body.schema if operation.body else {}
    return CallableTool(
        declared=tool,
        operation=operation,
        arguments=arguments,
        check=Validator(flat | {rule: whole[rule] for rule in _ROOT_RULES if rule in whole}),
        input_schema=_input_schema(flat, tool.defaults),
        output_schema=_output_schema(operation.response_schema),
    )


def _arguments(operation: Operation, tool: Tool) -> Iterator[Argument]:
    names = {target: argument for argument, target in tool.arguments.items()}
    taken = set()
    for parameter in operation.parameters:
        name = names.get(parameter.name, parameter.name)
        taken.add(name)
        yield Argument(
            name=name,
            target=parameter.name,
            location=parameter.location,
            schema=_described(name, parameter.schema, parameter.description),
            required=parameter.required,
            explode=parameter.explode,
            members=parameter.takes_unknown,
        )
    if operation.body:
        members = list(_members(operation.body))
        if not members or taken.intersection(member.name for member in members):
            schema = _described("body", operation.body.schema, operation.body.description)
            members = [Argument("body", "body", "body", schema, operation.body.required)]
        taken.update(member.name for member in members)
        yield from members
    own = {parameter.name.lower() for parameter in operation.parameters}
    if not (tool.read_only or tool.idempotent or KEY_HEADER.lower() in own or KEY in taken):
        yield Argument(KEY, KEY, "key", _KEY_SCHEMA)


def _members(body: Body) -> Iterator[Argument]:
    required = body.schema.get("required", []) if body.required else []
    for name, schema in body.schema.get("properties", {}).items():
        if not schema.get("readOnly"):
            yield Argument(name, name, "member", _described(name, schema), name in required)


def _described(name: str, schema: Schema, description: str = "") -> Schema:
    known = description or schema.get("description")
    return {**schema, "description": known or f"The {name.replace('_', ' ')} of the call."}


def _input_schema(flat: Schema, defaults: Mapping[str, Any]) -> Schema:
    schema: Schema = _portable(to_json_schema(flat, null="drop"))
    for name, value in defaults.items():
        schema["properties"][name]["default"] = value
    if not schema["required"]:
        del schema["required"]
    return {**schema, "additionalProperties": False}


def _portable(node: Any) -> Any:
    if isinstance(node, list):
        return [_portable(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _portable(value)
        for key, value in node.items()
        if key != "format" or not isinstance(value, str) or value in _PORTABLE_FORMATS
    }


def _output_schema(schema: Schema) -> Schema:
    if schema.get("type") != "object":  # results are objects, so anything else comes as a member
        schema = {"type": "object", "properties": {"result": schema}}
    lenient = _lenient(schema)
    properties = {NOTE: _NOTE_SCHEMA, **lenient.get("properties", {})}
    return {**lenient, "properties": properties}


def _lenient(schema: Schema) -> Schema:
    """What to expect of an answer, without anything that a new value, field or null could break."""
    kept: Schema = {key: schema[key] for key in ("type", "description") if key in schema}
    if known := schema.get("enum") or schema.get("x-extensible-enum"):
        kept["examples"] = [value for value in known if value is not None]
    if "properties" in schema:
        kept["properties"] = {
            name: _or_null(_lenient(child)) for name, child in schema["properties"].items()
        }
    if "items" in schema:
        kept["items"] = _lenient(schema["items"])
    return kept


def _or_null(schema: Schema) -> Schema:
    forms = [schema, {"type": "null"}] if "type" in schema else _ANYTHING
    outer = {"description": schema.pop("description")} if "description" in schema else {}
    return {**outer, "anyOf": forms}
