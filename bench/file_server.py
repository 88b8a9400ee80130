"""A bare HTTP/1.1 server for files: swallows uploads, gives downloads, and a job for everything else: `python -m bench.file_server PORT`.

Threads and large pieces, so that it takes little of the CPU that it shares with its clients. How many bytes a file has, its id says
(`work.file_id`). `GET /last` gives the last upload that was small enough to be kept. Only for requests that a proxy sends: with a
Content-Length, chunked, or without a body.
"""

from __future__ import annotations

import json
import re
import socketserver
import sys
from collections.abc import Iterator

from bench import work

KEPT = 1 << 20
"""Bytes of the largest upload that is kept."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_CONTENT = re.compile(rb"GET /v1/files/([0-9a-f-]{36})/content ")

last = b""


class Connection(socketserver.StreamRequestHandler):
    """One connection: request after request, until its client closes it."""

    rbufsize = work.PIECE
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Answers until there is nothing more to answer."""
        try:
            while self._answer():
                pass
        except ConnectionError:
            pass  # it is closed

    def _answer(self) -> bool:
        """Answers one request; says whether another may come."""
        global last
        head = b"\r\n"
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            head += line
        if not line:
            return False
        head = head.removeprefix(b"\r\n")
        size, kept = 0, bytearray()
        for piece in self._body(head):
            size += len(piece)
            if size <= KEPT:
                kept += piece
        if content := _CONTENT.match(head):
            self._give(work.file_size(content[1].decode()))
        elif head.startswith(b"GET /last "):
            self._say(last, "application/octet-stream")
        elif head.startswith(b"POST /v1/files "):
            last = bytes(kept) if size <= KEPT else b""
            self._say(json.dumps(work.file(size)).encode())
        elif head.startswith(b"GET /v1/files/"):
            self._say(json.dumps(work.file(0)).encode())
        else:
            self._say(work.JOB)
        return not _CLOSE.search(head)

    def _body(self, head: bytes) -> Iterator[memoryview]:
        """The pieces of a request's body, each to be used before the next."""
        length = _LENGTH.search(head)
        left = int(length[1]) if length else 0
        chunked = bool(_CHUNKED.search(head))
        if not (left or chunked):
            return
        buffer = memoryview(bytearray(work.PIECE))
        while left or chunked:
            if chunked:
                left = int(self.rfile.readline(), 16)
                chunked = left > 0
            while left:
                count = self.rfile.readinto(buffer[: min(left, work.PIECE)])
                if not count:
                    raise ConnectionResetError
                left -= count
                yield buffer[:count]
            if not length:
                self.rfile.readline()  # what ends a chunk, or the body after the last

    def _say(self, content: bytes, media_type: str = "application/json") -> None:
        self.wfile.write(_head(len(content), media_type) + content)

    def _give(self, size: int) -> None:
        self.wfile.write(_head(size, "application/octet-stream"))
        for start in range(0, size, work.PIECE):
            self.wfile.write(work.CONTENT[: size - start])


def _head(size: int, media_type: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode()


class Server(socketserver.ThreadingTCPServer):
    """It, with a thread for each connection."""

    request_queue_size = 4096
    daemon_threads = True
    allow_reuse_address = True


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Connection) as server:
        server.serve_forever()
