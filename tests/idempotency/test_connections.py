"""A create opens a connection of its own, so that it never meets one that its server is about to close; reads keep theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.idempotency.api import CREATE, JOBS, keyed
from tests.idempotency.conftest import MakeGateway


class Upstream(ThreadingHTTPServer):
    """Answers everything with a job, keeps every connection open, and notes (method, client's port) of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, int]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Upstream)
        self.server.seen.append((self.command, self.client_address[1]))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b'{"id":"new"}')
        self.close_connection = False  # whatever the client asked for

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("key", [None, "key"])
def test_every_create_has_a_connection_of_its_own_and_reads_share_one(
    gateway: MakeGateway, upstream: Upstream, key: str | None
) -> None:
    client = gateway(f"http://127.0.0.1:{upstream.server_port}/v1")
    for number in range(3):
        client.get(JOBS)
        client.post(JOBS, json=CREATE, headers=keyed(f"{key}-{number}") if key else {})
    ports = {method: [p for m, p in upstream.seen if m == method] for method in ("GET", "POST")}
    assert len(set(ports["POST"])) == 3
    assert len(set(ports["GET"])) == 1
    assert not set(ports["GET"]) & set(ports["POST"])
