"""What is known of one request while it is under way: made at the door, shared by all who handle the request."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

_KEY = "gateway.context"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `scopes` None: everything is allowed (a loopback gateway without tokens)."""

    name: str = "local"
    scopes: frozenset[str] | None = None


@dataclass(slots=True)
class Context:
    """What the parts of the service tell each other about one request, for its answer's headers and its log line.

    `request_id` is the caller's when well-formed, else new. `warning` becomes the header Gateway-Warning.
    `operation` is an operation id, empty before routing. `upstream_status` is 0 and `upstream_seconds` 0.0 when
    nothing was asked upstream; `outcome` is empty, or what idempotency made of the call.
    """

    request_id: str
    caller: Caller = Caller()
    operation: str = ""
    warning: str = ""
    outcome: str = ""
    upstream_status: int = 0
    upstream_seconds: float = 0.0


def open_context(scope: Scope) -> Context:
    """Gives the request its context."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    scope[_KEY] = Context(given.decode() if _WELL_FORMED.fullmatch(given) else str(uuid.uuid4()))
    return context(scope)


def context(scope: Scope) -> Context:
    """The context that `open_context` gave; also in the copies that routing makes of a scope."""
    return cast(Context, scope[_KEY])
