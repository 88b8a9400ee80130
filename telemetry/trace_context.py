"""W3C Trace Context (https://www.w3.org/TR/trace-context/): continuing a caller's trace, or starting one. Pure.

A trace is continued whether or not anything records it here: its id is in the logs and goes upstream.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable

import msgspec

MAX_STATE = 512
"""Characters of tracestate that are passed on; section 3.3.1.5 asks for 512, a longer one is left out whole."""

# Section 3.2.2: version 00 has exactly four fields; a higher version may have more, ff is forbidden.
_PARENT = re.compile(
    rb"(?:00|(?!ff)[0-9a-f]{2}(?=.{53}(?:-|$)))-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_STATE = re.compile(rb"[\x20-\x7e\t]*")
_MAX_PARENT = 256
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Trace(msgspec.Struct, frozen=True):
    """One span's place in a trace: ids in hexadecimal; `parent_id` is empty at a trace's start.

    `flags` are the caller's, with bit 0 for sampled; `state` is the caller's tracestate.
    """

    trace_id: str
    span_id: str
    parent_id: str = ""
    flags: int = 0
    state: str = ""

    def child(self) -> Trace:
        """The place of a new span below this one."""
        return Trace(self.trace_id, os.urandom(8).hex(), self.span_id, self.flags, self.state)

    def parent(self) -> Trace:
        """The place of the span above this one, for who makes no span of its own."""
        return Trace(self.trace_id, self.parent_id, "", self.flags, self.state)

    def headers(self) -> dict[str, str]:
        """The headers that tell the next server about this span."""
        parent = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"}
        return {**parent, "tracestate": self.state} if self.state else parent


def received(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """The span of a request with these headers (lower-case names): in its caller's trace when that is well-formed."""
    parents = [value for name, value in headers if name == b"traceparent"]
    parent = _parent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        ids = os.urandom(24).hex()
        return Trace(ids[:32], ids[32:])
    trace_id, parent_id, flags = parent
    state = b",".join(value for name, value in headers if name == b"tracestate")
    known = len(state) <= MAX_STATE and _STATE.fullmatch(state)
    # Bits other than sampled (1) and random (2) are not defined, and must not be passed on (section 3.2.2.5).
    return Trace(
        trace_id, os.urandom(8).hex(), parent_id, flags & 3, state.decode() if known else ""
    )


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The X-Request-ID of these headers (lower-case names) when it is well-formed, else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def _parent(value: bytes) -> tuple[str, str, int] | None:
    """(trace id, parent id, flags) of a traceparent; None when it is not one."""
    match = _PARENT.fullmatch(value) if len(value) <= _MAX_PARENT else None
    if match is None or (match[4] and value.startswith(b"00")):
        return None
    if not match[1].strip(b"0") or not match[2].strip(b"0"):
        return None  # section 3.2.2.3: all-zero ids are invalid
    return match[1].decode(), match[2].decode(), int(match[3], 16)
