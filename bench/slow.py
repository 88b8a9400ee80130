"""A bare HTTP/1.1 server that answers every request with a job, some time later: `python -m bench.slow PORT MILLISECONDS`.

`GET /last` gives the last body that came, at once. Only for requests that a proxy sends: with a Content-Length or none.
"""

from __future__ import annotations

import asyncio
import re
import sys

from bench.work import JOB

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_ANSWER = _HEAD % len(JOB) + JOB

last = b"null"


class Answering(asyncio.Protocol):
    """One connection."""

    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As in asyncio.Protocol."""
        self.transport = transport
        self.received = bytearray()
        self.needed = 0  # bytes of the request whose body is coming

    def data_received(self, data: bytes) -> None:
        """As in asyncio.Protocol."""
        self.received += data
        while len(self.received) >= self.needed and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end])
            length = _LENGTH.search(head)
            self.needed = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < self.needed:
                return
            self._answer(head, bytes(self.received[end + 4 : self.needed]))
            del self.received[: self.needed]
            self.needed = 0

    def _answer(self, head: bytes, body: bytes) -> None:
        global last
        if head.startswith(b"GET /last "):
            self._write(_HEAD % len(last) + last, True)
            return
        last = body or last
        loop = asyncio.get_running_loop()
        loop.call_later(self.delay, self._write, _ANSWER, bool(_CLOSE.search(head)))

    def _write(self, answer: bytes, close: bool) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)  # type: ignore[attr-defined]
            if close:
                self.transport.close()


async def _serve(port: int, seconds: float) -> None:
    Answering.delay = seconds
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]) / 1000))
