"""A JSON body read once: what the contract describes is parsed and checked, what it leaves open stays bytes.

What was read goes upstream as it came, unless a member is repeated (`openapi.partial_json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from openapi.contract import Body
from openapi.json_text import check_utf8
from openapi.partial_json import TooLarge, read
from openapi.validation import Validator

from .problems import Problem
from .translation import RequestBody

_NULL = Raw(b"null")
_EMPTY = (_NULL, Raw(b'""'))
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


class BodyReader:
    """Reads bodies of one operation. Thread-safe."""

    def __init__(self, body: Body) -> None:
        self.required = body.required
        self._validator = Validator(body.schema)
        self._names = ItemNames(**hint) if (hint := body.schema.get("x-items-name")) else None

    def read(self, content: RequestBody) -> tuple[RequestBody, str]:
        """The body as it goes upstream, and a warning about what of it is doubtful, or was not checked.

        Raises Problem: malformed-request when it is not JSON in UTF-8, validation-failed with every violation otherwise.
        """
        text, written, value = self._parse(content)
        typos, unknown = self._validator.unknown_members(value, "/body")
        if violations := [*typos, *self._validator.violations(value, "/body")]:
            raise Problem("validation-failed", violations=violations)
        repeated, doubts = self._validator.item_ids(value, "/body")
        if repeated:
            raise Problem("validation-failed", violations=repeated)
        if self._names:
            doubts += self._names.missing(text, value)
        if unknown:
            listed = one_line(unknown)
            doubts.append(f"members not in the contract were passed on unchecked: {listed}")
        return content if written is text else bytes(written), "; ".join(doubts)

    def _parse(self, content: RequestBody) -> tuple[Raw, Raw, Any]:
        """The JSON text of the body, the text to send in its place, and what to check."""
        schema = self._validator.schema
        try:
            check_utf8(content)
            # Where members are described, reading them is what finds out whether it is JSON.
            whole = "properties" in schema and content.startswith(b"{")
            text = Raw(content) if whole else msgspec.json.decode(content, type=Raw)
            return text, *read(text, schema, "/body")
        except TooLarge as error:
            raise Problem("validation-failed", violations=[error.violation]) from error
        except msgspec.DecodeError as error:
            raise Problem(
                "malformed-request", f"The body is not JSON: {_reason(error)}."
            ) from error
        except UnicodeDecodeError as error:
            raise Problem(
                "malformed-request", f"The body is not UTF-8 at byte {error.start}."
            ) from error
        except RecursionError as error:
            raise Problem("malformed-request", "The body is nested too deeply.") from error


class ItemNames:
    """What the body names for all of its items, or each of them for itself: `x-items-name` of its schema.

    That is one member of `one_of`, of the body or of the member `within` of each of `items`.
    """

    def __init__(self, one_of: Sequence[str], items: str, within: str) -> None:
        self.one_of = one_of
        self.items = items
        self.within = within
        named = msgspec.defstruct("Named", [(name, Raw, _NULL) for name in one_of])
        item: Any = msgspec.defstruct("Item", [(within, named)])
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Items", [(items, list[item])]))

    def missing(self, text: Raw, value: dict[str, Any]) -> list[str]:
        """A sentence about the items without, if there are any; `value` is what was read of `text`. Reads them only when the body has none."""
        if any(value.get(name) for name in self.one_of):
            return []
        wanted = " or ".join(self.one_of)
        if not value.get(self.items):  # they are elsewhere
            return [f"there is no {wanted} for all {self.items}, so that each needs its own"]
        with suppress(msgspec.MsgspecError):
            items = getattr(self._decoder.decode(text), self.items)
            own = [getattr(item, self.within) for item in items]
            named = sum(any(getattr(each, n) not in _EMPTY for n in self.one_of) for each in own)
            if named < len(items):
                count = f"{len(items) - named} of {len(items)} {self.items}"
                return [f"{count} have no {wanted}, of their own or for all"]
        return []


def one_line(names: Sequence[str]) -> str:
    """Some of the names, as a part of a header, which has ASCII alone: percent-encoded where they need it."""
    shown = [quote(each[:100], _PRINTABLE, errors="replace")[:100] for each in names[:5]]
    return ", ".join(shown) + (" and others" if len(shown) < len(names) else "")


def _reason(error: msgspec.DecodeError) -> str:
    """What is wrong and at which byte, without a piece of the body."""
    said = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]
    # In other words than these msgspec does not say that a \u escape is half of a surrogate pair.
    half = said.startswith(("Input data was truncated", "unexpected end of hex escape"))
    return f"{said}, or half of a surrogate pair" if half else said
