"""A Redis of the tests' own: on a free port, nothing written to disk. Not a test module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import free_port, start, stop, wait_for_line
from tests.support.tools_available import needed

_READY = re.compile(r"(Ready to accept connections)")


@contextmanager
def redis_server(folder: Path, port: int = 0) -> Iterator[str]:
    """A running server's URL, on a free port or on one that was free a moment ago; without redis-server the test is skipped, or
    fails when CI is set.
    """
    program = needed("redis-server", "apt-get install redis-server")
    port = port or free_port()
    settings = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    process = start([program, *options], {"PATH": "/usr/bin:/bin"})
    try:
        wait_for_line(process, _READY, [])
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        stop(process)
