"""What a start says: one line when it serves, with the address, and one line when the address cannot be had."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from access.listen import check_free
from environment import SettingsError
from tests.support.bridge import GUNICORN
from tests.support.gateway import command, gateway_environment
from tests.support.processes import (
    environment,
    free_port,
    run,
    start,
    stop,
    wait_for_line,
    wait_until,
)

UPSTREAM = "http://127.0.0.1:9/v1"
STARTS = {
    "REST service": ("GATEWAY", command()),
    "bridge's workers": ("BRIDGE", GUNICORN),
    "bridge": ("BRIDGE", [sys.executable, "-m", "mcp_bridge"]),
    "sandbox": ("SANDBOX", [sys.executable, "-m", "sandbox"]),
}


def settings(prefix: str, tmp_path: Path, **more: Any) -> dict[str, str]:
    chosen = {f"{prefix}_{name}": value for name, value in more.items()}
    if prefix == "GATEWAY":
        return gateway_environment(UPSTREAM, GATEWAY_STORE=tmp_path / "keys", **chosen)
    return environment(**chosen)


@pytest.mark.parametrize("process", STARTS)
def test_a_port_that_is_taken_is_one_line_that_names_the_setting(
    process: str, tmp_path: Path
) -> None:
    prefix, words = STARTS[process]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(words, settings(prefix, tmp_path, PORT=port))
    output = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 2
    assert len(output) == 1, output
    assert f"127.0.0.1:{port} is in use" in output[0] and f"{prefix}_PORT" in output[0]


@pytest.mark.parametrize(
    "host", ["192.0.2.7", "no-such-host.invalid", "127.0.0.1.5", "a..b", "fe80::1"]
)
def test_an_address_that_this_machine_has_not_is_named_with_its_setting(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_free(host, 0, prefix="X_")
    assert host in str(caught.value) and "set X_HOST to" in str(caught.value)


def test_a_port_beyond_the_last_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="X_PORT must be at most 65535"):
        check_free("127.0.0.1", 65536, prefix="X_")


def test_a_port_that_is_root_s_is_one_line_that_says_so() -> None:
    give_up = "import os; os.getuid() or os.setuid(65534);"  # once all is imported
    code = (
        f"from access.listen import check_free; {give_up} check_free('127.0.0.1', 81, prefix='X_')"
    )
    done = run([sys.executable, "-c", code])
    if done.returncode == 0:
        pytest.skip("any user may listen on any port here")
    assert "this user may not listen there; set X_PORT" in done.stderr.splitlines()[-1]


@contextmanager
def serving(process: str, tmp_path: Path) -> Iterator[tuple[Any, list[str], str]]:
    """A running process, its lines, and the address that its settings name."""
    prefix, words = STARTS[process]
    port = free_port()
    environ = settings(prefix, tmp_path, PORT=port) | {"WEB_CONCURRENCY": "2"}
    running, output = start(words, environ), list[str]()
    try:
        wait_for_line(running, re.compile(r"(serving \w+ at )"), output)
        yield running, output, f"http://127.0.0.1:{port}"
    finally:
        stop(running)


@pytest.mark.parametrize(
    ("process", "said"),
    [
        ("REST service", "serving REST at {}, 2 workers"),
        ("bridge's workers", "serving MCP at {}/mcp, 2 workers"),
    ],
)
def test_gunicorn_s_workers_say_once_where_they_serve_and_again_after_a_reload(
    process: str, said: str, tmp_path: Path
) -> None:
    with serving(process, tmp_path) as (running, output, address):
        line = said.format(address)
        assert sum(line in each for each in output) == 1
        os.kill(running.pid, signal.SIGHUP)
        wait_until(lambda: sum(line in each for each in list(output)) == 2)
    assert sum("serving" in each for each in output) == 2
