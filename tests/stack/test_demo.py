"""`make demo`: two jobs' lives, on the stack that runs or on one of its own."""

from __future__ import annotations

import os
import signal

from tests.stack.conftest import launched, processes_of, run, started
from tests.support.processes import sandbox_process


def test_it_starts_a_stack_of_its_own_and_leaves_none(environment):
    ended = run(environment, "demo")
    assert ended.returncode == 0, ended.stdout
    assert "SUCCESS: 8 succeeded, 0 failed" in ended.stdout
    assert "CANCELLED" in ended.stdout
    # What the processes write while they stop is not for who watches the demo.
    assert ended.stdout.partition("Stopping ...")[2].split() == ["Done."]
    assert processes_of(environment) == []


def test_it_uses_the_stack_that_runs(environment):
    with started(environment) as stack:
        ended = run(environment, "demo")
        assert ended.returncode == 0, ended.stdout
        assert "starting one" not in ended.stdout
        assert stack.process.poll() is None


def test_with_a_key_it_creates_nothing_unless_told_so(environment):
    ended = run(environment | {"MISTRAL_API_KEY": "a-key"}, "demo")
    assert (ended.returncode, "DEMO_WITH_REAL_KEY=1" in ended.stdout) == (1, True)


def test_it_creates_nothing_on_a_running_stack_whose_upstream_is_not_the_sandbox(environment):
    with sandbox_process() as upstream, sandbox_process() as unused:
        environment["SANDBOX_PORT"] = unused.url.rpartition(":")[2]
        keyed = {"MISTRAL_API_KEY": "a-key", "GATEWAY_UPSTREAM_URL": f"{upstream.url}/v1"}
        with started(environment | keyed):
            ended = run(environment, "demo")
        assert upstream.ledger(method="POST") == []
    assert (ended.returncode, "DEMO_WITH_REAL_KEY=1" in ended.stdout) == (1, True)


def test_it_creates_jobs_with_a_key_when_told_so(environment):
    with sandbox_process(speed=100) as upstream:
        environment |= {
            "MISTRAL_API_KEY": "a-key",
            "GATEWAY_UPSTREAM_URL": f"{upstream.url}/v1",
            "DEMO_WITH_REAL_KEY": "1",
        }
        ended = run(environment, "demo")
    assert ended.returncode == 0, ended.stdout


def test_one_that_is_interrupted_does_not_count_as_done(environment):
    with launched(environment | {"SANDBOX_SPEED": "10"}, "demo") as demo:
        demo.read_until("QUEUED")
        os.killpg(demo.process.pid, signal.SIGINT)
        assert demo.end() == 1
        assert processes_of(environment) == []


def test_a_failing_step_is_one_clear_line_and_a_failing_exit(environment):
    ended = run(environment | {"SANDBOX_TRIAL_REQUESTS": "1"}, "demo")
    assert ended.returncode == 1
    assert "The demo failed: POST /v1/batch/jobs: 402" in ended.stdout
    assert "Traceback" not in ended.stdout
