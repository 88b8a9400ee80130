"""`make demo`: two jobs' lives, on the stack that runs or on one of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import requests

from tests.stack.conftest import LIGHT, launched, new_environment, processes_of, run, started
from tests.support.processes import Sandbox, sandbox_process


def test_it_starts_a_stack_of_its_own_and_leaves_none(environment):
    ended = run(environment, "demo")
    assert ended.returncode == 0, ended.stdout
    assert "SUCCESS: 8 succeeded, 0 failed" in ended.stdout
    assert "CANCELLED" in ended.stdout
    # What the processes write while they stop is not for who watches the demo.
    assert ended.stdout.partition("Stopping ...")[2].split() == ["Done."]
    assert processes_of(environment) == []


class TestOnTheStackThatRuns:
    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
        environment = new_environment(tmp_path_factory.mktemp("stack"))
        with started(environment) as stack:
            yield environment
            assert stack.process.poll() is None

    def test_it_starts_none(self, environment):
        ended = run(environment, "demo")
        assert ended.returncode == 0, ended.stdout
        assert "starting one" not in ended.stdout

    def test_a_failing_step_is_one_clear_line_and_a_failing_exit(self, environment):
        fault = {"fault": "payment-required", "match": {"method": "POST"}}
        sandbox = f"http://127.0.0.1:{environment['SANDBOX_PORT']}"
        requests.post(f"{sandbox}/sandbox/faults", json=[fault], timeout=10).raise_for_status()
        ended = run(environment, "demo")
        assert ended.returncode == 1
        assert "The demo failed: POST /v1/batch/jobs: 402" in ended.stdout
        assert "Traceback" not in ended.stdout


class TestOnAStackWithAKey:
    @pytest.fixture(scope="class")
    @classmethod
    def upstream(cls) -> Iterator[Sandbox]:
        with sandbox_process(speed=100) as upstream:
            yield upstream

    @pytest.fixture(scope="class")
    @classmethod
    def environment(
        cls, upstream: Sandbox, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[dict[str, str]]:
        environment = new_environment(tmp_path_factory.mktemp("stack"))
        environment |= {
            "MISTRAL_API_KEY": "a-key-of-the-test",
            "GATEWAY_UPSTREAM_URL": f"{upstream.url}/v1",
        }
        with started(environment) as stack:
            yield environment
            assert "a-key-of-the-test" not in stack.output

    def test_it_creates_nothing_although_a_sandbox_of_another_stack_runs(
        self, environment, upstream
    ):
        with sandbox_process() as unused:
            ended = run(environment | {"SANDBOX_PORT": unused.url.rpartition(":")[2]}, "demo")
        assert upstream.ledger(method="POST") == []
        assert (ended.returncode, "DEMO_WITH_REAL_KEY=1" in ended.stdout) == (1, True)

    def test_it_creates_jobs_when_told_so(self, environment, upstream):
        ended = run(environment | {"DEMO_WITH_REAL_KEY": "1"}, "demo")
        assert ended.returncode == 0, ended.stdout
        assert len(upstream.ledger(method="POST", path="/v1/batch/jobs")) == 2


@pytest.mark.parametrize(
    ("told", "said"),
    [({}, "DEMO_WITH_REAL_KEY=1"), ({"DEMO_WITH_REAL_KEY": "1"}, "POST /v1/batch/jobs: 404")],
)
def test_with_a_key_it_creates_nothing_on_a_stack_of_its_own_unless_told_so(
    told, said, environment
):
    ended = run(environment | {"MISTRAL_API_KEY": "a-key"} | told, "demo", module=LIGHT)
    assert (ended.returncode, said in ended.stdout) == (1, True), ended.stdout


def test_one_that_is_interrupted_does_not_count_as_done(environment):
    with launched(environment | {"LIGHT_HANGS": "1"}, "demo", module=LIGHT) as demo:
        demo.read_until("Demo through")
        os.killpg(demo.process.pid, signal.SIGINT)
        assert demo.end() == 1
        assert processes_of(environment) == []
