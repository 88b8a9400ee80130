"""What docs/mcp.md and the README tell people to give their MCP clients leads to the bridge, with the token that it wants.

The clients themselves are not installed: what a configuration or a command says is read here, and a client of our own does that.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcp_bridge.config import Settings
from openapi.contract import load
from tests.docs.test_snippets import BLOCKS, Block
from tests.support.bridge import Bridge, bridge_process
from tests.support.processes import ROOT, run
from tests.support.tools_available import needed

TEXT = (ROOT / "docs" / "mcp.md").read_text()
TOOLS = [operation.tool.name for operation in load().operations.values() if operation.tool]
ADDRESS = f"http://{Settings().host}:{Settings().port}/mcp"
COMMAND = re.compile(r"^(?:claude|gemini|codex) mcp add|^cline mcp install")


@dataclass(frozen=True)
class Entry:
    """One server as a client is told of it: an address with headers, or a command."""

    client: str
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


def entries() -> Iterator[Entry]:
    """All that the two pages have, in their order."""
    for block in BLOCKS:
        if not block.name.startswith(("docs/mcp.md", "README.md")):
            continue
        if block.language in ("json", "toml"):
            value = (
                json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)
            )
            servers = next(
                value[key] for key in ("mcpServers", "servers", "mcp_servers") if key in value
            )
            for name, server in servers.items():
                yield of_file(f"{block.name} {name}", server)
        elif block.language == "console":
            yield from (
                of_command(block, words) for words, _ in block.commands if COMMAND.match(words)
            )


def of_file(name: str, server: dict[str, Any]) -> Entry:
    if "command" in server:
        words, env = [server["command"], *server["args"]], server.get("env", {})
        return of_words(name, words if "--stdio" in words else words[2:], env)
    url = next(server[key] for key in ("url", "serverUrl", "httpUrl") if key in server)
    headers = dict(server.get("headers", {}))
    if "bearer_token_env_var" in server:
        headers["Authorization"] = f"Bearer ${{{server['bearer_token_env_var']}}}"
    return Entry(name, url, headers)


def of_command(block: Block, line: str) -> Entry:
    words = shlex.split(line)
    env = dict(words[at + 1].split("=", 1) for at, word in enumerate(words) if word == "--env")
    return of_words(block.name, words[words.index("--") + 1 :] if "--" in words else words, env)


def of_words(name: str, words: list[str], env: dict[str, str]) -> Entry:
    """Of a command that starts the bridge, or of one with its address and headers among its words."""
    if "--stdio" in words:
        return Entry(name, command=tuple(words), env=env)
    after = {
        word: words[at + 1]
        for at, word in enumerate(words)
        if word.startswith("--") and words[at + 1 :]
    }
    headers = {}
    if "--header" in after:
        header, value = re.split(r":\s*", filled(after["--header"], env), maxsplit=1)
        headers[header] = value
    if "--bearer-token-env-var" in after:
        headers["Authorization"] = f"Bearer ${after['--bearer-token-env-var']}"
    return Entry(name, next(word for word in words if word.startswith("http://")), headers)


def filled(text: str, env: dict[str, str]) -> str:
    """With the variables of a client's configuration replaced, in whichever of the clients' spellings."""
    names = re.compile(r"\$\{(?:env:|input:)?([\w-]+)\}|\$(\w+)|\b(TOKEN)\b")
    return names.sub(lambda found: env.get(next(filter(None, found.groups())), found[0]), text)


ENTRIES = list(entries())
OVER_HTTP = [entry for entry in ENTRIES if entry.url]
OVER_STDIO = {(entry.command, *entry.env.items()): entry for entry in ENTRIES if entry.command}
# What the clients' own settings hold for the header.
HOLDERS = ("MISTRAL_BATCH_TOKEN", "mistral-batch-token", "TOKEN")


@pytest.fixture(scope="module")
def token_and_bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Bridge]]:
    """A bridge that wants tokens, and one that it knows. It lists its tools without a REST service."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    command = next(
        line
        for block in BLOCKS
        if block.name.startswith("docs/mcp.md")
        for line, _ in block.commands
        if "service token" in line
    )
    words = [needed(ROOT / ".venv/bin/python"), *shlex.split(command)[1:-1], str(tokens)]
    made = run(words)
    with bridge_process("http://127.0.0.1:9", BRIDGE_TOKENS_FILE=tokens) as bridge:
        yield made.stdout.strip(), bridge


def test_every_tool_is_in_the_documentation() -> None:
    missing = [name for name in TOOLS if f"| `{name}` |" not in TEXT]
    assert not missing, "the first table of docs/mcp.md has no row for these"


def test_every_client_of_the_table_has_its_section_and_every_section_its_row() -> None:
    table = re.search(r"<!-- table: clients -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    sections = re.search(r"^## Clients\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)
    assert table and sections
    rows = re.findall(r"\(#([\w-]+)\)", table[1])
    titles = re.findall(r"^### (.*)$", sections[1], re.MULTILINE)
    assert rows == [title.lower().replace(" ", "-") for title in titles]


def test_every_address_is_where_the_bridge_listens() -> None:
    assert {entry.url for entry in OVER_HTTP} == {ADDRESS}


def test_every_entry_of_the_page_that_has_an_address_sends_a_token() -> None:
    assert [entry.client for entry in OVER_HTTP if "Authorization" not in entry.headers] == [
        "README.md json 5 mistral-batch"
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "entry", [entry for entry in OVER_HTTP if entry.headers], ids=lambda entry: entry.client
)
async def test_what_a_client_sends_is_a_good_token(
    entry: Entry, token_and_bridge: tuple[str, Bridge]
) -> None:
    token, bridge = token_and_bridge
    headers = {
        name: filled(value, dict.fromkeys(HOLDERS, token)) for name, value in entry.headers.items()
    }
    assert await tools(bridge, headers) == TOOLS


def test_without_it_the_bridge_refuses(token_and_bridge: tuple[str, Bridge]) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert requests.post(token_and_bridge[1].url, json=message, timeout=30).status_code == 401


async def tools(bridge: Bridge, headers: dict[str, str]) -> list[str]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(bridge.url, http_client=http)) as client,
    ):
        return [tool.name for tool in (await client.list_tools()).tools]


@pytest.mark.anyio
@pytest.mark.parametrize("entry", OVER_STDIO.values(), ids=lambda entry: entry.client)
async def test_a_stdio_configuration_starts_the_bridge(entry: Entry, tmp_path: Path) -> None:
    """By the command that uvx would install; tests/system/test_installed.py has it from a wheel."""
    uvx, words = entry.command[:4], entry.command[4:]
    assert uvx == ("uvx", "--from", "WHEEL", "mistral-batch-gateway")
    stdio = StdioServerParameters(
        command=sys.executable,
        args=["-c", "import sys, stack.programs; sys.exit(stack.programs.main())", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **entry.env},
        cwd=tmp_path,
    )
    async with Client(stdio) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
