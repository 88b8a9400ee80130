"""Tools from the contract: each one's arguments, schemas and checks, as a pure function of it.

An argument is one flat name for one input of the REST operation: a parameter, a member of the JSON
body, a field of a form, or the whole body where the document does not say what is in it. A file of a
form is given as text or as JSON objects, and an answer that is no JSON is read by lines. Input schemas
are strict and use only what every large client accepts. Output schemas are lenient: a strict client
throws away a whole result for one value that it does not expect. Models read all of it before each
call that they make, so it says nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mcp_bridge.own_arguments import KEY, KEY_SCHEMA, MAX_LINES, own_arguments
from openapi.contract import Body, Contract, ContractError, Operation, Schema, Tool
from openapi.job_hints import ResultsHint
from openapi.json_schema import to_json_schema
from openapi.names import Names
from openapi.validation import Validator

KEY_HEADER = "Idempotency-Key"
NOTE = "_note"
PART = "_part"
_NOTE_SCHEMA: Schema = {
    "type": "string",
    "description": "Remarks on this result.",
}
_LINES_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "from": {
            "type": "integer",
            "description": "The number of the first line here, counted from 0.",
        },
        "lines": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The lines as texts, without their ends.",
        },
        "next_from": {
            "type": "integer",
            "description": "Where to go on; null after the last line.",
        },
    },
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

    `location` is path, query, header, `member` (of the body), `body` (all of it) or `key`; `field` of a form; `file-text`,
    `file-lines` or `file-name` of its part `target`; or one of the bridge's own (`own_arguments`).
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
class File:
    """A part of a form that is a file, and the arguments that may give its content, of which a call has one."""

    required: bool
    text: str
    lines: str


@dataclass(frozen=True)
class CallableTool:
    """A tool as the bridge offers it; `names` are its arguments', `checks` names the tools that show whether a call took effect, `look`
    the one that shows by its id what a call made, if there is one.
    """

    declared: Tool
    operation: Operation
    arguments: Mapping[str, Argument]
    names: Names
    check: Validator
    input_schema: Schema
    output_schema: Schema
    files: tuple[File, ...]
    checks: str
    look: str

    @property
    def keyed(self) -> bool:
        """True when a second call would act a second time unless it carries the first one's key."""
        return self.operation.takes_key and not self.declared.read_only

    @cached_property
    def names_by_use(self) -> Mapping[str, str]:
        """The names of its own arguments (`own_arguments`) by what each is for."""
        return {each.location: name for name, each in self.arguments.items()}

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
    declared = [(each, each.tool) for each in contract.operations.values() if each.tool]
    return {tool.name: _callable(operation, tool, declared) for operation, tool in declared}


def _callable(
    operation: Operation, tool: Tool, declared: Sequence[tuple[Operation, Tool]]
) -> CallableTool:
    arguments = {
        each.name: replace(each, required=each.required and each.name not in tool.defaults)
        for each in _arguments(operation, tool)
    }
    if strange := tool.defaults.keys() - arguments.keys():
        raise ContractError(f"{tool.name}: defaults for {sorted(strange)}, which are no arguments")
    reading = [
        (each, look) for each, look in declared if look.read_only and not each.answer_streamed
    ]
    checks = [look.name for each, look in reading if each.namespace == operation.namespace]
    # Those that show one thing by its id.
    looks = {look.name: each for each, look in reading if each.path.endswith("}")}
    answer = _LINES_SCHEMA if operation.answer_streamed else operation.response_schema
    if operation.hints.results:
        answer = _with_results(answer, operation.hints.results)
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
        names=Names(flat["properties"]),
        check=Validator(flat | {rule: whole[rule] for rule in _ROOT_RULES if rule in whole}),
        input_schema=_input_schema(flat, tool.defaults),
        output_schema=_output_schema(
            answer,
            {name: look.response_schema for name, look in looks.items() if name != tool.name},
        ),
        files=tuple(_files(operation, arguments)),
        checks=" or ".join(checks or ["the operator"]),
        look=next(
            (name for name, each in looks.items() if _parent(each.path) == operation.path), ""
        ),
    )


def _parent(path: str) -> str:
    """A path without its last step."""
    return path.rpartition("/")[0]


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
    if operation.body and operation.body.form:
        for argument in _form(operation.body):
            name = argument.name if argument.name not in taken else f"form_{argument.name}"
            taken.add(name)
            yield replace(argument, name=name)
    elif operation.body:
        members = list(_members(operation.body))
        if not members or taken.intersection(member.name for member in members):
            schema = _described("body", operation.body.schema, operation.body.description)
            members = [Argument("body", "body", "body", schema, operation.body.required)]
        taken.update(member.name for member in members)
        yield from members
    prefix = "line" if operation.answer_streamed else "result"
    for name, location, shown in own_arguments(operation, large=_is_shown_in_parts(operation)):
        yield Argument(name if name not in taken else f"{prefix}_{name}", name, location, shown)
    own = {parameter.name.lower() for parameter in operation.parameters}
    known = tool.read_only or KEY_HEADER.lower() in own or KEY in taken
    if operation.takes_key and not known:
        yield Argument(KEY, KEY, "key", KEY_SCHEMA)


def _is_shown_in_parts(operation: Operation) -> bool:
    """True when a result can be large, and a call be made once more to see another part of it."""
    large = _may_be_large(operation.response_schema)
    return operation.safe and not operation.answer_streamed and large


def _may_be_large(schema: Schema) -> bool:
    """True for a schema that has a list in it, or says nothing of what it has."""
    if "properties" in schema:
        return any(_may_be_large(child) for child in schema["properties"].values())
    return schema.get("type") in ("array", "object", None)


