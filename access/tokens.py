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

from .refusals import AccessError

log = logging.getLogger("access.tokens")

LOOK_EVERY = 1.0
"""Seconds between looks at the file: how long a revoked token may still work."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_REQUIRED = {"name", "sha256", "scopes"}


@dataclass(frozen=True)
class Grant:
    """What a bearer may do: their name, unique among all bearers, and their scopes."""

    name: str
    scopes: frozenset[str]


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
        """Raises AccessError when the file cannot be used, with the line and the reason."""
        self.path = path
        self.scopes = scopes
        self.clock = clock
        self.looked = clock()
        self.version = self._version()
        self.entries = read(path, scopes)

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
        """Reads the file again when it has changed; one that has become unusable changes nothing but the log."""
        now = self.clock()
        if now - self.looked < LOOK_EVERY:
            return
        self.looked = now
        version = self._version()
        if version == self.version:
            return
        self.version = version
        try:
            self.entries = read(self.path, self.scopes)
        except AccessError as error:
            log.error("%s. The tokens read before stay in force until this is corrected.", error)
        else:
            log.warning("%s read again: %d tokens", self.path, len(self.entries))

    def _version(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def read(path: Path, scopes: frozenset[str] | None = None) -> list[Entry]:
    """The entries of a file; AccessError for the first line that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise AccessError(f"the token file {path} cannot be read: {reason}") from error
    entries: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = _entry(line, scopes)
            if any(entry.grant.name == other.grant.name for other in entries):
                raise AccessError(f"the name {entry.grant.name} is taken by a line above")
            if any(entry.digest == other.digest for other in entries):
                raise AccessError("the sha256 is that of a line above")
        except AccessError as error:
            raise AccessError(f"the token file {path}, line {number}: {error}") from error
        entries.append(entry)
    return entries


def line(name: str, token: str, scopes: list[str], expires: datetime | None) -> str:
    """The line of the file that lets `token` in; AccessError for a name or a scope that cannot be used."""
    members: dict[str, Any] = {
        "name": name,
        "sha256": sha256(token.encode()).hexdigest(),
        "scopes": scopes,
    }
    if expires:
        members["expires"] = f"{expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    text = json.dumps(members)
    _entry(text, None)
    return text


def _entry(text: str, known: frozenset[str] | None) -> Entry:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AccessError("it is not a JSON object") from error
    if not isinstance(members, dict):
        raise AccessError("it is not a JSON object")
    if faults := sorted((members.keys() - {"expires"}) ^ _REQUIRED):
        raise AccessError(f"{faults[0]} is {'unknown' if faults[0] in members else 'missing'}")
    if not (isinstance(members["name"], str) and NAME.fullmatch(members["name"])):
        raise AccessError("name must be 1 to 64 letters, digits and . _ -")
    return Entry(
        digest=_digest(members["sha256"]),
        grant=Grant(members["name"], frozenset(_scopes(members["scopes"], known))),
        expires=_moment(members["expires"]) if "expires" in members else float("inf"),
    )


def _digest(value: Any) -> bytes:
    if not (isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value)):
        raise AccessError(
            "sha256 must be 64 hexadecimal digits; it is the token's hash, not the token"
        )
    return bytes.fromhex(value)


def _scopes(value: Any, known: frozenset[str] | None) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        raise AccessError("scopes must be a list of at least one scope")
    for scope in value:
        if not (isinstance(scope, str) and SCOPE.fullmatch(scope)):
            raise AccessError("scopes must be texts without spaces, quotes or backslashes")
        if known is not None and scope not in known:
            raise AccessError(f"there is no scope {scope}; there are {', '.join(sorted(known))}")
        yield scope


def _moment(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise AccessError("expires must be a time such as 2027-02-22T00:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
