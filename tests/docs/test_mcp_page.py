"""What docs/mcp.md tells people to paste."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from mcp_bridge.config import Settings
from openapi.contract import load
from tests.support.processes import ROOT

TEXT = (ROOT / "docs" / "mcp.md").read_text()
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
ENTRIES = [entry for block in BLOCKS for servers in block.values() for entry in servers.values()]
TOOLS = [operation.tool.name for operation in load().operations.values() if operation.tool]
STDIO = [entry for entry in ENTRIES if "PYTHONPATH" in entry.get("env", {})]


def test_every_tool_is_in_the_documentation() -> None:
    for name in TOOLS:
        assert f"| `{name}` |" in TEXT


def test_every_url_is_where_the_bridge_listens() -> None:
    default = f"http://{Settings().host}:{Settings().port}/mcp"
    urls = [entry["url"] for entry in ENTRIES if "url" in entry]
    assert len(urls) == 3 and set(urls) == {default}


@pytest.mark.anyio
@pytest.mark.parametrize("entry", STDIO, ids=["desktop", "vscode"])
async def test_a_stdio_configuration_starts_the_bridge(entry: Any, tmp_path: Path) -> None:
    entry = json.loads(json.dumps(entry).replace("/path/to/gateway", str(ROOT)))
    assert entry["command"] == f"{ROOT}/.venv/bin/python"
    stdio = StdioServerParameters(
        command=sys.executable, args=entry["args"], env=entry["env"], cwd=tmp_path
    )
    async with Client(stdio) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
