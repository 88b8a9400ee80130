"""A TCP proxy between gateway and sandbox that ends an exchange at a given stage, in a given form. Not a test module.

It speaks TLS to the gateway when it has a certificate, and carries one request a connection. A fault strikes the next
create (the next connection, for the stages before there is a request), as often as it says.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

EARLY = ("connect", "hello")
NOT_CARRIED_OUT = (*EARLY, "headers", "body", "request")
CARRIED_OUT = ("committed", "head", "answer", "after")
"""Stages: connected; the first bytes of TLS (or of the request) have come; the request's head has come; half of its body; all of it.

From then on the sandbox has carried it out, and has nothing of the answer left; half of its head; half of its body; all of it.
"""

JSON = "Content-Type: application/json"
RATE_LIMITED = (
    '{"object":"error","message":"Rate limit exceeded","type":"rate_limited","code":"1300"}'
)


def http(status: str, body: str, *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


PAGE = "<html><head><title>error</title></head><body>nginx</body></html>"
ANSWERS = {
    "html 500": http("500 Internal Server Error", PAGE, "Content-Type: text/html"),
    "html 502": http("502 Bad Gateway", PAGE, "Content-Type: text/html"),
    "html 503": http("503 Service Unavailable", PAGE, "Content-Type: text/html", "Retry-After: 1"),
    "html 504": http("504 Gateway Timeout", PAGE, "Content-Type: text/html"),
    "429 seconds": http("429 Too Many Requests", RATE_LIMITED, JSON, "Retry-After: 1"),
    "429 date": http(
        "429 Too Many Requests", RATE_LIMITED, JSON, "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"
    ),
    "429 negative": http("429 Too Many Requests", RATE_LIMITED, JSON, "Retry-After: -5"),
    "429 huge": http("429 Too Many Requests", RATE_LIMITED, JSON, "Retry-After: 99999999999"),
    "429 absent": http("429 Too Many Requests", RATE_LIMITED, JSON),
    "429 html": http("429 Too Many Requests", PAGE, "Content-Type: text/html"),
}
"""What may be answered in the sandbox's place."""

CUTS = ("reset", "close", "hang", "garbage")
HANG = 10.0


@dataclass
class Fault:
    """`form` is one of CUTS or ANSWERS; `at` replaces a stage: so many bytes of the answer pass."""

    stage: str
    form: str
    times: int = 1
    at: int | None = None


class FaultProxy:
    """A running proxy. Since the last `strike`, its fault has struck `struck` times and `creates` creates have begun to arrive."""

    def __init__(self, upstream_port: int, certificate: tuple[str, str] | None) -> None:
        self.upstream = ("127.0.0.1", upstream_port)
        self.tls = None
        if certificate:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self.fault: Fault | None = None
        self.struck = self.creates = 0
        self.answer_bytes = 0  # of the last create's answer
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Base URL for a gateway."""
        port = self._listener.getsockname()[1]
        return f"https://localhost:{port}/v1" if self.tls else f"http://127.0.0.1:{port}/v1"

    def strike(self, fault: Fault | None) -> None:
        """Put `fault` in the place of the one before; None: no fault."""
        with self._lock:
            self.fault, self.struck, self.creates = fault, 0, 0

    def close(self) -> None:
        """Accept nothing more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _take(self, *stages: str) -> Fault | None:
        """The fault, if it strikes at one of `stages` now."""
        with self._lock:
            fault = self.fault
            if fault is None or fault.stage not in stages or self.struck >= fault.times:
                return None
            self.struck += 1
            return fault

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), plain:
            plain.settimeout(HANG)
            if fault := self._take("connect"):
                _end(plain, fault.form)
                return
            if fault := self._take("hello"):
                plain.recv(16)
                _end(plain, fault.form)
                return
            peer = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
            with peer:
                self._exchange(peer)

    def _exchange(self, peer: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := peer.recv(65536)):
                return
            head += data
        head, _, body = head.partition(b"\r\n\r\n")
        create = head.startswith(b"POST") and b"/batch/jobs HTTP/" in head.split(b"\r\n")[0]
        self.creates += create
        if create and (fault := self._take("headers")):
            _end(peer, fault.form)
            return
        length = _length(head)
        fault = self._take("body") if create else None
        while len(body) < (length // 2 if fault else length):
            if not (data := peer.recv(min(65536, length - len(body)) if not fault else 64)):
                return
            body += data
        if fault or (create and (fault := self._take("request"))):
            _end(peer, fault.form)
            return
        answer = self._ask(head + b"\r\nConnection: close\r\n\r\n" + body)
        fault = self._take(*CARRIED_OUT, "cut") if create else None
        if create:
            self.answer_bytes = len(answer)
        peer.sendall(answer[: _passing(answer, fault)])
        if fault:
            _end(peer, fault.form)

    def _ask(self, request: bytes) -> bytes:
        with socket.create_connection(self.upstream, timeout=HANG) as upstream:
            upstream.sendall(request)
            answer = b""
            while data := upstream.recv(65536):
                answer += data
            return answer


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


def _passing(answer: bytes, fault: Fault | None) -> int:
    """How many bytes of the answer pass."""
    if fault is None:
        return len(answer)
    if fault.at is not None:
        return fault.at
    head = answer.index(b"\r\n\r\n") + 4
    return {
        "committed": 0,
        "head": head // 2,
        "answer": head + (len(answer) - head) // 2,
        "after": len(answer),
    }[fault.stage]


def _end(peer: socket.socket, form: str) -> None:
    if form in ANSWERS:
        peer.sendall(ANSWERS[form])
        # The request's rest is read, or closing would reset the connection before the answer is.
        peer.settimeout(0.2)
        with suppress(OSError):
            while peer.recv(65536):
                pass
    elif form == "garbage":
        peer.sendall(b"\x00\xff\r\n" + os.urandom(200))
    elif form == "hang":
        with suppress(OSError):
            while peer.recv(65536):  # until the gateway gives up
                pass
    elif form == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@contextmanager
def fault_proxy(
    upstream_url: str, certificate: tuple[str, str] | None = None
) -> Iterator[FaultProxy]:
    """A proxy on a free port, before the server at `upstream_url`."""
    proxy = FaultProxy(int(upstream_url.rpartition(":")[2]), certificate)
    try:
        yield proxy
    finally:
        proxy.close()
