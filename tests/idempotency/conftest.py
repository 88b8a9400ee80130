"""Gateways in this process before the sandbox, and the time that they keep their keys by."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.config import Settings
from tests.support.processes import Sandbox, store_file

hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("local", database=None, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

MakeGateway = Callable[..., TestClient]


def settings_for(upstream: str, store: Path | str, **changes: Any) -> Settings:
    """Settings of a gateway before `upstream`, whose limits no test reaches unless it means to."""
    environ = {
        "MISTRAL_AI_API_KEY": "sk-idempotency-0123456789",
        "GATEWAY_UPSTREAM_URL": upstream,
        "GATEWAY_STORE": store,
        "GATEWAY_AUDIT_LOG": "off",
        **changes,
    }
    return Settings.from_env({name: str(value) for name, value in environ.items()})


def door(settings: Settings) -> TestClient:
    """A client of a new gateway, under an address that it takes for its own."""
    return TestClient(create_app(settings), base_url="http://127.0.0.1:8080")


@pytest.fixture
def store() -> Iterator[Path]:
    """Where the test's gateways keep their keys."""
    with store_file() as path:
        yield path


@pytest.fixture
def gateway(sandbox: Sandbox, store: Path) -> MakeGateway:
    """Makes a client of a new gateway before the sandbox, with settings by their variables' names."""

    def make(upstream: str = f"{sandbox.url}/v1", **changes: Any) -> TestClient:
        return door(settings_for(upstream, store, **changes))

    return make


class Clock:
    """In the place of `time` where keys are kept: runs by itself, jumps when told, and sleeps in no time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Returns at once, later."""
        self.ahead += seconds

    def advance(self, seconds: float) -> None:
        """Jumps."""
        self.ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all gateways in this process."""
    clock = Clock()
    monkeypatch.setattr("service.upstream_connection.monotonic", clock.monotonic)
    for module in ("idempotency", "sqlite_store"):
        monkeypatch.setattr(f"service.{module}.time", clock)
    return clock
