"""Makes a token: `python -m service token NAME --scope SCOPE [--expires 90d] [--file FILE]`.

The token goes to standard output, once; only its hash is kept. Everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from environment import SettingsError

from .files import content, open_plain
from .token_file import examine, line

PREFIX = "mbg_"
"""Tells people and secret scanners what they have found."""

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def make(
    name: str,
    scopes: list[str],
    expires: datetime | None = None,
    file: Path | None = None,
    known: frozenset[str] | None = None,
) -> tuple[str, str]:
    """A new token, and the line that lets it in, which is appended to `file` unless that is None.

    `known` are the scopes that exist; None: any. Raises SettingsError when name, scopes or time cannot be used, and
    when the file is unusable or has that name already.
    """
    if expires and expires <= datetime.now(UTC):
        raise SettingsError(f"{expires.isoformat()} is past, so that it would let nobody in")
    token = PREFIX + secrets.token_urlsafe(32)
    entry = line(name, token, scopes, expires, known)
    if file is not None:
        _append(file, name, entry, known)
    return token, entry


def _append(file: Path, name: str, entry: str, known: frozenset[str] | None) -> None:
    try:
        with open_plain(file, os.O_RDWR | os.O_APPEND | os.O_CREAT) as appended:
            before = content(appended)
            entries, fault, _ = examine(before, file, known)
            if fault:
                raise SettingsError(fault)
            if any(other.grant.name == name for other in entries):
                raise SettingsError(f"{file} has a token named {name} already")
            start = "" if not before or before.endswith(b"\n") else "\n"
            appended.write(f"{start}{entry}\n".encode())
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from error


def moment(text: str, now: datetime | None = None) -> datetime:
    """The time that `90d`, `12h`, `30m` (from now) or an ISO 8601 time means; ValueError for anything else."""
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([dhm])", text):
        return (now or datetime.now(UTC)) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    given = datetime.fromisoformat(text)
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def main(arguments: list[str], known: frozenset[str]) -> int:
    """Makes the token that the command line asks for, with scopes among the `known` ones; returns the exit status:
    2 when it cannot, with the reason on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m service token", description="Makes a token.")
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
    chosen = parser.parse_args(arguments)
    try:
        token, entry = make(chosen.name, chosen.scope, chosen.expires, chosen.file, known)
    except SettingsError as error:
        print(f"no token made: {error}", file=sys.stderr)
        return 2
    if chosen.file:
        print(f"Added {chosen.name} to {chosen.file}. The token, shown only now:", file=sys.stderr)
    else:
        print(f"Line for the token file:\n{entry}\nThe token, shown only now:", file=sys.stderr)
    print(token)
    return 0
