"""Places within JSON texts: names with points between them, of which `*` stands for each item of a list.

A text is decoded no further than the way to what is asked for, and what is there stays text: of a hundred thousand rows of which
a few are shown, as objects each could take twenty times its size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw
from pydantic_core import to_json

from mcp_bridge.canonical import LARGE
from mcp_bridge.rest_client import AnswerTooLarge
from mcp_bridge.shortening import MOST, compact, kind_of, opened
from openapi.json_text import holds_more

DEEPEST = 300
"""Levels of what is nested more deeply than can be read; what is below them is left out."""

_NULL = Raw(b"null")
_NOTHING: list[Raw] = []
_EMPTY = (b"null", b'""', b"[]", b"{}")
_LONGEST = 16
"""Bytes that an empty value may have with the spaces in it; the others are not looked through for spaces."""


_BRACKET = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)


class Places:
    """Those that are looked for in every one of many texts."""

    def __init__(self, places: Iterable[str]) -> None:
        within: dict[str, dict[str, None]] = {}
        for place in filter(None, places):
            before = ""
            for step in place.split("."):
                within.setdefault(before, {})[step] = None
                before = joined(before, step)
        self.readers = {before: _reader(before, [*steps]) for before, steps in within.items()}


class Row:
    """One JSON text, and what was found in it. `failed` is for its user, who may know it from elsewhere."""

    __slots__ = ("_found", "_places", "failed", "text")

    def __init__(self, places: Places, text: Raw, failed: bool | None = None) -> None:
        self.text = text
        self.failed = failed
        self._places = places
        self._found = {"": [text]}

    def at(self, place: str) -> list[Raw]:
        """What is at a place, but for null: one text at most, unless the place has a `*` in it."""
        found = self._found.get(place)
        if found is not None:
            return found
        before = place.rpartition(".")[0]
        reader = self._places.readers.get(before)
        if reader and (texts := self.at(before)):
            self._found.update(reader(texts))
        return self._found.setdefault(place, _NOTHING)


def joined(before: str, step: str) -> str:
    """The place of `step` within the place `before`."""
    return f"{before}.{step}" if before else step


def is_empty(text: Raw) -> bool:
    """True for null, and for a text, list or object with nothing in it."""
    if len(text) > _LONGEST:
        return False
    return bytes(text).translate(None, b" \t\r\n") in _EMPTY


def is_vast(text: Raw) -> bool:
    """True when there are more values in it than are built of one answer."""
    return len(text) >= LARGE and holds_more(text, MOST)


def levelled(text: bytes | bytearray | Raw) -> bytes:
    """JSON text with null for what is nested more than DEEPEST deep. AnswerTooLarge when it has too much in it to be gone through."""
    if holds_more(text, MOST):
        raise AnswerTooLarge(f"is nested too deeply, and has more than {MOST} values in it")
    kept, depth, start = bytearray(), 0, 0
    view = memoryview(text)
    for found in _BRACKET.finditer(text):
        bracket = found[0][:1]
        if bracket in b"[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += view[start : found.start()]
                kept += b"null"
        elif bracket in b"]}":
            depth -= 1
            if depth == DEEPEST:
                start = found.end()
    if depth <= DEEPEST:
        kept += view[start:]
    return bytes(kept)


def built(text: Raw) -> Any:
    """The value of a JSON text; a text in the place of a number that is too large, or of all when it is nested too deeply."""
    content = bytes(text).decode(errors="replace")
    try:
        return _passable(json.loads(content))
    except (ValueError, RecursionError):
        pass
    try:
        return _passable(json.loads(content, parse_float=_number, parse_int=_integer))
    except (ValueError, RecursionError):
        return content


def _passable(value: Any) -> Any:
    """`value`, or ValueError when no message can have it."""
    compact(value)
    to_json([[[[value]]]])  # levels that are around it there
    return value


def _number(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 4300 else text  # `sys.int_info.default_max_str_digits`


def _reader(before: str, steps: list[str]) -> Callable[[list[Raw]], dict[str, list[Raw]]]:
    """What finds those steps in the texts at a place."""
    places = [joined(before, step) for step in steps if step != "*"]
    fields = [f"f{number}" for number in range(len(places))]
    shape = msgspec.defstruct(
        "Shape",
        [(field, Raw, _NULL) for field in fields],
        rename=dict(zip(fields, (step for step in steps if step != "*"), strict=True)),
        gc=False,
    )
    decode = msgspec.json.Decoder(shape).decode if places else None
    return partial(_found, decode, places, joined(before, "*") if "*" in steps else "")


def _decoded(decode: Callable[[Raw], Any], text: Raw) -> Any:
    try:
        return decode(text)
    except RecursionError:
        return decode(Raw(levelled(text)))


def _found(
    decode: Callable[[Raw], Any] | None, places: list[str], items: str, texts: list[Raw]
) -> dict[str, list[Raw]]:
    found: dict[str, list[Raw]] = {}
    for text in texts:
        if items and kind_of(text) == b"[":
            with suppress(AnswerTooLarge):  # nobody could be shown that many
                several = [item for item in opened(text) if kind_of(item) != b"n"]
                found.setdefault(items, []).extend(several)
        elif decode:
            try:
                values = msgspec.structs.astuple(_decoded(decode, text))
            except msgspec.ValidationError:  # it is no object
                continue
            for place, value in zip(places, values, strict=True):
                if value is not _NULL and (len(value) != 4 or bytes(value) != b"null"):
                    found.setdefault(place, []).append(value)
    return found
