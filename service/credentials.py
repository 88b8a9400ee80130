"""Finds the upstream's credentials in the environment and in files, and says what is wrong with them, never showing one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from access.files import content, open_plain
from environment import SettingsError, redact_path, redact_secret
from openapi.contract import Contract


def read(contract: Contract, environ: Mapping[str, str]) -> dict[str, str]:
    """The upstream's authentication fields with the values that `environ` or its files have now; SettingsError."""
    names = _names(contract)
    return contract.authentication.render({v: _secret(names[v], environ) for v in names})


def files(contract: Contract, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that hold credentials."""
    named = [environ.get(f"{name}_FILE") for name in variables(contract)]
    return tuple(Path(file) for file in named if file)


def variables(contract: Contract) -> list[str]:
    """The environment variables that may hold credentials; with `_FILE` after its name, one names a file instead."""
    return [name for names in _names(contract).values() for name in names]


def _names(contract: Contract) -> dict[str, tuple[str, ...]]:
    """Template variable -> the environment variables that may hold it, best first."""
    return {
        variable: contract.environment.get(variable, (variable.rpartition(".")[2],))
        for variable in contract.authentication.variables
    }


def _secret(names: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The value of the first of `names` that is set, directly or as `NAME_FILE`, checked."""
    for name in names:
        if environ.get(name) and environ.get(f"{name}_FILE"):
            raise SettingsError(f"{name} and {name}_FILE are both set; unset one")
        if environ.get(name):
            return _checked_secret(name, environ[name])
        if environ.get(f"{name}_FILE"):
            return _checked_secret(
                f"{name}_FILE", _read_secret(f"{name}_FILE", environ[f"{name}_FILE"])
            )
    raise SettingsError(
        f"{names[0]} is not set, and the upstream needs it. Set it, or {names[0]}_FILE to a file that holds it."
        " To try everything without a key: make run"
    )


def _read_secret(name: str, file: str) -> str:
    try:
        with open_plain(Path(file)) as opened:
            return content(opened).decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"{name} ({redact_path(file)}) cannot be read: {reason}") from error


_SECRET_FAULTS = (
    (re.compile(r"\Z"), "is empty"),
    (re.compile(r"bearer\b", re.IGNORECASE), "starts with 'Bearer'; give the key alone"),
    (re.compile(r"[\"'].*|.*[\"']$", re.DOTALL), "has quotes around it; give the key without them"),
    (re.compile(r"\s.*|.*\s$", re.DOTALL), "has white space around it; remove it"),
    (
        re.compile(r".*[^\x21-\x7e]", re.DOTALL),
        "has a character that no key has (a space, a line break, or not ASCII)",
    ),
)


def _checked_secret(name: str, value: str) -> str:
    for pattern, reason in _SECRET_FAULTS:
        if pattern.match(value):
            raise SettingsError(f"{name} ({redact_secret(value)}) {reason}")
    return value
