"""gunicorn's ASGI worker, its sign of life and its log, with what gunicorn 27.0.1 leaves open.

- The stock worker counts idle keep-alive connections as work: with a proxy that keeps some open, each stop or reload takes the
  whole graceful limit. This one closes them.
- An answer before its request was read ends the connection: that is announced, and the answer arrives (`lingering`).
- Requests that come without waiting for answers (pipelining) are read only as they are answered.
- What comes of a body is handed on as it came, not copied three times.
- A body that is compressed on its way (`Transfer-Encoding: gzip, chunked`) is refused, since nobody unpacks it.
- A body in tiny chunks is refused: each costs its reader far more than its sender.
- Who reads nothing of an answer for a while is left, since the answer is in memory.
- An upgrade to WebSocket is ignored (RFC 9110 section 7.8), so that its request is answered as any other.
- What cannot be read is refused by a problem document, as is everything else.
- A request target in absolute form is understood (RFC 9112 section 3.2.2).
- Who serves an answer that breaks off can reset its connection: to an HTTP/1.0 client the connection's end is the answer's.
- Who waits for something else than work of its own learns of a stop at once.
- The sign of life needs no room in the folder for temporary files.

It rests on names of gunicorn's protocol class that are not public; the tests of `tests/serving` fail when they change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import struct
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

from gunicorn.asgi.parser import (  # type: ignore[import-untyped]
    ParseError,
    PythonProtocol,
    UnsupportedTransferCoding,
)
from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers import base, gasgi  # type: ignore[import-untyped]
from gunicorn.workers.workertmp import WorkerTmp  # type: ignore[import-untyped]

from . import RESET, STOPPING, knows_codings
from .lingering import Lingering
from .problems import unreadable

QUIET = 1.0
"""Seconds for which a connection must have been idle, so that no request is on its way over it."""

CHUNKS = 4096
SMALL = 64
"""A body of more chunks than CHUNKS has at least so many bytes in each, on the average."""

TINY_CHUNKS = "The body comes in too many small chunks."

UNREAD = 30.0
"""Seconds in which a client must read something of an answer that waits for it."""

log = logging.getLogger("serving")

_ABSOLUTE = re.compile(rb"https?://([^/@]+)(/.*)?", re.IGNORECASE)


class Protocol(ASGIProtocol):  # type: ignore[misc]
    """A connection that its worker knows."""

    lingering: Lingering | None = None
    refused = False  # by gunicorn itself, who could not read what came
    chunks = size = 0  # of the present body
    unsent = 0  # bytes of an answer, when the client was last looked at
    reader_watch: asyncio.TimerHandle | None = None
    _body_receiver: Any
    _callback_parser: Any
    _current_request: Any
    _closed: bool

    def connection_made(self, transport: Any) -> None:
        self.worker.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        if self.reader_watch:
            self.reader_watch.cancel()
        if self.lingering:
            self.lingering.over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.lingering.discard(len(data))
        else:
            super().data_received(data)

    def _feed_callback_parser(self, data: bytes) -> Any:
        # For speed: what is all of it within a body is handed on as it is. The parser copies it three times, which was a
        # fifth of the processor time of an upload (perf).
        parser = self._callback_parser
        if (
            isinstance(parser, PythonProtocol)
            and parser._state == "body"
            and not parser._buffer
            and len(data) < parser._body_remaining
        ):
            parser._body_remaining -= len(data)
            self._on_body(data)
            return True
        return super()._feed_callback_parser(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_at_reader()

    def resume_writing(self) -> None:
        if self.reader_watch:
            self.reader_watch.cancel()
        self.unsent = 0
        super().resume_writing()

    def _look_at_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if self.unsent and waiting >= self.unsent:
            self.transport.abort()
            return
        self.unsent = waiting
        self.reader_watch = asyncio.get_running_loop().call_later(UNREAD, self._look_at_reader)

    def _on_headers_complete(self) -> Any:
        self.chunks = self.size = 0
        if not knows_codings(self._callback_parser.headers):
            raise UnsupportedTransferCoding("compressed")
        return super()._on_headers_complete()

    def _on_body(self, chunk: bytes) -> None:
        if self._current_request.chunked:
            self.chunks += 1
            self.size += len(chunk)
            if self.chunks > CHUNKS and self.size < SMALL * self.chunks:
                raise ParseError(TINY_CHUNKS)
        super()._on_body(chunk)

    @property
    def idle(self) -> bool:
        """True while it waits for a request, its first or its next."""
        return bool(self._awaiting_request)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # An answer before its request was read ends the connection, which RFC 9112 section 9.6 wants announced.
        unread = not self._body_receiver._complete
        return unread or bool(super()._will_close(request, response_requires_close))

    def _send_error_response(self, status: int, message: str, _headers: Any = ()) -> None:
        # gunicorn's own is text/plain, and has parts of the request in it.
        self.refused = True
        said = message if message == TINY_CHUNKS else ""
        answer, request_id = unreadable(status, said, self.worker.root)
        log.warning("request %s could not be read, and was answered with %s", request_id, status)
        self._safe_write(answer)

    def _close_transport(self) -> None:
        receiver = self._body_receiver
        unread = self.refused or (receiver is not None and not receiver._complete)
        if self._closed or not unread:
            super()._close_transport()
            return
        self._closed = True  # nothing is answered any more
        self._callback_parser = self._body_receiver = self._current_request = None
        if receiver is not None:
            receiver.signal_disconnect()
        self.lingering = Lingering(self.transport)

    def _resume_reading(self) -> None:
        # gunicorn resumes after each answer, however many requests wait behind it. What is left of the body of the
        # answered one does not count: it goes with its request.
        receiver = self._body_receiver
        waiting = self._http1_buffered() - (receiver.buffered if receiver is not None else 0)
        if waiting <= self._max_buffer_size:
            super()._resume_reading()

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> Any:
        # gunicorn waits for the reader of a body only, so that answers without one would pile up.
        await self._flow_control.drain()
        return await super()._serve_http_request(request, sockname, peername)

    def _is_websocket_upgrade(self, request: Any) -> bool:
        return False

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> dict[str, Any]:
        scope: dict[str, Any] = super()._build_http_scope(request, sockname, peername)
        if match := _ABSOLUTE.fullmatch(scope["raw_path"]):
            host, path = match[1], match[2] or b"/"
            scope["raw_path"] = path
            scope["path"] = unquote_to_bytes(path).decode("utf-8", "replace")
            # The target's host is what counts, whatever Host says.
            scope["headers"] = [
                (name, host if name == b"host" else value) for name, value in scope["headers"]
            ]
        extensions = scope.setdefault("extensions", {})
        extensions[RESET] = self._reset
        extensions[STOPPING] = self.worker.stopping
        return scope

    def _reset(self) -> None:
        """Ends the connection as one that failed, which a client sees also where the connection's end is the answer's."""
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """`worker_class = "serving.gunicorn_worker.Worker"`."""

    root = ""
    """The path before all of the application's, as callers see them."""

    def init_process(self) -> None:
        self.connections: set[Protocol] = set()
        gasgi.ASGIProtocol = Protocol  # what the stock worker makes of each new connection
        super().init_process()

    async def _serve(self) -> None:
        self.stopping = self.loop.create_future()
        await super()._serve()

    def handle_exit_signal(self) -> None:
        """Tells those that only wait."""
        super().handle_exit_signal()
        self._tell_waiting()

    def handle_quit_signal(self) -> None:
        """Tells those that only wait."""
        super().handle_quit_signal()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        if not self.stopping.done():
            self.stopping.set_result(None)

    async def _shutdown(self) -> None:
        self._tell_waiting()  # not every stop is a signal
        closing = asyncio.create_task(self._close_idle())
        await super()._shutdown()
        closing.cancel()

    async def _close_idle(self) -> None:
        """Closes what was idle twice in a row, and what only lingers; a busy connection closes by itself after its answer."""
        idle: set[Protocol] = set()
        while True:
            for lingering in [protocol.lingering for protocol in self.connections]:
                if lingering:
                    lingering.stop()
            for protocol in idle:
                if protocol.idle:
                    protocol._keepalive_timeout()
            idle = {protocol for protocol in self.connections if protocol.idle}
            await asyncio.sleep(QUIET)


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """Where a worker gives its sign of life: memory, where the stock one is a file in the folder for temporary files.

    When there is no room for that file, gunicorn does not start, and ends with all workers when one is replaced.
    """

    def __init__(self, cfg: Any) -> None:
        memory = os.memfd_create("heartbeat")
        os.fchown(memory, cfg.uid, cfg.gid)  # only its owner may set its times
        self._tmp = os.fdopen(memory, "w+b", 0)


if hasattr(os, "memfd_create"):  # on Linux
    base.WorkerTmp = Heartbeat


class Log(Logger):  # type: ignore[misc]
    """`logger_class`: gunicorn's own lines go where the process writes all others."""

    def setup(self, cfg: Any) -> None:
        """Takes gunicorn's handlers away again."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logging.getLogger("gunicorn").setLevel(logging.NOTSET)
