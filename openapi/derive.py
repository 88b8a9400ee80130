"""Derives the OpenAPI document from a capability and an overlay: `python -m openapi.derive`.

The document says everything that running needs: routes, inputs and their upstream places,
authentication, tools (`contract` documents the extensions). What a capability cannot say, an
OpenAPI Overlay adds.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from environment import run_command
from openapi import overlay
from openapi.capability import (
    Capability,
    CapabilityError,
    Declared,
    Exposed,
    hint,
    read,
    shape,
    within,
)
from openapi.contract import DEFAULT_DOCUMENT, METHODS
from openapi.mapping import ExposedInput, InputMapping, map_inputs
from openapi.union import Part, Union

HERE = Path(__file__).parent
OWN_CAPABILITY = HERE / "batch-batch-jobs.yaml"
OWN_CAPABILITIES = [OWN_CAPABILITY, HERE / "batch-files.yaml"]
OWN_OVERLAY = HERE / "overlay.yaml"
OWN_OVERLAYS = [OWN_OVERLAY, HERE / "files.overlay.yaml"]
MCP_PORT = 9090
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_IN_CHECKOUT = (HERE.parent / "pyproject.toml").is_file()
_TEMPLATE = re.compile(r"\{\{\s*([\w-]+(?:\.[\w-]+)?)\s*\}\}")

Binds = Mapping[str, Mapping[str, str]]


def derive(*capabilities: Capability) -> dict[str, Any]:
    """The OpenAPI 3.0.3 document of their union, fixed paths before variable ones; where words differ the first file's are taken.

    CapabilityError for what one of them says that cannot be run, and for a clash of two.
    """
    first = capabilities[0]
    info = first.declared["info"]
    document: dict[str, Any] = {
        "openapi": "3.0.3",
        "info": {
            "title": info["label"],
            "description": info.get("description", info["label"]),
            "version": info.get("version", "1.0.0"),
        },
        "servers": [{"url": "/"}],
        "tags": list(_tags(capabilities)),
        "paths": {},
        "x-naftiko": _upstreams(capabilities),
    }
    mcp = next((each.mcp for each in capabilities if each.mcp), None)
    if mcp:
        document["x-mcp-server"] = {
            "name": mcp["namespace"],
            "instructions": mcp.get("description", ""),
        }
    operations = _operations(capabilities, document["x-naftiko"]["upstreams"])
    for route, method, operation in sorted(operations, key=lambda each: _variability(each[0])):
        document["paths"].setdefault(route, {})[method] = operation
    return document


def render(document: Mapping[str, Any], origin: str) -> str:
    """The document as YAML under a comment that names its `origin`; deterministic."""
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return f"# Derived, do not edit. Written by: {origin}\n{body}"


def main(arguments: list[str] | None = None, prog: str = "python -m openapi.derive") -> int:
    """The command `prog`, see `--help`: 0, or 1 for a stale document (`--check`), or 2 with a line why."""
    options = _options(arguments, prog)
    try:
        document = derive(*map(read, options.capabilities))
        for each in options.overlay:
            document = overlay.apply(document, each)
        text = render(document, options.origin)
        if options.check:
            return _check(text, options.output)
        if str(options.output) == "-":
            sys.stdout.write(text)
        else:
            options.output.write_text(text, encoding="utf-8")
            count = sum(len(item.keys() & METHODS) for item in document["paths"].values())
            print(f"{options.output}: written, {count} operations")
    except (CapabilityError, overlay.OverlayError) as error:
        problem = str(error)
    except BrokenPipeError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{options.output}: cannot be {'read' if options.check else 'written'}: {error}"
    else:
        return 0
    print(problem, file=sys.stderr)
    return 2


# --- the command ----------------------------------------------------------------------------------


def _options(arguments: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Derive the OpenAPI document of capabilities; without arguments the project's.",
    )
    add = parser.add_argument
    text = "a Naftiko capability file; several are served as one"
    add("capabilities", nargs="*", type=Path, metavar="CAPABILITY", help=text)
    text = "an OpenAPI Overlay to apply; several in their order"
    add("--overlay", type=Path, action="append", default=[], metavar="OVERLAY", help=text)
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write; - prints, as does none, but for the project's in a checkout",
    )
    add("--check", action="store_true", help="only compare: exit 1 with a diff if FILE is stale")
    options = parser.parse_args(arguments)
    # File names without directories, so that the text does not depend on where the command ran.
    words = ["python -m openapi.derive"]
    if options.capabilities:
        words += [each.name for each in options.capabilities]
        words += [word for each in options.overlay for word in ("--overlay", each.name)]
    else:
        options.capabilities = OWN_CAPABILITIES
        options.overlay = options.overlay or OWN_OVERLAYS
        if options.check or _IN_CHECKOUT:  # what is installed is not written over
            options.output = options.output or DEFAULT_DOCUMENT
    options.origin = " ".join(words)
    options.output = options.output or Path("-")
    if options.check and str(options.output) == "-":
        parser.error("--check needs --output FILE")
    return options


def _check(text: str, committed: Path) -> int:
    current = committed.read_text(encoding="utf-8") if committed.exists() else ""
    old, new = current.splitlines(keepends=True), text.splitlines(keepends=True)
    sys.stdout.writelines(difflib.unified_diff(old, new, str(committed), "derived now"))
    return int(current != text)


class _Dumper(yaml.SafeDumper):
    """YAML for people: no aliases, long text folded into blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else ">" if len(text) > 90 and " " in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


