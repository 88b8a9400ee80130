"""Settings as dataclass fields that environment variables set, for REST service and bridge; `shown` shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from typing import Any


class SettingsError(ValueError):
    """A setting, or the file that it names, cannot be used; the message says which, why and what to do, never a secret."""


def setting(
    env: str, default: Any, help: str, *, choices: Iterable[str] = (), secret: bool = False
) -> Any:
    """A dataclass field that the environment variable `env` sets; its type is the default's, of lists a tuple.

    `choices` are the words that it may be, in any case. One that may hold a secret is not shown with the others.
    """
    metadata = {"env": env, "help": help, "choices": tuple(choices)}
    return field(default=default, metadata=metadata, repr=not secret)


def given(settings: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the dataclass `settings` that `environ` sets, with their values; SettingsError for a bad one."""
    texts = {
        entry: environ.get(entry.metadata["env"], "").strip()
        for entry in fields(settings)
        if "env" in entry.metadata
    }
    return {entry.name: _value(entry, text) for entry, text in texts.items() if text}


_SWITCH = {"on": True, "off": False, "1": True, "0": False, "true": True, "false": False}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    tuple: (_listed, "a list"),
    bool: (lambda text: _SWITCH[text.lower()], "on or off"),
    int: (int, "a whole number"),
    float: (float, "a number of seconds"),
}


def _value(entry: Any, text: str) -> Any:
    name, choices = entry.metadata["env"], entry.metadata["choices"]
    if choices:
        if text.lower() not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}")
        return text.lower()
    read, expected = _READERS[type(entry.default)]
    try:
        value = read(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{name} must be {expected}") from error
    if isinstance(value, int | float) and not 0 <= value < 1 << 40:
        raise SettingsError(f"{name} must be zero or more and not endless")
    return value
