"""The service's commands: `python -m service COMMAND`.

* `serve`: serves, under gunicorn (`server`).
* `doctor`: the settings, and what is fine, doubtful and wrong with them and around them (`doctor`); exit 1 when anything is wrong.
* `config`: the settings, each with its value and where it comes from; secrets are never shown. The MCP bridge's own:
  `python -m mcp_bridge.settings`.
* `token`: makes a caller's token. It goes to standard output, once; only its hash is kept. All else goes to standard error.
* `healthcheck`: asks the running service whether it is alive (`--ready`: ready); exit 1 when not. For containers.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from access.authentication import known_scopes
from access.listen import in_brackets
from access.token_file import make_token
from environment import SettingsError, dotenv_note, read_settings, run_command, table, variables

from .config import Settings, contract_of, report

_PATIENCE = 5.0  # seconds


def main(arguments: list[str] | None = None, prog: str = "python -m service") -> int:
    """Runs the command that the command line names; returns its exit status. `prog` is what people typed before it."""
    return run_command(partial(_main, sys.argv[1:] if arguments is None else arguments, prog))


def _main(words: list[str], prog: str) -> int:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "serve",
        help="serve, under gunicorn",
        description="Serves the REST service, under gunicorn. Settings come from the environment; gunicorn's own, from GUNICORN_CMD_ARGS.",
    )
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
        run = {
            "serve": _serve,
            "doctor": _doctor,
            "config": _config,
            "token": _token,
            "healthcheck": _healthcheck,
        }
        return run[chosen.command](chosen)
    except SettingsError as error:
        print(f"wrong: {error}", file=sys.stderr)
        return 1


def _serve(_: argparse.Namespace) -> int:
    from .server import Server  # no other command needs gunicorn

    Server().run()
    return 0


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
    parser.add_argument(
        "--expires", type=moment, help="90d, 12h, 30m, 45s, or a time; without it, never"
    )
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


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = (
    "give a time from now, such as 90d, 12h, 30m or 45s, or a moment such as 2027-02-22T00:00:00Z"
)


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time that `90d`, `12h`, `30m` (from now) or an ISO 8601 time means; argparse's error for anything else."""
    try:
        if match := re.fullmatch(r"([0-9]+) ?([smhdw])", text.strip().lower()):
            given = (now or datetime.now(UTC)) + timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            given = datetime.fromisoformat(text)
        given = given if given.tzinfo else given.replace(tzinfo=UTC)
        return given.astimezone(UTC)
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is too far away; {_FORMS}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; {_FORMS}") from error


def _config(_: argparse.Namespace) -> int:
    print(table(report()))
    if note := dotenv_note():
        print(f"# {note}")
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    print("# the settings of the shell that this runs in; a service that runs may have others")
    _config(chosen)
    print()
    from . import doctor  # slow to import, and no other command needs it

    failures = 0
    for verdict, name, text in doctor.findings(chosen.ask_upstream):
        failures += verdict == doctor.WRONG
        print(f"{verdict:<6} {name}: {text}", flush=True)
    return 1 if failures else 0


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
        reason = getattr(error, "reason", error)
        print(f"nothing answers at {url}; is the service running? ({reason})", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
