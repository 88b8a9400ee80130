"""One stack for the whole folder: a sandbox whose clock stands still, and the REST service with two workers before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.gateway import Stack, gateway_process
from tests.processes import sandbox_process


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    """The processes, started as users start them; tests take `stack`, which cleans up before them."""
    with (
        sandbox_process(speed=0, trial_requests=5) as sandbox,
        gateway_process(f"{sandbox.url}/v1", WEB_CONCURRENCY=2, anew=True) as gateway,
    ):
        yield Stack(gateway, sandbox)


@pytest.fixture
def stack(running_stack: Stack) -> Stack:
    """The stack as new: no jobs, no faults, an empty ledger."""
    running_stack.sandbox.reset()
    return running_stack