# --- the document ---------------------------------------------------------------------------------


def _tags(capabilities: Iterable[Capability]) -> Iterator[dict[str, str]]:
    seen = set()
    for resource in (each for one in capabilities for each in one.rest["resources"]):
        if resource["name"] not in seen:
            seen.add(resource["name"])
            text = resource.get("description")
            yield {"name": resource["name"], **({"description": text} if text else {})}


def _variability(path: str) -> list[int]:
    # Segment by segment: fixed text before mixed text before a whole variable.
    return [
        0 if "{" not in part else 2 if re.fullmatch(r"\{[^{}]+\}", part) else 1
        for part in path.split("/")
    ]


def _upstreams(capabilities: Sequence[Capability]) -> dict[str, Any]:
    """What is called upstream, where callers reach it, and the environment variables behind its credentials."""
    union, found = Union(), {}
    environment: dict[str, list[str]] = {}
    ports: dict[str, int] = {}
    for capability in capabilities:
        for kind, adapter in (("rest", capability.rest), ("mcp", capability.mcp)):
            if adapter:
                port = adapter["port"] if kind == "rest" else adapter.get("port", MCP_PORT)
                union.add(kind, f"the port of {kind}", Part(capability, "capability.exposes", port))
                ports.setdefault(kind, port)
        for namespace, (declared, place) in capability.consumes.items():
            authentication, variables = _authentication(capability, declared, place)
            upstream = {"baseUri": declared["baseUri"], "authentication": authentication}
            union.add(
                ("namespace", namespace),
                f"the namespace {namespace!r}",
                Part(capability, place, upstream),
            )
            base = declared["baseUri"].rstrip("/")
            if base:
                at = Part(capability, f"{place}.authentication", authentication)
                # Hosts are the same in any case; of a template nothing is known.
                server = urlsplit(base)
                where = (server.scheme.lower(), server.netloc.lower(), server.path)
                union.add(("base", where), f"the authentication of {base}", at)
            for variable, sources in variables.items():
                at = Part(capability, f"{place}.authentication", sources)
                union.add(("variable", variable), f"{{{{{variable}}}}}", at)
            found[namespace] = upstream
            environment |= variables
    return {
        "specification": capabilities[0].declared["naftiko"],
        "upstreams": found,
        "environment": environment,
        "ports": {"rest": ports["rest"], "mcp": ports.get("mcp", MCP_PORT)},
    }


