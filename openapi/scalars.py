"""Values outside a JSON body: what a text means by a parameter's schema, and the one text in which a value is sent.

Callers write them as their languages do. What can be meant in one way only is taken and sent in one form; all else stays as it
is, for the check to refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from openapi.contract import Schema
from openapi.validation import Validator

# As JSON writes them.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"(?=.{1,40}\Z)-?(0|[1-9][0-9]*)(\.[0-9]+)?([Ee][+-]?[0-9]+)?")

# Those that pydantic takes in any case (2.13, "Booleans"), which Mistral's API is built on.
_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}


def read_scalar(text: str, schema: Schema) -> Any:
    """What `text` means as a value of `schema`; the text itself where that is not certain, for the check to refuse."""
    kind = schema.get("type")
    if kind == "boolean":
        return _BOOLEANS.get(text.strip().lower(), text)
    if kind in ("integer", "number"):
        return _number(text.strip(), kind)
    known = _known(schema)
    if known and text not in known:
        same = [each for each in known if str(each).lower() == text.strip().lower()]
        return same[0] if len(same) == 1 else text
    if schema.get("minLength") and not text.strip():
        return ""  # blanks are no more than nothing
    if " " in text and "pattern" in schema:
        # In a query a plus sign that is not escaped is a blank: the offset of a time, for one.
        meant = "+".join(text.rsplit(" ", 1))
        valid = Validator(schema).is_valid
        return meant if valid(meant) and not valid(text) else text
    return text


def read_items(texts: Iterable[str], schema: Schema, *, explode: bool) -> list[Any]:
    """The items of an array that was given as `texts`: separated by commas where the parameter is (not `explode`), or no item can have one."""
    items = schema.get("items", {})
    apart = not explode or bool(_known(items))
    parts = [part for text in texts for part in (text.split(",") if apart else [text])]
    return [read_scalar(part.strip() if apart else part, items) for part in parts]


def write_scalar(value: Any) -> str:
    """The text in which a value is sent: a text as it is, everything else as in JSON."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    )


def _known(schema: Schema) -> list[Any]:
    """The values that there are, as far as is known; none where it does not say so."""
    known: list[Any] = schema.get("enum") or schema.get("x-extensible-enum") or []
    return known


def _number(text: str, kind: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _NUMBER.fullmatch(text):
        return text
    value = float(text)
    whole = value.is_integer() and abs(value) < 1 << 53
    if kind == "integer":
        return int(value) if whole else text
    return value
