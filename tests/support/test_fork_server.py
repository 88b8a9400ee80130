"""A command that is forked from the fork server does what it does when it is started from nothing, as users start it."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.support.gateway import gateway_environment
from tests.support.processes import run, sandbox_process

COMMANDS = {
    "gunicorn -c python:mcp_bridge.gunicorn_conf": {"BRIDGE_HOST": "0.0.0.0"},
    "gunicorn wsgi:app": {},
    "mcp_bridge": {"BRIDGE_PORT": "many"},
    "openapi.derive --check": {},
    "sandbox": {"SANDBOX_SPEED": "fast"},
    "service config": {"GATEWAY_PORT": "1234"},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_output_and_exit_code_are_those_of_a_new_process(command: str) -> None:
    environ = gateway_environment(key=None, **COMMANDS[command])
    new, forked = (
        run([sys.executable, "-m", *command.split()], environ, anew=anew) for anew in (True, False)
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        new.returncode,
        new.stdout,
        new.stderr,
    )


def test_the_signal_that_ended_it_is_its_exit_code() -> None:
    with sandbox_process() as sandbox:
        assert sandbox.process.poll() is None
        sandbox.process.kill()
        assert sandbox.process.wait(10) == sandbox.process.poll() == -signal.SIGKILL
