"""A REST service behind nginx for the tests that need no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.front import Front, front
from tests.deploy.gateways import Gateway, gateway
from tests.processes import Sandbox


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
