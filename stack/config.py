"""What runs where: the stack's settings, and the environment its processes get.

The environment is the caller's, with the project's `.env` below it: a variable that is really set
wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from environment import variables
from openapi import contract

PROJECT = Path(__file__).resolve().parent.parent
KEYS = ("MISTRAL_AI_API_KEY", "MISTRAL_AI_API_KEY_FILE", "MISTRAL_API_KEY")
PLACEHOLDER_KEY = "the-sandbox-accepts-any-key"

_DOTENV_LINE = re.compile(
    r"""(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|(.*?))(?:\s+#.*)?$"""
)
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a client calls where a server binds all


class BadSetting(ValueError):
    """A setting cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Door:
    """Where one process listens.

    `setting` is the variable that moves its port, `ready` the path that says whether it serves.
    """

    name: str
    host: str
    port: int
    setting: str
    ready: str

    @property
    def reach(self) -> str:
        """The host that a client on this machine calls."""
        return _REACHED_AT.get(self.host, self.host)

    @property
    def url(self) -> str:
        """The origin that a client on this machine calls, without a trailing slash."""
        return f"http://{f'[{self.reach}]' if ':' in self.reach else self.reach}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """Where everything listens, and what the processes get as their environment.

    `sandboxed` is true when no key is set: the upstream is then the sandbox, even when another is
    configured (`overridden`).
    """

    sandbox: Door
    rest: Door
    bridge: Door
    sandboxed: bool
    environment: Mapping[str, str]
    overridden: bool

    @property
    def doors(self) -> list[Door]:
        """The doors of the processes that run, in the order in which they depend on each other."""
        return [*([self.sandbox] if self.sandboxed else []), self.rest, self.bridge]


def from_env(environ: Mapping[str, str] | None = None, dotenv: Path = PROJECT / ".env") -> Settings:
    """The settings in `environ` and the file `dotenv`; BadSetting for one that cannot be used."""
    given = {**read_dotenv(dotenv), **variables(environ)}
    ports = _default_ports(given.get("GATEWAY_OPENAPI"))
    sandbox = _door("sandbox", given, "SANDBOX", 8081, "/sandbox/state")
    rest = _door("rest", given, "GATEWAY", ports.get("rest", 8080), "/livez")
    bridge = _door("mcp", given, "BRIDGE", ports.get("mcp", 9090), "/livez")
    sandboxed = not any(given.get(key) for key in KEYS)
    environment = dict(given)
    environment["BRIDGE_REST_URL"] = given.get("BRIDGE_REST_URL") or rest.url
    for prefix in ("GATEWAY", "BRIDGE"):
        # The screen is for people, who see a line of each call without the audit log's.
        environment[f"{prefix}_LOG_FORMAT"] = given.get(f"{prefix}_LOG_FORMAT") or "text"
        environment[f"{prefix}_AUDIT_LOG"] = given.get(f"{prefix}_AUDIT_LOG") or "off"
    for door, prefix in ((sandbox, "SANDBOX"), (rest, "GATEWAY"), (bridge, "BRIDGE")):
        environment |= {f"{prefix}_HOST": door.host, f"{prefix}_PORT": str(door.port)}
    if sandboxed:
        environment["GATEWAY_UPSTREAM_URL"] = f"{sandbox.url}/v1"
        environment[KEYS[0]] = PLACEHOLDER_KEY
        # Something to list and to filter from the start.
        environment["SANDBOX_DEMO"] = given.get("SANDBOX_DEMO") or "true"
    return Settings(
        sandbox,
        rest,
        bridge,
        sandboxed,
        environment,
        sandboxed and bool(given.get("GATEWAY_UPSTREAM_URL")),
    )


def read_dotenv(path: Path) -> dict[str, str]:
    """The `NAME=value` lines of the file `path`; empty when there is no such file.

    Quotes, `export` and `#` comments are understood as usual.
    """
    if not path.is_file():
        return {}
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _DOTENV_LINE.fullmatch(text)
        if not found:
            raise BadSetting(f"{path.name}, line {number}: not of the form NAME=value")
        values[found[1]] = found[2] or found[3] or found[4] or ""
    return values


def _default_ports(document: str | None) -> Mapping[str, int]:
    try:
        return contract.load(Path(document) if document else contract.DEFAULT_DOCUMENT).ports
    except contract.ContractError as error:
        raise BadSetting(str(error)) from error


def _door(name: str, given: Mapping[str, str], prefix: str, port: int, ready: str) -> Door:
    setting = f"{prefix}_PORT"
    text = given.get(setting) or str(port)
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise BadSetting(f"{setting}={text}: not a port number (1 to 65535)")
    # 0 means the default here: callers, the bridge among them, must know the port beforehand.
    return Door(name, given.get(f"{prefix}_HOST") or "127.0.0.1", int(text) or port, setting, ready)
