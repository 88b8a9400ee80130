"""What of a large answer a model can take: no more of it is built than is kept, and what is cut is said.

As objects JSON can take a hundred times its size. `results` comes here with large answers only.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from itertools import accumulate, count, islice, takewhile
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.arguments import LARGE
from mcp_bridge.rest_client import AnswerTooLarge
from openapi.json_text import holds_more
from openapi.partial_json import TooMany, count_objects

LEVELS = 10
"""Levels at which a result is cut, each of which takes another look at all that is below it."""

MEMBERS = 100
"""Members of an object up to which none is left out."""

MOST = 300_000
"""Values that are built of one answer, some 40 MB, and items of a list that are counted."""

_FIRST = re.compile(rb"\s*(.)")

compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""A value as JSON without spaces; ValueError for a number that JSON does not have, such as one read from `1e999`."""


def refuse(constant: str) -> Any:
    """Raises ValueError: what Python reads as NaN or infinite is no JSON."""
    raise ValueError(f"{constant} is not JSON")


class _FirstItems(list[Any]):
    """The first items of a list of `total`."""

    total = 0


def read_large(text: bytes | bytearray | Raw, limit: int, shapes: bytes = b"{[") -> Any:
    """The JSON `text`. Of a large list of objects, alone or a member, no more items are built than make `limit` characters.

    As objects a list can take a hundred times its size. `shapes`: what `text` may begin with, to be taken apart.
    """
    first = _FIRST.match(text)
    if len(text) >= LARGE and first and first[1] in shapes:
        with suppress(msgspec.MsgspecError, TooMany):
            if first[1] == b"{":
                members = _members(text)
                return {name: read_large(member, limit, b"[") for name, member in members.items()}
            items = _FirstItems()
            items.total = count_objects(text, MOST)
            size = 0
            for item in msgspec.json.decode(text, type=list[Raw]):
                items.append(read_large(item, limit, b""))
                size += len(compact(items[-1]))
                if size > limit:
                    break
            return items
    if holds_more(text, MOST):
        raise AnswerTooLarge(f"has more than {MOST} values in it")
    return json.loads(bytes(text) if isinstance(text, Raw) else text, parse_constant=refuse)


class _Name(str):
    """A member's name, made by a hook, which msgspec calls for each."""


def _members(text: bytes | bytearray | Raw) -> dict[str, Raw]:
    """The members of a JSON object; TooMany when they are."""
    found = count()

    def named(kind: type[_Name], name: str) -> _Name:
        if next(found) > MEMBERS:
            raise TooMany
        return kind(name)

    return {
        str(name): member
        for name, member in msgspec.json.decode(text, type=dict[_Name, Raw], dec_hook=named).items()
    }


def shorten(
    value: Any, budget: int, place: str, cuts: list[str], *, size: int = -1, depth: int = 0
) -> Any:
    """`value` with its longest lists, then texts, cut until its JSON has about `budget` characters.

    `cuts` receives a phrase for each cut, by the path `place` to it. `size` is how many characters it has, where that is known.
    """
    if (len(compact(value)) if size < 0 else size) <= budget:
        return value
    if isinstance(value, dict | list) and depth == LEVELS:
        cuts.append(f"{place} is left out")
        return type(value)()
    if isinstance(value, dict):
        return _shorten_members(value, budget, place, cuts, depth)
    if isinstance(value, list):
        return _shorten_list(value, budget, place, cuts, depth)
    if isinstance(value, str):
        room = max(budget - 2, 0)
        cuts.append(f"{place} has the first {room} of {len(value)} characters")
        return value[:room]
    return value


def _shorten_members(
    value: dict[str, Any], budget: int, place: str, cuts: list[str], depth: int
) -> dict[str, Any]:
    """Small members stay whole; the large ones share what these leave. Of very many the first ones stay."""
    if len(value) > MEMBERS:
        ends = accumulate(len(compact(name)) + 2 for name in value)
        first = sum(1 for _ in takewhile(budget.__ge__, ends))
        if first < len(value):
            cuts.append(f"{place or 'the result'} has the first {first} of {len(value)} members")
            value = dict(islice(value.items(), first))
    sizes = {name: len(compact(member)) for name, member in value.items()}
    left = budget - sum(len(compact(name)) + 2 for name in value)
    kept = {}
    for position, name in enumerate(sorted(value, key=sizes.__getitem__)):
        share = max(left // (len(value) - position), 0)
        at = f"{place}.{name}".lstrip(".")
        kept[name] = shorten(value[name], share, at, cuts, size=sizes[name], depth=depth + 1)
        left -= min(sizes[name], share)
    return {name: kept[name] for name in value}


def _shorten_list(
    value: list[Any], budget: int, place: str, cuts: list[str], depth: int
) -> list[Any]:
    """The first items that fit; when not even one does, the first one shortened."""
    kept: list[Any] = []
    left = budget - 1
    for item in value:
        left -= len(compact(item)) + 1
        if left < 0:
            break
        kept.append(item)
    if not kept and value and isinstance(value[0], dict):
        at = f"{place}.0".lstrip(".")
        kept = [shorten(value[0], budget - 2, at, cuts, depth=depth + 1)]
    total = value.total if isinstance(value, _FirstItems) else len(value)
    if len(kept) < total:
        cuts.append(f"{place} has the first {len(kept)} of {total} items")
    return kept
