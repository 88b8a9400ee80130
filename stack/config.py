"""What runs where: the stack's settings, and the environment its processes get.

The environment is the caller's, with the project's `.env` below it: a variable that is really set wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from access.listen import in_brackets
from environment import NAMES, SettingsError, misspelt, variables
from openapi import contract
from stack.dotenv import read_dotenv

PROJECT = Path(__file__).resolve().parent.parent
KEYS = ("MISTRAL_AI_API_KEY", "MISTRAL_AI_API_KEY_FILE", "MISTRAL_API_KEY")
PLACEHOLDER_KEY = "the-sandbox-accepts-any-key"

_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a client calls where a server binds all


@dataclass(frozen=True)
class Endpoint:
    """Where one process listens.

    `prefix` begins the variables that move it, `ready` is the path that says whether it serves.
    """

    name: str
    prefix: str
    host: str
    port: int
    ready: str

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
    """Where everything listens, and what the processes get as their environment.

    `sandboxed` is true when no key is set: the upstream is then the sandbox, even when another is configured
    (`overridden`).
    """

    sandbox: Endpoint
    rest: Endpoint
    bridge: Endpoint
    sandboxed: bool
    environment: Mapping[str, str]
    overridden: bool

    @property
    def endpoints(self) -> list[Endpoint]:
        """Those of the processes that run, in the order in which they depend on each other."""
        return [*([self.sandbox] if self.sandboxed else []), self.rest, self.bridge]


def from_env(environ: Mapping[str, str] | None = None, dotenv: Path = PROJECT / ".env") -> Settings:
    """The settings in `environ` (None: the process's) and the file `dotenv`; SettingsError for one that cannot be used."""
    given = {**read_dotenv(dotenv), **variables(environ)}
    if wrong := misspelt(NAMES, given):
        raise SettingsError("; ".join(map(str, wrong)))
    document = given.get("GATEWAY_OPENAPI")
    try:
        ports = contract.load(Path(document) if document else contract.DEFAULT_DOCUMENT).ports
    except contract.ContractError as error:
        raise SettingsError(str(error)) from error
    sandbox = _endpoint("sandbox", given, "SANDBOX", 8081, "/sandbox/state")
    rest = _endpoint("rest", given, "GATEWAY", ports.get("rest", 8080), "/livez")
    bridge = _endpoint("mcp", given, "BRIDGE", ports.get("mcp", 9090), "/livez")
    # The screen is for people, who see a line of each call without the audit log's.
    defaults = {"BRIDGE_REST_URL": rest.url}
    for prefix in ("GATEWAY", "BRIDGE"):
        defaults |= {f"{prefix}_LOG_FORMAT": "text", f"{prefix}_AUDIT_LOG": "off"}
    sandboxed = not any(given.get(key) for key in KEYS)
    if sandboxed:
        # Something to list and to filter from the start.
        defaults["SANDBOX_DEMO"] = "true"
    environment = {**given, **{name: given.get(name) or defaults[name] for name in defaults}}
    for endpoint in (sandbox, rest, bridge):
        environment |= {
            f"{endpoint.prefix}_HOST": endpoint.host,
            endpoint.setting: str(endpoint.port),
        }
    if sandboxed:
        environment |= {"GATEWAY_UPSTREAM_URL": f"{sandbox.url}/v1", KEYS[0]: PLACEHOLDER_KEY}
    overridden = sandboxed and bool(given.get("GATEWAY_UPSTREAM_URL"))
    return Settings(sandbox, rest, bridge, sandboxed, environment, overridden)


def _endpoint(name: str, given: Mapping[str, str], prefix: str, port: int, ready: str) -> Endpoint:
    text = given.get(f"{prefix}_PORT") or str(port)
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SettingsError(f"{prefix}_PORT={text}: not a port number (1 to 65535)")
    # 0 means the default here: callers, the bridge among them, must know the port beforehand.
    return Endpoint(
        name, prefix, given.get(f"{prefix}_HOST") or "127.0.0.1", int(text) or port, ready
    )
