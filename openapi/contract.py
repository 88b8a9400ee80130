"""The derived OpenAPI document as operations, parameters and tools: what both processes run on.

`load` is the only way in. It inlines every local `$ref`, so that no later reader resolves one. The document's
own extensions are read here and nowhere else:

* root `x-naftiko`: `upstreams` (each one's `baseUri` and `authentication`, by its namespace), `environment`, `ports`, optionally
  `product` (our name towards the upstreams), `provider` (what callers know these as), `answerHeaders` (upstream headers that reach the caller), `scopes` (names of
  the scopes that reading and writing need; an upstream may have its own) and `otherPaths` (paths that other APIs have, each
  with the path here that stands for it);
* operation `x-naftiko`: `call` (the upstream's namespace and its operation), upstream `method` and `path`, optionally `names`
  (caller's name -> upstream's name, where they differ) and `constants` (inputs that are always sent);
* operation `x-recovery`: how its outcome is found when its answer was lost: the `kind` of recovery, and the
  `operation` whose answers show it;
* operation `x-files`: what it does with files: the `kind` of use, and the `lookup` operation that tells what a file is for;
* operation `x-state`, `x-progress`, `x-results`: that it shows something that takes time (`openapi.job_hints`);
* operation `x-mcp-tool`: the operation's tool; root `x-mcp-server`: the server that offers the tools;
* parameter `x-gateway` true: for the gateway itself, which reads it by its name; no input of the operation's;
* parameter `x-aliases`: as in a schema (`openapi.names`), for one whose schema is a reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from openapi import job_hints
from openapi.job_hints import JobHints

Schema = dict[str, Any]

DEFAULT_DOCUMENT = Path(__file__).with_name("openapi.yaml")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OWN_PAGES = frozenset(
    {"/", "/docs", "/openapi.json", "/openapi.yaml", "/livez", "/readyz", "/metrics", "/problems"}
)
"""Paths that the REST service answers itself, as it does those below `/docs/`."""

JSON = "application/json"
FORM = "multipart/form-data"
DEFAULT_SCOPES = {"read": "read", "write": "write"}

_PLACEHOLDER = re.compile(r"\{\{\s*([\w.-]+)\s*\}\}")
_PATH_VARIABLE = re.compile(r"\{([^{}]+)\}")


def is_page(path: str) -> bool:
    """True for a path that the REST service answers itself, so that no operation can."""
    return path in OWN_PAGES or path.startswith("/docs/")


class ContractError(ValueError):
    """The document cannot be run; the message names the file, the place and the reason in one line."""


@dataclass(frozen=True)
class Parameter:
    """One input outside the body.

    `location` is `path`, `query` or `header`; `schema` is an OpenAPI 3.0 schema without `$ref`. `explode` false
    joins an array's items with commas, true repeats the parameter.
    """

    name: str
    location: str
    required: bool
    schema: Schema
    description: str
    explode: bool
    upstream_name: str

    @cached_property
    def takes_unknown(self) -> bool:
        """True for an exploded query object: each of its members is a query parameter of its own (OpenAPI 3.0.3, style form)."""
        return self.location == "query" and self.explode and self.schema.get("type") == "object"


@dataclass(frozen=True)
class Body:
    """The request body: whether it is required, and its schema without `$ref`; `media_type` is the only one where that is not JSON.

    `part_types` are the media types of parts of a form, the first ones that the document names.
    """

    required: bool
    schema: Schema
    description: str
    media_type: str = JSON
    part_types: Mapping[str, str] = field(default_factory=dict)

    @property
    def form(self) -> bool:
        """True for a form with files, whose parts are the schema's properties."""
        return self.media_type == FORM

    @property
    def streamed(self) -> bool:
        """True for bytes that are passed on as they come, of which the gateway knows no more than their media type."""
        return self.media_type != JSON


@dataclass(frozen=True)
class Constant:
    """An input that every call sends upstream and no caller can change, with its value as it is sent."""

    location: str
    name: str
    value: str

    def fill(self, path: str) -> str:
        """The path template with the variable of this name replaced by the encoded value."""
        return path.replace(f"{{{self.name}}}", quote(self.value, safe=""))


@dataclass(frozen=True)
class Tool:
    """An operation's MCP face.

    `arguments` maps a tool argument to the REST parameter it fills, where the two names differ; `defaults` are the
    arguments that a call sends when it leaves them out; `shortened` tells a model how to get what was cut from a result.
    """

    name: str
    title: str
    description: str
    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool
    arguments: Mapping[str, str]
    defaults: Mapping[str, Any]
    shortened: str


