"""Receiving a body: its pieces as they come, within a size and a time, or all of them as one, within the memory for all.

A body is buffered once. What is made of it is sent on from the same buffer, and its memory is counted until then. Who sends
slowly, or announces much and sends nothing, holds no memory for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from threading import Lock
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

SECONDS = 20.0
"""Seconds that each PIECE of a body, and what is left after the last, may take to come."""

PIECE = 1_310_720
"""Bytes: 64 KiB for each of these seconds."""


class BodyRefused(Exception):
    """A body that is not received to its end."""


class BodyTooLarge(BodyRefused):
    """It has more bytes than one may have."""


class BodyTooSlow(BodyRefused):
    """A piece of it took too long; `size` bytes had come."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class BodyBrokeOff(BodyRefused):
    """Its sender left."""


class OutOfMemory(BodyRefused):
    """What is under way leaves no memory for it."""


class MemoryBudget:
    """`limit` bytes for bodies, of which those with less than `least` are not counted. Thread-safe."""

    def __init__(self, limit: int, least: int = 0) -> None:
        self.limit = limit
        self.least = least
        self.reserved = 0
        self._lock = Lock()

    def change(self, size: int) -> None:
        """Reserves so many bytes more, or fewer; OutOfMemory when there are no more."""
        with self._lock:
            if size > 0 and self.reserved + size > self.limit:
                raise OutOfMemory
            self.reserved += size


class Reservation:
    """What one body takes of the budget, in bytes, from when they have come until nobody needs them."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.size = 0

    def resize(self, size: int) -> None:
        """Takes `size` bytes in all; OutOfMemory when there are no more."""
        if size < self.budget.least:
            return
        self.budget.change(size - self.size)
        self.size = size

    def release(self, user: asyncio.Future[Any] | None = None) -> None:
        """Gives all of it back; while `user` of the body goes on, as that of a client that has left does, when it has ended."""
        if user and not user.done():
            user.add_done_callback(self._ended)
            return
        self.budget.change(-self.size)
        self.size = 0

    def _ended(self, user: asyncio.Future[Any]) -> None:
        user.cancelled() or user.exception()  # nobody else may be there to be told of it
        self.release()


def announced_length(scope: Scope) -> int | None:
    """The bytes of the body by its Content-Length, 15 digits of it at most; None where it says nothing."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length.lstrip("0")[:15] or 0) if length.isascii() and length.isdecimal() else None


async def receive_body(
    scope: Scope, receive: Receive, limit: int, reservation: Reservation
) -> bytearray:
    """The whole body; BodyRefused as by `pieces`, or when there is no memory for it."""
    content = bytearray()
    async with aclosing(pieces(scope, receive, limit)) as coming:
        async for piece in coming:
            content += piece
            reservation.resize(len(content))
    return content


async def pieces(scope: Scope, receive: Receive, limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces of the body of a request. What is done between two of them is no time of its sender's.

    BodyRefused before a body over `limit` bytes is read, or as soon as it grows over; when it takes too long or breaks off.
    """
    if (announced_length(scope) or 0) > limit:
        raise BodyTooLarge
    time = asyncio.get_running_loop().time
    size, left, more = 0, SECONDS, True
    next_piece = PIECE
    while more:
        begun = time()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError as error:
            raise BodyTooSlow(size) from error
        left -= time() - begun
        if left <= 0:
            # Some ways of waiting let what comes in that instant swallow the cancellation (wait_for of Python 3.11).
            raise BodyTooSlow(size)
        if message["type"] == "http.disconnect":
            raise BodyBrokeOff
        piece: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > limit:
            raise BodyTooLarge
        if size >= next_piece:
            next_piece, left = size + PIECE, SECONDS
        yield piece
