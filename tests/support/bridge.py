"""The MCP bridge as users run it, in either of its forms, on a free port. Not a test module."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.processes import (
    Process,
    children,
    environment,
    free_port,
    start,
    stop,
    wait_for_line,
    wait_until,
    wait_until_ready,
)

GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "python:mcp_bridge.gunicorn_conf"]
_SERVING = re.compile(r'serving MCP at (http://[^\s"]+)')


@dataclass
class Bridge:
    """A running bridge; `output` is every line of one that has no workers."""

    process: Process
    port: int = 0
    output: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def workers(self) -> list[int]:
        """The processes that answer, where there are several."""
        return children(self.process.pid)


@contextmanager
def bridge_process(rest_url: str, **settings: Any) -> Iterator[Bridge]:
    """`python -m mcp_bridge`, which calls the REST service at `rest_url`."""
    environ = environment(**{"BRIDGE_REST_URL": rest_url, "BRIDGE_PORT": 0, **settings})
    bridge = Bridge(start([sys.executable, "-m", "mcp_bridge"], environ))
    try:
        url = wait_for_line(bridge.process, _SERVING, bridge.output)
        bridge.port = int(url.rpartition(":")[2].partition("/")[0])
        yield bridge
    finally:
        stop(bridge.process)


@contextmanager
def gunicorn_bridge(
    rest_url: str, workers: int, *, anew: bool = False, **settings: Any
) -> Iterator[Bridge]:
    """The bridge under gunicorn with several workers."""
    port = free_port()
    environ = environment(
        BRIDGE_REST_URL=rest_url, BRIDGE_PORT=port, WEB_CONCURRENCY=workers, **settings
    )
    bridge = Bridge(start(GUNICORN, environ, anew=anew), port)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/livez", bridge.process)
        wait_until(lambda: len(bridge.workers) == workers)
        yield bridge
    finally:
        stop(bridge.process)
