"""A JSON body read once: what the contract describes is parsed and checked, what it leaves open stays bytes.

What was read goes upstream as it came, unless a member is repeated (`openapi.reading`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from openapi.contract import Body
from openapi.reading import TooLarge, check_utf8, read
from openapi.validation import Validator

from .problems import Problem

Content = bytes | bytearray


class BodyReader:
    """Reads bodies of one operation. Thread-safe."""

    def __init__(self, body: Body) -> None:
        self.required = body.required
        self._check = Validator(body.schema)

    def read(self, content: Content) -> tuple[Content, list[str]]:
        """The body as it goes upstream, and pointers to its members that the contract does not name.

        Raises Problem: malformed-request when it is not JSON in UTF-8, validation-failed with every fault otherwise.
        """
        forwarded, value = self._parse(content)
        misspelt, unknown = self._check.unknown_members(value, "/body")
        if violations := [*misspelt, *self._check.violations(value, "/body")]:
            raise Problem("validation-failed", violations=violations)
        if isinstance(forwarded, Raw):
            return content, unknown
        return msgspec.json.encode(forwarded), unknown

    def _parse(self, content: Content) -> tuple[Any, Any]:
        schema = self._check.schema
        try:
            check_utf8(content)
            # Where members are described, reading them is what finds out whether it is JSON.
            if "properties" in schema and content.startswith(b"{"):
                return read(Raw(content), schema, "/body")
            return read(msgspec.json.decode(content, type=Raw), schema, "/body")
        except TooLarge as error:
            raise Problem("validation-failed", violations=error.violations) from error
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


def _reason(error: msgspec.DecodeError) -> str:
    """What is wrong and at which byte, without a piece of the body."""
    said = str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0]
    # In other words than these msgspec does not say that a \u escape is half of a surrogate pair.
    half = said.startswith(("Input data was truncated", "unexpected end of hex escape"))
    return f"{said}, or half of a surrogate pair" if half else said
