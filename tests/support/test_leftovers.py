"""The plugin that guards against leftovers, in a run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

FILES = {
    "test_1_thread": """
def test_it(): threading.Thread(target=threading.Event().wait, name="forgotten").start()
""",
    "test_2_process": """
def test_it(): subprocess.Popen(["sleep", "1001"])
""",
    "test_3_orphan": """
def test_it(): subprocess.run(["sh", "-c", "sleep 1002 >/dev/null 2>&1 &"])
""",
    "test_4_socket": """
def test_it(): pytest.forgotten = socket.create_server(("127.0.0.1", 0))
""",
    "test_5_fork": """
def test_it():
    pytest.running = sandbox_process()
    pytest.running.__enter__()
""",
    "test_6_nothing": """
def test_it(lasting): subprocess.run(["true"])
""",
    "test_7_last": """
def test_it(lasting): pass
""",
    "conftest": """
leftovers._PATIENCE = 0.2
del os.environ["PYTHONPATH"]  # the fork server takes no command with it

@pytest.fixture(scope="session")
def lasting():
    process = subprocess.Popen(["sleep", "1003"])
    yield
    process.kill()
    process.wait()
""",
}
IMPORTS = "import os, pytest, socket, subprocess, threading; from tests.support import leftovers; from tests.support.processes import sandbox_process\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run with modules that leave something behind."""
    folder = tmp_path_factory.mktemp("run")
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(IMPORTS + text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.leftovers",
        "-q",
        "-rE",
        "--rootdir",
        ".",
    ]
    return subprocess.run(
        [*command, "-c", os.devnull, "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_ends_and_fails(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    assert "7 passed, 5 errors" in run.stdout


@pytest.mark.parametrize(
    ("module", "thing"),
    [
        ("test_1_thread", "thread forgotten"),
        ("test_2_process", "sleep 1001"),
        ("test_3_orphan", "sleep 1002"),
        ("test_4_socket", "listening socket tcp 0100007F:"),
        ("test_5_fork", "-m tests.support.fork_server"),
    ],
)
def test_what_is_left_is_named_with_its_module(
    run: subprocess.CompletedProcess[str], module: str, thing: str
) -> None:
    said = run.stdout.partition(f"left behind by {module}.py:")[2].splitlines()[1]
    assert thing in said


def test_processes_that_are_left_are_ended(run: subprocess.CompletedProcess[str]) -> None:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in commands if line.startswith(b"sleep\x00100")]
