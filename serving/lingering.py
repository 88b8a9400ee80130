"""Ending a connection whose client is still sending.

To close a socket with unread bytes resets the connection, and the reset takes the answer with it, before the client has
read it (RFC 9112 section 9.6). So this end stops sending, reads on for a while, and throws away what it reads.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

LONGEST = 30.0
"""Seconds after an answer has left for which its client may go on sending."""

SILENCE = 5.0
"""Seconds without a byte after which it is taken to be through."""

MOST = 1 << 30
"""Bytes that are read and thrown away."""


class Lingering:
    """The end of one connection: `transport` has sent its last answer, and is closed when the client has done so.

    Whoever owns the transport hands what it receives to `discard`, and calls `over` when the connection is lost.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._loop = asyncio.get_running_loop()
        self._left = MOST
        self._heard = self._loop.time()
        self._end = self._heard + LONGEST
        if transport.can_write_eof():
            with suppress(OSError):  # the client has left
                transport.write_eof()
        transport.resume_reading()
        self._timer = self._loop.call_later(SILENCE, self._look)

    def discard(self, size: int) -> None:
        """Counts `size` bytes that came and are thrown away."""
        self._left -= size
        self._heard = self._loop.time()
        if self._left < 0:
            self.transport.abort()

    def over(self) -> None:
        """Waits no more."""
        self._timer.cancel()

    def stop(self) -> None:
        """Ends the connection now, unless the answer is still leaving."""
        if not self.transport.get_write_buffer_size():
            self.transport.abort()

    def _look(self) -> None:
        if (
            self.transport.get_write_buffer_size()
        ):  # a slow reader, to whom everything so far was no time
            self._heard = self._loop.time()
            self._end = self._heard + LONGEST
        until = min(self._end, self._heard + SILENCE)
        if self._loop.time() >= until:
            self.transport.abort()
        else:
            self._timer = self._loop.call_at(until, self._look)
