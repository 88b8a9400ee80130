"""The gateway under a path of a proxy's, which takes the path off or leaves it on: a real nginx, and Chromium."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.api import JOBS
from tests.support.gateway import Gateway, gateway_process
from tests.support.once import once
from tests.support.processes import Sandbox, free_port, wait_until
from tests.support.tools_available import needed
from tests.system.browser import visited

ROOT = "/our/batch"
CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{}}
http {{
    access_log off; merge_slashes off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    proxy_set_header Host $http_host;
    server {{ listen 127.0.0.1:{taken_off}; location {root}/ {{ proxy_pass http://{gateway}/; }} }}
    server {{ listen 127.0.0.1:{left_on};   location {root}/ {{ proxy_pass http://{gateway}; }} }}
}}
"""


@pytest.fixture(scope="module")
def rooted(running_sandbox: Sandbox) -> Iterator[Gateway]:
    """A REST service that is offered under the path."""
    with gateway_process(f"{running_sandbox.url}/v1", GATEWAY_ROOT_PATH=ROOT) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(
    rooted: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Where callers reach it, by what nginx does with the path."""
    nginx, folder = needed("nginx", "apt-get install nginx"), tmp_path_factory.mktemp("prefix")
    ports = {"taken_off": free_port(), "left_on": free_port()}
    path = folder / "nginx.conf"
    path.write_text(
        CONFIGURATION.format(
            folder=folder,
            root=ROOT,
            gateway=rooted.address,
            user="user root;" if os.getuid() == 0 else "",
            **ports,
        )
    )
    process = subprocess.Popen([nginx, "-p", str(folder), "-e", f"{folder}/error.log", "-c", path])
    addresses = {name: f"http://127.0.0.1:{port}{ROOT}" for name, port in ports.items()}

    def answers() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        try:
            return all(requests.get(f"{url}/livez", timeout=5).ok for url in addresses.values())
        except requests.ConnectionError:
            return False

    try:
        wait_until(answers)
        yield addresses
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["taken_off", "left_on"])
def url(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


def test_calls_are_answered_and_problems_lead_to_their_page(url: str) -> None:
    assert requests.get(f"{url}{JOBS}", timeout=10).status_code == 200
    problem = requests.get(f"{url}{JOBS}/?x=1", timeout=10).json()
    assert problem["type"] == f"{ROOT}/problems#not-found"
    assert problem["instance"] == f"{ROOT}{JOBS}/"
    assert problem["detail"].startswith(f"Did you mean {ROOT}{JOBS}? ")
    page = requests.get(f"{url.removesuffix(ROOT)}{problem['type']}", timeout=10)
    assert (page.status_code, page.headers["content-type"][:9]) == (200, "text/html")


def sent(gateway: Gateway, target: str) -> tuple[int, Any]:
    """Status and body of what a GET of exactly `target` is answered with."""
    head = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head.encode())
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("root", ["/%6fur/batch", "/our/%62a%74ch", "/%6F%75%72/batch"])
def test_the_path_is_known_however_it_is_escaped(root: str, rooted: Gateway) -> None:
    status, body = sent(rooted, f"{root}{JOBS}/nothing/here/at/all")
    assert (status, body["instance"]) == (404, f"{ROOT}{JOBS}/nothing/here/at/all")
    assert sent(rooted, f"{root}{JOBS}")[0] == 200


def test_what_cannot_be_read_is_answered_with_the_page_below_the_path(rooted: Gateway) -> None:
    status, body = sent(rooted, "/ without a version,")
    assert (status, body["type"]) == (400, f"{ROOT}/problems#malformed-request")


def test_the_path_itself_is_the_root(rooted: Gateway) -> None:
    assert rooted.get(ROOT).headers["Location"] == f"{ROOT}/docs"


def test_the_root_and_the_document_lead_below_the_path(url: str) -> None:
    answer = requests.get(f"{url}/", timeout=10)
    assert answer.url == f"{url}/docs" and answer.ok
    for form in ("json", "yaml"):
        document = requests.get(f"{url}/openapi.{form}", timeout=10).text
        assert f"{ROOT}" in document.partition("paths")[0]


@pytest.fixture(scope="module")
def visit(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    def visit() -> dict[str, Any]:
        screenshot: Path = tmp_path_factory.mktemp("screenshot") / "docs.png"
        return visited(addresses["taken_off"], screenshot)

    seen: dict[str, Any] = once(tmp_path_factory, "swagger-ui-below", visit)
    return seen


def test_swagger_ui_shows_and_executes_the_operations(visit: dict[str, Any]) -> None:
    assert len(visit["operations"]) > 4
    statuses = [visit[name]["status"] for name in ("created", "listed", "uploaded", "downloaded")]
    assert statuses == ["200"] * 4


def test_swagger_ui_loads_nothing_from_outside_of_the_path(visit: dict[str, Any]) -> None:
    assert (visit["elsewhere"], visit["complaints"], visit["violations"]) == ([], [], [])