@dataclass(frozen=True)
class RecoveryBinding:
    """How an operation's outcome is found when its answer was lost: a kind that the service knows, and an operation's id."""

    kind: str
    search_operation: str


@dataclass(frozen=True)
class Authentication:
    """How the upstream is told who calls: `type` is none, bearer, basic or apikey; `fields` are templates over `{{env.X}}`."""

    type: str
    fields: Mapping[str, str]

    @property
    def variables(self) -> list[str]:
        """The template variables that must have a value, in order of appearance (`env.X`)."""
        return [name for text in self.fields.values() for name in _PLACEHOLDER.findall(text)]

    def render(self, values: Mapping[str, str]) -> dict[str, str]:
        """The fields with each `{{variable}}` replaced from `values`; KeyError for one that has none."""
        return {
            key: _PLACEHOLDER.sub(lambda match: values[match[1]], text)
            for key, text in self.fields.items()
        }


@dataclass(frozen=True)
class UpstreamAPI:
    """An API that is called: its base URL, without a slash at its end, and how it is told who calls."""

    base_url: str
    authentication: Authentication


@dataclass(frozen=True)
class FileUse:
    """What an operation does with files: `kind` is upload, list, file or signed-url; `lookup` is the operation that tells of one."""

    kind: str
    lookup: str


@dataclass(frozen=True)
class Operation:
    """One row of the contract: how it is called here, and what is called upstream for it."""

    id: str
    method: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...]
    body: Body | None
    response_schema: Schema
    response_media_type: str
    namespace: str  # its upstream's
    scopes: Mapping[str, str]  # by access
    upstream_method: str
    upstream_path: str
    constants: tuple[Constant, ...]
    tool: Tool | None
    recovery: RecoveryBinding | None
    files: FileUse | None
    hints: JobHints

    @cached_property
    def path_variables(self) -> list[str]:
        """The names of the variables in its path, in order."""
        return path_variables(self.path)

    @cached_property
    def upstream_path_variables(self) -> list[str]:
        """The same of the upstream path."""
        return path_variables(self.upstream_path)

    @cached_property
    def upstream_names(self) -> dict[str, str]:
        """The upstream's names for the parameters, by our own."""
        return {parameter.name: parameter.upstream_name for parameter in self.parameters}

    @cached_property
    def streamed(self) -> bool:
        """True when its body or its answer is a stream of bytes."""
        return self.answer_streamed or (self.body is not None and self.body.streamed)

    @cached_property
    def answer_streamed(self) -> bool:
        """True for an answer whose only media type is not JSON."""
        return self.response_media_type != JSON

    @cached_property
    def safe(self) -> bool:
        """True when calling changes nothing upstream, so that it may be repeated or abandoned."""
        return self.method in ("GET", "HEAD")

    @cached_property
    def access(self) -> str:
        """`read` or `write`: what the tool's read-only hint says, or the method where there is no tool."""
        reads = self.tool.read_only if self.tool else self.safe
        return "read" if reads else "write"

    @property
    def scope(self) -> str:
        """The scope that its callers need."""
        return self.scopes[self.access]

    @cached_property
    def idempotent(self) -> bool:
        """True when a repeated call does nothing more than the first: the tool's hint, or RFC 9110 section 9.2.2."""
        return (
            self.tool.idempotent
            if self.tool
            else self.method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
        )

    @cached_property
    def audited(self) -> bool:
        """True when it changes something, or hands a file's content out, by itself or by a URL."""
        gives_url = self.files is not None and self.files.kind == "signed-url"
        return self.access == "write" or self.streamed or gives_url

    @cached_property
    def takes_key(self) -> bool:
        """True when an Idempotency-Key makes it safe to repeat: what is streamed cannot be kept to be compared or answered again."""
        return not self.idempotent and not self.streamed

    @cached_property
    def repeatable(self) -> bool:
        """True when repeating a call whose answer was lost does no harm."""
        return self.safe or self.idempotent


