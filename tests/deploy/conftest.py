"""A sandbox for the folder, and a REST service behind nginx for the tests that need no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.front import Front, front
from tests.deploy.gateways import Gateway, gateway
from tests.processes import Sandbox, sandbox_process


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[Sandbox]:
    """The process; tests take `sandbox`."""
    with sandbox_process(speed=0) as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    """The sandbox as new: no jobs, no faults, an empty ledger."""
    running_sandbox.reset()
    return running_sandbox


@pytest.fixture(scope="session")
def rest(running_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One REST service."""
    with gateway(running_sandbox, tmp_path_factory.mktemp("rest") / "keys.sqlite3") as running:
        yield running


@pytest.fixture(scope="session")
def nginx(
    rest: Gateway, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx before it."""
    with front(tmp_path_factory.mktemp("nginx"), certificate, rest.address) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place for an nginx of the test's own."""
    return tmp_path / "own-nginx"
