"""Three fixtures: `rest`, the service the bridge calls; `bridge`, which is called; `settings` for the two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcp_bridge.config import Settings
from mcp_bridge.server import build_server
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import Contract, load
from tests.mcp_bridge.hosting import served_here
from tests.mcp_bridge.rest import Rest

DOCUMENTS = Path(__file__).with_name("documents")


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The project's own contract."""
    return load()


@pytest.fixture(scope="session")
def tools(contract: Contract) -> dict[str, CallableTool]:
    return build_tools(contract)


@pytest.fixture(scope="session")
def odd_tools() -> dict[str, CallableTool]:
    """Tools of a document that uses what the project's own does not."""
    return build_tools(load(DOCUMENTS / "odd.yaml"))


@pytest.fixture
def rest() -> Rest:
    return Rest()


@pytest.fixture
def bridge(rest: Rest, contract: Contract) -> Callable[..., AbstractAsyncContextManager[Client]]:
    """A client of a bridge in this process that calls `rest`: `bridge(mode=..., contract=..., **settings)`."""

    @asynccontextmanager
    async def connected(
        mode: str = "auto", contract: Contract = contract, **settings: Any
    ) -> AsyncIterator[Client]:
        async with served_here(rest) as url:
            server = build_server(contract, Settings(rest_url=url, **settings))
            async with Client(server, mode=mode) as client:
                yield client

    return connected