@dataclass(frozen=True)
class Contract:
    """The whole document. `environment` maps a template variable to the environment variables that may hold it, best first."""

    source: str
    document: dict[str, Any]  # without `$ref`
    published: dict[str, Any]  # as it stands in the file
    operations: Mapping[str, Operation]
    upstreams: Mapping[str, UpstreamAPI]  # by namespace
    environment: Mapping[str, tuple[str, ...]]
    ports: Mapping[str, int]
    product: str
    provider: str
    answer_headers: frozenset[str]
    other_paths: Mapping[str, str]
    """Path templates of other APIs that callers use by mistake, and ours in their places."""
    title: str
    version: str
    mcp_name: str
    mcp_title: str
    mcp_instructions: str

    @cached_property
    def scopes(self) -> frozenset[str]:
        """All that operations need."""
        return frozenset(operation.scope for operation in self.operations.values())

    def credential_names(self, *namespaces: str) -> dict[str, tuple[str, ...]]:
        """Template variable -> the environment variables that may hold it, best first, for these upstreams; none: for all."""
        return {
            variable: self.environment.get(variable, (variable.rpartition(".")[2],))
            for namespace in namespaces or self.upstreams
            for variable in self.upstreams[namespace].authentication.variables
        }

    @cached_property
    def _routes(self) -> list[tuple[re.Pattern[str], Operation]]:
        """Operations by the pattern of their path, those with the fewest variables first."""
        operations = sorted(
            self.operations.values(), key=lambda operation: len(path_variables(operation.path))
        )
        variable = r"\\\{[^{}]+\}"  # as `re.escape` writes it
        return [(re.compile(re.sub(variable, "([^/]+)", re.escape(o.path))), o) for o in operations]

    def find(self, method: str, path: str) -> tuple[Operation | None, tuple[str, ...]]:
        """The operation that `method` of the decoded `path` means, if there is one, and the values of its path's variables."""
        for pattern, operation in self._routes:
            if operation.method == method and (match := pattern.fullmatch(path)):
                return operation, match.groups()
        return None, ()

    def body_media_type(self, method: str, path: str) -> str:
        """The media type of the body that `method` of the decoded `path` takes; JSON where it takes none, empty where nothing is called."""
        operation, _ = self.find(method, path)
        if operation is None:
            return ""
        return operation.body.media_type if operation.body else JSON

    def allowed_methods(self, path: str) -> list[str]:
        """The methods that the decoded `path` answers, HEAD and OPTIONS included; empty for a path that is not in the contract."""
        methods = {o.method for pattern, o in self._routes if pattern.fullmatch(path)}
        if not methods:
            return []
        return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))


