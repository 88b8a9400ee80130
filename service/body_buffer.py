"""Receiving the body of a request: here its pieces become one, within a size, a time and the memory for all bodies.

A body is buffered once. What is made of it goes upstream from the same buffer, and its memory is counted until then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from serving.patience import patience

from .problems import Overloaded, Problem

BODIES = 8
"""Bodies of the greatest size that may be under way in one worker; smaller ones may be more."""

LARGE = 1 << 18
"""Bytes of a body from which on its memory is counted."""


class BodyMemoryBudget:
    """Memory for large bodies, `limit` bytes in all, from when they have come until nobody needs them. For one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0


class Reservation:
    """What one body takes of the budget, in bytes."""

    def __init__(self, budget: BodyMemoryBudget) -> None:
        self.budget = budget
        self.size = 0

    def resize(self, size: int) -> None:
        """Takes `size` bytes in all; Problem (overloaded) when there are no more."""
        if self.budget.reserved + size - self.size > self.budget.limit:
            raise Overloaded("Too many large bodies are under way.")
        self.budget.reserved += size - self.size
        self.size = size

    def release(self, user: asyncio.Future[Any] | None) -> None:
        """Gives all of it back; while `user` of the body goes on, as that of a client that has left does, when it has ended."""
        if user and not user.done():
            user.add_done_callback(lambda _: self.release(None))
            return
        self.budget.reserved -= self.size
        self.size = 0


async def receive_body(
    scope: Scope, receive: Receive, limit: int, reservation: Reservation
) -> bytearray:
    """The whole body.

    Problem: content-too-large before a body over `limit` bytes is read, or as soon as it grows over; request-timeout when a
    piece of it takes too long; overloaded when there is no memory for it; malformed-request when it breaks off.
    """
    length = Headers(scope=scope).get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length[:19]) > limit:
        raise _too_large(limit)
    content = bytearray()
    try:
        async with patience() as came:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem("malformed-request", "The body broke off.")
                content += message.get("body", b"")
                more = message.get("more_body", False)
                if len(content) > limit:
                    raise _too_large(limit)
                if len(content) >= LARGE:
                    reservation.resize(len(content))
                came(len(content))
    except TimeoutError as error:
        raise Problem("request-timeout", f"{len(content)} bytes of the body came.") from error
    return content


def _too_large(limit: int) -> Problem:
    detail = f"A body may have at most {limit} bytes (GATEWAY_MAX_BODY)."
    return Problem("content-too-large", detail)
