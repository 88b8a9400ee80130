"""The MCP bridge behind deploy/nginx.conf."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.api import JOBS, job
from tests.support.bridge import bridge_process
from tests.support.gateway import Gateway
from tests.support.processes import Sandbox
from tests.system.front import Front, front

EVENT = b"event: message\ndata: {}\n\n"


@pytest.fixture(scope="module")
def nginx(
    rest: Gateway, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx before a bridge and a REST service."""
    folder = tmp_path_factory.mktemp("mcp")
    with (
        bridge_process(rest.url) as bridge,
        front(folder, certificate, rest.address, mcp=f"127.0.0.1:{bridge.port}") as running,
    ):
        yield running


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_an_agent_calls_tools_through_nginx(
    nginx: Front, sandbox: Sandbox, mode: str
) -> None:
    verify = ssl.create_default_context(cafile=nginx.authority)
    trusting = httpx2.AsyncClient(verify=verify, timeout=30)
    transport = streamable_http_client(f"{nginx.url}/mcp", http_client=trusting)
    async with trusting, Client(transport, mode=mode) as client:
        result = await client.call_tool("create-batch-job", job(mode))
    assert not result.is_error
    assert len(sandbox.ledger(method="POST", path=JOBS)) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "/.well-known/oauth-authorization-server/mcp"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/mcp/.well-known/openid-configuration"),
        ("GET", "/authorize"),
        ("POST", "/register"),
        ("POST", "/token"),
    ],
)
def test_who_looks_for_oauth_behind_nginx_is_told_by_the_bridge_that_there_is_none(
    method: str, path: str, nginx: Front
) -> None:
    answer = nginx.request(method, path)
    assert answer.status_code == 404 and "/mcp" in answer.json()["detail"]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_an_offer_to_upgrade_is_ignored(upgrade: str, nginx: Front) -> None:
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": upgrade,
        "HTTP2-Settings": "AAEAAEAA",
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = nginx.request("POST", "/mcp", json=message, headers=offer)
    assert answer.status_code == 200 and answer.json()["result"]["tools"]


def test_events_are_passed_on_as_they_come(folder: Path, certificate: tuple[str, str]) -> None:
    with (
        one_event() as (address, over),
        front(folder, certificate, "127.0.0.1:9", mcp=address) as nginx,
    ):
        answer = nginx.request("POST", "/mcp", json={}, stream=True, timeout=5)
        received = answer.raw.read(len(EVENT))  # while its sender is not through
        over.set()
        answer.close()
    assert received == EVENT


@contextmanager
def one_event() -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that answers one request with one event, and keeps the answer open until it is over."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_once, args=(listening, over))
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", over
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer_once(listening: socket.socket, over: threading.Event) -> None:
    """Serves one connection, or none when the listening socket is shut down before."""
    try:
        connection, _ = listening.accept()
    except OSError:
        return
    with connection:
        connection.recv(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        connection.sendall(head + EVENT)
        over.wait(10)
