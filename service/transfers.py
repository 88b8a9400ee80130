"""Requests and answers that are streams, on their way between the caller and a thread that has a place for them.

Places are apart from the threads of other requests, which slow transfers can so never take. Nothing limits the time of a transfer
but its pace (`streams`): whoever does not keep it is given up, and what has begun downstream is broken off, never ended neatly.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial

from starlette.types import Receive, Send

from telemetry import metrics

from .problems import Overloaded, Problem
from .request_context import current
from .streams import CallerLeft, OutgoingAnswer, TooSlow
from .threads import ThreadPool, WorkItem
from .translation import ByteStream
from .upstream_connection import CancellableRequest

Head = tuple[int, list[tuple[bytes, bytes]]]
"""Status and headers."""

Handle = Callable[[Callable[[Head], object], Callable[[bytes], object]], None]
"""Handles a request in a thread: calls back with the head of the answer, then with each piece of its content."""


class Transfers:
    """At most `places` at a time, each with a thread."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.pool = ThreadPool(places, "transfer")
        self.under_way: set[asyncio.Future[None]] = set()

    async def serve(
        self,
        handle: Handle,
        stream: ByteStream | None,
        cancellable: CancellableRequest,
        receive: Receive,
        send: Send,
    ) -> None:
        """Passes one on. Problem when it cannot begin; any exception after that breaks the answer off."""
        if len(self.under_way) >= self.places:
            detail = f"All {self.places} places for files are taken (GATEWAY_TRANSFERS)."
            raise Overloaded(detail)
        loop = asyncio.get_running_loop()
        answer = OutgoingAnswer()
        head: asyncio.Future[Head] = loop.create_future()

        def begin(found: Head) -> None:
            loop.call_soon_threadsafe(_begin, head, found)

        handling: asyncio.Future[None] = loop.create_future()
        work = partial(contextvars.copy_context().run, _handle, handle, begin, answer)
        self.pool.put(WorkItem(work, handling))
        self.under_way.add(handling)
        metrics.inflight_transfers.inc()
        current().handling = handling
        handling.add_done_callback(partial(self._finished, head, answer))
        filling = asyncio.ensure_future(stream.fill(receive)) if stream else None
        try:
            status, headers = await head
            await send({"type": "http.response.start", "status": status, "headers": headers})
            last = b""
            async for piece in answer:
                if last:
                    await send({"type": "http.response.body", "body": last, "more_body": True})
                last = piece
            handling.result()  # raises what broke it off
            # With the last piece, since a client leaves when it has all bytes that were announced.
            await send({"type": "http.response.body", "body": last})
        finally:
            answer.give_up()
            if not handling.done() and not (stream and stream.complete):
                cancellable.cancel()
            if stream and filling:
                filling.cancel()
                current().received = stream.received

    def _finished(
        self, head: asyncio.Future[Head], answer: OutgoingAnswer, handling: asyncio.Future[None]
    ) -> None:
        self.under_way.discard(handling)
        metrics.inflight_transfers.dec()
        error = None if handling.cancelled() else handling.exception()
        if error and not head.done():
            head.set_exception(error)
        answer.end()


def _handle(handle: Handle, begin: Callable[[Head], object], answer: OutgoingAnswer) -> None:
    try:
        handle(begin, answer.put)
    except CallerLeft:
        current().unfinished = "client-left"
    except TooSlow as error:
        raise Problem("request-timeout", "The answer was taken too slowly.") from error


def _begin(head: asyncio.Future[Head], found: Head) -> None:
    if not head.done():  # as it is when the caller has left
        head.set_result(found)
