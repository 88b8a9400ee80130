"""Real processes for tests, started on free ports and ended with the test.

Not tests themselves: `from tests.support.processes import sandbox_process`.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import pytest

from tests.support.fork_server import ROOT, Forked, ForkServer

Process = subprocess.Popen[str] | Forked
# Ports below those that the system gives to clients, a range for each process that runs tests.
_RUNNER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = random.sample(range(12_000 + 2_500 * (_RUNNER % 8), 14_500 + 2_500 * (_RUNNER % 8)), 2_500)
_OURS = ("BRIDGE_", "GATEWAY_", "SANDBOX_", "MISTRAL_", "WEB_CONCURRENCY", "GUNICORN_")
READY = re.compile(r"ready on (http://\S+)")
# Proxies that the environment names are not for loopback.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Sandbox:
    """A running sandbox and its admin API."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.output: list[str] = []  # every line that it writes
        self.url = wait_for_line(process, READY, self.output)

    def ledger(self, *, method: str | None = None, path: str | None = None) -> list[dict[str, Any]]:
        """The requests it received, oldest first; `method` and `path` choose among them."""
        rows: list[dict[str, Any]] = self.admin("GET", "/sandbox/ledger")
        return [
            row for row in rows if method in (None, row["method"]) and path in (None, row["path"])
        ]

    def uploads(self) -> list[dict[str, Any]]:
        """What it says of each upload, oldest first: `outcome`, `file_id`, `filename`, `purpose`, `bytes`, `sha256`."""
        return [row["upload"] for row in self.ledger(method="POST", path="/v1/files")]

    def faults(self, *rules: dict[str, Any]) -> None:
        """Put rules in force: `{"fault": "hang", "match": {"method": "POST"}, "times": 1, ...}`."""
        self.admin("POST", "/sandbox/faults", list(rules))

    def advance(self, seconds: float) -> None:
        """Move its clock by job seconds."""
        self.admin("POST", "/sandbox/clock/advance", {"seconds": seconds})

    def demo(self) -> None:
        """Load the demonstration jobs."""
        self.admin("POST", "/sandbox/demo")

    def reset(self) -> None:
        """Make it as new: no jobs, files, ledger entries, faults."""
        self.admin("POST", "/sandbox/reset")

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer of a request to the admin API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with _opener.open(request, timeout=10) as response:
            return json.load(response)

    def stop(self) -> int:
        """End it; its exit code."""
        return stop(self.process)


@contextmanager
def sandbox_process(**settings: Any) -> Iterator[Sandbox]:
    """A sandbox on a free port; settings by name: `sandbox_process(speed=0, seed=7)`."""
    chosen = {"port": 0, "seed": 1} | {name.lower(): value for name, value in settings.items()}
    environ = environment(
        **{f"SANDBOX_{name.removeprefix('sandbox_').upper()}": chosen[name] for name in chosen}
    )
    process = start([sys.executable, "-m", "sandbox"], environ)
    try:
        yield Sandbox(process)
    finally:
        stop(process)


def environment(**settings: Any) -> dict[str, str]:
    """This process's environment with no settings of ours but these; None: not set."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(_OURS)}
    return inherited | {n: str(v) for n, v in settings.items() if v is not None}


@contextmanager
def store_file() -> Iterator[Path]:
    """The path of a new store of keys, in memory where there is such a folder.

    Processes are killed here and not their machine, so a disk would prove nothing, and waiting for a slow one would use up
    the short limits that tests set.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "keys" / "gateway.sqlite3"


def free_port() -> int:
    """A port of loopback that was free a moment ago, for programs that cannot choose one themselves; never one twice."""
    while True:
        port = _ports.pop()
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def children(pid: int) -> list[int]:
    """The processes that `pid` started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    """What `condition` returns once it is true, asked often: for what gives no event to wait for. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
    return found


def wait_until_ready(url: str, process: Process, seconds: float = 30) -> None:
    """Returns when `url` answers 200; fails with the process's output when it ends before."""

    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"ended before it was ready: {process.stdout and process.stdout.read()}")
        try:
            with _opener.open(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    wait_until(answers, seconds)


_fork_server: ForkServer | None = None


def fork_server() -> ForkServer:
    """The one of this run of tests, started when it is first asked for."""
    global _fork_server
    if _fork_server is None:
        _fork_server = ForkServer()
    return _fork_server


def end_fork_server() -> None:
    """Ends it, if it was ever started."""
    global _fork_server
    if _fork_server is not None:
        _fork_server.close()
        _fork_server = None


def start(
    command: list[str],
    environ: dict[str, str],
    *,
    stdout: int | IO[Any] = subprocess.PIPE,
    stderr: int | IO[Any] = subprocess.STDOUT,
    anew: bool = False,
) -> Process:
    """A process in the project's directory, in a group of its own, its output readable as text.

    A command of the project is forked from the fork server, unless it is started `anew`: from nothing, as users start it.
    """
    if not anew and fork_server().runs(command, environ):
        return fork_server().start(command, environ, stdout, stderr)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def run(
    command: list[str],
    environ: dict[str, str] | None = None,
    *,
    timeout: float = 30,
    anew: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What `command` wrote and its exit code; started as by `start`, with nothing to read, in this environment by default."""
    environ = {**os.environ} if environ is None else environ
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        process = start(command, environ, stdout=stdout, stderr=stderr, anew=anew)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


def wait_for_line(process: Process, pattern: re.Pattern[str], output: list[str]) -> str:
    """The first group of the first output line that matches; `output` gets all lines for good.

    Raises:
        RuntimeError: the process ended before; the message holds its output.
    """
    assert process.stdout is not None
    for line in process.stdout:
        output.append(line)
        if match := pattern.search(line):
            drain = threading.Thread(target=_drain, args=(process.stdout, output), daemon=True)
            drain.start()
            _drains[process.pid] = drain
            return match[1]
    raise RuntimeError("the process ended before it was ready:\n" + "".join(output))


_drains: dict[int, threading.Thread] = {}


def _drain(stream: IO[str], output: list[str]) -> None:
    with stream:
        output.extend(stream)


def stop(process: Process) -> int:
    """End a process by SIGTERM, after ten seconds its whole group by SIGKILL, and close its output; its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if drain := _drains.pop(process.pid, None):
        drain.join(10)  # until it has read everything
    if process.stdout:
        process.stdout.close()
    assert process.returncode is not None
    return process.returncode
