"""What runs where: the stack's settings, and the environment its processes get.

The environment is the caller's, with the project's `.env` below it: a variable that is really set wins. The document that
is served says which ports, upstreams and keys there are; the sandbox stands in for those upstreams that it can answer for.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from access.files import content, open_plain
from access.listen import in_brackets
from environment import NAMES, SettingsError, misspelt, variables
from openapi.contract import DEFAULT_DOCUMENT, Contract, ContractError, load
from stack.dotenv import read_dotenv

PROJECT = Path(__file__).resolve().parent.parent
"""Where the packages are: a checkout, or what is installed."""
PLACEHOLDER_KEY = "the-sandbox-accepts-any-key"
_MISTRAL = "https://api.mistral.ai"
_ANSWERED = (f"{_MISTRAL}/v1/batch/", f"{_MISTRAL}/v1/files")
"""How the URLs begin that the sandbox answers."""

_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a client calls where a server binds all


@dataclass(frozen=True)
class Endpoint:
    """Where one process listens.

    `prefix` begins the variables that move it, `ready` is the path that says whether it serves, `token` is what its callers
    send, if there is one.
    """

    name: str
    prefix: str
    host: str
    port: int
    ready: str
    token: str = field(default="", repr=False)

    @property
    def setting(self) -> str:
        """The variable that moves its port."""
        return f"{self.prefix}_PORT"

    @property
    def reach(self) -> str:
        """The host that a client on this machine calls."""
        return _REACHED_AT.get(self.host, self.host)

    @property
    def url(self) -> str:
        """The origin that a client on this machine calls, without a trailing slash."""
        return f"http://{in_brackets(self.reach)}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """Where everything listens, the document that is served, and what was `given` as environment, `from_file` the names that `.env` did.

    `command` starts the stack once more.
    """

    sandbox: Endpoint
    rest: Endpoint
    bridge: Endpoint
    contract: Contract
    given: Mapping[str, str] = field(repr=False)
    from_file: tuple[str, ...] = ()
    command: str = "make run"

    @cached_property
    def stood_in(self) -> list[str]:
        """The namespaces of the upstreams that the sandbox stands in for: those that it can, while no key of theirs is set."""
        possible = {
            operation.namespace
            for operation in self.contract.operations.values()
            if (self._declared[operation.namespace] + operation.upstream_path).startswith(_ANSWERED)
        }
        return [name for name in self._declared if name in possible and not self.keys(name)]

    @property
    def sandboxed(self) -> bool:
        """True when the sandbox runs."""
        return bool(self.stood_in)

    @property
    def overridden(self) -> bool:
        """True when the sandbox stands in for an upstream although another is configured for it."""
        return any(name in self._configured for name in self.stood_in)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Those of the processes that run, in the order in which they depend on each other."""
        return [*([self.sandbox] if self.sandboxed else []), self.rest, self.bridge]

    @cached_property
    def upstream_urls(self) -> dict[str, str]:
        """Where each upstream is, by its namespace; what cannot be used is for the service to refuse."""
        stand_in = {n: self.sandbox.url + self._declared[n][len(_MISTRAL) :] for n in self.stood_in}
        return self._declared | self._configured | stand_in

    @property
    def environment(self) -> dict[str, str]:
        """What the processes get."""
        # The screen is for people, who see a line of each call without the audit log's.
        defaults = {"BRIDGE_REST_URL": self.rest.url}
        for prefix in ("GATEWAY", "BRIDGE"):
            defaults |= {f"{prefix}_LOG_FORMAT": "text", f"{prefix}_AUDIT_LOG": "off"}
        if self.sandboxed:
            # Something to list and to filter from the start.
            defaults["SANDBOX_DEMO"] = "true"
        environment = {
            **self.given,
            **{name: self.given.get(name) or defaults[name] for name in defaults},
        }
        for endpoint in (self.sandbox, self.rest, self.bridge):
            environment |= {
                f"{endpoint.prefix}_HOST": endpoint.host,
                endpoint.setting: str(endpoint.port),
            }
        for name in self.stood_in:
            for variable, *_ in self.contract.credential_names(name).values():
                environment[variable] = PLACEHOLDER_KEY
        if self.sandboxed:
            urls = self.upstream_urls
            named = [f"{n}={urls[n]}" for n in urls if n in (*self._configured, *self.stood_in)]
            alike = len({*urls.values()}) == 1
            environment["GATEWAY_UPSTREAM_URL"] = (
                next(iter(urls.values())) if alike else ",".join(named)
            )
        # Ours before a folder of that name where this was started, which `python -P` leaves out.
        path = [str(PROJECT), *filter(None, [self.given.get("PYTHONPATH")])]
        return environment | {"PYTHONPATH": os.pathsep.join(path)}

    def protected(self, endpoint: Endpoint) -> bool:
        """True when a process wants a token of its callers."""
        return any(
            self.given.get(f"{endpoint.prefix}_{it}") for it in ("TOKENS_FILE", "JWT_ISSUER")
        )

    def keys(self, namespace: str) -> list[str]:
        """The variables that are set and hold credentials of an upstream, or name a file that does."""
        names = self.contract.credential_names(namespace).values()
        possible = (
            either for plain in names for name in plain for either in (name, f"{name}_FILE")
        )
        return [name for name in possible if self.given.get(name)]

    def missing_keys(self) -> list[str]:
        """A line for each variable that must be set and is not."""
        return [
            f"{names[0]} is not set, and {self.upstream_urls[namespace]} needs it; {names[0]}_FILE may name a file that holds it"
            for namespace in self.contract.upstreams
            if namespace not in self.stood_in
            for names in self.contract.credential_names(namespace).values()
            if not any(self.given.get(name) or self.given.get(f"{name}_FILE") for name in names)
        ]

    def on_free_ports(self) -> Settings:
        """The same with ports on which nothing listens, whatever was given."""
        sandbox, rest, bridge = (
            replace(endpoint, port=port)
            for endpoint, port in zip(
                (self.sandbox, self.rest, self.bridge), free_ports(3), strict=True
            )
        )
        # A bridge that is told of another service would serve that one.
        given = {name: value for name, value in self.given.items() if name != "BRIDGE_REST_URL"}
        return replace(self, sandbox=sandbox, rest=rest, bridge=bridge, given=given)

    @cached_property
    def _declared(self) -> dict[str, str]:
        return {name: upstream.base_url for name, upstream in self.contract.upstreams.items()}

    @cached_property
    def _configured(self) -> dict[str, str]:
        """What GATEWAY_UPSTREAM_URL says, by namespace."""
        given = self.given.get("GATEWAY_UPSTREAM_URL", "").strip()
        if "=" not in given.partition("://")[0]:
            return dict.fromkeys(self._declared, given) if given else {}
        entries = [entry.strip().partition("=") for entry in given.split(",")]
        return {name: url for name, _, url in entries}