def _authentication(
    capability: Capability, upstream: Declared, place: str
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The authentication with qualified templates, and the environment variables behind them."""
    declared = dict(upstream.get("authentication", {"type": "none"}))
    if declared["type"] == "apikey":
        declared.setdefault("placement", "header")
    binds = {bind["namespace"]: bind["keys"] for bind in capability.declared.get("binds", [])}
    environment: dict[str, list[str]] = {}
    place = f"{place}.authentication"
    with within(capability.source):
        for key in ("token", "username", "password", "value"):
            if key in declared:
                declared[key] = _qualified(declared[key], f"{place}.{key}", binds, environment)
        if declared["type"] != "none" and not environment:
            reason = "no secret may stand in the file; use {{env.NAME}}"
            raise CapabilityError(place, reason)
    return declared, environment


def _qualified(text: str, place: str, binds: Binds, environment: dict[str, list[str]]) -> str:
    """`text` with every variable named by namespace and key, each entered into `environment`."""
    for name in _TEMPLATE.findall(text):
        variable, source = _bound(name, place, binds)
        environment[variable] = [source]
    if "{{" in _TEMPLATE.sub("", text):
        raise CapabilityError(place, "a variable is written {{NAME}} or {{NAMESPACE.NAME}}")
    return _TEMPLATE.sub(lambda match: f"{{{{{_bound(match[1], place, binds)[0]}}}}}", text)


def _bound(name: str, place: str, binds: Binds) -> tuple[str, str]:
    """The variable `name` with its namespace, and the environment variable behind it."""
    namespace, dot, key = name.partition(".")
    if not dot:
        namespace, key = next((each for each in binds if name in binds[each]), "env"), name
    if namespace not in {*binds, "env"}:
        reason = f"nothing binds the namespace {namespace!r}{hint(namespace, [*binds, 'env'])}"
        raise CapabilityError(place, reason)
    source = binds.get(namespace, {}).get(key)
    # What `env` does not list is still an environment variable: whole files rely on it.
    if source is None and namespace != "env":
        reason = f"the bind {namespace!r} has no key {key!r}{hint(key, binds[namespace])}"
        raise CapabilityError(place, reason)
    return f"{namespace}.{key}", source or key


# --- one operation --------------------------------------------------------------------------------


def _operations(
    capabilities: Iterable[Capability], upstreams: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Route, method and description of each operation, once."""
    union = Union()
    routes: dict[str, str] = {}
    for capability in capabilities:
        for exposed in capability.operations:
            route = routes.setdefault(shape(exposed.route), exposed.route)
            method = exposed.declared["method"]
            with within(capability.source):
                operation = _operation(replace(exposed, route=route), capability)
            meaning = {"route": f"{method} {route}", **_meaning(operation, upstreams)}
            part = Part(capability, exposed.place, meaning)
            new = union.add(("route", method, route), f"{method} {route}", part)
            union.add(("operation", exposed.name), f"the operation {exposed.name!r}", part)
            if tool := capability.tools.get(exposed.name):
                named = f"the tool {tool.name!r}"
                union.add(("tool", tool.name), named, Part(capability, tool.place, meaning))
            if new:
                yield route, method.lower(), operation


def _meaning(operation: dict[str, Any], upstreams: Mapping[str, Any]) -> dict[str, Any]:
    """An operation without its words for people, and with its upstream in place of that one's name."""
    call = operation["x-naftiko"]
    tool = operation.get("x-mcp-tool")
    return {
        "name": operation["operationId"],
        "parameters": [_wordless(each) for each in operation.get("parameters", [])],
        "body": _wordless(operation.get("requestBody", {})),
        "answer": operation["responses"]["200"]["content"],
        "upstream": {**call, "call": upstreams[call["call"].partition(".")[0]]},
        "tool": tool and {name: tool.get(name) for name in ("name", "hints", "arguments")},
    }


def _wordless(declared: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in declared.items() if name != "description"}


def _operation(exposed: Exposed, capability: Capability) -> dict[str, Any]:
    tool = capability.tools.get(exposed.name)
    inputs = map_inputs(exposed, tool, capability)
    renamed = {each.name: each.upstream for each in inputs.parameters if each.name != each.upstream}
    constants = [
        {"in": each.location, "name": each.name, "value": each.value} for each in inputs.constants
    ]
    return {
        "operationId": exposed.name,
        "tags": [exposed.resource],
        "summary": exposed.description,
        "description": exposed.description,
        **_compact(parameters=[_parameter(each) for each in inputs.parameters]),
        **({"requestBody": _body(inputs.body)} if inputs.body else {}),
        "responses": {
            "200": {
                "description": "The upstream's answer, unchanged.",
                "content": BINARY
                if exposed.consumed.binary
                else {"application/json": {"schema": {}}},
            }
        },
        "x-naftiko": {
            "call": exposed.consumed.call,
            "method": exposed.consumed.method,
            "path": inputs.path,
            **_compact(names=renamed, constants=constants),
        },
        **({"x-mcp-tool": _tool(tool, inputs)} if tool else {}),
    }


def _parameter(given: ExposedInput) -> dict[str, Any]:
    return {
        "name": given.name,
        "in": given.location,
        **_compact(description=given.declared.get("description"), required=given.required),
        "schema": _schema(given.declared, "string"),
    }


def _body(given: ExposedInput) -> dict[str, Any]:
    return {
        **_compact(description=given.declared.get("description")),
        "required": given.required,
        "content": {"application/json": {"schema": _schema(given.declared, None)}},
    }


def _schema(declared: Declared, default: str | None) -> dict[str, Any]:
    type_ = declared.get("type", default)
    items = declared.get("items", {"type": "string"}) if type_ == "array" else None
    return _compact(type=type_, items=items, pattern=declared.get("pattern"))


def _tool(tool: Exposed, inputs: InputMapping) -> dict[str, Any]:
    renamed = {each.argument: each.name for each in inputs.parameters if each.argument != each.name}
    method = tool.consumed.method
    hints = {
        "readOnly": method == "GET",
        "destructive": method == "DELETE",
        "idempotent": method in ("GET", "PUT", "PATCH", "DELETE"),
        "openWorld": True,
    }
    return {
        "name": tool.name,
        "title": tool.declared.get("label", tool.description),
        "description": tool.description,
        "hints": hints | tool.declared.get("hints", {}),
        **_compact(arguments=renamed),
    }


def _compact(**members: Any) -> dict[str, Any]:
    """The members that say something: not None, false or empty."""
    return {name: value for name, value in members.items() if value}


if __name__ == "__main__":
    sys.exit(run_command(main))
