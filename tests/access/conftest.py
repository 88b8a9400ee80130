"""`token_file` to fill, `key_server` of an issuer, and `gateway`, a maker of REST services in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from access import token_file as reading
from service.app import create_app
from service.config import Settings
from tests.access.issuer import KeyServer
from tests.conftest import KEY, UPSTREAM

HOST = "http://127.0.0.1:8080"
Gateway = Callable[..., TestClient]


class Tokens:
    """A token file and the tokens in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def add(self, name: str, *scopes: str, days: float | None = None) -> str:
        """A new token, which is good for so many days."""
        expires = datetime.now(UTC) + timedelta(days=days) if days else None
        return reading.make_token(name, list(scopes), expires, self.path)[0]

    def remove(self, name: str) -> None:
        """Delete its line, as an editor does: by another file in its place."""
        lines = self.path.read_text().splitlines(keepends=True)
        changed = self.path.with_suffix(".new")
        changed.write_text("".join(line for line in lines if f'"{name}"' not in line))
        changed.replace(self.path)


@pytest.fixture
def token_file(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens")


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at token files for each request, rather than once a second."""
    monkeypatch.setattr(reading, "CHECK_INTERVAL", 0.0)


def open_gateway(folder: Path, **settings: Any) -> TestClient:
    """A client of a gateway that keeps its files in `folder`."""
    environ = {
        "MISTRAL_AI_API_KEY": KEY,
        "GATEWAY_UPSTREAM_URL": f"{UPSTREAM}/v1",
        "GATEWAY_STORE": str(folder / "keys.sqlite3"),
        **{name: str(value) for name, value in settings.items()},
    }
    return TestClient(create_app(Settings.from_env(environ)), base_url=HOST, follow_redirects=False)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """Makes a client: `gateway(GATEWAY_RATE_LIMIT="2/minute")`."""
    return partial(open_gateway, tmp_path)


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    """An issuer's key server."""
    with serving_keys() as server:
        yield server


@contextmanager
def serving_keys() -> Iterator[KeyServer]:
    server = KeyServer()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def bearing(secret: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {secret}"}
