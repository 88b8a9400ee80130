"""A real gateway under gunicorn, its upstream in the test's hand, and what it wrote."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from tests.support.api import JOB_ID
from tests.support.processes import Process, children, free_port, start, stop

KEY = 'sk-CANARY-0123456789-"\\x'
JOB = {"id": JOB_ID, "object": "batch", "status": "QUEUED"}
T = TypeVar("T")


class Upstream(ThreadingHTTPServer):
    """Answers every request with `status` and JOB, after `hold` is set; notes headers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        self.received: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.received.append({name.lower(): value for name, value in self.headers.items()})
        self.server.hold.wait()
        body = json.dumps(JOB).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Gateway:
    """A running gateway. `log` and `audit` are what it has written, read as JSON lines."""

    def __init__(self, process: Process, port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder

    @property
    def log(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "stderr")

    @property
    def audit(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "stdout")

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.log if line["logger"] == "gateway.requests"]

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower-case names) and body of the answer, over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            content = None if body is None else json.dumps(body)
            kind = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, content, {**kind, **(headers or {})})
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, names, answer.read()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Samples of `/metrics`, by name with labels."""
        _, _, page = self.ask("GET", "/metrics")
        samples = (line.rpartition(" ") for line in page.decode().splitlines() if line[0] != "#")
        return {name: float(value) for name, _, value in samples}

    def workers(self) -> list[int]:
        return children(self.process.pid)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def eventually(look: Callable[[], T], seconds: float = 15.0) -> T:
    """What `look` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except (OSError, AssertionError, ValueError):
            found = None  # type: ignore[assignment]
        if found or time.monotonic() > end:
            assert found, f"not within {seconds} seconds"
            return found
        time.sleep(0.02)


@contextmanager
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
            thread.join()


@contextmanager
def gateway(
    folder: Path,
    upstream_url: str,
    stderr: int | None = None,
    within: Sequence[str] = (),
    **settings: str,
) -> Iterator[Gateway]:
    """A gateway on a free port; `stderr` None: a file, which `Gateway.log` reads. `within`: a command that runs it."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GATEWAY_", "MISTRAL_", "OTEL_", "PROMETHEUS_"))
    }
    port = free_port()
    environ |= {
        "GATEWAY_PORT": str(port),
        "GATEWAY_UPSTREAM_URL": upstream_url,
        "GATEWAY_STORE": str(folder / "store.sqlite3"),
        "MISTRAL_AI_API_KEY": KEY,
        "WEB_CONCURRENCY": "1",
        **settings,
    }
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = start(
            [*within, sys.executable, "-m", "gunicorn", "wsgi:app"],
            environ,
            stdout=out,
            stderr=err if stderr is None else stderr,
        )
    running = Gateway(process, port, folder)
    try:
        eventually(lambda: running.ask("GET", "/livez")[0] == 200, 30)
        yield running
    finally:
        stop(process)


SECRET = re.compile(rb"CANARY")
