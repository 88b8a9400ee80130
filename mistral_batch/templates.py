"""Columns into requests: templates that name columns in braces, and the JSON of the columns' values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from .errors import InputError
from .sources import Batch, Fault

Faults = dict[int, Fault]
"""By the numbers of their rows."""


class Wrong(Exception):
    """A row cannot be a request; the text goes on after its place."""


@dataclass(frozen=True)
class Hole:
    """Where a column's value goes: as its own JSON when it is `typed`, else as a part of a text."""

    column: str
    typed: bool


@dataclass(frozen=True)
class Template:
    """A request line with a %b for its id and for each of `holes`."""

    text: bytes
    holes: list[Hole]

    @property
    def columns(self) -> list[str]:
        """Those that are used, each once."""
        return list(dict.fromkeys(hole.column for hole in self.holes))


def template_of(body: dict[str, Any], typed: bool) -> Template:
    """The template of a request's body; `typed` when a text that is exactly a column gives way to the value with its type."""
    if has_nan(body):
        raise InputError("--body has NaN or Infinity, which are no JSON")
    pieces = list(_pieces(body, typed))
    holes = [piece for piece in pieces if isinstance(piece, Hole)]
    texts = (b"%b" if isinstance(each, Hole) else each.replace(b"%", b"%%") for each in pieces)
    return Template(b'{"custom_id":%%b,"body":%b}' % b"".join(texts), holes)


def _pieces(value: Any, typed: bool) -> Iterator[bytes | Hole]:
    """The JSON of a template, in pieces between its holes."""
    if isinstance(value, dict):
        comma = b"{"
        for name, member in value.items():
            yield comma + encode(str(name)) + b":"
            yield from _pieces(member, typed)
            comma = b","
        yield b"}" if value else b"{}"
    elif isinstance(value, list | tuple):
        comma = b"["
        for member in value:
            yield comma
            yield from _pieces(member, typed)
            comma = b","
        yield b"]" if value else b"[]"
    elif not isinstance(value, str):
        yield encode(value)
    else:
        parts = parts_of(value)
        if typed and len(parts) == 1 and isinstance(parts[0], Hole):
            yield Hole(parts[0].column, typed=True)
            return
        yield b'"'
        for part in parts:
            yield part if isinstance(part, Hole) else encode(part)[1:-1]
        yield b'"'


def parts_of(text: str) -> list[str | Hole]:
    """A text that may name columns in braces, cut into its own parts and the columns."""
    parts: list[str | Hole] = []
    for found in re.finditer(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+", text):
        if found[1] is not None:
            parts.append(Hole(found[1], typed=False))
        elif found[0] in ("{", "}"):
            begin = text[max(0, found.start() - 20) : found.start() + 20]
            raise InputError(
                f"a brace has no other in {begin!r}; write {found[0] * 2} for one brace"
            )
        else:
            parts.append(found[0][0] if found[0] in ("{{", "}}") else found[0])
    return parts


def each(
    batch: Batch,
    values: Sequence[Any],
    make: Callable[[Any], Any],
    faults: Faults,
    what: str = "",
) -> list[Any]:
    """What `make` makes of each value, None where it raises Wrong, which is a fault of `what`."""
    made = []
    for index, value in enumerate(values):
        try:
            made.append(make(value))
        except Wrong as wrong:
            made.append(None)
            faults.setdefault(batch.numbers[index], batch.fault(index, f"{what}{wrong}"))
    return made


def filled(batch: Batch, hole: Hole, values: Sequence[Any], faults: Faults) -> list[bytes]:
    """What each row has in a hole."""
    try:
        if not hole.typed and set(map(type, values)) == {str}:
            return [encode(value)[1:-1] for value in values]  # at twice the speed of what follows
    except UnicodeEncodeError:
        pass  # one by one, to say which

    def fill(value: Any) -> bytes:
        text = json_of(value)
        return text if hole.typed else _inner(text)

    return each(batch, values, fill, faults, f"column {hole.column!r} ")


def _inner(text: bytes) -> bytes:
    """The JSON of a value as a part of a JSON text: of a text what is in it, else as it is written."""
    return text[1:-1] if text[:1] == b'"' else encode(text.decode())[1:-1]


def json_of(value: Any) -> bytes:
    """A value as JSON. Raises Wrong for none, and for what JSON does not have."""
    if value is None or _is_nan(value):
        raise Wrong("has no value")
    if has_nan(value):
        raise Wrong("has NaN or Infinity in it, which are no JSON")
    if type(value) is int:
        return b"%d" % value  # of any length, unlike msgspec's
    try:
        return encode(value)
    except UnicodeEncodeError as error:
        raise Wrong("has half of a surrogate pair, which is no character") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Wrong(f"cannot be written as JSON: {error}") from error


def id_of(value: Any) -> str:
    """The text of an id. A float that is a whole number is written as one: so pandas has them in a column with gaps."""
    if value is None or _is_nan(value) or value == "":
        raise Wrong("has no value, and so the row no id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | date | UUID):
        raise Wrong(f"has a {type(value).__name__}, which is no id: that is a text or a number")
    if is_broken(str(value)):
        raise Wrong("has half of a surrogate pair, which is no character")
    return str(value)


def is_broken(text: str) -> bool:
    """Whether a text has half of a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def has_nan(value: Any) -> bool:
    """Whether there is a number in a value that JSON does not have."""
    if isinstance(value, float | Decimal):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    if hasattr(value, "tolist"):
        return has_nan(value.tolist())
    return isinstance(value, list | tuple) and any(map(has_nan, value))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | Decimal | date) and value != value  # pandas has a date so


def _listed(value: Any) -> Any:
    """Numbers and arrays of numpy, and times of pandas, as what JSON has for them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON")


encode = msgspec.json.Encoder(enc_hook=_listed, decimal_format="number").encode