def _members(body: Body) -> Iterator[Argument]:
    required = body.schema.get("required", []) if body.required else []
    for name, schema in body.schema.get("properties", {}).items():
        if not schema.get("readOnly"):
            yield Argument(name, name, "member", _described(name, schema), name in required)


def _form(body: Body) -> Iterator[Argument]:
    """The fields of a form, and for each file of it three arguments: many clients refuse one that has two types."""
    required = body.schema.get("required", []) if body.required else []
    for name, schema in body.schema.get("properties", {}).items():
        if schema.get("format") != "binary":
            yield Argument(name, name, "field", _described(name, schema), name in required)
            continue
        text, lines, file_name = (f"{name}_{kind}" for kind in ("text", "lines", "name"))
        said = _described(name, schema)["description"]
        yield Argument(
            lines,
            name,
            "file-lines",
            {
                "type": "array",
                "maxItems": MAX_LINES,
                "items": {"type": "object"},
                "description": f"{said} Given as objects: each becomes a line.",
                "x-aliases": [
                    "lines",
                    "requests",
                    "objects",
                    "rows",
                    "records",
                    "items",
                    "jsonl_lines",
                ],
            },
        )
        instead = f"The same as text, in place of {lines}: all of the content, not a path."
        unread: Schema = {
            "type": "string",
            "x-unread": True,
            "x-aliases": [name, "text", "content", "contents", f"{name}_content", "data", "jsonl"],
            "description": instead,
        }
        yield Argument(text, name, "file-text", unread)
        named: Schema = {
            "type": "string",
            "pattern": r'^[^/\\"\x00-\x1f\x7f]{1,255}$',
            "examples": ["data.jsonl"],
            "default": name,
            "x-aliases": ["name"],
            "description": f"What the {name} is to be called; no path.",
        }
        yield Argument(file_name, name, "file-name", named)


def _files(operation: Operation, arguments: Mapping[str, Argument]) -> Iterator[File]:
    required = operation.body.schema.get("required", []) if operation.body else []
    by_place = {(each.location, each.target): each.name for each in arguments.values()}
    for (location, part), text in by_place.items():
        if location == "file-text":
            yield File(part in required, text, by_place["file-lines", part])


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
    """A schema with the formats alone that all clients know, and without what it says twice: an example of its description's or of
    its values, and of an array what its items are.
    """
    if isinstance(node, list):
        return [_portable(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _portable(value)
        for key, value in node.items()
        if key != "format" or not isinstance(value, str) or value in _PORTABLE_FORMATS
    }
    if isinstance(examples := kept.get("examples"), list) and not _unsaid(kept, examples):
        del kept["examples"]
    if isinstance(items := kept.get("items"), dict) and isinstance(kept.get("description"), str):
        items.pop("description", None)
    return kept


def _unsaid(schema: Schema, values: Iterable[Any]) -> bool:
    """Whether one of the values is named neither by the schema's description nor among its values."""
    said, known = schema.get("description", ""), schema.get("enum", ())
    return not all(value in known or str(value) in said for value in values if value is not None)


def _output_schema(schema: Schema, described: Mapping[str, Schema]) -> Schema:
    """What to expect of an answer: its members, and what they mean.

    What another tool shows by its id is described there alone. `described` are these things, by the tools' names.
    """
    if schema.get("type") != "object":  # results are objects, so anything else comes as a member
        schema = {"properties": {"result": schema}}
    known = _lenient(schema, described)
    if "properties" in known:  # which say it
        known.pop("description", None)
    properties = {NOTE: _NOTE_SCHEMA, **known.get("properties", {})}
    return {"type": "object", **known, "properties": properties}


def _with_results(answer: Schema, results: ResultsHint) -> Schema:
    """An answer whose results are shown in parts and in brief."""
    name = results.id.rpartition(".")[2]
    members = answer.get("properties", {})
    said = members.get(results.member, {}).get("description", "The results.")
    shown: Schema = {
        "summary": {
            "type": "object",
            "description": "How many succeeded and failed, and the errors by how often each came.",
        },
        results.member: {
            "type": "array",
            "items": {"type": "object"},
            "description": f"{said} Each has its {name} and answer or error, unless full is true.",
        },
        "next_from": {
            "type": "integer",
            "description": "How many results to skip to go on; null after the last.",
        },
    }
    return {**answer, "properties": {**members, **shown}}


def _lenient(schema: Schema, described: Mapping[str, Schema]) -> Schema:
    """A schema without anything that a new value, field or null could break."""
    for tool, known in described.items():
        if "properties" in schema and schema == known:
            return {"type": "object", "description": f"As {tool} has it."}
    said = schema.get("description", "")
    kept: Schema = {key: schema[key] for key in ("type", "description") if key in schema}
    values = schema.get("enum") or schema.get("x-extensible-enum") or ()
    if _unsaid(kept, values):
        kept["examples"] = [value for value in values if value is not None]
    if "properties" in schema:
        members = schema["properties"].items()
        kept["properties"] = {name: _or_null(_lenient(child, described)) for name, child in members}
    if "items" in schema:
        kept["items"] = _lenient(schema["items"], described)
        if said and kept["items"].get("description") == schema["items"].get("description"):
            kept["items"].pop("description", None)
    return kept


def _or_null(schema: Schema) -> Schema:
    if "properties" in schema or "items" in schema:  # these say nothing of null
        return {key: value for key, value in schema.items() if key != "type"}
    # Clients refuse type arrays, and Inspector warns of a schema without a type.
    forms = [schema, {"type": "null"}] if "type" in schema else _ANYTHING
    outer = {"description": schema.pop("description")} if "description" in schema else {}
    return {**outer, "anyOf": forms}
