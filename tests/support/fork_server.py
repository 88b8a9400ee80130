"""Starts the project's commands in forks of one process that has imported what they import, which is most of a start's work.

`ForkServer` is its client; `python -m tests.support.fork_server` is the server: it reads commands from its standard input, a socket,
and holds nothing but modules, so that a fork of it goes on as `python -m COMMAND` does. Not a test module.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
IMPORTS = {
    "gunicorn": ("gunicorn.app.wsgiapp", "serving.gunicorn_worker", "service.app"),
    "mcp_bridge": ("mcp_bridge.app", "mcp_bridge.stdio", "serving.uvicorn_protocol"),
    "openapi": ("openapi.contract",),
    "sandbox": ("sandbox.app",),
    "service": ("service.app",),
}
"""The packages whose commands are run so, and what is imported for them before. Of the environment it reads nothing but WEB_CONCURRENCY."""

running: set[int] = set()
"""The processes of this one's servers."""


class ForkServer:
    """A running server."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._control = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server"],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not _of_python(name)},
                stdin=theirs,
                start_new_session=True,
            )
        running.add(self._process.pid)

    def runs(self, command: list[str], environ: dict[str, str]) -> bool:
        """Whether a fork can stand for the process of `command`: one of IMPORTS, for a Python with nothing set that it reads at its start."""
        return (
            command[:2] == [sys.executable, "-m"]
            and _package(command) in IMPORTS
            and not any(_of_python(name) for name in environ)
        )

    def start(
        self,
        command: list[str],
        environ: dict[str, str],
        stdout: int | IO[Any],
        stderr: int | IO[Any],
    ) -> Forked:
        """A process in the project's directory, in a session of its own, with nothing to read.

        Its outputs are as for `subprocess.Popen`: descriptors, files, and `PIPE` for the one, `STDOUT` for the other.
        """
        imports = IMPORTS[_package(command)]
        if "python:mcp_bridge.gunicorn_conf" in command:
            imports += IMPORTS["mcp_bridge"]
        message = json.dumps([imports, command[2:], environ]).encode()
        status, told = os.pipe()
        read = None
        with ExitStack() as ours:
            ours.callback(os.close, told)
            if stdout == subprocess.PIPE:
                reading, stdout = os.pipe()
                ours.callback(os.close, stdout)
                read = os.fdopen(reading)
            out = stdout if isinstance(stdout, int) else stdout.fileno()
            err = stderr if isinstance(stderr, int) else stderr.fileno()
            with self._lock:
                descriptors = [out, out if err == subprocess.STDOUT else err, told]
                socket.send_fds(self._control, [struct.pack("!I", len(message))], descriptors)
                self._control.sendall(message)
        return Forked(command, status, read)

    def close(self) -> None:
        """Ends the server; what it started goes on."""
        self._control.close()
        self._process.wait()
        running.remove(self._process.pid)


class Forked:
    """A process that the server started, with what tests use of `subprocess.Popen`."""

    stdin = stderr = None

    def __init__(self, args: list[str], status: int, stdout: IO[str] | None) -> None:
        self.args = args
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = os.fdopen(status)
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, as of a child; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; the exit code."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            with self._status:
                self.returncode = int(self._status.read())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _package(command: list[str]) -> str:
    return command[2].partition(".")[0]


def _of_python(name: str) -> bool:
    """Whether an interpreter reads this variable when it starts, so that a fork cannot have it otherwise; but those that change nothing here."""
    return name.startswith("PYTHON") and name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")


def next_command(control: socket.socket) -> list[str] | None:
    """Starts what is asked for. Returns in each fork, with its command; in the server None, when nobody asks any more."""
    while True:
        head, descriptors, _, _ = socket.recv_fds(control, 4, 3)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not head:
            return None
        message = control.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL)
        imports, command, environ = json.loads(message)
        for name in imports:
            importlib.import_module(name)
        # Else a fork that collects or ends touches, and so copies, all of it: 0.7 seconds rather than 0.1.
        gc.collect()
        gc.freeze()
        if os.fork() == 0:
            control.close()
            if _fork_and_wait(*descriptors):
                os.environ.clear()
                os.environ.update(environ)
                if config := sys.modules.get("gunicorn.config"):  # as it would have read it
                    config.Workers.default = int(environ.get("WEB_CONCURRENCY", 1))
                words: list[str] = command
                return words
            os._exit(0)
        for each in descriptors:
            os.close(each)


def _fork_and_wait(stdout: int, stderr: int, status: int) -> bool:
    """True in a fork, which has these outputs; False when it has ended, and `status` was told of its number and exit code."""
    if pid := os.fork():
        os.close(stdout)
        os.close(stderr)
        _, ended = os.waitpid(pid, 0)
        os.write(status, b"%d" % os.waitstatus_to_exitcode(ended))
        return False
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.write(status, b"%d\n" % os.getpid())
    for each in (stdout, stderr, status):
        os.close(each)
    # As Python makes them at its start.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    return True


if __name__ == "__main__":
    with socket.socket(fileno=0) as control:
        command = next_command(control)
    if command:
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
