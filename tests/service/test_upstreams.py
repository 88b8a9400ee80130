"""Several APIs behind one gateway: each operation reaches its own, with its own key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from environment import SettingsError
from openapi.derive import main
from service.app import create_app
from service.config import Settings
from tests.openapi.test_union import capability, http
from tests.support.upstreams import Echo, echo_upstream

BASIC = {"type": "basic", "username": "{{env.NAME}}", "password": "{{env.PASSWORD}}"}
KEYS = {"KEY": "of-shelves", "NAME": "reader", "PASSWORD": "of-books"}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Of two capabilities with different base URLs and authentications."""
    base, output = "https://books.example/api", tmp_path / "openapi.yaml"
    upstreams = (
        http("shelves", "getshelf GET /shelves/{id}"),
        http("books", "getbook GET /books/{id}", base=base, authentication=BASIC),
    )
    files = []
    for number, upstream in enumerate(upstreams):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(capability([upstream])), encoding="utf-8")
    assert main([*map(str, files), f"--output={output}"]) == 0
    return output


def settings(document: Path, url: str) -> Settings:
    return Settings.from_env(
        {**KEYS, "GATEWAY_OPENAPI": str(document), "GATEWAY_UPSTREAM_URL": url}
    )


def sent(echo: Echo) -> list[tuple[str, Any]]:
    return [(each.target, each.headers["Authorization"]) for each in echo.received]


def test_each_operation_reaches_its_own_upstream_with_its_own_key_alone(document: Path) -> None:
    with echo_upstream() as shelves, echo_upstream() as books:
        urls = f"shelves=http://127.0.0.1:{shelves.port}/s, books=http://127.0.0.1:{books.port}/b/"
        client = TestClient(create_app(settings(document, urls)), base_url="http://127.0.0.1:8080")
        assert client.get("/shelves/1").status_code == 200
        assert client.get("/books/2").status_code == 200
        assert sent(shelves) == [("/s/shelves/1", "Bearer of-shelves")]
        assert sent(books) == [("/b/books/2", "Basic cmVhZGVyOm9mLWJvb2tz")]


def test_one_url_for_several_upstreams_is_refused_with_how_to_name_them(document: Path) -> None:
    with pytest.raises(SettingsError, match=r"NAMESPACE=URL, .* for shelves, books"):
        settings(document, "http://127.0.0.1:9/v1")


def test_a_namespace_that_there_is_not_is_refused(document: Path) -> None:
    with pytest.raises(SettingsError, match="none of the upstreams' namespaces: shelves, books"):
        settings(document, "films=http://127.0.0.1:9/v1")


def test_a_refused_key_of_one_upstream_is_told_by_readiness(document: Path) -> None:
    with echo_upstream() as shelves, echo_upstream() as books:
        books.answer = lambda _: (401, "application/json", b"{}")
        urls = f"shelves=http://127.0.0.1:{shelves.port},books=http://127.0.0.1:{books.port}"
        client = TestClient(create_app(settings(document, urls)), base_url="http://127.0.0.1:8080")
        assert client.get("/readyz").status_code == 200
        assert client.get("/books/2").status_code == 502
        assert client.get("/readyz").status_code == 503
