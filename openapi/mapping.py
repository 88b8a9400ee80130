"""Which input of a REST request or of a tool's call becomes which input of the upstream operation.

`map_inputs` is the only way in. Everything in between goes by the upstream's name for an input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from openapi.capability import (
    Capability,
    CapabilityError,
    Declared,
    Exposed,
    Input,
    hint,
    place_in,
)
from openapi.contract import Constant, path_variables
from openapi.names import letters

_REFERENCE = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
# A tool with any other character in an argument's name is refused by some model providers.
_UNFIT_FOR_ARGUMENT = re.compile(r"[^A-Za-z0-9_.-]+")

Sources = dict[str, str | Constant]


@dataclass(frozen=True)
class ExposedInput:
    """One input that callers give, in `location` of the REST request under `name`.

    `upstream` is the upstream's name for it, `argument` the tool's (None without a tool);
    `declared` has its type, items, pattern and description.
    """

    name: str
    location: str
    upstream: str
    argument: str | None
    required: bool
    declared: Declared


@dataclass(frozen=True)
class InputMapping:
    """All inputs of one operation. `path` is the upstream's template with its constants filled."""

    parameters: tuple[ExposedInput, ...]
    body: ExposedInput | None
    path: str
    constants: tuple[Constant, ...]


def map_inputs(exposed: Exposed, tool: Exposed | None, capability: Capability) -> InputMapping:
    """The inputs of the operation `exposed` and of its `tool`; CapabilityError."""
    sources = _sources(exposed)
    path, constants = _fixed(exposed, sources)
    upstream, _ = capability.consumes[exposed.consumed.namespace]
    free = {
        each.name: each
        for each in exposed.consumed.inputs
        if isinstance(sources[each.name], str) and not _filled_here(each, upstream)
    }
    # The REST name of each input: the exposed path's variables first, in their order.
    of_path = [each for each in free.values() if each.location == "path"]
    names = _path_names(exposed, of_path, sources)
    names |= {each: str(sources[each]) for each in free if each not in names}
    arguments = _arguments(tool, free, sources) if tool else {}
    variables = path_variables(exposed.path)
    inputs = [
        ExposedInput(
            name=name,
            location=_location(name, free[upstream], variables),
            upstream=upstream,
            argument=arguments.get(upstream),
            required=free[upstream].location == "path",
            declared=dict(free[upstream].declared),
        )
        for upstream, name in names.items()
    ]
    if tool:
        merge_declarations(tool, {str(each.argument): each for each in inputs})
    merge_declarations(exposed, {each.name: each for each in inputs})
    routed = dict(zip(variables, path_variables(exposed.route), strict=True))
    inputs = [
        replace(
            each,
            name=routed.get(each.name, each.name),
            required=each.required or each.declared.get("required", False),
        )
        for each in inputs
    ]
    parameters = tuple(each for each in inputs if each.location != "body")
    _check_unique({each.upstream: each.name for each in parameters}, exposed)
    return InputMapping(
        parameters=parameters,
        body=next((each for each in inputs if each.location == "body"), None),
        path=path,
        constants=constants,
    )


def _sources(exposed: Exposed) -> Sources:
    """What fills each input: a constant or the name of an exposed input, its own where `with` is silent."""
    inputs = {each.name: each for each in exposed.consumed.inputs}
    sources: Sources = {name: name for name in inputs}
    for name, value in exposed.declared.get("with", {}).items():
        place = place_in(f"{exposed.place}.with", name)
        if name not in inputs:
            reason = f"{exposed.consumed.call!r} has no input {name!r}{hint(name, inputs)}"
            raise CapabilityError(place, reason)
        reference = _reference(value, exposed, place)
        sources[name] = reference or inputs[name].fixed(value, place)
    return sources


def _reference(value: str | float | bool, exposed: Exposed, place: str) -> str | None:
    """The exposed input that `rest.X`, `<namespace>.X` or `{{X}}` names; None for a literal."""
    if not isinstance(value, str):
        return None
    whole = _REFERENCE.fullmatch(value)
    text = whole[1] if whole else value
    prefix, dot, name = text.partition(".")
    if dot and name and prefix in exposed.namespaces:
        return name
    # A misspelt reference, or one to another part, must not be sent as the text that it is.
    if dot and (prefix in exposed.foreign or hint(prefix, exposed.namespaces)):
        reason = f"{value!r} is no input of this surface; use {exposed.namespaces[0]}.NAME"
        raise CapabilityError(place, reason)
    return text if whole and not dot else None


