"""An upstream that says byte for byte what a test wants. Not a test module."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

KEEP = object()
"""What a behaviour returns whose connection is to be kept for another request."""

Behaviour = Callable[[socket.socket, int], object]


class Upstream:
    """Reads a request, notes it, and calls `behave(socket, nth)`; speaks TLS when it has a certificate.

    `received` are the requests since it was told how to behave, `connections` the number of the connection of each.
    """

    def __init__(self, certificate: tuple[str, str] | None = None) -> None:
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
                    request = read_request(peer)
                    self.received.append(request)
                    self.connections.append(connection)
                    kept = self.behaviour(peer, len(self.received))


@contextmanager
def upstream(
    behave: Behaviour, certificate: tuple[str, str] | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """The port of an upstream, and the requests that it got."""
    running = Upstream(certificate)
    running.behave(behave)
    try:
        yield running.port, running.received
    finally:
        running.close()


def read_request(peer: socket.socket) -> bytes:
    """A whole request; ConnectionError when the connection ends before."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(peer)
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
