"""Settings as dataclass fields that environment variables set: read, checked, and reported without what is secret.

The REST service, the MCP bridge, the sandbox and `make run` each have a dataclass of such fields in their `config`,
whose `from_env` calls `read_settings`. This module alone reads the process's environment, and never when it is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REDACTED = "***"
LARGEST = 1 << 40


class SettingsError(ValueError):
    """A setting, or the file that it names, cannot be used; the message says which, why and what to do, never a secret."""


def setting(
    env: str, default: Any, help: str, *, choices: Iterable[Any] = (), secret: bool = False
) -> Any:
    """A dataclass field that the environment variable `env` sets; its type is the default's, of lists a tuple of texts.

    `choices` are the values that it may have: words (in any case) or numbers. One that may hold a secret is not shown
    with the others, neither by `repr` nor by `report`.
    """
    metadata = {"env": env, "help": help, "choices": tuple(choices)}
    return field(default=default, metadata=metadata, repr=not secret)


def variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Where settings are read from: `environ`, or this process's environment when that is None."""
    return os.environ if environ is None else environ


def read_settings(settings: type[Any], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of the dataclass `settings` that `environ` (None: the process's) sets, by name, with their values.

    An empty variable is as one that is not set. Raises SettingsError for the first value that cannot be used.
    """
    values = {}
    for entry in fields(settings):
        if text := _text(entry, variables(environ)):
            values[entry.name] = _value(entry, text)
    return values


def _text(entry: Any, environ: Mapping[str, str]) -> str:
    """What the variable of the field `entry` says; empty when there is none."""
    return environ.get(entry.metadata.get("env", ""), "").strip()


_SWITCH = {
    **dict.fromkeys(("on", "1", "true", "yes"), True),
    **dict.fromkeys(("off", "0", "false", "no"), False),
}

_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    tuple: (lambda text: tuple(filter(None, map(str.strip, text.split(",")))), "a list"),
    bool: (lambda text: _SWITCH[text.lower()], "on or off"),
    int: (int, "a whole number"),
    float: (float, "a number of seconds"),
}


def _value(entry: Any, text: str) -> Any:
    name, default = entry.metadata["env"], entry.default
    if choices := {str(choice): choice for choice in entry.metadata["choices"]}:
        if text.lower() not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}")
        return choices[text.lower()]
    read, expected = _READERS[type(default)]
    try:
        value = read(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{name} must be {expected}") from error
    if isinstance(value, int | float) and not min(default, 0) <= value < LARGEST:
        raise SettingsError(f"{name} must be {min(default, 0):g} or more and not endless")
    return value


@dataclass(frozen=True)
class SettingReport:
    """One setting's value, as it may be shown, and its source: `environment` or `default`."""

    name: str
    value: str
    source: str


def report(
    settings: type[Any],
    environ: Mapping[str, str] | None = None,
    redactions: Mapping[str, Callable[[str], str]] | None = None,
) -> list[SettingReport]:
    """Every setting of the dataclass `settings` with the value that `environ` (None: the process's) gives it, redacted.

    `redactions` maps variables to what redacts their values. Of other secrets the length is shown, and URLs in the rest
    lose what may be credentials.
    """
    reports = []
    for entry in fields(settings):
        if name := entry.metadata.get("env"):
            redact = (redactions or {}).get(name, redact_url if entry.repr else redact_secret)
            text = _text(entry, variables(environ))
            value = text or _written(entry.default)
            source = "environment" if text else "default"
            reports.append(SettingReport(name, redact(value) if value else "(empty)", source))
    return reports


def _written(value: object) -> str:
    """A default as somebody would write it into the environment."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(reports: Iterable[SettingReport]) -> str:
    """The reports as aligned lines: name, value, source."""
    reports = list(reports)
    width = max(len(row.name) for row in reports)
    return "\n".join(f"{row.name:<{width}}  {row.value}  ({row.source})" for row in reports)


def redact_secret(secret: str) -> str:
    """The length alone: enough to recognise a mistake, too little to use."""
    return f"{len(secret)} characters, not shown"


def redact_url(text: str) -> str:
    """A text that may have URLs in it, without what may be credentials in them: users, queries and fragments.

    Also where slashes are missing or turned round. A path of a file may have an @.
    """
    if not text.startswith(("/", "./", "../")) or text.startswith("//"):
        text = re.sub(r"(?s)\A((?:[\w+.-]+:)?[/\\]{2})?.*@", rf"\1{REDACTED}@", text)
    return re.sub(r"(?s)([?#]).*", rf"\1{REDACTED}", text)


def redact_store(location: str) -> str:
    """A store's file, or of its URL the scheme, host, port and database; *** when these cannot be told apart.

    A password with a / or ? in it ends a URL's host early; what it leaves behind has an @, or is no database.
    """
    if "://" not in location and "@" not in location:
        return location
    try:
        parts = urlsplit(location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return REDACTED
    whole = bool(host) and "@" not in parts.path + parts.query + parts.fragment
    if not (whole and re.fullmatch(r"(/[0-9]*)?", parts.path)):
        return REDACTED
    address = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{address}{f':{port}' if port else ''}{parts.path}"


def redact_path(text: str) -> str:
    """A file's path, unless it is none and may be the secret itself, put into the wrong variable."""
    try:
        exists = Path(text).exists()
    except OSError:  # too long for a name
        exists = False
    return text if exists or "/" in text else redact_secret(text)
