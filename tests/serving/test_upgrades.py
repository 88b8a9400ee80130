"""An offer to upgrade is ignored (RFC 9110 section 7.8): its request is answered as any other, and so is the next one."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.api import JOBS
from tests.support.bridge import bridge_process, gunicorn_bridge
from tests.support.gateway import gateway_process
from tests.support.processes import Sandbox
from tests.support.tools_available import needed

CLIENT = Path(__file__).parents[1] / "system" / "sdks" / "JdkClient.java"
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "x", "version": "1"},
}
MESSAGE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
JOB = {
    "endpoint": "/v1/chat/completions",
    "model": "m",
    "requests": [{"custom_id": "1", "body": {"messages": []}}],
}
# what a server answers to POST, and a page that it has
TARGETS = {"bridge": ("/mcp", MESSAGE, "/livez"), "bridge of workers": ("/mcp", MESSAGE, "/livez"), "REST service": (JOBS, JOB, JOBS)}  # fmt: skip


@pytest.fixture(scope="module")
def urls(running_sandbox: Sandbox) -> Iterator[dict[str, str]]:
    with ExitStack() as running:
        rest = running.enter_context(gateway_process(f"{running_sandbox.url}/v1"))
        bridges = [
            running.enter_context(bridge_process(rest.url)),
            running.enter_context(gunicorn_bridge(rest.url, 1)),
        ]
        yield dict(
            zip(TARGETS, [*(f"http://127.0.0.1:{b.port}" for b in bridges), rest.url], strict=True)
        )


def head(method: str, path: str, upgrade: str, *more: str) -> bytes:
    offer = [
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAEAAEAA",
    ]
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *offer, *more, "", ""]
    return "\r\n".join(lines).encode()


def exchanged(url: str, *requests: bytes) -> list[int]:
    """The statuses of the answers to requests over one connection, each sent, in two pieces, when the one before was answered."""
    found = []
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 20) as peer:
        for request in requests:
            peer.sendall(request[:-7])
            peer.sendall(request[-7:])
            reader = peer.makefile("rb")
            status = reader.readline()
            headers = {}
            while (line := reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
            reader.read(int(headers[b"content-length"]))
            reader.close()
            found.append(int(status.split()[1]))
    return found


@pytest.mark.parametrize("server", TARGETS)
@pytest.mark.parametrize("upgrade", ["h2c", "H2C", "websocket", "TLS/1.0", "h2c, websocket"])
def test_whatever_it_is_to_the_request_is_answered_and_the_connection_goes_on(
    upgrade: str, server: str, urls: dict[str, str]
) -> None:
    path, message, page = TARGETS[server]
    body = json.dumps(message).encode()
    media = "Content-Type: application/json"
    whole = head("POST", path, upgrade, media, f"Content-Length: {len(body)}") + body
    pieces = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    chunked = head("POST", path, upgrade, media, "Transfer-Encoding: chunked") + pieces
    get = head("GET", page, upgrade)
    assert exchanged(urls[server], whole, get, chunked, whole) == [200, 200, 200, 200]


@pytest.mark.parametrize("server", TARGETS)
def test_the_jdk_s_client_as_it_is_by_default_is_answered(
    server: str, urls: dict[str, str], tmp_path: Path
) -> None:
    """LangChain4j and Spring AI, among others, send by it."""
    java = needed("java", "install a JDK")
    path, message, page = TARGETS[server]
    body = tmp_path / "body"
    body.write_text(json.dumps(message))
    url = urls[server]
    done = subprocess.run(
        [java, str(CLIENT), url + page, url + path, str(body)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    requests = ["get", "post", "post again", "chunked", "expecting", "get again"]
    assert done.stdout.splitlines() == [f"{request}: HTTP_1_1 200" for request in requests]
