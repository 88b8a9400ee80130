"""The token file: who may call, by the SHA-256 of a token; read again whenever it changes.

A line for each token, a JSON object; empty lines and lines that begin with # say nothing:

    {"name": "nightly", "sha256": "9f86d0...", "scopes": ["jobs:read"], "expires": "2027-02-22T00:00:00Z"}

Deleting a line revokes its token. `expires` is optional. The tokens themselves are nowhere: each has 256 random bits,
so that a hash needs neither salt nor slowness to keep it.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from .settings import SettingsError

log = logging.getLogger("access.tokens")

LOOK_EVERY = 1.0
"""Seconds between looks at the file: how long a revoked token may still work."""
COMPLAIN_EVERY = 60.0
"""Seconds between log lines about the same fault of the file."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_REQUIRED = {"name", "sha256", "scopes"}


@dataclass(frozen=True)
class Grant:
    """What a caller may do: their name, unique among all bearers, and their scopes; None: everything, without a token."""

    name: str
    scopes: frozenset[str] | None

    def allows(self, scope: str) -> bool:
        """True when they may do what needs `scope`."""
        return self.scopes is None or scope in self.scopes


@dataclass(frozen=True)
class Entry:
    """A line of the file. `expires` is in seconds since 1970."""

    digest: bytes
    grant: Grant
    expires: float = float("inf")


class TokenFile:
    """The tokens in a file. `scopes` are those that exist, so that a misspelt one is noticed; None: any."""

    def __init__(
        self,
        path: Path,
        scopes: frozenset[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises SettingsError when the file cannot be used, with the line and the reason."""
        self.path = path
        self.scopes = scopes
        self.clock = clock
        self.looked = clock()
        self.version = self._version()
        self.entries = read(path, scopes)
        self.fault = ""  # what is wrong with the file now
        self.complained = float("-inf")

    def find(self, token: str) -> Grant | None:
        """The grant of `token`; None for one that is unknown, revoked or expired. Takes as long for all of them."""
        self._look()
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = None
        for entry in self.entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found.grant if found and found.expires > time.time() else None

    def _look(self) -> None:
        """Reads the file again when it has changed, and complains while something is wrong with it."""
        now = self.clock()
        if now - self.looked < LOOK_EVERY:
            return
        self.looked = now
        version = self._version()
        if version != self.version:
            self.version = version
            self._read_again()
            self.complained = float("-inf")
        if self.fault and now - self.complained >= COMPLAIN_EVERY:
            self.complained = now
            log.error("%s", self.fault)

    def _read_again(self) -> None:
        """Takes over every line that can be used, so that deleting one revokes its token whatever the others say."""
        try:
            self.entries, faults = survey(self.path, self.scopes)
        except SettingsError as error:
            self.fault = f"{error}. The tokens read before stay in force: nothing can be revoked until this is corrected"
            return
        log.warning("%s read again: %d tokens", self.path, len(self.entries))
        self.fault = ""
        if faults:
            self.fault = (
                f"{faults[0]}. Lines that cannot be used, which let nobody in: {len(faults)}"
            )

    def _version(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def read(path: Path, scopes: frozenset[str] | None = None) -> list[Entry]:
    """The entries of a file; SettingsError for the first line that cannot be used."""
    entries, faults = survey(path, scopes)
    if faults:
        raise SettingsError(faults[0])
    return entries


def survey(path: Path, scopes: frozenset[str] | None) -> tuple[list[Entry], list[str]]:
    """The entries of a file, and what is wrong with its other lines; SettingsError when it cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"the token file {path} cannot be read: {error.strerror}") from error
    entries: list[Entry] = []
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            entries.append(_another(line, scopes, entries))
        except SettingsError as error:
            faults.append(f"the token file {path}, line {number}: {error}")
    return entries, faults


def _another(line: bytes, scopes: frozenset[str] | None, entries: list[Entry]) -> Entry:
    """The entry of a line that comes after `entries`; SettingsError when it cannot be used."""
    entry = _entry(line, scopes)
    if any(entry.grant.name == other.grant.name for other in entries):
        raise SettingsError(f"the name {entry.grant.name} is taken by a line above")
    if any(entry.digest == other.digest for other in entries):
        raise SettingsError("the sha256 is that of a line above")
    return entry


def line(
    name: str,
    token: str,
    scopes: list[str],
    expires: datetime | None,
    known: frozenset[str] | None = None,
) -> str:
    """The line of the file that lets `token` in; SettingsError for a name or a scope that cannot be used, such as
    one that is not `known`.
    """
    members: dict[str, Any] = {
        "name": name,
        "sha256": sha256(token.encode()).hexdigest(),
        "scopes": scopes,
    }
    if expires:
        members["expires"] = f"{expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    text = json.dumps(members)
    _entry(text.encode(), known)
    return text


def _entry(line: bytes, known: frozenset[str] | None) -> Entry:
    try:
        members = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError("it is not a JSON object") from error
    if not isinstance(members, dict):
        raise SettingsError("it is not a JSON object")
    if faults := sorted((members.keys() - {"expires"}) ^ _REQUIRED):
        raise SettingsError(f"{faults[0]} is {'unknown' if faults[0] in members else 'missing'}")
    if not (isinstance(members["name"], str) and NAME.fullmatch(members["name"])):
        raise SettingsError("name must be 1 to 64 letters, digits and . _ -")
    return Entry(
        digest=_digest(members["sha256"]),
        grant=Grant(members["name"], frozenset(_scopes(members["scopes"], known))),
        expires=_moment(members["expires"]) if "expires" in members else float("inf"),
    )


def _digest(value: Any) -> bytes:
    if not (isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value)):
        raise SettingsError(
            "sha256 must be 64 hexadecimal digits; it is the token's hash, not the token"
        )
    return bytes.fromhex(value)


def _scopes(value: Any, known: frozenset[str] | None) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        raise SettingsError("scopes must be a list of at least one scope")
    for scope in value:
        if not (isinstance(scope, str) and SCOPE.fullmatch(scope)):
            raise SettingsError("scopes must be texts without spaces, quotes or backslashes")
        if known is not None and scope not in known:
            raise SettingsError(f"there is no scope {scope}; there are {', '.join(sorted(known))}")
        yield scope


def _moment(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise SettingsError("expires must be a time such as 2027-02-22T00:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
