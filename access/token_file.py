"""The token file: who may call, by the SHA-256 of a token; read again, off the event loop, whenever it changes.

A line for each token, a JSON object; empty lines and lines that begin with # say nothing:

    {"name": "nightly", "sha256": "9f86d0...", "scopes": ["jobs:read"], "expires": "2027-02-22T00:00:00Z"}

Deleting a line revokes its token. `expires` is optional. The tokens themselves are nowhere: each has 256 random bits,
so that a hash needs neither salt nor slowness to keep it. `TokenFile` reads the file, `make_token` adds to it.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from environment import SettingsError

from .files import content, open_plain, version

log = logging.getLogger("access.token_file")

CHECK_INTERVAL = 1.0
"""Seconds between checks for a change: how long a revoked token may still work, beside the time that reading takes."""
MAX_WAIT = 1.0
"""Seconds that requests wait until a changed file is read; then it is read beside them, and they go by the lines read before."""
LOG_INTERVAL = 60.0
"""Seconds between log lines about the same fault of the file."""
PREFIX = "mbg_"
"""Begins every token: tells people and secret scanners what they have found."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_REQUIRED = {"name", "sha256", "scopes"}


@dataclass(frozen=True)
class Grant:
    """What a caller may do: their name, unique among all callers, and their scopes; None: everything, without a token."""

    name: str
    scopes: frozenset[str] | None

    def allows(self, scope: str) -> bool:
        """True when they may do what needs `scope`."""
        return self.scopes is None or scope in self.scopes


LOCAL = Grant("local", None)
"""Whoever calls a process that asks for no tokens."""


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
        self.checked = clock()
        self.reading: asyncio.Task[None] | None = None
        self.version: tuple[int, ...] | None = version(path)  # of what was read; None: to be read
        self.entries = read_entries(path, scopes)
        self.fault = ""  # what is wrong with the file now
        self.logged_fault, self.logged = "", float("-inf")

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

    async def refresh(self) -> None:
        """Checks the file when it is time to, and has a thread read it when it has changed or could not be read.

        All requests that come meanwhile wait for the same reading: they may be the first for hours, and the token of one
        may have been revoked long ago.
        """
        now = self.clock()
        reading = running(self.reading)
        if not reading and now - self.checked >= CHECK_INTERVAL:
            self.checked = now
            present = version(self.path)
            if present != self.version:
                self.reading = reading = asyncio.create_task(self._read_beside(present))
            elif self.fault:
                self._log_fault()
        wait = self.checked + MAX_WAIT - now
        if reading and wait > 0:
            await asyncio.wait({reading}, timeout=wait)

    async def _read_beside(self, present: tuple[int, ...]) -> None:
        # When the system has no thread to give now, the next check tries again.
        try:
            await asyncio.to_thread(self._read, present)
        except RuntimeError as error:
            self.fault = f"the token file {self.path} has changed and cannot be read: {error}"
        if self.fault:
            self._log_fault()

    def _read(self, present: tuple[int, ...]) -> None:
        """Takes over every line that can be used, so that deleting one revokes its token whatever the others say."""
        try:
            entries, fault, bad = parse(_content(self.path), self.path, self.scopes)
        except SettingsError as error:
            self.version = None  # what is wrong may pass without a change of the file
            self.fault = f"{error}. The tokens read before stay in force: nothing can be revoked until this is corrected"
            return
        self.entries, self.version = entries, present
        log.warning("%s read again: %d tokens", self.path, len(entries))
        self.logged_fault = ""
        self.fault = (
            f"{fault}. Lines that cannot be used, which let nobody in: {bad}" if bad else ""
        )

    def _log_fault(self) -> None:
        now = self.clock()
        if self.fault != self.logged_fault or now - self.logged >= LOG_INTERVAL:
            self.logged_fault, self.logged = self.fault, now
            log.error("%s", self.fault)


def running(task: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
    """`task` while it can be waited for: until it has ended, or its loop has."""
    if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
        return None
    return task


def read_entries(path: Path, scopes: frozenset[str] | None = None) -> list[Entry]:
    """The entries of the file at `path`; SettingsError when it cannot be read, and for the first line that cannot be used."""
    entries, fault, _ = parse(_content(path), path, scopes)
    if fault:
        raise SettingsError(fault)
    return entries


def _content(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return content(file)
    except OSError as error:
        raise SettingsError(f"the token file {path} cannot be read: {error.strerror}") from error


def parse(text: bytes, path: Path, scopes: frozenset[str] | None) -> tuple[list[Entry], str, int]:
    """The entries in the content of the file at `path`; what is wrong with the first line that cannot be used, empty when
    all can; how many cannot.
    """
    entries: list[Entry] = []
    taken: set[str | bytes] = set()  # names and digests
    first = ""
    bad = 0
    for number, line in enumerate(io.BytesIO(text), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            entry = _entry(line, scopes)
            if entry.grant.name in taken:
                raise SettingsError(f"the name {entry.grant.name} is taken by a line above")
            if entry.digest in taken:
                raise SettingsError("the sha256 is that of a line above")
        except SettingsError as error:
            bad += 1
            first = first or f"the token file {path}, line {number}: {error}"
            continue
        taken |= {entry.grant.name, entry.digest}
        entries.append(entry)
    return entries, first, bad


def _entry(line: bytes, known: frozenset[str] | None) -> Entry:
    try:
        members = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError("it is not a JSON object") from error
    if not isinstance(members, dict):
        raise SettingsError("it is not a JSON object")
    if faults := sorted((members.keys() - {"expires"}) ^ _REQUIRED):
        raise SettingsError(f"{faults[0]} is {'unknown' if faults[0] in members else 'missing'}")
    name, digest, scopes = members["name"], members["sha256"], members["scopes"]
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise SettingsError("name must be 1 to 64 letters, digits and . _ -")
    if not (isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest)):
        raise SettingsError(
            "sha256 must be 64 hexadecimal digits; it is the token's hash, not the token"
        )
    if not isinstance(scopes, list) or not scopes:
        raise SettingsError("scopes must be a list of at least one scope")
    for scope in scopes:
        if not (isinstance(scope, str) and SCOPE.fullmatch(scope)):
            raise SettingsError("scopes must be texts without spaces, quotes or backslashes")
        if known is not None and scope not in known:
            raise SettingsError(f"there is no scope {scope}; there are {', '.join(sorted(known))}")
    expires = _moment(members["expires"]) if "expires" in members else float("inf")
    return Entry(bytes.fromhex(digest), Grant(name, frozenset(scopes)), expires)


def _moment(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise SettingsError("expires must be a time such as 2027-02-22T00:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def make_token(
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
    members: dict[str, Any] = {
        "name": name,
        "sha256": sha256(token.encode()).hexdigest(),
        "scopes": scopes,
    }
    if expires:
        members["expires"] = f"{expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = json.dumps(members)
    _entry(line.encode(), known)
    if file is not None:
        _append(file, name, line, known)
    return token, line


def _append(file: Path, name: str, line: str, known: frozenset[str] | None) -> None:
    try:
        with open_plain(file, os.O_RDWR | os.O_APPEND | os.O_CREAT) as appended:
            before = content(appended)
            entries, fault, _ = parse(before, file, known)
            if fault:
                raise SettingsError(fault)
            if any(other.grant.name == name for other in entries):
                raise SettingsError(f"{file} has a token named {name} already")
            start = "" if not before or before.endswith(b"\n") else "\n"
            appended.write(f"{start}{line}\n".encode())
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from error
