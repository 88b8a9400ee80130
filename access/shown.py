"""Settings for people: each with its value and where it comes from, and nothing in it that is secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HIDDEN = "***"


@dataclass(frozen=True)
class Origin:
    """One setting's value, as it may be shown, and its source: environment or default."""

    name: str
    value: str
    source: str


def origins(
    settings: type[Any],
    environ: Mapping[str, str],
    forms: Mapping[str, Callable[[str], str]] | None = None,
) -> list[Origin]:
    """A row for each field of the dataclass `settings` that names its variable in its metadata, as `env`.

    `forms` show the values of single variables. Of other fields without a `repr` only the length is shown.
    """
    found = []
    for entry in fields(settings):
        if name := entry.metadata.get("env"):
            form = (forms or {}).get(name, url if entry.repr else length)
            given = environ.get(name, "").strip()
            text = given or _plain(entry.default)
            shown = form(text) if text else "(empty)"
            found.append(Origin(name, shown, "environment" if given else "default"))
    return found


def table(rows: Iterable[Origin]) -> str:
    """A line for each row."""
    rows = list(rows)
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:<{width}}  {row.value}  ({row.source})" for row in rows)


def length(secret: str) -> str:
    """Enough to recognise a mistake, too little to use."""
    return f"{len(secret)} characters, not shown"


def url(text: str) -> str:
    """A text that may have URLs in it, without what may be credentials in them: users and queries."""
    return re.sub(r"(?s)\?.*", f"?{HIDDEN}", re.sub(r"(?s)//.*@", f"//{HIDDEN}@", text))


def store(location: str) -> str:
    """A store's file, or of its URL the scheme, host, port and database; *** when these cannot be told apart.

    A password with a / or ? in it ends a URL's host early; what it leaves behind has an @, or is no database.
    """
    if "://" not in location and "@" not in location:
        return location
    try:
        parts = urlsplit(location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return HIDDEN
    whole = bool(host) and "@" not in parts.path + parts.query + parts.fragment
    if not (whole and re.fullmatch(r"(/[0-9]*)?", parts.path)):
        return HIDDEN
    address = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{address}{f':{port}' if port else ''}{parts.path}"


def path(text: str) -> str:
    """A file's path, unless it is none and may be the secret itself, put into the wrong variable."""
    try:
        exists = Path(text).exists()
    except OSError:  # too long for a name
        exists = False
    return text if exists or "/" in text else length(text)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
