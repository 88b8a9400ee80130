"""A Naftiko capability file, read and checked: what it consumes and exposes, and where each stands.

`read` is the only way in. It refuses whatever could not be run, with the place in the file;
`inputs` and `derive` turn the rest into an OpenAPI document. Nothing here knows a particular API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml
from jsonschema import Draft202012Validator, ValidationError

from openapi.contract import Constant, is_page, path_variables
from openapi.names import letters, near_name

Declared = dict[str, Any]
Placed = tuple[Declared, str]
"""A part of the file as declared, and its place."""

FORM = Path(__file__).with_name("capability.schema.json")
_VARIABLE = re.compile(r"\{\{\s*([^{}/]+?)\s*\}\}|\{([^{}/]+)\}")


class CapabilityError(ValueError):
    """The file cannot be run: a place in it, such as `capability.exposes[0].port`, and why."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


@dataclass(frozen=True)
class Input:
    """One input of a consumed operation. `location` is path, query, header or body."""

    name: str
    location: str
    declared: Declared
    place: str

    def fixed(self, value: str | float | bool, place: str) -> Constant:
        """This input fixed to the literal `value`, which stands at `place`; CapabilityError."""
        if self.location == "body":
            raise CapabilityError(place, "a constant body cannot be run")
        if isinstance(value, str) and ("{{" in value or value.startswith("$")):
            raise CapabilityError(place, f"the expression {value!r} cannot be run")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return Constant(self.location, self.name, text)


@dataclass(frozen=True)
class Consumed:
    """What is called upstream: `path` with `{name}` variables and no query string, all inputs named
    once, path variables first."""

    call: str
    method: str
    path: str
    inputs: tuple[Input, ...]
    constants: tuple[Constant, ...]
    description: str
    binary: bool

    @property
    def namespace(self) -> str:
        """That of the upstream it belongs to."""
        return self.call.partition(".")[0]


@dataclass(frozen=True)
class Exposed:
    """An exposed operation or a tool, which has neither `path`, `route` nor `resource`.

    `path` is the template as declared, `route` the same in the variables of the first declared path
    that equals it but for its variables, since OpenAPI has them as one path.
    `namespaces` are the two prefixes by which `with` refers to its inputs, `foreign` those that
    refer to anything else; `shared` are the inputs that its resource and surface declare, `own`
    those that it declares itself.
    """

    name: str
    declared: Declared
    place: str
    consumed: Consumed
    namespaces: tuple[str, str]
    foreign: frozenset[str]
    path: str = ""
    route: str = ""
    resource: str = ""
    shared: tuple[Placed, ...] = ()

    @property
    def own(self) -> list[Placed]:
        return list(_each(self.declared, "inputParameters", self.place))

    @property
    def place_of_path(self) -> str:
        return self.place.rpartition(".")[0] + ".path"

    @property
    def description(self) -> str:
        """What it does, in the file's words."""
        text: str = self.declared.get("description") or self.consumed.description or self.name
        return text


@dataclass(frozen=True)
class Capability:
    """The whole file. `consumes` are the upstreams by namespace; `mcp` is empty when absent; `tools` are keyed by the operation
    they run."""

    source: Path
    declared: Declared
    consumes: dict[str, Placed]
    rest: Declared
    mcp: Declared
    operations: tuple[Exposed, ...]
    tools: dict[str, Exposed]


def read(source: Path) -> Capability:
    """The capability in the YAML file `source`; CapabilityError, which names it, for what could not be run."""
    with within(source):
        return _read(source)


@contextmanager
def within(source: Path) -> Iterator[None]:
    """Puts the file's name before a place in it, in whatever CapabilityError comes out."""
    try:
        yield
    except CapabilityError as error:
        raise CapabilityError(str(source), str(error)) from error


def shape(path: str) -> str:
    """What is alike in path templates that differ only in the names of their variables."""
    return re.sub(r"\{[^{}]+\}", "{}", path)


def _read(source: Path) -> Capability:
    declared = load(source)
    _check_form(declared)
    consumes = _upstreams(declared)
    rest, place_of_rest = _only(declared["capability"], "exposes", "rest")
    mcp, place_of_mcp = _only(declared["capability"], "exposes", "mcp", optional=True)
    consumed = {
        each.call: each
        for upstream, place in consumes.values()
        for each in _consumed(upstream, place)
    }
    parts = [rest, mcp, *declared.get("binds", [])]
    named = frozenset(
        {"rest", "tools", "env", *consumes, *(each.get("namespace") for each in parts)}
    )
    operations = tuple(_operations(rest, place_of_rest, consumed, named))
    _check_routes(operations)
    tools = _tools(mcp, place_of_mcp, consumed, named, operations)
    return Capability(source, declared, consumes, rest, mcp, operations, tools)


