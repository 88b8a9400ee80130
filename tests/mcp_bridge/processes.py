"""The gateway's processes for tests of the whole: a sandbox, the REST service and the bridge."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import free_port, start, stop, wait_for_line
from tests.support.tools_available import NODE_MODULES, needed, needed_package

outputs: dict[int, list[str]] = {}
"""Every line that a bridge of `bridge_process` wrote, by its process id."""

SERVING = re.compile(r'serving MCP at (http://[^\s"]+)')
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RestService:
    """The REST service under gunicorn on one port of its own, which it keeps when it is restarted."""

    def __init__(self, upstream: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = environment(
            MISTRAL_AI_API_KEY="sk-test",
            GATEWAY_UPSTREAM_URL=f"{upstream}/v1",
            GATEWAY_PORT=str(self.port),
            GATEWAY_STORE=str(folder / "keys.sqlite3"),
            WEB_CONCURRENCY="1",
        )
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = start([sys.executable, "-m", "gunicorn", "wsgi:app"], self.environ)
        wait_until_ready(f"{self.url}/readyz", self.process)

    def kill(self) -> None:
        """End it at once, workers included."""
        assert self.process
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        close(self.process)

    def stop(self) -> None:
        if self.process:
            end(self.process)


@contextmanager
def bridge_process(rest_url: str, **settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`python -m mcp_bridge` on a free port: its MCP endpoint and the process."""
    environ = environment(BRIDGE_REST_URL=rest_url, BRIDGE_PORT="0", **settings)
    process = start([sys.executable, "-m", "mcp_bridge"], environ)
    try:
        yield wait_for_line(process, SERVING, outputs.setdefault(process.pid, [])), process
    finally:
        end(process)


@contextmanager
def gunicorn_bridge(
    rest_url: str, workers: int, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The bridge under gunicorn with several workers: its MCP endpoint and the master."""
    port = free_port()
    environ = environment(
        BRIDGE_REST_URL=rest_url, BRIDGE_PORT=str(port), WEB_CONCURRENCY=str(workers), **settings
    )
    command = [sys.executable, "-m", "gunicorn", "-c", "python:mcp_bridge.gunicorn_conf"]
    process = start(command, environ)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/livez", process)
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Stop it, and let go of its output."""
    stop(process)
    close(process)


def close(process: subprocess.Popen[str]) -> None:
    if process.stdout:
        process.stdout.close()


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with no settings of the gateway's but `settings`."""
    ours = ("BRIDGE_", "GATEWAY_", "SANDBOX_", "MISTRAL_", "WEB_CONCURRENCY")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | settings


def wait_until_ready(url: str, process: subprocess.Popen[str], seconds: float = 30) -> None:
    """Returns when `url` answers 200; fails with the process's output when it ends before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ended before it was ready: {process.stdout and process.stdout.read()}")
        try:
            with _opener.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)  # there is no event to wait for but the port itself
    pytest.fail(f"{url} did not get ready")


def node_tool(package: str, script: str) -> list[str]:
    """A command of tests/tools: its own Node and the script's path in its package."""
    needed_package(package)
    node = next(NODE_MODULES.glob("node-linux-*/bin/node"), NODE_MODULES / "node")
    return [needed(node), str(NODE_MODULES / package / script)]
