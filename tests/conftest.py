"""What tests of several folders use: `mistral`, `app` and `client` in this process, a `sandbox` in one of its own."""

from __future__ import annotations

import functools
import gc
import json
import os
import socket
import socketserver
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import certifi
import pytest
import responses
import trustme
from anyio.from_thread import start_blocking_portal
from connexion.spec import OpenAPISpecification
from starlette.testclient import TestClient

from openapi.contract import Contract, load
from service.app import create_app
from service.config import Settings
from tests.support.processes import Sandbox, end_fork_server, sandbox_process

pytest_plugins = ["tests.support.leftovers"]

UPSTREAM = "http://127.0.0.1:9"
KEY = "sk-CANARY-0123456789"
TRUSTED = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.hookimpl(tryfirst=True)  # before some are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses a test that would never run: the Makefile looks for exclusive ones in one folder, since collecting takes its time."""
    for item in items:
        if item.get_closest_marker("exclusive") and "system" not in item.path.parts:
            raise pytest.UsageError(f"{item.nodeid}: exclusive tests belong into tests/system")


def pytest_collection_finish() -> None:
    """Leaves what was imported and collected, which stays, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    end_fork_server()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """A contract, its routes and the public authorities are read once, as in any process, although there are many applications in this one."""
    read = functools.cache(lambda path, content: load(path))

    def contract(path: Path) -> Contract:
        return cast(Contract, read(path, path.read_bytes() if path.is_file() else None))

    make, public = ssl.create_default_context, ({}, {"cafile": certifi.where()})
    shared = functools.cache(lambda cafile, *of_the_environment: make(cafile=cafile))

    def context(*arguments: Any, **options: Any) -> ssl.SSLContext:
        if arguments or options not in public:
            return make(*arguments, **options)
        return shared(options.get("cafile"), *map(os.environ.get, TRUSTED))

    check = OpenAPISpecification._validate_spec
    checked = functools.cache(lambda routes: check(json.loads(routes)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.config.load", contract)
        patch.setattr("mcp_bridge.config.load", contract)
        patch.setattr("ssl.create_default_context", context)
        patch.setattr(
            OpenAPISpecification, "_validate_spec", lambda _, routes: checked(json.dumps(routes))
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def clients_may_leave() -> Iterator[None]:
    """Servers in this process say nothing of clients that leave, which would stand among pytest's own lines."""
    complain = socketserver.BaseServer.handle_error

    def handle_error(server: socketserver.BaseServer, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            complain(server, request, client_address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver.BaseServer, "handle_error", handle_error)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_loop() -> Iterator[None]:
    """HTTP clients of applications in this process share a thread with an event loop; each request would make its own."""
    with start_blocking_portal() as portal, pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestClient, "portal", portal)
        yield


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    """The process, whose clock stands still; tests take `sandbox`."""
    with sandbox_process(speed=0) as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """The sandbox as new: no jobs, no faults, an empty ledger."""
    running_sandbox.reset()
    return running_sandbox


@pytest.fixture
def mistral() -> Iterator[responses.RequestsMock]:
    """Mistral as a table of answers; a request that no test asked for fails."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a gateway whose upstream is nowhere."""
    return Settings.from_env(
        {
            "MISTRAL_AI_API_KEY": KEY,
            "GATEWAY_UPSTREAM_URL": f"{UPSTREAM}/v1",
            "GATEWAY_STORE": str(tmp_path_factory.mktemp("store") / "keys.sqlite3"),
        }
    )


@pytest.fixture(scope="session")
def app(settings: Settings) -> Any:
    """The application; it keeps nothing between requests."""
    return create_app(settings)


@pytest.fixture
def client(app: Any) -> TestClient:
    """An HTTP client of the application, in this process."""
    return TestClient(app, base_url="http://127.0.0.1:8080", follow_redirects=False)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of ours on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths of a certificate for localhost, which is its own authority as far as trust goes, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(
        b"".join(part.bytes() for part in leaf.cert_chain_pems) + authority.cert_pem.bytes()
    )
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(chain), str(key)
