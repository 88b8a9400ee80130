"""Each layer of a request's way is entered once, in the order in which docs/architecture.md tells it."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT
from tests.support.request_way import Way, follow

ARCHITECTURE = ROOT / "docs" / "architecture.md"
REST = [
    "service/edge.py",
    "access/admission.py",
    "service/pages.py",
    "service/request_reader.py",
    "service/flask_dispatch.py",
    "service/idempotency.py",
    "service/upstream.py",
]
BRIDGE = [
    "mcp_bridge/edge.py",
    "access/admission.py",
    "mcp_bridge/message_reader.py",
    "mcp_bridge/server.py",
    "mcp_bridge/arguments.py",
    "mcp_bridge/rest_client.py",
    "mcp_bridge/results.py",
]
GET, CREATE, TOOL = "GET a job", "POST a create with a key", "tool get-batch-job, in the bridge"
UPLOAD, DOWNLOAD = "POST a file", "GET a file's content"


@pytest.fixture(scope="module")
def ways() -> dict[str, Way]:
    return follow()


def test_a_get_enters_each_layer_once(ways: dict[str, Way]) -> None:
    assert ways[GET].entered(REST) == [layer for layer in REST if "idempotency" not in layer]


def test_a_keyed_create_enters_each_layer_once(ways: dict[str, Way]) -> None:
    assert ways[CREATE].entered(REST) == REST


@pytest.mark.parametrize("way", [UPLOAD, DOWNLOAD])
def test_a_file_enters_each_layer_once(ways: dict[str, Way], way: str) -> None:
    layers = [*REST[:5], "service/file_access.py", REST[-1]]
    assert ways[way].entered(layers) == layers


def test_a_tool_call_enters_each_layer_once(ways: dict[str, Way]) -> None:
    assert ways[TOOL].entered(BRIDGE) == [layer for layer in BRIDGE if "results" not in layer]


def test_a_get_can_be_followed_through_seventeen_files(ways: dict[str, Way]) -> None:
    assert len(ways[GET].files) <= 17, ways[GET].files


def test_the_picture_of_the_architecture_shows_the_layers_in_their_order() -> None:
    picture = ARCHITECTURE.read_text().split("```")[1]
    assert re.findall(r"^ \| \d (\S+\.py)", picture, re.MULTILINE) == REST
    assert re.findall(r"^.{40,}\| \d (\S+\.py) *\|$", picture, re.MULTILINE) == BRIDGE


def test_every_file_that_a_request_enters_has_its_stop_in_the_architecture(
    ways: dict[str, Way],
) -> None:
    text = ARCHITECTURE.read_text()
    entered = {file for way in ways.values() for file in way.files}
    assert [file for file in sorted(entered) if file not in text] == []


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = re.findall(r"`(\w+/\w+\.(?:py|yaml))`", ARCHITECTURE.read_text())
    assert named
    assert [file for file in named if not (ROOT / file).is_file()] == []