def _fixed(exposed: Exposed, sources: Sources) -> tuple[str, tuple[Constant, ...]]:
    """The upstream path with its constant variables filled, and every constant outside the path."""
    path, constants = exposed.consumed.path, list(exposed.consumed.constants)
    for value in sources.values():
        if isinstance(value, Constant) and value.location == "path":
            path = value.fill(path)
        elif isinstance(value, Constant):
            constants.append(value)
    return path, tuple(constants)


def _filled_here(each: Input, upstream: Declared) -> bool:
    """True for an input that the gateway itself fills, so that no caller is asked for it."""
    authentication = upstream.get("authentication", {"type": "none"})
    name = each.name.lower()
    if each.location == "header" and name in ("accept", "content-type"):
        return True
    if authentication["type"] == "apikey" and name == authentication["key"].lower():
        same: bool = each.location == authentication.get("placement", "header")
        return same
    if each.location != "header" or name != "authorization":
        return False
    if authentication["type"] in ("none", "apikey"):
        reason = "callers cannot give Authorization; declare authentication for the upstream's"
        raise CapabilityError(f"{each.place}.name", reason)
    return True


def _check_unique(names: Mapping[str, str], exposed: Exposed) -> None:
    used: dict[str, str] = {}
    for upstream, name in names.items():
        if used.setdefault(name, upstream) != upstream:
            reason = f"{name!r} would fill both {used[name]!r} and {upstream!r}"
            raise CapabilityError(exposed.place, reason)


def _path_names(exposed: Exposed, inputs: list[Input], sources: Sources) -> dict[str, str]:
    """The exposed variable for each upstream one: by name, nearly by name, by position."""
    free, left = path_variables(exposed.path), list(inputs)
    found: dict[str, str] = {}
    for same in (str, letters):
        for each in list(left):
            wanted = {same(str(sources[each.name])), same(each.name)}
            name = next((name for name in free if same(name) in wanted), None)
            if name is not None:
                found[name] = each.name
                free.remove(name)
                left.remove(each)
    # Where no exposed variable is left, the exposed path lost it; see `_location`.
    if free and len(free) != len(left):
        reason = f"{{{free[0]}}} fills no variable of the upstream path {exposed.consumed.path!r}"
        raise CapabilityError(exposed.place_of_path, reason)
    found |= {name: each.name for name, each in zip(free, left, strict=False)}
    return {found[name]: name for name in path_variables(exposed.path)}


def _location(name: str, each: Input, variables: list[str]) -> str:
    return "query" if each.location == "path" and name not in variables else each.location


def merge_declarations(exposed: Exposed, inputs: Mapping[str, ExposedInput]) -> None:
    """Lays what an operation or tool itself declares of its `inputs`, by their names there, over what the upstream declares."""
    spelled = {letters(name): each for name, each in inputs.items()} | dict(inputs)
    for declared, place in [*exposed.shared, *exposed.own]:
        name = declared["name"]
        meant = spelled.get(name) or spelled.get(letters(name))
        if meant is None:
            # What a resource or surface declares need not concern each of its operations.
            if (declared, place) in exposed.shared:
                continue
            reason = f"nothing upstream takes {name!r}{hint(name, inputs)}"
            raise CapabilityError(f"{place}.name", reason)
        # A tool has no path, and its arguments no place in a request.
        if exposed.path and declared.get("in", meant.location) != meant.location:
            raise CapabilityError(f"{place}.in", f"{name!r} is in {meant.location} here")
        meant.declared.update({k: v for k, v in declared.items() if k not in ("name", "in")})


def _arguments(tool: Exposed, free: Mapping[str, Input], rest: Sources) -> dict[str, str]:
    """The tool's name for each input; CapabilityError for constants that the operation lacks."""
    sources = _sources(tool)
    for name, source in sources.items():
        asked = name in tool.declared.get("with", {}) or isinstance(source, Constant)
        if asked and source != rest[name] and Constant in (type(source), type(rest[name])):
            reason = f"the operation that the tool calls must fix {name!r} to the same value"
            raise CapabilityError(place_in(f"{tool.place}.with", name), reason)
    arguments = {
        each: _UNFIT_FOR_ARGUMENT.sub("_", str(sources[each])).strip("_") or str(sources[each])
        for each in free
    }
    _check_unique(arguments, tool)
    return arguments
