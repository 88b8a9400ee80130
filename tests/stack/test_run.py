"""`make run`: what it says, and that it starts and stops as one."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import ExitStack

import pytest

from tests.stack.conftest import LIGHT, launched, processes_of, run, started
from tests.support.processes import wait_until
from tests.support.tools_available import needed

PORTS = ["GATEWAY_PORT", "BRIDGE_PORT", "SANDBOX_PORT"]


@pytest.mark.parametrize("setting", PORTS)
def test_an_occupied_port_is_named_with_its_setting_before_anything_starts(setting, environment):
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        environment[setting] = str(occupant.getsockname()[1])
        ended = run(environment)
    assert ended.returncode == 1
    assert f"port {environment[setting]} " in ended.stdout
    assert f"{setting}=" in ended.stdout
    assert "ready" not in ended.stdout


def test_all_ports_that_are_taken_are_named_with_a_command_that_runs(environment):
    with ExitStack() as occupants:
        for setting in ("GATEWAY_PORT", "BRIDGE_PORT"):
            listening = occupants.enter_context(socket.create_server(("127.0.0.1", 0)))
            environment[setting] = str(listening.getsockname()[1])
        ended = run(environment)
    others = re.search(
        r"to use others: GATEWAY_PORT=(\d+) BRIDGE_PORT=(\d+) make run", ended.stdout
    )
    assert others and others[1] != others[2], ended.stdout


def test_of_two_that_start_at_once_one_runs_and_the_other_says_why_not(environment):
    with launched(environment, module=LIGHT) as one, launched(environment, module=LIGHT) as other:
        ended = wait_until(lambda: [each for each in (one, other) if each.process.poll() == 1])
        assert len(ended) == 1
        running = other if ended == [one] else one
        running.read_until("Serving")
        ended[0].end()
        assert f"port {environment['GATEWAY_PORT']} (rest) is in use" in ended[0].output
        assert "ready" not in ended[0].output


def test_a_gateway_that_runs_already_is_said_to(environment):
    with started(environment):
        assert "is in use by a gateway, which runs already" in run(environment).stdout


def test_one_port_for_two_processes_is_refused(environment):
    ended = run(environment | {"BRIDGE_PORT": environment["GATEWAY_PORT"]})
    assert (ended.returncode, "is also GATEWAY_PORT" in ended.stdout) == (1, True)


def test_a_setting_that_is_no_port_is_named(environment):
    ended = run(environment | {"BRIDGE_PORT": "many"})
    assert (ended.returncode, "BRIDGE_PORT=many" in ended.stdout) == (1, True)


def test_a_sample_job_is_shown_to_its_first_result_and_ctrl_c_stops_everything(environment):
    with started(environment) as stack:
        os.killpg(stack.process.pid, signal.SIGINT)
        assert stack.end() == 0
        assert processes_of(environment) == []
    assert "SUCCESS: 8 succeeded, 0 failed" in stack.output
    assert "first result" in stack.output
    assert "Traceback" not in stack.output
    for setting in PORTS:
        assert f"http://127.0.0.1:{environment[setting]}" in stack.output


def test_a_process_that_stops_too_slowly_is_killed_with_the_rest(environment):
    with started(environment, LIGHT) as stack:
        [bridge] = processes_of(environment, "mcp_bridge")
        os.kill(bridge, signal.SIGSTOP)
        os.killpg(stack.process.pid, signal.SIGINT)
        assert stack.end() == 0
        assert processes_of(environment) == []


def test_ctrl_c_before_anything_is_ready_stops_everything(environment):
    with launched(environment, module=LIGHT) as stack:
        stack.read_until("upstream:")
        os.killpg(stack.process.pid, signal.SIGINT)
        assert stack.end() in (0, -signal.SIGINT)
        assert processes_of(environment) == []
    assert "Traceback" not in stack.output


def test_a_terminal_that_closes_leaves_nothing_behind(environment):
    with started(environment, LIGHT) as stack:
        os.kill(stack.process.pid, signal.SIGHUP)
        stack.end()
        assert processes_of(environment) == []


def test_an_output_that_nobody_reads_stops_everything(environment):
    with launched(environment, module=LIGHT) as stack:
        stack.read_until("ready after")
        stack.process.stdout.close()
        stack.process.wait(timeout=30)
        assert processes_of(environment) == []


def nothing_is_left(environment: dict[str, str]) -> None:
    """Returns when all its processes have ended, and their ports are free."""
    wait_until(lambda: processes_of(environment) == [])
    for setting in PORTS:
        socket.create_server(("127.0.0.1", int(environment[setting]))).close()


def test_a_stack_that_is_killed_leaves_nothing_behind(environment):
    with started(environment | {"WEB_CONCURRENCY": "2"}) as stack:
        os.kill(stack.process.pid, signal.SIGKILL)
        nothing_is_left(environment)


@pytest.mark.parametrize(
    ("module", "count"), [(LIGHT, 1), ("stack", 4)], ids=["first process", "workers"]
)
def test_a_stack_that_is_killed_with_its_group_while_it_starts_leaves_nothing_behind(
    module, count, environment
):
    with launched(environment, module=module) as stack:
        wait_until(lambda: len(processes_of(environment)) > count)
        os.killpg(stack.process.pid, signal.SIGKILL)
        nothing_is_left(environment)


def test_make_that_is_killed_takes_the_stack_with_it(environment):
    make = [needed("make"), "-o", ".venv/.runtime", f"VENV={sys.executable} -m {LIGHT}", "run"]
    with launched(environment, command=make) as stack:
        stack.read_until("ready after")
        os.kill(stack.process.pid, signal.SIGKILL)
        nothing_is_left(environment)


def test_a_process_that_dies_takes_the_others_down_and_is_named(environment):
    with started(environment, LIGHT) as stack:
        for pid in processes_of(environment, "serve rest"):
            os.kill(pid, signal.SIGKILL)
        assert stack.end() == 1
        assert processes_of(environment) == []
    assert "rest ended" in stack.output


def test_a_process_that_cannot_start_is_named_after_its_own_words(environment):
    ended = run(environment | {"SANDBOX_SPEED": "soon"})
    assert ended.returncode == 1
    assert ended.stdout.index("SANDBOX_SPEED") < ended.stdout.index("sandbox ended")
    assert processes_of(environment) == []


def test_with_a_key_there_is_no_sandbox_and_no_sample_job(environment):
    with started(environment | {"MISTRAL_API_KEY": "a-key-of-the-test"}, LIGHT) as stack:
        assert len(processes_of(environment, "serve rest")) == 1
        assert processes_of(environment, "serve sandbox") == []
    assert "No sample job" in stack.output
    assert "a-key-of-the-test" not in stack.output
