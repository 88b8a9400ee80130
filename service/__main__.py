"""The operator's commands: `python -m service COMMAND`.

* `doctor`: the settings, and everything that is wrong with them and around them; exit 1 when anything is. A time limit
  that is out of order with those of other processes is a doubt, which leaves the exit status alone.
* `config`: the settings, each with its value and where it comes from; secrets are never shown. The MCP bridge's own:
  `python -m mcp_bridge.settings`.
* `token`: makes a caller's token. It goes to standard output, once; only its hash is kept. All else goes to standard error.
* `healthcheck`: asks the running service whether it is alive (`--ready`: ready); exit 1 when not. For containers.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from access.authentication import known_scopes
from access.listen import in_brackets
from access.token_file import make_token
from environment import SettingsError, read_settings, table, variables

from .config import LONGEST, Settings, contract_of, report
from .edge import open_context
from .problems import Problem
from .store import StoreUnavailable, open_store
from .translation import Inputs, build_request
from .upstream import Upstreams
from .upstream_connection import CancellableRequest, Deadline

_PATIENCE = 5.0  # seconds for each thing that is asked

_GONE = {"GATEWAY_TAG_JOBS": "jobs of creates with a key are always tagged"}
"""Settings that there were, and what holds today."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the command line names; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="settings and what is wrong with them")
    doctor.add_argument(
        "--ask-upstream", action="store_true", help="also send one reading request with the key"
    )
    commands.add_parser("config", help="settings and where they come from")
    token = commands.add_parser(
        "token", help="make a token for a caller", description="Makes a token."
    )
    health = commands.add_parser("healthcheck", help="ask the running service; exit 0 when alive")
    health.add_argument("--ready", action="store_true", help="ask for readiness instead")
    try:
        if words[:1] == ["token"]:  # the contract says which scopes there are
            _add_token_arguments(token)
        chosen = parser.parse_args(words)
        run = {"doctor": _doctor, "config": _config, "token": _token, "healthcheck": _healthcheck}
        return run[chosen.command](chosen)
    except SettingsError as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1


def _add_token_arguments(parser: argparse.ArgumentParser) -> None:
    known = known_scopes(contract_of().scopes)
    parser.set_defaults(known=known)
    parser.add_argument("name", help="who will use it; appears in logs")
    parser.add_argument(
        "--scope",
        action="append",
        required=True,
        help=f"what it allows: {', '.join(sorted(known))}; may be repeated",
    )
    parser.add_argument("--expires", type=moment, help="90d, 12h, or a time; without it, never")
    parser.add_argument(
        "--file", type=Path, help="token file to append to; without it, the line is shown"
    )


def _token(chosen: argparse.Namespace) -> int:
    """Makes a token; 2 when it cannot be made."""
    try:
        token, line = make_token(
            chosen.name, chosen.scope, chosen.expires, chosen.file, chosen.known
        )
    except SettingsError as error:
        print(f"no token made: {error}", file=sys.stderr)
        return 2
    if chosen.file:
        print(f"Added {chosen.name} to {chosen.file}. The token, shown only now:", file=sys.stderr)
    else:
        print(f"Line for the token file:\n{line}\nThe token, shown only now:", file=sys.stderr)
    print(token)
    return 0


_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time that `90d`, `12h`, `30m` (from now) or an ISO 8601 time means; ValueError for anything else."""
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text):
        return (now or datetime.now(UTC)) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    given = datetime.fromisoformat(text)
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _config(_: argparse.Namespace) -> int:
    print(table(report()))
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    _config(chosen)
    print()
    for name, instead in _GONE.items():
        if variables().get(name):
            print(f"doubt  {name}: there is no such setting any more; {instead}")
    settings = Settings.from_env(check_key=False)
    if settings.timeout >= LONGEST:
        print(
            f"doubt  time limits: GATEWAY_TIMEOUT ({settings.timeout:g} s) is not below {LONGEST:g} s. With it, raise BRIDGE_TIMEOUT,"
            " nginx's proxy_read_timeout and the time until a stopping process is killed (docs/deployment.md, Time limits)"
        )
    examinations = {
        "settings": _settings,
        "key": _ask_upstream if chosen.ask_upstream else _key,
        "store": _store,
        "upstream": _connection,
    }
    failures = 0
    for name, examine in examinations.items():
        try:
            print(f"ok     {name}: {examine(settings)}")
        except (SettingsError, OSError, StoreUnavailable, Problem) as error:
            failures += 1
            print(f"wrong  {name}: {error.detail if isinstance(error, Problem) else error}")
    return 1 if failures else 0


def _settings(settings: Settings) -> str:
    from .app import admission  # slow to import, and no other command needs it

    admission(settings)
    count = settings.workers or os.cpu_count() or 1
    return (
        f"{len(settings.contract.operations)} operations of {settings.contract.title}, at"
        f" {in_brackets(settings.host)}:{settings.port} by {count} worker{'s' if count > 1 else ''}, for {', '.join(sorted({*settings.base_urls.values()}))}"
    )


def _key(settings: Settings) -> str:
    for upstream in settings.contract.upstreams.values():
        settings.read_credentials(upstream.authentication)
    return "is set; --ask-upstream finds out whether it is good"


def _store(settings: Settings) -> str:
    open_store(settings.store).check()
    return "can be written"


def _connection(settings: Settings) -> str:
    return "; ".join(_connected(url, settings) for url in sorted({*settings.base_urls.values()}))


def _connected(url: str, settings: Settings) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((host, port), timeout=_PATIENCE) as plain:
        if parts.scheme == "http":
            return f"{host}:{port} accepts connections"
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        with context.wrap_socket(plain, server_hostname=host) as secure:
            return f"{host}:{port} accepts connections, {secure.version()}"


def _ask_upstream(settings: Settings) -> str:
    """Sends the first reading operation that needs no input."""
    operation = next(
        o
        for o in settings.contract.operations.values()
        if o.safe and not any(p.required for p in o.parameters)
    )
    open_context()
    upstream = Upstreams(settings)
    answer = upstream.send(
        build_request(operation, Inputs()), CancellableRequest(Deadline(_PATIENCE))
    )
    return f"{operation.id} was answered with {answer.status}"


def _healthcheck(chosen: argparse.Namespace) -> int:
    # No other settings, so that it needs no key, and none of them can be wrong.
    address = {n: v for n, v in variables().items() if n in ("GATEWAY_HOST", "GATEWAY_PORT")}
    values = read_settings(Settings, address)
    host, port = values.get("host", Settings.host), values.get("port")
    any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - no bind
    host = any_address.get(host.strip("[]"), host)
    page = "readyz" if chosen.ready else "livez"
    url = f"http://{in_brackets(host)}:{port or contract_of().ports['rest']}/{page}"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=_PATIENCE) as answer:
            print(answer.read().decode())
            return 0
    except HTTPError as error:
        print(error.read().decode())
    except (URLError, OSError) as error:
        print(f"{url}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
