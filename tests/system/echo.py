"""An upstream that remembers what it receives, byte for byte, and answers 200. Not a test module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext


@dataclass(frozen=True)
class Received:
    """One request: `target` is the raw request target, percent-encoding untouched."""

    method: str
    target: str
    headers: Message
    body: bytes


Answer = Callable[[Received], tuple[int, str, bytes]]


def ok(_: Received) -> tuple[int, str, bytes]:
    """The answer that says nothing."""
    return 200, "application/json", b"{}"


@dataclass
class Echo:
    """A running upstream; `answer` may be exchanged."""

    port: int
    received: list[Received] = field(default_factory=list)
    answer: Answer = ok


@contextmanager
def echo_upstream(tls: SSLContext | None = None) -> Iterator[Echo]:
    """The upstream on a free port, over TLS when a context is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.take
            raise AttributeError(name)

        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Received(self.command, self.path, self.headers, body)
            echo.received.append(request)
            status, content_type, content = echo.answer(request)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    echo = Echo(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield echo
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
