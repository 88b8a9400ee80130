"""The upstream's credentials: found in the environment and in files, read again when a file changes, known to be refused or not.

What is wrong with one is said without showing it.
"""

from __future__ import annotations

import base64
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from access.files import content, open_plain, version
from environment import SettingsError, redact_path, redact_secret
from openapi.contract import Authentication, Contract
from telemetry.logs import add_secrets
from telemetry.shared_number import shared_number

if TYPE_CHECKING:
    from .config import Settings

CHECK_PERIOD = 1.0
"""Seconds for which a file is taken to be unchanged."""

REFUSAL_PERIOD = 30.0
"""Seconds after which a refused key is given another chance: a gateway that no request reaches would never learn."""

COMPLAINT_PERIOD = 60.0
"""Seconds between log lines that say the same."""

log = logging.getLogger("gateway.key")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How a request says who sends it. `secrets` are the texts that must never be seen elsewhere."""

    headers: Mapping[str, str]
    query: str
    secrets: tuple[bytes, ...]


class UpstreamKey:
    """The credentials, current. Thread-safe; what is known of a refusal is shared by workers forked after this was made."""

    def __init__(self, settings: Settings, authentication: Authentication) -> None:
        self._authentication = authentication
        self._read: Callable[[], Mapping[str, str]] = partial(
            settings.read_credentials, authentication
        )
        self._files = settings.credential_files
        self._seen = [version(file) for file in self._files]
        self._checked = time.monotonic()
        self._complaints: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._refused_at = shared_number()
        self._refused_at.value = -math.inf
        self._current = _rendered(self._authentication, self._read())

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
        """Notes that the upstream accepted the key, or that there is another one."""
        if self._refused_at.value > -math.inf:
            self._refused_at.value = -math.inf

    def refuse(self, used: Credentials) -> bool:
        """Notes that the upstream refused `used`; True when another key is there to be tried."""
        if self._files:
            self._check()
        if used is not self._current:
            return True
        self._refused_at.value = time.monotonic()
        self._complain(
            "upstream", "the upstream refuses the key; no request can succeed until it is renewed"
        )
        return False

    def _check(self) -> None:
        with self._lock:
            self._checked = time.monotonic()
            versions = [version(file) for file in self._files]
            if versions == self._seen:
                return
            try:
                self._current = _rendered(self._authentication, self._read())
            except SettingsError as error:  # the file is being written, or is wrong
                self._complain(
                    "file", f"the key's file changed and cannot be used, the old key stays: {error}"
                )
                return
            self._seen = versions
            self._complaints.clear()
            self.accept()
            log.warning("the key's file changed; the new key is in use")

    def _complain(self, of: str, trouble: str) -> None:
        """Logs `trouble`, unless the last line about the same thing said so and is not old."""
        now = time.monotonic()
        last, logged = self._complaints.get(of, ("", -math.inf))
        if trouble != last or now - logged > COMPLAINT_PERIOD:
            self._complaints[of] = trouble, now
            log.error("%s", trouble)


def _rendered(authentication: Authentication, fields: Mapping[str, str]) -> Credentials:
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
    secrets = [
        fields[name] for name in ("token", "username", "password", "value") if name in fields
    ]
    secrets += headers.values()
    add_secrets(*secrets)
    return Credentials(headers, query, tuple(text.encode() for text in secrets))


def read_credentials(
    contract: Contract, environ: Mapping[str, str], authentication: Authentication
) -> dict[str, str]:
    """The fields of `authentication` with the values that `environ` or its files have now; SettingsError."""
    names = contract.credential_names()
    return authentication.render({v: _secret(names[v], environ) for v in authentication.variables})


def credential_files(contract: Contract, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that hold credentials."""
    named = [environ.get(f"{name}_FILE") for name in credential_variables(contract)]
    return tuple(Path(file) for file in named if file)


def credential_variables(contract: Contract) -> list[str]:
    """The environment variables that may hold credentials; with `_FILE` after its name, one names a file instead."""
    return [name for names in contract.credential_names().values() for name in names]


def _secret(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The value of the first of `names` that is set, directly or as `NAME_FILE`, checked."""
    for name in names:
        file = environ.get(f"{name}_FILE")
        if environ.get(name) and file:
            raise SettingsError(f"{name} and {name}_FILE are both set; unset one")
        if environ.get(name):
            return _checked(name, environ[name])
        if file:
            return _checked(f"{name}_FILE", _from_file(f"{name}_FILE", file), redact_path(file))
    raise SettingsError(
        f"{names[0]} is not set, and the upstream needs it. Set it, or {names[0]}_FILE to a file that holds it."
        f"{_near(names, environ)} Without a key everything can be tried by make run or mistral-batch-gateway run, as long as GATEWAY_OPENAPI is not set."
    )


def _near(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """A sentence about a variable that may be one of `names` misspelt; empty when there is none."""
    known = [*names, *(f"{name}_FILE" for name in names)]
    for name in sorted(environ):
        if environ[name] and (meant := get_close_matches(name.upper(), known, 1, 0.8)):
            return f" {name} is set, which nothing reads; {meant[0]} may be meant."
    return ""


def _from_file(name: str, file: str) -> str:
    try:
        with open_plain(Path(file)) as opened:
            return content(opened).decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise SettingsError(f"{name} ({redact_path(file)}) cannot be read: {reason}") from error


_MISTAKES = (
    (re.compile(r"\Z"), "is empty"),
    (re.compile(r"bearer\b", re.IGNORECASE), "starts with 'Bearer'; give the key alone"),
    (re.compile(r"[\"'].*|.*[\"']$", re.DOTALL), "has quotes around it; give the key without them"),
    (re.compile(r"\s.*|.*\s$", re.DOTALL), "has white space around it; remove it"),
    (
        re.compile(r".*[^\x21-\x7e]", re.DOTALL),
        "has a character that no key has (a space, a line break, or not ASCII)",
    ),
)


def _checked(name: str, value: str, file: str = "") -> str:
    for pattern, reason in _MISTAKES:
        if pattern.match(value):
            shown = ", ".join(filter(None, (file, value and redact_secret(value))))
            raise SettingsError(f"{name} ({shown}) {reason}")
    return value
