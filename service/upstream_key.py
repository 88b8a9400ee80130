"""The upstream's credentials while the service runs: read again when their file changes, known to be refused or not."""

from __future__ import annotations

import base64
import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from environment import SettingsError
from openapi.contract import Authentication
from telemetry.logs import add_secrets
from telemetry.shared_number import SharedNumber

from .config import Settings

CHECK_PERIOD = 1.0
"""Seconds for which a file is taken to be unchanged."""

REFUSAL_PERIOD = 30.0
"""Seconds after which a refused key is given another chance: a gateway that no request reaches would never learn."""

COMPLAINT_PERIOD = 60.0
"""Seconds between log lines about the same trouble."""

log = logging.getLogger("gateway.key")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How a request says who sends it. `secrets` are the texts that must never be seen elsewhere."""

    headers: Mapping[str, str]
    query: str
    secrets: tuple[bytes, ...]


class Key:
    """The credentials, current. Thread-safe; what is known of a refusal is shared by workers forked after this was made."""

    def __init__(self, settings: Settings) -> None:
        self._authentication = settings.contract.authentication
        self._read = settings.read_credentials
        self._files = settings.credential_files
        self._seen = _versions(self._files)
        self._checked = time.monotonic()
        self._complained = float("-inf")
        self._lock = threading.Lock()
        self._refused_at = SharedNumber()
        self._refused_at.value = -math.inf
        self._current = render(self._authentication, self._read())

    @property
    def refused(self) -> bool:
        """True from the upstream's 401 until a success, until another key is read, or until it is time to try again."""
        return time.monotonic() - self._refused_at.value < REFUSAL_PERIOD

    def current(self) -> Credentials:
        """The credentials to send now."""
        if self._files and time.monotonic() - self._checked > CHECK_PERIOD:
            self._check()
        return self._current

    def accept(self) -> None:
        """Notes that the upstream accepted the key."""
        self._forget_refusal()

    def refuse(self, used: Credentials) -> bool:
        """Notes that the upstream refused `used`; True when another key is there to be tried."""
        if self._files:
            self._check()
        if used is not self._current:
            return True
        self._refused_at.value = time.monotonic()
        self._complain("the upstream refuses the key; no request can succeed until it is renewed")
        return False

    def _check(self) -> None:
        with self._lock:
            self._checked = time.monotonic()
            versions = _versions(self._files)
            if versions == self._seen:
                return
            try:
                self._current = render(self._authentication, self._read())
            except SettingsError as error:  # the file is being written, or is wrong
                self._complain(
                    f"the key's file changed and cannot be used, the old key stays: {error}"
                )
                return
            self._seen = versions
            self._forget_refusal()
            log.warning("the key's file changed; the new key is in use")

    def _forget_refusal(self) -> None:
        if self._refused_at.value > -math.inf:
            self._refused_at.value = -math.inf

    def _complain(self, trouble: str) -> None:
        now = time.monotonic()
        if now - self._complained > COMPLAINT_PERIOD:
            self._complained = now
            log.error("%s", trouble)


def render(authentication: Authentication, fields: Mapping[str, str]) -> Credentials:
    """`fields` in the form that the authentication's type gives them."""
    headers: dict[str, str] = {}
    query = ""
    if authentication.type == "bearer":
        headers["Authorization"] = f"Bearer {fields['token']}"
    elif authentication.type == "basic":
        pair = f"{fields['username']}:{fields['password']}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif authentication.type == "apikey" and fields.get("placement") == "query":
        query = urlencode({fields["key"]: fields["value"]})
    elif authentication.type == "apikey":
        headers[fields["key"]] = fields["value"]
    hidden = [fields[name] for name in ("token", "username", "password", "value") if name in fields]
    add_secrets(*hidden, *headers.values())
    return Credentials(
        headers, query, tuple(text.encode() for text in (*hidden, *headers.values()))
    )


def _versions(files: tuple[Path, ...]) -> list[tuple[int, ...]]:
    """What changes when a file is written, replaced, or re-linked (as mounted secrets are)."""
    found: list[tuple[int, ...]] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append((0,))
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
