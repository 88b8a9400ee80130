"""A real page in a real browser, on another port of the same machine, against the gateway as it is run."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.api import JOBS
from tests.support.file_upstream import FILES
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, sandbox_process
from tests.support.tools_available import needed

PAGE = Path(__file__).with_name("page.html")
REBOUND = "rebound.example"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
]


class Site:
    """Somebody else's web site on this machine."""

    def __init__(self) -> None:
        self.reports: queue.Queue[dict[str, str]] = queue.Queue()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.respond(PAGE.read_bytes() if self.path == "/" else b"")

            def do_POST(self) -> None:
                site.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.respond(b"")

            def respond(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.http.server_port}"

    def visited(self, target: str, *modes: str) -> dict[str, str]:
        """What its page saw in a browser when it tried to use `target`."""
        chromium = needed("chromium", "install Chromium")
        port = target.rpartition(":")[2]
        plan = {"target": target, "rebound": f"http://{REBOUND}:{port}", "modes": modes}
        address = f"{self.origin}/#{quote(json.dumps(plan))}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            browser = subprocess.Popen(
                [
                    chromium,
                    *FLAGS,
                    f"--user-data-dir={profile}",
                    "--remote-debugging-port=0",
                    address,
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                return self.reports.get(timeout=60)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                browser.wait()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield site
    site.http.shutdown()
    site.http.server_close()
    thread.join()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_process() as sandbox:
        yield sandbox


@pytest.fixture
def gateway(sandbox: Sandbox, site: Site, tmp_path: Path, request: Any) -> Iterator[Gateway]:
    """gunicorn, its port unknown to it, so that only its name counts; with the page's origin listed when asked."""
    listed = {"GATEWAY_ALLOWED_ORIGINS": site.origin} if hasattr(request, "param") else {}
    sandbox.reset()
    store = tmp_path / "keys.sqlite3"
    with gateway_process(f"{sandbox.url}/v1", GATEWAY_STORE=store, **listed) as gateway:
        yield gateway


def test_nothing_that_a_foreign_page_tries_reaches_the_upstream(
    gateway: Gateway, sandbox: Sandbox, site: Site
) -> None:
    seen = site.visited(gateway.url, "attacks", "asking")
    assert sandbox.ledger() == []
    assert (seen["json"], seen["file"]) == ("blocked", "blocked")
    assert seen["xhr"] == "0"
    assert gateway.get(JOBS).status_code == 200  # it was there all the time
    assert len(sandbox.ledger()) == 1


def test_the_same_page_reaches_a_service_without_guards(sandbox: Sandbox, site: Site) -> None:
    """What the other tests would miss, were the page or the browser to try nothing."""
    sandbox.reset()
    site.visited(sandbox.url, "attacks")
    sent = Counter(
        f"{row['method']} {row['path'].removesuffix('/cancel')}" for row in sandbox.ledger()
    )
    assert sent[f"POST {FILES}"] == 8
    assert sum(sent[each] for each in sent if each.startswith("POST")) >= 16
    assert sum(sent[each] for each in sent if each.startswith("GET")) >= 4


@pytest.mark.parametrize("gateway", ["listed"], indirect=True)
def test_a_listed_page_may_call_and_read_the_answer(
    gateway: Gateway, sandbox: Sandbox, site: Site
) -> None:
    assert site.visited(gateway.url, "asking") == {"json": "cors 200", "file": "cors 200"}
    assert [row["path"] for row in sandbox.ledger(method="POST")] == [JOBS, FILES]
