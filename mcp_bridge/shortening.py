"""What of a large answer a model can take: no more of it is built than is kept, and what is cut is said.

As objects JSON can take a hundred times its size, and as one text a character beyond U+FFFF four times that of all others. So what
is large stays JSON text, which is taken apart a level at a time. Anything that was cut can be had by its place and the number of
items or characters to skip (`Shortening.part`).
"""

from __future__ import annotations

import json
import string
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import Any

import msgspec
from msgspec import Raw

from mcp_bridge.canonical import LARGE
from mcp_bridge.rest_client import AnswerTooLarge
from openapi.json_text import holds_more, legible, texts_of
from openapi.partial_json import TooMany, count_objects

LEVELS = 10
"""Levels at which a result is cut, each of which takes another look at all that is below it."""

ENTRIES = 30
"""Entries of a list that stay, however large they are: each has a thirtieth of the room at least, if it needs as much."""

ENTRY = 200
"""Weight that each has however little room there is, so that something can be seen of it."""

MEMBER = 64
"""Weight that each member of an object has at least, if it needs as much."""

MOST = 300_000
"""Values that are built of one answer, some 40 MB, and items of a list or object that are told apart."""

PLACE = 1024
"""Characters of a place that `part` is asked for."""

NAMED = 12
"""Cuts that are named in a note."""

compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""A value as JSON without spaces; ValueError for a number that JSON does not have, such as one read from `1e999`."""

_PLAIN = f"{string.ascii_lowercase} ".encode()
_HEAVY = f"{string.ascii_uppercase}{string.digits}\\".encode()
_ASCII = bytes(range(128))


def weigh(text: str | bytes | Raw, most: int | None = None) -> int:
    """How much room a text takes in a model: 2.4 or more for each of its tokens. English prose is somewhat more than its characters.

    A letter or space weighs 1, punctuation 2, a digit or capital 3, a backslash 4, and everything else 2.5 a byte of UTF-8. These
    were fitted to tokenizers that have a token for each digit, and for each byte of what they do not know: docs/mcp.md has what was
    measured. At the speed of C, since it is asked for often; of a longer text than `most` only the length is returned, which is above it too.
    """
    if most is not None and len(text) > most:
        return len(text)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    plain = len(data) - len(data.translate(None, _PLAIN))
    heavy = len(data) - len(data.translate(None, _HEAVY))
    other = 0 if data.isascii() else len(data.translate(None, _ASCII))
    rest = len(data) - plain - heavy - other
    return plain + 2 * rest + 3 * heavy + data.count(b"\\") + 5 * other // 2


def beginning(text: str, room: int) -> str:
    """As much of `text` as weighs `room` in JSON, its quotation marks not counted."""
    if len(text) <= room and weigh(compact(text)) - 4 <= room:
        return text
    room = max(room, 0)
    return text[: bisect_right(range(room), room, key=lambda n: weigh(compact(text[: n + 1])) - 4)]


def refuse(constant: str) -> Any:
    """Raises ValueError: what Python reads as NaN or infinite is no JSON."""
    raise ValueError(f"{constant} is not JSON")


def without(secret: str, value: Any) -> Any:
    """`value` with *** for each `secret` in it: the bridge's own token, should it be echoed."""
    if isinstance(value, str):
        return value.replace(secret, "***") if secret else value
    if isinstance(value, dict):
        return {without(secret, name): without(secret, each) for name, each in value.items()}
    if isinstance(value, list):
        value[:] = [without(secret, each) for each in value]
    return value


class NoPart(LookupError):
    """The answer has no such part; the text says where it ends and what is there."""


