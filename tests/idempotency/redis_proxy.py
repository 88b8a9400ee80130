"""A TCP proxy between gateway and Redis that interferes from a given command on, until it is told to stop. Not a test module."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

_COMMAND = re.compile(rb"\*\d+\r\n\$4\r\n(?:TIME|EVAL)\r\n")
"""How an operation of the store begins on the wire."""

FORMS = ("lost", "late", "twice", "stopped")
"""Commands are carried out, and their answers lost; commands are carried out when their callers have long given up; the same,
twice; Redis itself stands still, and goes on with what it was sent.
"""


class RedisProxy:
    """A running proxy. It interferes in a form of FORMS with all connections from the `at`-th store operation to come."""

    def __init__(self, url: str) -> None:
        with redis.Redis.from_url(url) as client:
            self._pid = int(client.info("server")["process_id"])
        self._server = ("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._form = ""
        self._left = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """For a gateway."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def interfere(self, form: str, at: int = 1) -> None:
        """From the `at`-th operation on, 1 being the next."""
        with self._lock:
            self._form, self._left = form, at

    @property
    def interferes(self) -> bool:
        """True once the operation has come."""
        return bool(self._form) and self._left <= 0

    def stop_interfering(self) -> None:
        """What was held back is carried out now."""
        with self._lock:
            self._form = ""
        os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends all connections."""
        self.stop_interfering()
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        held, times = b"", 1
        with suppress(OSError), peer, socket.create_connection(self._server) as server:
            while not self._closed:
                if held and not self.interferes:
                    server.sendall(held)
                    held = b""
                ready, _, _ = select.select([peer, server], [], [], 0.01)
                if server in ready:
                    if not (answer := server.recv(65536)):
                        return
                    if not self.interferes:
                        peer.sendall(answer)
                if peer in ready:
                    if not (data := peer.recv(65536)):
                        break
                    form = self._judge(data)
                    if form in ("late", "twice"):
                        held += data
                        times = 2 if form == "twice" else 1
                    else:
                        server.sendall(data)
            while held and self.interferes:
                select.select([], [], [], 0.01)
            # Only now, without a caller: one would take the second answer for that of the next command.
            server.sendall(held * times)
            server.shutdown(socket.SHUT_WR)
            while server.recv(65536):
                pass

    def _judge(self, data: bytes) -> str:
        """The form of interference that `data`, sent by a gateway, meets."""
        with self._lock:
            before = self.interferes
            self._left -= len(_COMMAND.findall(data))
            if not self.interferes:
                return ""
            if self._form == "stopped" and not before:
                os.kill(self._pid, signal.SIGSTOP)
            return self._form


@contextmanager
def redis_proxy(url: str) -> Iterator[RedisProxy]:
    """A proxy on a free port, before the Redis at `url`."""
    proxy = RedisProxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
