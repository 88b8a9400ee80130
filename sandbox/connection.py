"""The client's connection, for what a server does not do by itself: answers past the server, silence, resets, a patient end."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import Any

from werkzeug.wrappers import Response

from sandbox.ledger import Entry

TICK = 0.05
"""Seconds between polls of a connection that has unread bytes."""

LINGER, SILENCE = 30.0, 5.0
"""Seconds for which what a client still sends is read and thrown away, in all and between two pieces: nginx's own limits."""

RECEIVE_BUFFER = 1 << 16
"""Bytes that the system takes in for a reader that is to be felt as slow."""


class Connection:
    """The connection of one request; false under Flask's test client, where there is none."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self._entry: Entry = environ["sandbox.entry"]
        self._socket: socket.socket = environ.get("gunicorn.socket")  # type: ignore[assignment]
        self._by_reset = False

    def __bool__(self) -> bool:
        return self._socket is not None

    def client_left(self, seconds: float) -> bool:
        """Waits; True as soon as the client closes the connection, which the ledger notes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return False
            if self._closed():
                self._left()
                return True
            time.sleep(min(TICK, left))
        return False

    def _closed(self) -> bool:
        """Whether the client has closed it; also, where the system can tell (Linux), when unread bytes came before."""
        if hasattr(select, "POLLRDHUP"):
            poll = select.poll()
            poll.register(self._socket, select.POLLRDHUP)
            return bool(poll.poll(0))
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def send(self, data: bytes) -> bool:
        """Sends bytes past the server; False when the client has left."""
        try:
            self._socket.sendall(data)
        except OSError:
            self._left()
            return False
        return True

    def answer(self, answer: Response) -> bool:
        """Sends a whole answer past the server, and that the connection ends with it; False when the client has left."""
        # Noted first: a client that has its answer finds it in the ledger.
        self._entry.update(status=answer.status_code, answered_at=time.time(), outcome="answered")
        if not self.send(self.head(answer) + answer.get_data()):
            self._entry["outcome"] = "client left"
            return False
        return True

    def head(self, answer: Response) -> bytes:
        """An answer's status line and headers as bytes; the connection ends after it."""
        headers = [*answer.headers, *self._environ["sandbox.headers"], ("Connection", "close")]
        lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {text}" for name, text in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def linger(self) -> None:
        """Reads and throws away what the client still sends, for a while, so that it can read the answer that it has."""
        end = time.monotonic() + LINGER
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(min(left, SILENCE))
                if not self._socket.recv(1 << 18):
                    return
        except OSError:  # it left, or fell silent
            return

    def reset(self) -> None:
        """Has it end by a RST when it is closed; what was sent and not read yet may be lost."""
        self._by_reset = True

    def close(self) -> None:
        """Ends it for both sides; what the server does then takes no time."""
        if self._by_reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with socket.socket() as blank:  # the server still owns the descriptor, so only swap it
                os.dup2(blank.fileno(), self._socket.fileno())
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def narrow(self) -> None:
        """Has the system take in little ahead of its reader."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def _left(self) -> None:
        self._entry["client_closed_at"] = time.time()
