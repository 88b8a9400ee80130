"""uvicorn's connections, with what uvicorn 0.54 with httptools leaves open.

- A request that comes before the one ahead of it is answered (pipelining) ends the connection after that answer; uvicorn
  keeps all that come, with no bound.
- A head that does not end is refused, and so are trailers of a body (RFC 9112 section 7.1.2), which nobody here reads;
  httptools takes any length of both.
- An upgrade is ignored (RFC 9110 section 7.8), whatever it is to: of a request that asks for one httptools 0.9 reads no body.
- A body with a transfer coding beside `chunked` is refused; httptools ignores the others.
- What cannot be read is refused by a problem document, as is everything else.
- An answer before its request was read says that the connection ends, and arrives (`lingering`).
- Who waits for something else than work of its own learns of a stop at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import STOPPING, knows_codings
from .lingering import Lingering
from .problems import unreadable

MAX_HEAD = 64 << 10
"""Bytes that a request's line and headers may have while they have not ended, and its trailers."""

log = logging.getLogger("serving")


class Pipelined(Exception):
    """A request came before the one ahead of it was answered."""


class UnknownCoding(Exception):
    """The body has a transfer coding that nobody here takes off."""


class Protocol(HttpToolsProtocol):
    """`uvicorn.Config(http=Protocol)`."""

    lingering: Lingering | None = None
    pipelined = False
    coming = 0  # bytes that came last
    head_size = 0  # bytes of a head or of trailers that have not ended
    in_head = False
    in_message = False
    upgrading = False  # the present request's head asks for it, and will be read again
    keep_alive = False  # of the present request
    stopping: asyncio.Future[None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.stopping = self.loop.create_future()
        self.transport = _Transport(transport, self)  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lingering:
            self.lingering.over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.lingering.discard(len(data))
            return
        if self.pipelined:
            return
        self._unset_keepalive_if_required()
        self.coming = len(data)
        self.head_size += self.coming  # if nobody is told of it
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.upgrading:
                self._ignore_upgrade(data[upgrade.args[0] :])
            else:
                self._end_after_answer()  # CONNECT: what follows is for another protocol
            return
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, UnknownCoding):
                self._refuse(501)
            elif not self.pipelined:
                self._refuse(414 if self.in_message and len(self.url) >= MAX_HEAD else 400)
            return
        if self.head_size > MAX_HEAD and self.in_message:
            self._refuse(414 if self.in_head and not self.headers else 431)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Reads the head again without the wish, and what follows it."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        head = [b"%s %s HTTP/%s" % (method, self.url, version), *lines, b"", b""]
        self.upgrading, self.in_message = False, False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.data_received(b"\r\n".join(head) + rest)

    def _refuse(self, status: int) -> None:
        """Ends the connection with an answer, though no request was read."""
        answer, request_id = unreadable(status)
        log.warning("request %s could not be read, and was answered with %s", request_id, status)
        self.transport.write(answer)
        self.transport.close()

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_after_answer()
            raise Pipelined  # all that the parser can be stopped by
        self.in_head = self.in_message = True
        self.head_size = self.coming
        super().on_message_begin()
        self.scope["extensions"] = {STOPPING: self.stopping}  # type: ignore[dict-item]

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.head_size = 0
        self.upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self.upgrading:
            return
        if not knows_codings(self.headers):
            raise UnknownCoding
        super().on_headers_complete()
        # Until all of the request is here, an answer to it ends the connection, and says so (RFC 9112 section 9.6).
        self.keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        self.head_size = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        self.in_message = False
        self.head_size = 0
        if not self.cycle.response_started:
            self.cycle.keep_alive = self.keep_alive
        super().on_message_complete()

    def _end_after_answer(self) -> None:
        """Reads no more than what came, and ends the connection after the answer to the present request."""
        self.pipelined = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        super().shutdown()
        if not self.stopping.done():
            self.stopping.set_result(None)
        if self.lingering:
            self.lingering.stop()

    def end(self, transport: asyncio.Transport) -> None:
        """Closes `transport`, at once when the request was read to its end."""
        if self.lingering or transport.is_closing():
            return
        if self.in_message or self.pipelined:
            self.lingering = Lingering(transport)
            if self.cycle is not None and not self.cycle.response_complete:
                # Nothing is answered any more, and nothing more of the body comes.
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        else:
            transport.close()


class _Transport:
    """A transport for uvicorn, which closes at once; here the protocol decides."""

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """True when nothing more will be answered."""
        return self._protocol.lingering is not None or self._transport.is_closing()

    def close(self) -> None:
        """Ends the connection once what was written has left."""
        self._protocol.end(self._transport)
