"""Bytes between the event loop and a thread, a bounded number of them in hand: a body on its way in, an answer on its way out.

Each side waits for the other, so the slower of caller and upstream sets the pace. How long each side was waited for is known
apart, since a slow caller is told something else than a caller of a slow upstream.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from threading import Condition

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from serving.body_buffer import (
    PIECE,
    SECONDS,
    BodyRefused,
    BodyTooLarge,
    BodyTooSlow,
    OutOfMemory,
    announced_length,
    pieces,
)

from .problems import Overloaded, Problem

IN_HAND = 1 << 18
"""Bytes that may wait between the two sides; one piece more can come on top."""


class CallerLeft(Exception):
    """Nobody wants the answer any more."""


class TooSlow(Exception):
    """One side did not keep to the least rate: PIECE bytes within SECONDS."""


def taken_too_slowly() -> Problem:
    """What the sender of a body is told that the upstream does not take fast enough."""
    detail = "The upstream takes the body too slowly; nothing was created."
    return Problem("upstream-timeout", detail, retryable=True)


def paced(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, each to be sent before the next is asked for. Raises Problem when that takes too long."""
    pace = Pace()
    for piece in pieces:
        begun = time.monotonic()
        yield piece
        try:
            pace.waited(time.monotonic() - begun, len(piece))
        except TooSlow as error:
            raise taken_too_slowly() from error


class Pace:
    """How long one side was waited for, since the last PIECE bytes of it came."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.size = 0

    @property
    def left(self) -> float:
        """Seconds that it may still be waited for."""
        return max(0.0, SECONDS - self.seconds)

    def waited(self, seconds: float, size: int) -> None:
        """It was waited for, and so many bytes came. Raises TooSlow."""
        self.size += size
        self.seconds += seconds
        if self.size >= PIECE:
            self.seconds, self.size = 0.0, 0
        elif self.seconds >= SECONDS:
            raise TooSlow


def refusal(error: BodyRefused, limit: int, setting: str) -> Problem:
    """What the sender of a body is told that is not received to its end; `setting` sets the limit."""
    if isinstance(error, BodyTooLarge):
        return Problem("content-too-large", f"A body may have at most {limit} bytes ({setting}).")
    if isinstance(error, BodyTooSlow):
        return Problem("request-timeout", f"{error.size} bytes of the body came.")
    if isinstance(error, OutOfMemory):
        return Overloaded("Too many large bodies are under way.")
    return Problem("malformed-request", "The body broke off.")


class IncomingBody:
    """A request's body, a `ByteStream` of at most `limit` bytes: `fill` it in the loop, iterate over it in a thread, once."""

    def __init__(self, scope: Scope, limit: int, setting: str) -> None:
        self.content_type = Headers(scope=scope).get("content-type", "")
        self.length = announced_length(scope)
        self.complete = False
        self.received = 0
        self.scope = scope
        self.limit = limit
        self.setting = setting
        if self.length is not None and self.length > limit:
            raise refusal(BodyTooLarge(), limit, setting)
        self._pieces: deque[bytes] = deque()
        self._in_hand = 0
        self._ended = False
        self._problem: Problem | None = Problem("malformed-request", "The body broke off.")
        self._changed = Condition()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()

    async def fill(self, receive: Receive) -> None:
        """Receives the body to its end, or until it breaks off, waiting while there is no room."""
        try:
            async with aclosing(pieces(self.scope, receive, self.limit)) as coming:
                async for piece in coming:
                    self.received += len(piece)
                    if self._add(piece):
                        await self._room.wait()
            self._problem = None
        except BodyRefused as error:
            self._problem = refusal(error, self.limit, self.setting)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _add(self, piece: bytes) -> bool:
        """Whether there is no room for another."""
        with self._changed:
            self._pieces.append(piece)
            self._in_hand += len(piece)
            self._room.clear()
            self._changed.notify()
            return self._in_hand >= IN_HAND

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, none empty. Raises Problem when it is refused, breaks off, or is not taken fast enough."""
        return paced(self.received_pieces())

    def received_pieces(self) -> Iterator[bytes]:
        """The pieces, however long it takes what is done with them. Raises Problem when it is refused or breaks off."""
        while piece := self._take():
            yield piece
        self.complete = True

    def _take(self) -> bytes:
        """What is in hand; nothing at the end."""
        piece = b""
        while not piece:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    if self._problem:
                        raise self._problem
                    return b""
                piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                self._in_hand = 0
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._room.set)
        return piece


class OutgoingAnswer:
    """An answer's content: `put` pieces in a thread, iterate over them in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes] = deque()
        self._in_hand = 0
        self._ended = self._given_up = False
        self._changed = Condition()
        self._came = asyncio.Event()
        self._pace = Pace()

    def put(self, piece: bytes) -> None:
        """Adds a piece when there is room. Raises CallerLeft when nobody wants it any more, TooSlow when room does not come."""
        begun = time.monotonic()
        with self._changed:
            self._changed.wait_for(
                lambda: self._in_hand < IN_HAND or self._given_up, self._pace.left
            )
            if self._given_up:
                raise CallerLeft
            self._pace.waited(time.monotonic() - begun, len(piece))
            self._pieces.append(piece)
            self._in_hand += len(piece)
        self._wake()

    def end(self) -> None:
        """Nothing more comes; from any thread."""
        with self._changed:
            self._ended = True
        self._wake()

    def give_up(self) -> None:
        """Nobody wants more of it; from any thread."""
        with self._changed:
            self._given_up = True
            self._changed.notify()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._came.set)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces, until `end`."""
        while True:
            self._came.clear()
            with self._changed:
                taken, self._pieces = self._pieces, deque()
                ended, self._in_hand = self._ended, 0
                self._changed.notify()
            for piece in taken:
                yield piece
            if ended:
                return
            await self._came.wait()
