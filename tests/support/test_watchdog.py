"""A run of tests that is stopped, by whatever signal, leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, wait_until
from tests.support.watchdog import marked

TESTS = """
import os, subprocess, threading
from pathlib import Path
from tests.support import leftovers
from tests.support.processes import sandbox_process

os.environ.pop("PYTHONPATH", None)  # the fork server takes no command with it

def begin(name):
    subprocess.Popen(["sleep", "1004"])
    subprocess.run(["sh", "-c", "setsid sleep 1005 >/dev/null 2>&1 &"])
    with sandbox_process():
        Path(name).touch()
        threading.Event().wait()

def test_one(): begin("one")
def test_other(): begin("other")
"""


@pytest.mark.parametrize(
    ("by", "workers"),
    [
        (signal.SIGTERM, ("-n", "2")),
        (signal.SIGKILL, ("-n", "2")),
        (signal.SIGINT, ()),
        (signal.SIGHUP, ()),
    ],
    ids=str,
)
def test_a_run_that_is_stopped_leaves_no_process(
    by: signal.Signals, workers: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    mark = f"RUN_THAT_IS_STOPPED={tmp_path}"
    name, _, value = mark.partition("=")
    environ = {**os.environ, name: value, "PYTHONPATH": str(ROOT)}
    for inherited in [it for it in environ if it.startswith("PYTEST_")]:
        del environ[inherited]
    options = ["-q", "-p", "tests.support.leftovers", "-p", "no:cacheprovider", *workers]
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, "test_it.py"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        begun = ("one", "other") if workers else ("one",)
        wait_until(lambda: all((tmp_path / it).exists() for it in begun), 60)
        run.send_signal(by)
        run.wait(30)
        wait_until(lambda: not [*marked(mark)], 30)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        run.wait()
