"""What is known of one request while it is under way, to which `current()` is the only way.

`edge` opens it, all who handle the request fill it in, and `edge` writes answer headers, log line, audit line, metrics and
span from it. It is a context variable, so the request's tasks see it, and what runs in a copy of their context: a thread has
to be given one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from access.token_file import LOCAL, Grant
from telemetry.trace_context import Trace

from .problems import Problem
from .translation import UpstreamRequest


@dataclass(slots=True)
class RequestContext:
    """One request. Not locked: at each moment one task or thread works for it."""

    # The request
    request_id: str  # the caller's when well-formed, else new
    trace: Trace  # this request's span in its caller's trace
    span: Any = None  # OpenTelemetry's, when spans are exported
    caller: Grant = LOCAL
    operation: str = ""  # an operation id; empty before routing
    path_values: str = ""  # what the path's variables stand for

    # What became of it
    received: int = 0  # bytes of a body that is passed on as it comes
    upstream_request: UpstreamRequest | None = None  # from `request_reader` to `flask_dispatch`
    handling: asyncio.Future[Any] | None = None  # a thread's work, from `flask_dispatch` on
    upstream_status: int = 0  # 0 when nothing was asked upstream
    upstream_seconds: float = 0.0
    waited_seconds: float = 0.0  # for a final state
    idempotency: str = ""  # what became of its Idempotency-Key: one of `edge.IDEMPOTENCY`
    problem: Problem | None = None  # what the caller was told

    # The answer
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # whatever the answer is
    warning: str = ""  # becomes the header Gateway-Warning
    status: int = 0
    size: int = 0  # bytes
    body: bytes = b""  # its last piece
    unfinished: str = ""  # the outcome of an answer that began and broke off: client-left or failed


CURRENT: ContextVar[RequestContext] = ContextVar("request_context")
current: Callable[[], RequestContext] = CURRENT.get
"""The context of the request that this task or thread works for; LookupError when it works for none."""
