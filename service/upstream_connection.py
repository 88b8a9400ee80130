"""Upstream requests under way, which can be ended from outside: when their time is over, or their client has left.

`requests` limits each wait for bytes, never their sum, and cannot be interrupted. So the connection that a thread
works on is known here, and shutting its socket ends the wait. Until there is a socket, nothing may take longer than what
is left.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.client import HTTPResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from .http11 import Response, speaks
from .names import Unasked, name
from .pool import NoThread, start_thread


class Exchange:
    """One upstream request and its answer. `sent`: bytes of it have left; `over`: ended from outside.

    `fresh`: over a connection of its own, on which there can be no answer to anything else; reads share kept ones otherwise.
    """

    def __init__(self, *, fresh: bool = False) -> None:
        self.fresh = fresh
        self.deadline = float("inf")
        self.over = False
        self.sent = False
        self.connection: _Watched | None = None
        self.sock: socket.socket | None = None

    def begin(self) -> None:
        """The calling thread works for this exchange from here to `end`."""
        self.sent = False
        _current.exchange = self

    def end(self) -> None:
        """The calling thread works for no exchange."""
        _current.exchange = None

    def hold(self, connection: _Watched) -> None:
        """Takes `connection` for this exchange, out of the hands of the one that had it from the pool before."""
        with _handover:
            connection.exchange = self
            self.connection = connection
            # The connection forgets its socket when the answer's head says that it will close; its body is still to come.
            self.sock = connection.sock

    def abandon(self) -> None:
        """Ends the exchange from another thread: its socket is shut, so that whoever waits on it stops waiting."""
        self.over = True
        with _handover:
            if self.connection and self.connection.exchange is self and self.sock:
                with contextlib.suppress(OSError):  # closed meanwhile: what was wanted
                    self.sock.shutdown(socket.SHUT_RDWR)


_current = threading.local()
_handover = threading.Lock()


class _Watched:
    """Mixin for urllib3 connections: tells the thread's exchange which connection it is on, and when bytes leave."""

    exchange: Exchange | None = None
    sock: socket.socket | None
    response_class: type[HTTPResponse] = Response

    def _new_conn(self) -> socket.socket:
        """As urllib3's, whose limit is for each address and not for the name: here, the exchange's deadline holds for all."""
        own: Any = self
        try:
            return self._connect_to_any(name(own._dns_host).addresses(self._left()))
        except Unasked as error:  # our fault, and not the upstream's
            raise NoThread from error
        except OSError as error:
            raise NewConnectionError(own, str(error)) from error

    def _connect_to_any(self, addresses: list[str]) -> socket.socket:
        own: Any = self
        last: OSError = TimeoutError()
        for address in addresses:
            try:
                return create_connection(
                    (address, own.port), self._left(), socket_options=own.socket_options
                )
            except OSError as error:
                last = error
        raise last

    def _left(self) -> float:
        """The connect limit, or what the exchange has left if that is less, in seconds; TimeoutError when nothing is."""
        limit: float = self.timeout  # type: ignore[attr-defined]
        exchange: Exchange | None = getattr(_current, "exchange", None)
        if exchange is not None:
            limit = min(limit, exchange.deadline - time.monotonic())
        if limit <= 0:
            raise TimeoutError
        return limit

    def send(self, data: Any) -> Any:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        exchange: Exchange | None = getattr(_current, "exchange", None)
        if exchange is not None:
            exchange.hold(self)
            if (
                exchange.over or time.monotonic() > exchange.deadline
            ):  # also of a process that was stopped
                raise TimeoutError
            if not exchange.sent and self.sock and speaks(self.sock, self.sock.recv):
                # Also on a new connection: no answer to a request that has not left (RFC 9112 section 9.2).
                raise ConnectionAbortedError("the upstream spoke first, or ended the connection")
            exchange.sent = True
        return super().send(data)  # type: ignore[misc]


class _WatchedHTTP(_Watched, HTTPConnection):
    pass


class _WatchedHTTPS(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
"""Connection pools by URL scheme, for urllib3's `PoolManager.pool_classes_by_scheme`."""


class Watch:
    """Ends exchanges whose deadline has passed. One thread, started when it is first needed: after any fork."""

    PERIOD = 0.25
    """Seconds between looks: how late an end may come."""

    def __init__(self) -> None:
        self._exchanges: set[Exchange] = set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Has the thread run. Raises NoThread."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = start_thread("watch", self._run)

    def add(self, exchange: Exchange) -> None:
        """Watches `exchange` until it is removed. Raises NoThread: nothing may be sent that nobody would end."""
        self.start()
        self._exchanges.add(exchange)

    def remove(self, exchange: Exchange) -> None:
        """Stops watching `exchange`."""
        self._exchanges.discard(exchange)

    def _run(self) -> None:
        while True:
            time.sleep(self.PERIOD)
            now = time.monotonic()
            for exchange in self._exchanges.copy():
                if exchange.deadline < now and not exchange.over:
                    exchange.abandon()


WATCH = Watch()
"""The process's."""
