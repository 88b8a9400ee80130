"""An upstream for files of any size, of which it keeps nothing, and forms to send it. Not a test module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.upstreams import http_server

FILES = "/v1/files"
FILE_ID = "0b8f9f5e-3d1c-4a6b-9c7e-5f2a1d8e4c30"
CONTENT = f"{FILES}/{FILE_ID}/content"
FORM = {"Content-Type": "multipart/form-data; boundary=BOUNDARY"}
_BEFORE = (
    b'--BOUNDARY\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n%b\r\n'
    b'--BOUNDARY\r\nContent-Disposition: form-data; name="file"; filename="requests.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
_AFTER = b"\r\n--BOUNDARY--\r\n"
_PIECE = 1 << 18


class Lines:
    """The form of a file of `size` bytes, a multiple of 1 MiB: `width` bytes a line, no id twice. `purpose`: of the file.

    It is made while `requests` sends it, which announces its length.
    """

    def __init__(self, size: int, width: int = 256, purpose: bytes = b"batch") -> None:
        self.before = _BEFORE % purpose
        self.blocks = size >> 20
        line = b'{"custom_id": "######-%04d", "body": {"x": "%s"}}\n'
        padding = b"x" * (width - len(line % (0, b"")))
        self.block = b"".join(line % (number, padding) for number in range((1 << 20) // width))

    def __len__(self) -> int:
        return len(self.before) + self.blocks * len(self.block) + len(_AFTER)

    def __iter__(self) -> Iterator[bytes]:
        yield self.before
        yield from self.file()
        yield _AFTER

    def file(self) -> Iterator[bytes]:
        """The lines alone, a mebibyte at a time."""
        for number in range(self.blocks):
            yield self.block.replace(b"######", b"%06d" % number)


@dataclass
class FileUpstream:
    """A running one, whose one file is zeros.

    `size`: of the file; `announced`: whether its answer says so, or comes in chunks; `breaks_at`: where it breaks off. `sent` are
    bytes of it. `begun` counts uploads, `received` has the size of each upload that came to its end; `broken` counts those that did not.
    """

    port: int
    size: int = 0
    announced: bool = True
    breaks_at: int | None = None
    sent: int = 0
    begun: int = 0
    received: list[int] = field(default_factory=list)
    broken: int = 0

    @property
    def url(self) -> str:
        """The base URL for a gateway."""
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def file_upstream() -> Iterator[FileUpstream]:
    """The upstream on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            running.begun += 1
            try:
                size = self.skip_body()
            except (ValueError, ConnectionError):
                running.broken += 1
                return
            running.received.append(size)
            self.tell({"id": FILE_ID, "object": "file", "bytes": size, "purpose": "batch"})

        def skip_body(self) -> int:
            length = self.headers["Content-Length"]
            if length is not None:
                return self.skip(int(length))
            size = 0
            while chunk := int(self.rfile.readline(), 16):
                size += self.skip(chunk)
                self.rfile.readline()
            self.rfile.readline()
            return size

        def skip(self, size: int) -> int:
            buffer, left = memoryview(bytearray(_PIECE)), size
            while left:
                read = self.rfile.readinto(buffer[:left])  # type: ignore[attr-defined]
                if not read:
                    raise ConnectionError
                left -= read
            return size

        def do_GET(self) -> None:
            if self.path != CONTENT:
                self.tell({"id": FILE_ID, "object": "file", "purpose": "batch"})
                return
            self.begin("application/octet-stream", running.size if running.announced else None)
            with suppress(OSError):
                self.send_content()

        def send_content(self) -> None:
            end = running.size if running.breaks_at is None else running.breaks_at
            for start in range(0, end, _PIECE):
                piece = bytes(min(_PIECE, end - start))
                framed = piece if running.announced else b"%x\r\n%b\r\n" % (len(piece), piece)
                self.wfile.write(framed)
                running.sent += len(piece)
            if running.breaks_at is not None:
                self.close_connection = True
            elif not running.announced:
                self.wfile.write(b"0\r\n\r\n")

        def tell(self, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.begin("application/json", len(content))
            self.wfile.write(content)

        def begin(self, media_type: str, length: int | None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            if length is None:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http_server(Handler) as port:
        running = FileUpstream(port)
        yield running
