"""JSON as text, without a schema: whether it is UTF-8, how much is in it, its pieces, and half surrogate pairs, all at the speed of C.

`partial_json` reads what callers send; `read_json` reads the upstream's answers.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Raw

SLICE = 1 << 16
"""Bytes that are looked through at a time, so that other threads have their turn."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What reading raises for what is not JSON, is nested too deeply, or has another shape."""

_Shape = TypeVar("_Shape")

# RFC 8259 section 8.2: an escape for half of a surrogate pair may stand alone, though it is no character. All escapes are
# walked past, pairs as one, since after an escaped backslash a u is a letter. It begins with a byte that can be looked for
# fast: a large text that has none costs nothing worth a mention.
_HALF = re.compile(
    rb"""\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)""",
    re.DOTALL,
)


def check_utf8(content: bytes | bytearray) -> None:
    """Raises UnicodeDecodeError with the byte that is wrong; msgspec does not look inside what it leaves as bytes."""
    if content.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    with memoryview(content) as view:
        for start in range(0, len(view), SLICE):
            begun = start - len(decoder.getstate()[0])
            try:
                decoder.decode(view[start : start + SLICE], final=start + SLICE >= len(view))
            except UnicodeDecodeError as error:
                error.start += begun
                raise


def read_json(content: bytes | bytearray | Raw, shape: type[_Shape]) -> _Shape:
    """`content` as `shape`, with U+FFFD for each half of a surrogate pair that stands alone. Raises UNREADABLE."""
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.DecodeError:  # also for such a half, which msgspec does not take
        return msgspec.json.decode(legible(content), type=shape)


def legible(content: bytes | bytearray | Raw) -> bytearray:
    """A copy of JSON text, as long as it is, with U+FFFD for each half of a surrogate pair that stands alone."""
    copy = bytearray(content)
    for found in _HALF.finditer(content):
        if found[1]:
            copy[found.start() : found.end()] = rb"\ufffd"
    return copy


def holds_more(text: bytes | bytearray | Raw, limit: int) -> bool:
    """True when a JSON array or object has more than `limit` values in it; nothing is built."""
    return len(text) > limit and values_in(text, limit) > limit  # a value has a byte at least


def values_in(text: bytes | bytearray | Raw, limit: int) -> int:
    """How many values a JSON array or object has in it, counted until they are more than `limit`."""
    found, in_text, left = 0, 0, b""
    view = memoryview(text)
    for start in range(0, len(view), SLICE):
        # Without its escapes, every other quotation mark begins a text.
        piece = (left + bytes(view[start : start + SLICE])).replace(rb"\\", b"")
        left = b"\\" if piece.endswith(b"\\") else b""
        parts = piece.removesuffix(left).replace(rb"\"", b"").split(b'"')
        structure = b'"'.join(parts[in_text::2]).translate(None, b" \t\r\n")
        found += structure.count(b",") + structure.count(b"[") + structure.count(b"{")
        found -= structure.count(b"[]") + structure.count(b"{}")
        if found > limit:
            break
        in_text ^= (len(parts) - 1) & 1
    return found


def texts_of(text: Raw) -> Iterator[str]:
    """The pieces of a text of which this is the JSON."""
    json_text = memoryview(text)[1:-1]
    start, end, size = 0, len(json_text), SLICE
    while start < end:
        piece = bytes(json_text[start : start + size])
        cut = len(piece) if start + len(piece) == end else _cut(piece)
        if not cut:
            size *= 2
            continue
        yield msgspec.json.decode(b'"%b"' % piece[:cut], type=str)
        start, size = start + cut, SLICE


# Twelve bytes are the longest escape, which a pair of surrogates has; then a character begins.
_BETWEEN = re.compile(rb"[^\\]{12}(?=[\x00-\x7f\xc0-\xff])")


def _cut(piece: bytes) -> int:
    """Where a part of a JSON text may end, within no escape and no character of several bytes; 0 when that is nowhere known."""
    if found := max(map(piece.rfind, (b" ", b",", b":"))) + 1:  # they stand in neither
        return found
    return max((match.end() for match in _BETWEEN.finditer(piece, len(piece) - 99)), default=0)
