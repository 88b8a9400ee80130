"""The token file: who may call, by the SHA-256 of a token; read again, off the event loop, whenever it changes.

A line for each token, a JSON object; empty lines and lines that begin with # say nothing:

    {"name": "nightly", "sha256": "9f86d0...", "scopes": ["jobs:read"], "expires": "2027-02-22T00:00:00Z"}

Deleting a line revokes its token. `expires` is optional. The tokens themselves are nowhere: each has 256 random bits,
so that a hash needs neither salt nor slowness to keep it.
"""

from __future__ import annotations

import asyncio
import hmac
import io
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

from environment import SettingsError

from .files import content, open_plain
from .tasks import under_way

log = logging.getLogger("access.token_file")

LOOK_EVERY = 1.0
"""Seconds between looks at the file: how long a revoked token may still work, beside the time that the reading takes."""
PATIENCE = 1.0
"""Seconds that requests wait until a changed file is read; then it is read beside them, and they go by the lines read before."""
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
        self.reading: asyncio.Task[None] | None = None
        self.version: tuple[int, ...] | None = self._version()  # of what was read; None: to be read
        self.entries = read(path, scopes)
        self.fault = ""  # what is wrong with the file now
        self.complaint = ""  # what was complained of last
        self.complained = float("-inf")

    def find(self, token: str) -> Grant | None:
        """The grant of `token` by the lines read last; None for one that is unknown, revoked or expired. Takes as long
        for all of them.
        """
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = None
        for entry in self.entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found.grant if found and found.expires > time.time() else None

    async def renew(self) -> None:
        """Looks at the file when it is time to, and has a thread read it when it has changed or could not be read.

        All requests that come meanwhile wait for the same reading: they may be the first for hours, and the token of one
        may have been revoked long ago.
        """
        now = self.clock()
        reading = under_way(self.reading)
        if not reading and now - self.looked >= LOOK_EVERY:
            self.looked = now
            version = self._version()
            if version != self.version:
                self.reading = reading = asyncio.create_task(self._read_beside(version))
            elif self.fault:
                self._complain(self.fault)
        patience = self.looked + PATIENCE - now
        if reading and patience > 0:
            await asyncio.wait({reading}, timeout=patience)

    async def _read_beside(self, version: tuple[int, ...]) -> None:
        # When the system has no thread to give now, the next look tries again.
        try:
            await asyncio.to_thread(self._read_again, version)
        except RuntimeError as error:
            self.fault = f"the token file {self.path} has changed and cannot be read: {error}"
        if self.fault:
            self._complain(self.fault)

    def _read_again(self, version: tuple[int, ...]) -> None:
        """Takes over every line that can be used, so that deleting one revokes its token whatever the others say."""
        try:
            entries, fault, bad = survey(self.path, self.scopes)
        except SettingsError as error:
            self.version = None  # what is wrong may pass without a change of the file
            self.fault = f"{error}. The tokens read before stay in force: nothing can be revoked until this is corrected"
            return
        self.entries, self.version = entries, version
        log.warning("%s read again: %d tokens", self.path, len(entries))
        self.complaint = ""
        self.fault = (
            f"{fault}. Lines that cannot be used, which let nobody in: {bad}" if bad else ""
        )

    def _complain(self, fault: str) -> None:
        now = self.clock()
        if fault != self.complaint or now - self.complained >= COMPLAIN_EVERY:
            self.complaint = fault
            self.complained = now
            log.error("%s", fault)

    def _version(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def read(path: Path, scopes: frozenset[str] | None = None) -> list[Entry]:
    """The entries of a file; SettingsError for the first line that cannot be used."""
    entries, fault, _ = survey(path, scopes)
    if fault:
        raise SettingsError(fault)
    return entries


def survey(path: Path, scopes: frozenset[str] | None) -> tuple[list[Entry], str, int]:
    """As `examine`, of a file; SettingsError when it cannot be read."""
    try:
        with open_plain(path) as file:
            found = content(file)
    except OSError as error:
        raise SettingsError(f"the token file {path} cannot be read: {error.strerror}") from error
    return examine(found, path, scopes)


def examine(
    content: bytes, path: Path, scopes: frozenset[str] | None
) -> tuple[list[Entry], str, int]:
    """The entries in the content of the file at `path`; what is wrong with the first line that cannot be used, empty when
    all can; how many cannot.
    """
    entries: list[Entry] = []
    taken: set[str | bytes] = set()
    first = ""
    bad = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            entries.append(_another(line, scopes, taken))
        except SettingsError as error:
            bad += 1
            first = first or f"the token file {path}, line {number}: {error}"
    return entries, first, bad


def _another(line: bytes, scopes: frozenset[str] | None, taken: set[str | bytes]) -> Entry:
    """The entry of a line; SettingsError when it cannot be used. `taken` are the names and digests of those above."""
    entry = _entry(line, scopes)
    if entry.grant.name in taken:
        raise SettingsError(f"the name {entry.grant.name} is taken by a line above")
    if entry.digest in taken:
        raise SettingsError("the sha256 is that of a line above")
    taken |= {entry.grant.name, entry.digest}
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
