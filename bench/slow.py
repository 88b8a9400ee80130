"""A bare HTTP/1.1 server that answers every request with a job, some time later: `python -m bench.slow PORT MILLISECONDS`.

`GET /last` gives the last body that came, at once. Only for requests that a proxy sends: with a Content-Length or none.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import partial

from bench.work import JOB

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

last = b"null"


async def answer(delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the requests of one connection until its client closes it."""
    global last
    head = b""
    try:
        while not _CLOSE.search(head):
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            content = last
            if not head.startswith(b"GET /last "):
                last = body or last
                content = JOB
                await asyncio.sleep(delay)
            writer.write(_HEAD % len(content) + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # it is closed
    finally:
        writer.close()


async def main(port: int, milliseconds: int) -> None:
    """Serves until it is ended."""
    connected = partial(answer, milliseconds / 1000)
    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
