"""Connections to the upstream on which a request can be cancelled: when its time is over, or its client has left.

`requests` limits each wait for bytes, never their sum, and cannot be interrupted. So the connection that a thread works on is
known here, and shutting its socket ends the wait. Until there is a socket, a name's lookup included, a thread may wait for
longer than its caller does; nothing is sent after that.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from http.client import HTTPResponse
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from serving.body_buffer import SECONDS

from .http11 import Response, has_answer, has_unread
from .threads import start_thread


class Deadline:
    """`seconds` from now, by a clock that nobody sets.

    Made once, when a request is handed to a thread, and handed down from there.
    """

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; 0 afterwards."""
        return max(0.0, self._end - monotonic())

    @property
    def expired(self) -> bool:
        """True from then on."""
        return monotonic() >= self._end

    def before(self, seconds: float) -> Deadline:
        """The one that is so many seconds earlier."""
        return Deadline(self.left() - seconds)


class CancellableRequest:
    """One upstream request and its answer, until `deadline` at the latest. `sent`: bytes of its present attempt have left.

    `fresh`: over a connection of its own, on which there can be no answer to anything else; reads share kept ones otherwise.
    `streamed`: its body leaves piece by piece, at the caller's pace, and may be answered before its end; from then on, or from
    its end, the answer has `answer_within` seconds to come.
    `silence`: seconds that the upstream may say nothing, where the settings allow more.
    `sent_before`: an earlier request was this one too, and was perhaps carried out.
    """

    def __init__(
        self,
        deadline: Deadline,
        *,
        fresh: bool = False,
        streamed: bool = False,
        answer_within: float = math.inf,
        silence: float = math.inf,
    ) -> None:
        self.deadline = deadline
        self.silence = silence
        self.fresh = fresh
        self.streamed = streamed
        self.answer_within = answer_within
        self.cancelled = False
        self.sent = False
        self.sent_before = False
        self._connection: _Connection | None = None
        self._sock: socket.socket | None = None

    def expect_answer(self) -> None:
        """Nothing more is sent: from now on the answer's time counts."""
        self.deadline = Deadline(self.answer_within)

    def begin(self) -> None:
        """The calling thread works on an attempt of this request from here to `end`."""
        self.sent = False
        _current.request = self

    def end(self) -> None:
        """The calling thread works on no request."""
        _current.request = None

    def attach(self, connection: _Connection) -> None:
        """Has bytes leave over `connection`, which other requests had before; TimeoutError when they must not any more."""
        with _handover:
            if self.cancelled or self.deadline.expired:  # also of a process that was stopped
                raise TimeoutError
            self.sent = True
            connection.request_under_way = self
            self._connection = connection
            # The connection forgets its socket when the answer's head says that it will close; its body is still to come.
            self._sock = connection.sock

    def cancel(self) -> bool:
        """Ends the request from another thread, by shutting its socket; says whether bytes have ever left: none will now."""
        with _handover:
            self.cancelled = True
            if self._connection and self._connection.request_under_way is self and self._sock:
                with contextlib.suppress(OSError):  # closed meanwhile: what was wanted
                    self._sock.shutdown(socket.SHUT_RDWR)
            return self.sent or self.sent_before


_current = threading.local()
_handover = threading.Lock()


class _Connection:
    """Mixin for urllib3's connections: tells the thread's request which connection it is on, before bytes leave."""

    request_under_way: CancellableRequest | None = None
    sock: socket.socket | None
    response_class: type[HTTPResponse] = Response

    def send(self, data: Any) -> Any:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        request: CancellableRequest | None = getattr(_current, "request", None)
        if request is not None and request.sent and request.streamed:
            self._send_piece(data, request)
            return None
        if request is not None:
            if not request.sent and self.sock and has_unread(self.sock, self.sock.recv):
                # Also on a new connection: no answer to a request that has not left (RFC 9112 section 9.2).
                raise ConnectionAbortedError("the upstream spoke first, or ended the connection")
            request.attach(self)
        return super().send(data)  # type: ignore[misc]

    def _send_piece(self, piece: bytes, request: CancellableRequest) -> None:
        """Sends a piece of a body, unless the answer has come before it was sent: urllib3 then reads that.

        An answer is looked for before each piece where that takes nothing away, and when no more bytes are taken: TLS has no
        way to look.
        """
        sock = self.sock
        if sock is None:
            raise BrokenPipeError
        if not isinstance(sock, ssl.SSLSocket) and has_answer(sock):
            request.expect_answer()
            raise BrokenPipeError
        sock.settimeout(SECONDS)
        try:
            sock.sendall(piece)
        except TimeoutError as error:
            request.expect_answer()
            raise BrokenPipeError from error


class PlainConnection(_Connection, HTTPConnection):
    pass


class TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool:
    """Mixin for urllib3's pools, which can keep nothing: then no request meets a connection that its server is about to close."""

    fresh = False

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self._new_conn() if self.fresh else super()._get_conn(timeout)  # type: ignore[attr-defined, misc]

    def _put_conn(self, conn: Any) -> None:
        if not self.fresh:
            super()._put_conn(conn)  # type: ignore[misc]
        elif conn is not None:
            conn.close()


class _PlainPool(_Pool, HTTPConnectionPool):
    ConnectionCls = PlainConnection


class _TLSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = TLSConnection


class Transport(HTTPAdapter):
    """requests' transport for the one server at `base_url`; over kept connections, or a `fresh` one for each request.

    Used without a `Session`, which would add cookies, redirects, .netrc and proxies of the environment: none may touch these
    requests. For speed, what requests finds out anew for each (the pool, the path) is found once: 3 to 10 % of a GET's
    processor time, measured against a plain HTTPAdapter. `context` is shared, since making one takes 20 ms.
    """

    def __init__(
        self, base_url: str, context: ssl.SSLContext, *, connections: int, fresh: bool
    ) -> None:
        self.context = context
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)
        parts = urlsplit(base_url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.pool = self.poolmanager.connection_from_url(self.origin)
        self.pool.fresh = fresh

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self.context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TLSPool}

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        """The one pool that there is."""
        return self.pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to set: the context verifies, and loading the authorities again per connection is what costs."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Path and query as they are."""
        return (request.url or "").removeprefix(self.origin)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Without cookies and encoding, which nobody asks for."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.request = req
        return response


class DeadlineWatchdog:
    """Cancels requests whose deadline has passed. One thread, started when it is first needed: after any fork."""

    PERIOD = 0.25
    """Seconds between two checks: how late a cancellation may come."""

    def __init__(self) -> None:
        self._requests: set[CancellableRequest] = set()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Has the thread run. Raises NoThread."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = start_thread("watchdog", self._run)

    def add(self, request: CancellableRequest) -> None:
        """Watches `request` until it is removed. Raises NoThread: nothing may be sent that nobody would end."""
        self.start()
        self._requests.add(request)

    def remove(self, request: CancellableRequest) -> None:
        """Stops watching `request`."""
        self._requests.discard(request)

    def _run(self) -> None:
        while True:
            sleep(self.PERIOD)
            for request in self._requests.copy():
                if request.deadline.expired and not request.cancelled:
                    request.cancel()


WATCHDOG = DeadlineWatchdog()
"""The process's."""