def load(source: Path = DEFAULT_DOCUMENT) -> Contract:
    """The contract in the file `source`; ContractError when it cannot be read or lacks what running needs."""
    try:
        if source.exists() and not source.is_file():  # a pipe's reader would wait
            raise OSError("it is no plain file")
        document = yaml.load(source.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 - both loaders are safe
    except OSError as error:
        raise ContractError(f"{source}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(
            f"{source}: cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(document, dict) or "x-naftiko" not in document:
        raise ContractError(
            f"{source}: no x-naftiko member: not a document derived from a capability"
        )
    try:
        return _contract(str(source), document, _inline(document, document, ()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ContractError(
            f"{source}: a member that running needs is missing or misshapen: {error}"
        ) from error


# The compiled one where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def path_variables(template: str) -> list[str]:
    """The variable names in a path template, in order."""
    return _PATH_VARIABLE.findall(template)


def _contract(source: str, published: dict[str, Any], document: dict[str, Any]) -> Contract:
    root = document["x-naftiko"]
    if "upstreams" not in root:
        raise ContractError(
            f"{source}: x-naftiko has no upstreams: derive it again with this version's openapi.derive"
        )
    upstreams = {name: _upstream(declared) for name, declared in root["upstreams"].items()}
    server = document.get("x-mcp-server", {})
    info = document["info"]
    declared = [
        _operation(path, method.upper(), item[method], item.get("parameters", []), root)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]
    operations = {operation.id: operation for operation in declared}
    for operation in declared:
        if operation.namespace not in upstreams:
            raise ContractError(
                f"{source}: {operation.id} calls {operation.namespace!r}, which is not among the upstreams"
            )
        if operation.files and operation.files.lookup not in (*operations, ""):
            raise ContractError(
                f"{source}: x-files of {operation.id}: there is no operation {operation.files.lookup!r}"
            )
        if operation.recovery and operation.recovery.search_operation not in operations:
            raise ContractError(
                f"{source}: x-recovery of {operation.id}: there is no operation {operation.recovery.search_operation!r}"
            )
    return Contract(
        source=source,
        document=document,
        published=published,
        operations=operations,
        upstreams=upstreams,
        environment={name: tuple(sources) for name, sources in root.get("environment", {}).items()},
        ports=root["ports"],
        product=root.get("product", "naftiko-gateway"),
        provider=root.get("provider", "the provider"),
        answer_headers=frozenset(name.lower() for name in root.get("answerHeaders", [])),
        other_paths={
            other: path
            for other, path in root.get("otherPaths", {}).items()
            if path in document["paths"]
        },
        title=info["title"],
        version=info["version"],
        mcp_name=server.get("name", "naftiko-gateway"),
        mcp_title=server.get("title", info["title"]),
        mcp_instructions=server.get("instructions", ""),
    )


def _upstream(declared: dict[str, Any]) -> UpstreamAPI:
    fields = {"type": "none"} | (declared.get("authentication") or {})
    authentication = Authentication(
        fields.pop("type"), {name: str(value) for name, value in fields.items()}
    )
    return UpstreamAPI(declared["baseUri"].rstrip("/"), authentication)


def _operation(
    path: str,
    method: str,
    declared: dict[str, Any],
    shared: list[dict[str, Any]],
    root: dict[str, Any],
) -> Operation:
    upstream = declared["x-naftiko"]
    namespace = upstream["call"].partition(".")[0]
    names = upstream.get("names", {})
    tool, recovery = declared.get("x-mcp-tool"), declared.get("x-recovery")
    files = declared.get("x-files")
    body = declared.get("requestBody")
    response_media_type, response_schema = _content(declared["responses"].get("200", {}))
    return Operation(
        id=declared["operationId"],
        method=method,
        path=path,
        summary=declared.get("summary", ""),
        parameters=tuple(
            _parameter(parameter, names)
            for parameter in [*shared, *declared.get("parameters", [])]
            if not parameter.get("x-gateway")
        ),
        body=_body(body) if body else None,
        response_schema=response_schema,
        response_media_type=response_media_type,
        namespace=namespace,
        scopes={
            **DEFAULT_SCOPES,
            **root.get("scopes", {}),
            **root["upstreams"].get(namespace, {}).get("scopes", {}),
        },
        upstream_method=upstream["method"],
        upstream_path=upstream["path"],
        constants=tuple(
            Constant(constant["in"], constant["name"], str(constant["value"]))
            for constant in upstream.get("constants", [])
        ),
        tool=_tool(tool) if tool else None,
        recovery=RecoveryBinding(recovery["kind"], recovery["operation"]) if recovery else None,
        files=FileUse(files["kind"], files.get("lookup", "")) if files else None,
        hints=job_hints.read(declared),
    )


def _parameter(declared: dict[str, Any], names: Mapping[str, str]) -> Parameter:
    style = declared.get("style", "form" if declared["in"] == "query" else "simple")
    aliases = {"x-aliases": declared["x-aliases"]} if "x-aliases" in declared else {}
    return Parameter(
        name=declared["name"],
        location=declared["in"],
        required=declared.get("required", False),
        schema={**declared["schema"], **aliases},
        description=declared.get("description", ""),
        explode=declared.get("explode", style == "form"),
        upstream_name=names.get(declared["name"], declared["name"]),
    )


def _body(declared: dict[str, Any]) -> Body:
    media_type, schema = _content(declared)
    encoding = declared.get("content", {}).get(media_type, {}).get("encoding", {})
    return Body(
        required=declared.get("required", False),
        schema=schema,
        description=declared.get("description", ""),
        media_type=media_type,
        part_types={name: part["contentType"].partition(",")[0] for name, part in encoding.items()},
    )


def _content(declared: dict[str, Any]) -> tuple[str, Schema]:
    """JSON where that is among the media types, or nothing is; else the first."""
    content = declared.get("content", {})
    media_type = JSON if JSON in content else next(iter(content), JSON)
    return media_type, content.get(media_type, {}).get("schema", {})


def _tool(declared: dict[str, Any]) -> Tool:
    hints = declared["hints"]
    return Tool(
        name=declared["name"],
        title=declared.get("title", declared["name"]),
        description=declared["description"],
        read_only=hints["readOnly"],
        destructive=hints["destructive"],
        idempotent=hints["idempotent"],
        open_world=hints["openWorld"],
        arguments=declared.get("arguments", {}),
        defaults=declared.get("defaults", {}),
        shortened=declared.get("shortened", ""),
    )


def _inline(node: Any, document: dict[str, Any], trail: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inline(item, document, trail) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if not isinstance(reference, str):
        return {key: _inline(value, document, trail) for key, value in node.items()}
    if not reference.startswith("#/") or reference in trail:
        raise ContractError(
            f"$ref {reference}: only references within the document that do not recur can be run"
        )
    target: Any = document
    for token in reference[2:].split("/"):
        target = target[token.replace("~1", "/").replace("~0", "~")]
    return _inline(target, document, (*trail, reference))