class Shortening:
    """One answer while it is made to fit. `secret` is taken out of it, and `cuts` says what was left out, in the order of a reader.

    Values are what `json` makes of JSON, but for `Raw` in the place of what is large.
    """

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self.cuts: list[str] = []
        self.next: tuple[str, int] | None = None
        """The shortest place of a cut that `part` can show, the first of them, and the item or character to go on with there; None
        when there is none."""
        self.ends: list[tuple[str, int]] = []
        """All such places, with where to go on in each."""
        self._hidden: list[str] = []
        """Places that `part` takes for others, or has no name for."""

    def read(self, content: bytes | bytearray | Raw) -> Any:
        """The value of a JSON text, `Raw` when it is large. ValueError for what is no JSON; RecursionError when it is nested too deeply."""
        if len(content) < LARGE:
            return without(self.secret, json.loads(bytes(content), parse_constant=refuse))
        if isinstance(content, Raw):  # it was looked through
            return content
        try:
            try:
                return msgspec.json.decode(content, type=Raw)
            except msgspec.DecodeError:  # also for half of a surrogate pair
                return msgspec.json.decode(legible(content), type=Raw)
        except msgspec.MsgspecError as error:
            raise ValueError("the answer is not JSON") from error

    def part(self, value: Any, path: str, start: int, room: int) -> tuple[Any, int | None]:
        """What is at `path` from item, member or character `start` on, as much as weighs `room`, and where to go on; None at the end.

        NoPart when there is no such place.
        """
        rest = path
        while rest:
            within = self._open(value)
            names = within if isinstance(within, dict) else ()
            step = rest.partition(".")[0]
            if isinstance(within, list):
                known = step.isascii() and step.isdecimal() and len(step) < 10
                found = step if known and int(step) < len(within) else None
            else:
                ends = ("", ".")
                several = (
                    n
                    for n in names
                    if n and rest.startswith(n) and rest[len(n) : len(n) + 1] in ends
                )
                found = max(several, key=len, default=None)
            if found is None:
                listed = ", ".join(islice(names, NAMED)) or "no parts"
                if len(names) > NAMED:
                    listed += f" and {len(names) - NAMED} more"
                if isinstance(within, list):
                    listed = f"{len(within)} items, counted from 0"
                at = path[: len(path) - len(rest)].rstrip(".") or "the result"
                raise NoPart(f"{at} has {listed}")
            value = within[int(found) if isinstance(within, list) else found]
            value = self.read(value) if isinstance(value, Raw) else value
            rest = rest[len(found) + 1 :]
        self.next = None
        shown = self.shorten(value, room, path, start=start)
        after = self.next[1] if self.next and self.next[0] == path else None
        return shown, after

    def shorten(
        self, value: Any, room: int, place: str = "", depth: int = 0, *, start: int = 0
    ) -> Any:
        """`value`, built, with its longest lists and texts cut until it weighs about `room`; `start` says how much of it to skip."""
        if isinstance(value, Raw) and (len(value) < LARGE or weigh(value, room) <= room):
            value = without(self.secret, json.loads(bytes(value), parse_constant=refuse))
        if not start and not isinstance(value, Raw) and weigh(compact(value), room) <= room:
            return value
        value = self._open(value)
        if isinstance(value, dict | list) and depth == LEVELS:
            self._cut(place, f"{_named(place)} is left out")
            return type(value)()
        if isinstance(value, dict):
            return self._members(value, room, place, depth, start)
        if isinstance(value, list):
            return self._items(value, room, place, depth, start)
        if isinstance(value, str) or (isinstance(value, Raw) and kind_of(value) == b'"'):
            return self._text(value, room - 4, place, start)
        if isinstance(value, Raw) or weigh(compact(value)) > max(room, MEMBER):  # a long number
            self._cut(place, f"{_named(place)} is left out")
            return None
        return value

    def _open(self, value: Any) -> Any:
        """`value` with one level of it told apart where it is large: an object or list of JSON texts. AnswerTooLarge for too many."""
        if not isinstance(value, Raw):
            return value
        value = opened(value)
        if not self.secret or not isinstance(value, dict):
            return value
        return {without(self.secret, name): each for name, each in value.items()}

    def _size(self, value: Any, most: int) -> int:
        if not isinstance(value, Raw):
            return weigh(compact(value), most)
        short = len(value) < LARGE
        return weigh(msgspec.json.format(value, indent=-1) if short else value, most)

    def _members(
        self, value: dict[str, Any], room: int, place: str, depth: int, start: int
    ) -> dict[str, Any]:
        """Small members stay whole; the large ones share what these leave. Of more than there is room for the first ones stay."""
        left = room - 4
        names: list[str] = []
        sizes: list[int] = []
        least = seen = 0
        for seen, name in enumerate(islice(value, start, None), 1):
            own = weigh(compact(name), left) + 4
            if own > left:
                self._cut(
                    place, f"{_named(place)} has a member that is left out, with too long a name"
                )
                continue
            size = self._size(value[name], room)
            least += own + min(size, MEMBER)
            if least > left and names:
                seen -= 1
                break
            names.append(name)
            sizes.append(own + size)
        kept = {}
        dotted = sorted(name for name in value if "." in name)
        for name, share in zip(names, _shared(sizes, left), strict=True):
            share -= weigh(compact(name)) + 4
            inner = f"{place}.{name}".lstrip(".")
            after = bisect_left(dotted, f"{name}.")
            longer = dotted[after : after + 1]
            if not name or any(each.startswith(f"{name}.") for each in longer):
                self._hidden.append(inner)
            kept[name] = self.shorten(value[name], share, inner, depth + 1)
        self._cut_off(place, start, seen, len(value), "members")
        return kept

    def _items(self, value: list[Any], room: int, place: str, depth: int, start: int) -> list[Any]:
        """All items when there is room for a part of each; else the first ones, whole if these are not far fewer."""
        left = room - 4
        floor = max(left // ENTRIES, ENTRY)
        sizes: list[int] = []
        least = whole = fitting = 0
        for item in islice(value, start, None):
            size = self._size(item, room) + 2
            least += min(size, floor)
            if least > left:
                break
            sizes.append(size)
            whole += size
            fitting += whole <= left
        if start + len(sizes) < len(value) and 3 * fitting >= len(sizes):
            sizes = sizes[:fitting]
        shares = _shared(sizes, left)
        kept = [
            self.shorten(value[index], share - 2, f"{place}.{index}".lstrip("."), depth + 1)
            for index, share in enumerate(shares, start)
        ]
        self._cut_off(place, start, len(kept), len(value), "items")
        return kept

    def _text(self, value: str | Raw, room: int, place: str, start: int) -> str:
        if isinstance(value, str):
            shown = beginning(value[start:], room)
            self._cut_off(place, start, len(shown), len(value), "characters")
            return shown
        # A hidden secret keeps its length here, so that characters are counted alike wherever one begins.
        margin = len(self.secret)
        begin = max(start - margin, 0)
        window = _window(texts_of(value), begin, start + max(room, 0) + margin + 1)
        if margin:
            window = window.replace(self.secret, "*" * margin)
        shown = beginning(window[start - begin :], room)
        if start - begin + len(shown) < len(window):
            what = f"{len(shown)} characters, of {len(value)} bytes in all"
            here = f"the first {what}" if not start else f"{what}, after the first {start}"
            self._cut(place, f"{_named(place)} has {here}", start + len(shown))
        return shown

    def _cut_off(self, place: str, start: int, kept: int, total: int, what: str) -> None:
        if start + kept < total:
            here = f"the first {kept}" if not start else f"{start} to {start + kept - 1}"
            self._cut(place, f"{_named(place)} has {here} of {total} {what}", start + kept)

    def _cut(self, place: str, phrase: str, after: int = 0) -> None:
        self.cuts.append(phrase)
        hidden = any(f"{place}.".startswith(f"{each}.") for each in self._hidden)
        if hidden or len(place) > PLACE or not (place or after):
            return
        self.ends.append((place, after))
        if not self.next or len(self.next[0]) > len(place):
            self.next = (place, after)


def opened(text: Raw) -> Any:
    """An object or list with JSON texts in it; any other text itself. AnswerTooLarge when it has more than MOST."""
    kind = kind_of(text)
    try:
        if kind == b"{":
            found = count()

            def named(made: type[_Name], name: str) -> _Name:
                if next(found) >= MOST:
                    raise TooMany
                return made(name)

            members = msgspec.json.decode(text, type=dict[_Name, Raw], dec_hook=named)
            return {str(name): each for name, each in members.items()}
        if kind == b"[":
            _count_items(text)
            return msgspec.json.decode(text, type=list[Raw])
    except TooMany:
        raise AnswerTooLarge(f"has more than {MOST} values in it") from None
    return text


def _count_items(text: Raw) -> None:
    """Raises TooMany for more than MOST."""
    try:
        count_objects(text, MOST)
    except msgspec.ValidationError:  # some are no objects
        if not holds_more(text, MOST):
            return
        if holds_more(text, 10 * MOST):
            raise TooMany from None
        found = count()

        def seen(made: type[_Seen], _: Any) -> _Seen:
            if next(found) >= MOST:
                raise TooMany
            return made()

        msgspec.json.decode(text, type=list[_Seen], dec_hook=seen)


class _Seen:
    """An item of which only this is kept while they are counted."""

    __slots__ = ()


class _Name(str):
    """A member's name, made by a hook, which msgspec calls for each."""


def kind_of(text: Raw) -> bytes:
    """The first byte, which tells what it is."""
    return bytes(memoryview(text)[:1])


def _named(place: str) -> str:
    return place[:200] or "the result"


def _shared(sizes: Sequence[int], room: int) -> list[int]:
    """What each of several may have of a room: the small ones all that they need, the large ones alike what these leave."""
    shares = [0] * len(sizes)
    left = max(room, 0)
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares


def _window(pieces: Iterator[str], start: int, end: int) -> str:
    """Characters `start` to `end` of a text that comes in pieces."""
    found: list[str] = []
    at = 0
    for piece in pieces:
        found.append(piece[max(start - at, 0) : max(end - at, 0)])
        at += len(piece)
        if at >= end:
            break
    return "".join(found)
