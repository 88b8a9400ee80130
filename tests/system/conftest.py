"""What the folder shares: a stack as users start it, and a REST service behind nginx for the tests that need no more than that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, Stack, gateway_process
from tests.support.processes import Sandbox, sandbox_process
from tests.system.front import Front, front


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    """A sandbox whose clock stands still, and the REST service with two workers before it; tests take `stack`, which cleans up before them."""
    with (
        sandbox_process(speed=0, trial_requests=5) as sandbox,
        gateway_process(f"{sandbox.url}/v1", WEB_CONCURRENCY=2) as gateway,
    ):
        yield Stack(gateway, sandbox)


@pytest.fixture
def stack(running_stack: Stack) -> Stack:
    """The stack as new: no jobs, no faults, an empty ledger."""
    running_stack.sandbox.reset()
    return running_stack


@pytest.fixture(scope="session")
def rest(running_sandbox: Sandbox) -> Iterator[Gateway]:
    """One REST service."""
    with gateway_process(f"{running_sandbox.url}/v1") as running:
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
