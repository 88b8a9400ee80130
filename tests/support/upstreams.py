"""Upstreams of the tests' own: one that says byte for byte what a test wants, one that speaks HTTP. Not a test module."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEEP = object()
"""What a behaviour returns whose connection is to be kept for another request."""

Behaviour = Callable[[socket.socket, int], object]


class Upstream:
    """Reads a request, notes it, and calls `behave(socket, nth)`; speaks TLS when it has a certificate.

    `whole`: it reads a request to its end; otherwise its head alone. `received` are the requests since it was told how to behave, `connections` the number of the connection of each.
    """

    def __init__(self, certificate: tuple[str, str] | None = None, *, whole: bool = True) -> None:
        self.whole = whole
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[threading.Thread, socket.socket] = {}
        self._accepting = threading.Thread(target=self._accept)
        self.behave(lambda _peer, _nth: None)
        self._accepting.start()

    def behave(self, behaviour: Behaviour) -> None:
        """Behaves so from now on, on new connections."""
        self._hang_up()
        self.behaviour = behaviour
        self.received: list[bytes] = []
        self.connections: list[int] = []
        self._opened = 0

    def close(self) -> None:
        """Ends all connections, and accepts no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        self._hang_up()

    def _hang_up(self) -> None:
        for thread, peer in list(self._peers.items()):
            with suppress(OSError):
                socket.socket.shutdown(peer, socket.SHUT_RDWR)
            thread.join()
        self._peers.clear()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(20)
            thread = threading.Thread(target=self._serve, args=(peer, self._opened))
            self._opened += 1
            self._peers[thread] = peer
            thread.start()

    def _serve(self, plain: socket.socket, connection: int) -> None:
        with plain, suppress(OSError):
            peer = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
            self._peers[threading.current_thread()] = peer
            with peer:
                kept: object = KEEP
                while kept is KEEP:
                    request = read_request(peer) if self.whole else read_head(peer)
                    self.received.append(request)
                    self.connections.append(connection)
                    kept = self.behaviour(peer, len(self.received))


@contextmanager
def upstream(
    behave: Behaviour, certificate: tuple[str, str] | None = None, *, whole: bool = True
) -> Iterator[tuple[int, list[bytes]]]:
    """The port of an upstream, and the requests that it got."""
    running = Upstream(certificate, whole=whole)
    running.behave(behave)
    try:
        yield running.port, running.received
    finally:
        running.close()


def read_head(peer: socket.socket) -> bytes:
    """The head of a request, and what came with it; ConnectionError when the connection ends before."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(peer)
    return data


def read_request(peer: socket.socket) -> bytes:
    """A whole request; ConnectionError when the connection ends before."""
    data = read_head(peer)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line[15:])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += _some(peer)
    return head + b"\r\n\r\n" + body


def _some(peer: socket.socket) -> bytes:
    if not (data := peer.recv(65536)):
        raise ConnectionError
    return data


@dataclass(frozen=True)
class Received:
    """One request: `target` is the raw request target, percent-encoding untouched; `peer` the port that it came from."""

    method: str
    target: str
    headers: Message
    body: bytes
    peer: int


Answer = Callable[[Received], tuple[int, str, bytes]]


def ok(_: Received) -> tuple[int, str, bytes]:
    """The answer that says nothing."""
    return 200, "application/json", b"{}"


@dataclass
class Echo:
    """A running upstream, which remembers what it receives; `answer` may be exchanged."""

    port: int
    received: list[Received] = field(default_factory=list)
    answer: Answer = ok


@contextmanager
def echo_upstream(tls: ssl.SSLContext | None = None) -> Iterator[Echo]:
    """The upstream on a free port, over TLS when a context is given. It keeps connections open, whatever its client asks for."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.take
            raise AttributeError(name)

        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            peer = self.client_address[1]
            request = Received(self.command, self.path, self.headers, body, peer)
            echo.received.append(request)
            status, content_type, content = echo.answer(request)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = False

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http_server(Handler, tls) as port:
        echo = Echo(port)
        yield echo


@contextmanager
def http_server(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server with a thread for each connection; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
