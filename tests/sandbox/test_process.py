"""The sandbox as a process, and its settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from environment import SettingsError
from sandbox.config import Settings
from tests.support.processes import (
    environment,
    free_port,
    run,
    sandbox_process,
    start,
    stop,
    wait_until_ready,
)


def test_it_starts_on_a_free_port_that_its_ready_line_names() -> None:
    with sandbox_process() as sandbox:
        assert not sandbox.url.endswith((":0", ":8081"))
        assert "stand-in" in sandbox.admin("GET", "/")["banner"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_it_at_once_although_a_request_hangs(name: str) -> None:
    with sandbox_process() as sandbox:
        sandbox.faults({"fault": "hang"})
        request = urllib.request.Request(f"{sandbox.url}/v1/batch/jobs")
        hanging = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as u; u.urlopen({request.full_url!r})"],
            stderr=subprocess.DEVNULL,
        )
        while not sandbox.ledger():
            time.sleep(0.01)
        started = time.monotonic()
        sandbox.process.send_signal(getattr(signal, name))
        assert sandbox.process.wait(5) == 0
        assert time.monotonic() - started < 2
        assert hanging.wait(5) != 0


def test_settings_come_from_the_environment() -> None:
    with sandbox_process(demo=1, speed=0, seed=77) as sandbox:
        state = sandbox.admin("GET", "/sandbox/state")
        assert (state["seed"], state["speed"]) == (77, 0)
        before = state["jobs"]
        assert before["QUEUED"] == 1
        sandbox.reset()
        assert sandbox.admin("GET", "/sandbox/state")["jobs"] == before


def test_a_setting_that_cannot_be_used_is_named_and_ends_it() -> None:
    environ = os.environ | {"SANDBOX_SPEED": "fast"}
    ended = run([sys.executable, "-m", "sandbox"], environ)
    assert ended.returncode == 2
    assert "SANDBOX_SPEED" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_occupied_port_is_named_and_ends_it() -> None:
    with sandbox_process() as sandbox:
        port = sandbox.url.rpartition(":")[2]
        environ = os.environ | {"SANDBOX_PORT": port}
        ended = run([sys.executable, "-m", "sandbox"], environ)
    assert ended.returncode == 2
    assert f"127.0.0.1:{port}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_PORT", "x"),
        ("SANDBOX_PORT", "-1"),
        ("SANDBOX_SPEED", "nan"),
        ("SANDBOX_DEMO", "perhaps"),
        ("SANDBOX_BOTH_INPUTS", "maybe"),
        ("SANDBOX_CANCEL_FINISHED_STATUS", "500"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


def test_keys_are_digested_while_they_are_read() -> None:
    settings = Settings.from_env({"SANDBOX_KEYS": "secret-key=w/u", "SANDBOX_REVOKED_KEYS": "gone"})
    assert "secret-key" not in json.dumps(vars(settings))
    assert "gone" not in settings.revoked_keys
    assert settings.keys.endswith("=w/u")
    assert "keys" not in repr(settings).replace("strict_keys", "")


def test_it_serves_although_nobody_reads_what_it_says() -> None:
    """As in `python -m sandbox | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    port = free_port()
    command = [sys.executable, "-m", "sandbox"]
    process = start(command, environment(SANDBOX_PORT=port), stdout=writing)
    os.close(writing)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/sandbox/state", process)
    finally:
        stop(process)
