"""An upstream for files of any size, which keeps none and makes none up that it has not got; forms to send it. Not a test module."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILES = "/v1/files"
FILE_ID = "0b8f9f5e-3d1c-4a6b-9c7e-5f2a1d8e4c30"
CONTENT = f"{FILES}/{FILE_ID}/content"
FORM = {"Content-Type": "multipart/form-data; boundary=BOUNDARY"}
_BEFORE = (
    b'--BOUNDARY\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--BOUNDARY\r\nContent-Disposition: form-data; name="file"; filename="requests.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
_AFTER = b"\r\n--BOUNDARY--\r\n"
_PIECE = 1 << 18


class Lines:
    """The form of a file of `size` bytes, a multiple of 1 MiB: `width` bytes a line, no id twice. Made while it is sent, which `requests` does with its length."""

    def __init__(self, size: int, width: int = 256) -> None:
        self.blocks = size >> 20
        self.count = size // width
        line = b'{"custom_id": "######-%04d", "body": {"x": "%s"}}\n'
        padding = b"x" * (width - len(line % (0, b"")))
        self.block = b"".join(line % (number, padding) for number in range((1 << 20) // width))

    def __len__(self) -> int:
        return len(_BEFORE) + self.blocks * len(self.block) + len(_AFTER)

    def __iter__(self) -> Iterator[bytes]:
        yield _BEFORE
        for number in range(self.blocks):
            yield self.block.replace(b"######", b"%06d" % number)
        yield _AFTER


@dataclass
class FileUpstream:
    """A running one. `size` is that of the file that it has; `received` are the bytes of each upload that came to its end."""

    port: int
    size: int = 0
    received: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The base URL for a gateway."""
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def file_upstream() -> Iterator[FileUpstream]:
    """The upstream on a free port; an upload's bytes are counted, the content of its file is zeros."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            left, buffer = length, memoryview(bytearray(_PIECE))
            while left:
                read = self.rfile.readinto(buffer[:left])
                if not read:
                    return
                left -= read
            running.received.append(length)
            self.tell({"id": FILE_ID, "object": "file", "bytes": length, "purpose": "batch"})

        def do_GET(self) -> None:
            if self.path != CONTENT:
                self.tell({"id": FILE_ID, "object": "file", "purpose": "batch"})
                return
            self.begin("application/octet-stream", running.size)
            for start in range(0, running.size, _PIECE):
                self.wfile.write(bytes(min(_PIECE, running.size - start)))

        def tell(self, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.begin("application/json", len(content))
            self.wfile.write(content)

        def begin(self, media_type: str, length: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = FileUpstream(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
