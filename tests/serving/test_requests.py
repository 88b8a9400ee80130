"""Requests that a server of its own kind would treat apart are treated as any other: WebSocket upgrades, absolute targets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from hashlib import sha256
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until

TOKEN = "mbg_requests"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.fixture(scope="module")
def gateway(
    running_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that wants tokens and logs each request as JSON."""
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    entry = {"name": "a", "sha256": sha256(TOKEN.encode()).hexdigest(), "scopes": ["jobs:read"]}
    file.write_text(json.dumps(entry) + "\n")
    settings = {"GATEWAY_TOKENS_FILE": file, "GATEWAY_LOG_FORMAT": "json"}
    with gateway_process(f"{running_sandbox.url}/v1", **settings) as running:
        yield running


def ask(gateway: Gateway, target: str, *, host: str = "127.0.0.1", headers: str = "") -> Any:
    """(status, document) of a raw GET with a good token."""
    message = (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(message.encode())
        answer = HTTPResponse(peer, method="GET")
        answer.begin()
        return answer.status, json.loads(answer.read())


def test_an_upgrade_to_websocket_is_ignored_and_its_request_answered(gateway: Gateway) -> None:
    status, document = ask(gateway, "/v1/batch/jobs", headers=UPGRADE)
    assert (status, document["object"]) == (200, "list")


@pytest.mark.parametrize(
    ("target", "host", "problem"),
    [
        ("/v1/batch/jobs", "evil.example", "misdirected-request"),
        ("/nowhere", "127.0.0.1", "not-found"),
        ("/v1/batch/jobs?page=x", "127.0.0.1", "validation-failed"),
    ],
)
def test_what_asks_for_an_upgrade_passes_every_check_and_has_its_log_line(
    gateway: Gateway, target: str, host: str, problem: str
) -> None:
    _, document = ask(gateway, target, host=host, headers=UPGRADE)
    assert document["type"] == f"/problems#{problem}"
    wait_until(lambda: gateway.said(document["request_id"]))


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https"])
def test_a_target_in_absolute_form_is_understood(
    gateway: Gateway, sandbox: Sandbox, scheme: str
) -> None:
    status, _ = ask(gateway, f"{scheme}://127.0.0.1:{gateway.port}/v1/batch/jobs?page_size=3")
    assert status == 200
    (row,) = sandbox.ledger()
    assert (row["path"], row["query"]) == ("/v1/batch/jobs", "page_size=3")


def test_the_host_of_an_absolute_target_is_the_one_that_counts(gateway: Gateway) -> None:
    assert ask(gateway, "http://evil.example/livez")[0] == 200  # probes may use any name
    assert ask(gateway, "http://evil.example/v1/batch/jobs")[0] == 421
    assert ask(gateway, "http://localhost/v1/batch/jobs", host="evil.example")[0] == 200


@pytest.mark.parametrize(
    "target", ["http://a@localhost/livez", "http:///livez", "ftp://localhost/livez"]
)
def test_no_other_absolute_target_leads_anywhere(gateway: Gateway, target: str) -> None:
    assert ask(gateway, target)[0] in (400, 404, 421)
