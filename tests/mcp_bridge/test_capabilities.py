"""Other capabilities of the family: their tools work as well, from the MCP client to their upstream.

The whole chain in one process: MCP client, bridge, the REST service, and the upstream as a table of answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from jsonschema import Draft202012Validator
from mcp import Client

from mcp_bridge.config import Settings
from mcp_bridge.server import build_server
from mcp_bridge.tools import Argument, CallableTool, build_tools
from openapi import derive
from openapi.contract import Contract, load
from service.app import create_app
from service.config import Settings as RestSettings
from tests.mcp_bridge.hosting import served_here

pytestmark = pytest.mark.anyio
FILES = (Path(__file__).parents[1] / "openapi" / "capabilities").glob("*.yaml")
CAPABILITIES = sorted(path for path in FILES if "\nnaftiko:" in path.read_text())
UPSTREAM = "http://127.0.0.1:9"
CANARY = "CANARY-KEY"


@pytest.fixture(scope="module", params=CAPABILITIES, ids=lambda path: path.stem)
def document(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param.stem) / "openapi.yaml"
    assert derive.main([str(request.param), "--output", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def derived(document: Path) -> Contract:
    return load(document)


@pytest.fixture
def upstream() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


async def test_every_tool_can_be_called_with_all_its_arguments(
    document: Path, derived: Contract, upstream: responses.RequestsMock, tmp_path: Path
) -> None:
    names = [name for names in derived.environment.values() for name in names]
    environ = {
        **dict.fromkeys(names, CANARY),
        "GATEWAY_OPENAPI": str(document),
        "GATEWAY_UPSTREAM_URL": UPSTREAM,
        "GATEWAY_STORE": str(tmp_path / "keys.sqlite3"),
    }
    rest = create_app(RestSettings.from_env(environ))
    tools = build_tools(derived)
    async with (
        served_here(rest) as url,
        Client(build_server(derived, Settings(rest_url=url))) as client,
    ):
        listed = (await client.list_tools()).tools
        assert [tool.name for tool in listed] == list(tools)
        for tool in tools.values():
            upstream.reset()
            sent = answered(upstream, tool, [{"id": 1}])
            own = ("key", "part", "from")  # which no upstream is told
            given = {a.name: example(a) for a in tool.arguments.values() if a.location not in own}
            result = await client.call_tool(tool.declared.name, given)
            assert not result.is_error, result.content
            assert result.structured_content == {"result": [{"id": 1}]}
            (request,) = sent
            assert CANARY not in str(result)
            for argument in tool.arguments.values():
                if argument.location == "body":
                    assert json.loads(request.body) == given[argument.name]


async def test_every_schema_is_one_that_clients_take(derived: Contract) -> None:
    for tool in build_tools(derived).values():
        for schema in (tool.input_schema, tool.output_schema):
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
        assert all(child["description"] for child in tool.input_schema["properties"].values())


def answered(mock: responses.RequestsMock, tool: CallableTool, answer: Any) -> list[Any]:
    """Makes the tool's upstream operation answer; the list holds the requests that it got."""
    got: list[Any] = []

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        got.append(request)
        return 200, {"Content-Type": "application/json"}, json.dumps(answer)

    mock.add_callback(tool.operation.upstream_method, re.compile(f"{UPSTREAM}/.*"), reply)
    return got


def example(argument: Argument) -> Any:
    schema = argument.schema
    if "enum" in schema:
        return schema["enum"][0]
    item = {"integer": 1, "object": {"a": 1}}.get(schema.get("items", {}).get("type"), "x")
    values = {
        "integer": 2,
        "number": 1.5,
        "boolean": True,
        "array": [item, item],
        "object": {"a": 1},
    }
    return values.get(schema.get("type", "string"), "x1")