def hint(name: Any, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the known name nearest to `name`; empty when none is near."""
    meant = near_name(str(name), known)
    return f"; did you mean {meant!r}?" if meant else ""


def place_in(place: str, step: str | int) -> str:
    """The place of the key or index `step` within the node at `place`."""
    if isinstance(step, str) and re.fullmatch(r"[\w-]+", step):
        return f"{place}.{step}" if place else step
    return f"{place}[{step!r}]"


# --- the file -------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error and a date stays the text that was written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                problem = f"the key {key.value!r} is repeated"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(source: Path) -> Any:
    """The YAML in the file `source`, repeated keys refused, dates as text; CapabilityError."""
    try:
        return yaml.load(source.read_text(encoding="utf-8"), _Loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise CapabilityError("file", f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
        raise CapabilityError(place, f"not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise CapabilityError("file", f"not YAML: {' '.join(str(error).split())}") from error


def _check_form(declared: Any) -> None:
    validator = Draft202012Validator(json.loads(FORM.read_text(encoding="utf-8")))
    # A misspelt key is also a missing one, and an unsupported one makes others look missing.
    urgency = {"not": 0, "additionalProperties": 1}
    errors = sorted(
        validator.iter_errors(declared), key=lambda each: urgency.get(str(each.validator), 2)
    )
    if errors:
        place = ""
        for step in errors[0].absolute_path:
            place = place_in(place, step)
        raise _form_error(errors[0], place)


def _form_error(error: ValidationError, place: str) -> CapabilityError:
    found: Any = error.instance
    rule: Any = error.validator_value
    schema: Any = error.schema
    reason = schema.get("$comment")
    match error.validator:
        case "additionalProperties":
            known = schema["properties"]
            unknown = next(key for key in found if key not in known)
            place = place_in(place, unknown)
            reason = f"unknown key{hint(unknown, known) or '; known are ' + ', '.join(known)}"
        case "required":
            reason = f"{next(key for key in rule if key not in found)!r} is missing"
        case "type":
            wanted = " or ".join(rule if isinstance(rule, list) else [rule])
            reason = f"must be {wanted}, is {_TYPES.get(type(found), 'null')}"
        case "enum":
            reason = reason or f"must be one of {', '.join(rule)}"
            reason += f", is {found!r}{hint(found, rule)}"
        case "minLength":
            reason = "must not be empty"
    return CapabilityError(place or "file", reason or error.message.splitlines()[0])


_TYPES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
}


# --- its structure --------------------------------------------------------------------------------


def _each(declared: Declared, key: str, place: str) -> Iterator[Placed]:
    for index, child in enumerate(declared.get(key, [])):
        yield child, f"{place}.{key}[{index}]"


def _only(declared: Declared, key: str, kind: str, optional: bool = False) -> Placed:
    found = [each for each in _each(declared, key, "capability") if each[0]["type"] == kind]
    if len(found) > 1:
        raise CapabilityError(found[1][1], f"a second {kind}; only one can be run")
    if not found and not optional:
        raise CapabilityError(f"capability.{key}", f"no {kind} among them; one is needed")
    return found[0] if found else ({}, "")


def _upstreams(declared: Declared) -> dict[str, Placed]:
    """What the file consumes, by namespace."""
    found: dict[str, Placed] = {}
    for upstream, place in _each(declared["capability"], "consumes", "capability"):
        if upstream["namespace"] in found:
            reason = f"the namespace {upstream['namespace']!r} is already consumed above"
            raise CapabilityError(f"{place}.namespace", reason)
        found[upstream["namespace"]] = upstream, place
    return found


def _consumed(consumes: Declared, place: str) -> Iterator[Consumed]:
    found: set[str] = set()
    everywhere = list(_each(consumes, "inputParameters", place))
    for resource, resource_place in _each(consumes, "resources", place):
        shared = [*everywhere, *_each(resource, "inputParameters", resource_place)]
        for declared, operation_place in _each(resource, "operations", resource_place):
            call = f"{consumes['namespace']}.{declared['name']}"
            if call in found:
                reason = f"{declared['name']!r} is already consumed above"
                raise CapabilityError(f"{operation_place}.name", reason)
            found.add(call)
            inputs = [*shared, *_each(declared, "inputParameters", operation_place)]
            path = (resource["path"], f"{resource_place}.path")
            yield _consumed_operation(call, declared, path, inputs)


def _consumed_operation(
    call: str, operation: Declared, path_and_place: tuple[str, str], declared: list[Placed]
) -> Consumed:
    whole, place = path_and_place
    template, _, query = whole.partition("?")
    if "{" in query:
        reason = "a variable in the query string cannot be run; declare an input with in: query"
        raise CapabilityError(place, reason)
    path, inputs = _inputs(_template(template, place), place, declared)
    constants = [Constant("query", *pair) for pair in parse_qsl(query, keep_blank_values=True)]
    for each in inputs:
        if "value" in each.declared:
            constant = each.fixed(each.declared["value"], f"{each.place}.value")
            if each.location == "path":
                path = constant.fill(path)
            else:
                constants.append(constant)
    free = tuple(each for each in inputs if "value" not in each.declared)
    return Consumed(
        call,
        operation["method"],
        path,
        free,
        tuple(constants),
        operation.get("description", ""),
        binary=operation.get("outputRawFormat") == "binary",
    )


def _template(declared: str, place: str) -> str:
    """The path template with every variable as `{name}`, whichever of the two forms declares it."""
    path = _VARIABLE.sub(lambda match: f"{{{match[1] or match[2]}}}", declared)
    names = path_variables(path)
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise CapabilityError(place, f"the variable {repeated[0]!r} is repeated")
    if re.search(r"[{}]", re.sub(r"\{[^{}]+\}", "", path)):
        raise CapabilityError(place, f"an unpaired brace in {declared!r}")
    return path


def _inputs(path: str, place: str, declared: list[Placed]) -> tuple[str, list[Input]]:
    """The path in its declared inputs' names, and all inputs; an undeclared variable is implied."""
    # By name and location, so that the innermost declaration wins: operation, resource, consumes.
    unique = {
        (each["name"], each["in"]): Input(each["name"], each["in"], each, where)
        for each, where in declared
    }
    of_path = {each.name: each for each in unique.values() if each.location == "path"}
    inputs = []
    for name in path_variables(path):
        same = {letters(each): each for each in of_path}.get(letters(name))
        found = of_path.pop(name if name in of_path else same or "", None)
        inputs.append(found or Input(name, "path", {"type": "string"}, place))
        path = path.replace(f"{{{name}}}", f"{{{inputs[-1].name}}}")
    for each in of_path.values():
        reason = f"no {{{each.name}}} in the path {path!r}{hint(each.name, path_variables(path))}"
        raise CapabilityError(f"{each.place}.name", reason)
    inputs += [each for each in unique.values() if each.location != "path"]
    _check_inputs(inputs)
    return path, inputs


def _check_inputs(inputs: list[Input]) -> None:
    seen: dict[str, Input] = {}
    for each in inputs:
        if each.name in seen:
            reason = f"{each.name!r} is an input in {seen[each.name].location} already"
            raise CapabilityError(f"{each.place}.name", reason)
        if each.location == "body" and any(other.location == "body" for other in seen.values()):
            raise CapabilityError(each.place, "a second input in: body; one is the whole JSON body")
        seen[each.name] = each


def _operations(
    rest: Declared, place: str, consumed: dict[str, Consumed], named: frozenset[str]
) -> Iterator[Exposed]:
    namespaces = ("rest", rest["namespace"])
    everywhere = list(_each(rest, "inputParameters", place))
    routes: dict[str, str] = {}
    for resource, resource_place in _each(rest, "resources", place):
        path = _template(resource["path"], f"{resource_place}.path")
        if is_page(path):
            raise CapabilityError(
                f"{resource_place}.path", f"{path} is a page of the gateway's own"
            )
        shared = (*everywhere, *_each(resource, "inputParameters", resource_place))
        for declared, operation_place in _each(resource, "operations", resource_place):
            yield Exposed(
                name=declared["name"],
                declared=declared,
                place=operation_place,
                consumed=_called(declared, operation_place, consumed),
                namespaces=namespaces,
                foreign=named - {*namespaces},
                path=path,
                route=routes.setdefault(shape(path), path),
                resource=resource["name"],
                shared=shared,
            )


def _check_routes(operations: tuple[Exposed, ...]) -> None:
    names: set[str] = set()
    routes: set[tuple[str, str]] = set()
    for each in operations:
        if each.name in names:
            reason = f"the operation {each.name!r} is already exposed above"
            raise CapabilityError(f"{each.place}.name", reason)
        route = (each.declared["method"], each.route)
        if route in routes:
            reason = f"the route {' '.join(route)} is already exposed above"
            raise CapabilityError(f"{each.place}.method", reason)
        names.add(each.name)
        routes.add(route)


def _tools(
    mcp: Declared,
    place: str,
    consumed: dict[str, Consumed],
    named: frozenset[str],
    operations: tuple[Exposed, ...],
) -> dict[str, Exposed]:
    namespaces = ("tools", mcp.get("namespace", ""))
    # Where several operations make one call, the tool runs through the first.
    first = {each.consumed.call: each.name for each in reversed(operations)}
    found: dict[str, Exposed] = {}
    for declared, tool_place in _each(mcp, "tools", place):
        target = _called(declared, tool_place, consumed)
        foreign = named - {*namespaces}
        tool = Exposed(declared["name"], declared, tool_place, target, namespaces, foreign)
        operation = first.get(target.call)
        if tool.name in {each.name for each in found.values()}:
            reason = f"the tool {tool.name!r} is already exposed above"
            raise CapabilityError(f"{tool_place}.name", reason)
        if operation is None:
            reason = f"no rest operation calls {target.call!r}, and a tool runs through one"
            raise CapabilityError(f"{tool_place}.call", reason)
        if operation in found:
            reason = f"the tool {found[operation].name!r} calls it already; only one can"
            raise CapabilityError(f"{tool_place}.call", reason)
        found[operation] = tool
    return found


def _called(declared: Declared, place: str, consumed: dict[str, Consumed]) -> Consumed:
    call = declared["call"]
    if call not in consumed:
        reason = f"nothing consumed is called {call!r}{hint(call, consumed)}"
        raise CapabilityError(f"{place}.call", reason)
    return consumed[call]
