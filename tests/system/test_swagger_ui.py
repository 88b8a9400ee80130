"""Swagger UI in a real browser: it shows the operations and executes them under its strict Content-Security-Policy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openapi.contract import DEFAULT_DOCUMENT, load
from tests.support.gateway import Stack
from tests.support.once import once
from tests.system.browser import visited


@pytest.fixture(scope="module")
def visit(running_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one visit saw; its screenshot lies in pytest's temporary folder."""

    def visit() -> dict[str, Any]:
        running_stack.sandbox.reset()
        picture = tmp_path_factory.mktemp("screenshot") / "docs.png"
        return visited(running_stack.gateway.url, picture)

    seen: dict[str, Any] = once(tmp_path_factory, "swagger-ui", visit)
    return seen


def test_the_root_leads_to_the_documentation(stack: Stack) -> None:
    answer = stack.gateway.get("/")
    assert (answer.status_code, answer.headers.get("Location")) == (307, "/docs")


def test_all_operations_are_shown(visit: dict[str, Any]) -> None:
    operations = load(DEFAULT_DOCUMENT).operations.values()
    assert sorted(visit["operations"]) == sorted(
        f"{each.method} {each.path}" for each in operations
    )


def test_a_create_with_the_example_as_it_stands_shows_the_new_job(visit: dict[str, Any]) -> None:
    job = json.loads(visit["created"]["body"])
    assert (visit["created"]["status"], job["status"]) == ("200", "QUEUED")


def test_a_list_call_as_it_stands_shows_the_jobs(visit: dict[str, Any]) -> None:
    created, listed = json.loads(visit["created"]["body"]), json.loads(visit["listed"]["body"])
    assert visit["listed"]["status"] == "200"
    assert created["id"] in [job["id"] for job in listed["data"]]


def test_a_file_is_uploaded_and_downloaded_again(visit: dict[str, Any]) -> None:
    assert (visit["uploaded"]["status"], visit["downloaded"]["status"]) == ("200", "200")
    assert json.loads(visit["downloaded"]["body"])["custom_id"] == "from the page"


def test_the_page_of_problems_is_readable_on_a_phone_and_in_the_dark(visit: dict[str, Any]) -> None:
    seen = visit["problems"]
    assert (seen["width"], seen["tooWide"]) == (360, 0)  # neither shrunk nor wider
    assert 0 <= seen["top"] < 640
    assert (seen["schemes"], seen["text"]) == ("light dark", "rgb(255, 255, 255)")


def test_nothing_breaks_the_content_security_policy(visit: dict[str, Any]) -> None:
    assert visit["violations"] == []


def test_the_console_stays_silent(visit: dict[str, Any]) -> None:
    assert visit["complaints"] == []


def test_nothing_is_loaded_from_elsewhere(visit: dict[str, Any]) -> None:
    assert visit["elsewhere"] == []
