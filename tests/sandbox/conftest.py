"""The sandbox in this process with its clock standing still, and as a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sandbox.api import Api
from tests.support.processes import Sandbox, sandbox_process


@pytest.fixture
def api() -> Api:
    """A sandbox with default settings and a clock that stands still."""
    return Api()


@pytest.fixture(scope="session")
def _process() -> Iterator[Sandbox]:
    with sandbox_process() as sandbox:
        yield sandbox


@pytest.fixture
def server(_process: Sandbox) -> Sandbox:
    """A running sandbox, as new."""
    _process.reset()
    return _process