def from_env(
    environ: Mapping[str, str] | None = None,
    dotenv: Path = Path(".env"),
    command: str = Settings.command,
) -> Settings:
    """The settings in `environ` (None: the process's) and the file `dotenv`; SettingsError for one that cannot be used."""
    environ = variables(environ)
    written = read_dotenv(dotenv)
    given = {**written, **environ}
    if wrong := misspelt(NAMES, given):
        places = (f" (in {dotenv.name})" * (each.name not in environ) for each in wrong)
        raise SettingsError(
            "; ".join(f"{each}{place}" for each, place in zip(wrong, places, strict=True))
        )
    try:
        contract = load(Path(given.get("GATEWAY_OPENAPI") or DEFAULT_DOCUMENT))
    except ContractError as error:
        raise SettingsError(str(error)) from error
    rest = _endpoint("rest", given, "GATEWAY", contract.ports["rest"], "/livez")
    return Settings(
        sandbox=_endpoint("sandbox", given, "SANDBOX", 8081, "/sandbox/state"),
        rest=replace(rest, token=_rest_token(given)),
        bridge=_endpoint("mcp", given, "BRIDGE", contract.ports["mcp"], "/livez"),
        contract=contract,
        given=given,
        from_file=tuple(name for name in written if name not in environ and written[name]),
        command=command,
    )


def _rest_token(given: Mapping[str, str]) -> str:
    """The bridge's token for the REST service, which the stack's own calls send too; of a file that cannot be read, the bridge complains."""
    if file := given.get("BRIDGE_REST_TOKEN_FILE"):
        with suppress(OSError, UnicodeDecodeError), open_plain(Path(file)) as opened:
            return content(opened).decode("ascii").strip()
    return given.get("BRIDGE_REST_TOKEN", "").strip()


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nothing listens; below those that the system gives to clients, which come and go."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return [*found]


def _endpoint(name: str, given: Mapping[str, str], prefix: str, port: int, ready: str) -> Endpoint:
    text = given.get(f"{prefix}_PORT") or str(port)
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SettingsError(f"{prefix}_PORT={text}: not a port number (1 to 65535)")
    # 0 means the default here: callers, the bridge among them, must know the port beforehand.
    return Endpoint(
        name, prefix, given.get(f"{prefix}_HOST") or "127.0.0.1", int(text) or port, ready
    )
