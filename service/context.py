"""What is known of one request while it is under way: made at the door, shared by all who handle the request."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

_KEY = "gateway.context"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Context:
    """`request_id` is the caller's when well-formed, else new; `warning` becomes the header Gateway-Warning."""

    request_id: str
    warning: str = ""


def open_context(scope: Scope) -> Context:
    """Gives the request its context."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    scope[_KEY] = Context(given.decode() if _WELL_FORMED.fullmatch(given) else str(uuid.uuid4()))
    return context(scope)


def context(scope: Scope) -> Context:
    """The context that `open_context` gave; also in the copies that routing makes of a scope."""
    return cast(Context, scope[_KEY])
