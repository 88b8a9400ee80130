"""A stack of real processes on ports of its own, and what is left of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from stack.config import PROJECT
from tests.support.processes import free_port, start, stop


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return new_environment(tmp_path)


def new_environment(folder: Path) -> dict[str, str]:
    """The environment of a stack without a key, on free ports, with a fast sandbox.

    The keys are empty rather than absent, so that a `.env` in the checkout cannot set them.
    """
    names = ("GATEWAY_PORT", "BRIDGE_PORT", "SANDBOX_PORT")
    ports = [str(free_port()) for _ in names]
    return {
        **os.environ,
        **dict.fromkeys(KEYS, ""),
        **dict(zip(names, ports, strict=True)),
        "GATEWAY_STORE": str(folder / "store.sqlite3"),
        "SANDBOX_SPEED": "100",
        "WEB_CONCURRENCY": "1",
        "PYTHONIOENCODING": "utf-8",
    }


KEYS = ("MISTRAL_AI_API_KEY", "MISTRAL_AI_API_KEY_FILE", "MISTRAL_API_KEY")
LIGHT = "tests.stack.light"


def run(
    environment: dict[str, str], *words: str, module: str = "stack"
) -> subprocess.CompletedProcess[str]:
    """`python -m stack WORDS` at the project's root, run to its end; `module` may be LIGHT."""
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


class RunningStack:
    """`python -m stack`, read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def read_until(self, text: str) -> None:
        """Reads its output up to the line that holds `text`; fails when it ends before."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        pytest.fail(f"ended without saying {text!r}:\n{self.output}")

    def end(self) -> int:
        """Reads the rest of its output; returns the exit code."""
        assert self.process.stdout
        self.output += self.process.stdout.read()
        return self.process.wait(timeout=30)


@contextmanager
def launched(
    environment: dict[str, str], *words: str, module: str = "stack", command: Sequence[str] = ()
) -> Iterator[RunningStack]:
    """A stack (as for `run`) that may not be up yet; what is left of it afterwards is killed.

    `command` is what starts it, when that is not Python.
    """
    process = start([*command] or [sys.executable, "-m", module, *words], environment)
    try:
        yield RunningStack(process)
    finally:
        stop(process)
        for pid in processes_of(environment):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.stdout
        process.stdout.close()


@contextmanager
def started(environment: dict[str, str], module: str = "stack") -> Iterator[RunningStack]:
    """A stack that has shown its introduction and serves; `module` as for `run`."""
    with launched(environment, module=module) as stack:
        stack.read_until("Serving")
        yield stack


def processes_of(environment: dict[str, str], command: str = "") -> list[int]:
    """The processes that run with `environment`, told by its store, and hold `command`."""
    mark = f"GATEWAY_STORE={environment['GATEWAY_STORE']}\0".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                ours = mark in (entry / "environ").read_bytes()
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended meanwhile, or is another user's
                continue
            if ours and command in words:
                pids.append(int(entry.name))
    return sorted(pids)
