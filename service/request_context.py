"""What is known of one request while it is under way: made at the door, shared by all who handle the request."""

from __future__ import annotations

import asyncio
import os
import re
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from starlette.types import Scope

from access.token_file import Grant
from telemetry import trace_context
from telemetry.trace_context import Trace

if TYPE_CHECKING:
    from .problems import Problem

_KEY = "gateway.context"
_WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


LOCAL = Grant("local", None)
"""Whoever calls a gateway without tokens."""


@dataclass(slots=True)
class Context:
    """What the parts of the service tell each other about one request, for its answer's headers and its log line."""

    request_id: str  # the caller's when well-formed, else new
    trace: Trace  # this request's span in its caller's trace

    # What is asked, by whom
    caller: Grant = LOCAL
    operation: str = ""  # an operation id; empty before routing
    path_values: str = ""  # what the path's variables stand for
    call: asyncio.Future[Any] | None = None  # the handler's work while there is some

    # What became of it
    outcome: str = ""  # what idempotency made of the call
    upstream_status: int = 0  # 0 when nothing was asked upstream
    upstream_seconds: float = 0.0
    problem: Problem | None = None  # what the caller was told

    # The answer
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # whatever the answer is
    warning: str = ""  # becomes the header Gateway-Warning
    status: int = 0
    size: int = 0  # bytes
    body: bytes = b""  # its last piece


_current: ContextVar[Context | None] = ContextVar("context", default=None)


def open_context(scope: Scope) -> Context:
    """Gives the request its context."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    request_id = given.decode() if _WELL_FORMED.fullmatch(given) else _new_id()
    own = scope[_KEY] = Context(request_id, trace_context.received(scope["headers"]))
    _current.set(own)
    return own


def _new_id() -> str:
    """A UUID of version 4 (RFC 9562 section 5.4), three times as fast as `uuid` writes one."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def context(scope: Scope) -> Context:
    """The context that `open_context` gave; also in the copies that routing makes of a scope."""
    return cast(Context, scope[_KEY])


def current() -> Context | None:
    """The context of the request that this task or handler thread works for; None outside of requests."""
    return _current.get()
