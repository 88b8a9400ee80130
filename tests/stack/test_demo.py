"""`make demo`: two jobs' lives, on the stack that runs or on one of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import requests

from access.token_file import make_token
from stack.__main__ import reason_for_no_sample
from stack.config import from_env
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


def test_it_leaves_the_ports_to_a_stack_that_starts_meanwhile(environment):
    with launched(environment | {"LIGHT_HANGS": "1"}, "demo", module=LIGHT) as demo:
        demo.read_until("Demo through")
        with started(environment, LIGHT):
            assert demo.process.poll() is None


@pytest.mark.parametrize("words", [(), ("demo",)])
def test_a_stranger_on_the_services_port_is_named_and_not_called_with_a_token(words, environment):
    class Stranger(BaseHTTPRequestHandler):
        received: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            self.received.append(str(self.headers))
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server, ExitStack() as stop:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stop.callback(server.shutdown)
        given = {"GATEWAY_PORT": str(server.server_port), "BRIDGE_REST_TOKEN": "a-token"}
        ended = run(environment | given, *words, module=LIGHT)
    assert f"{Stranger.server_version} {Stranger.sys_version}, which is no gateway" in ended.stdout
    assert Stranger.received
    assert "a-token" not in "".join(Stranger.received)


class TestWithTokens:
    @pytest.fixture(scope="class")
    @classmethod
    def environment(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
        folder = tmp_path_factory.mktemp("stack")
        token, _ = make_token("demo", ["jobs:read", "jobs:write"], file=folder / "tokens")
        environment = new_environment(folder)
        environment |= {
            "GATEWAY_TOKENS_FILE": str(folder / "tokens"),
            "BRIDGE_TOKENS_FILE": str(folder / "tokens"),
            "BRIDGE_REST_TOKEN": token,
        }
        with started(environment) as stack:
            yield environment
            assert "SUCCESS: 8 succeeded, 0 failed" in stack.output
            assert "curl -H 'Authorization: Bearer TOKEN'" in stack.output
            assert '"headers": {"Authorization": "Bearer TOKEN"}' in stack.output
            assert token not in stack.output

    def test_it_calls_with_the_bridges(self, environment):
        ended = run(environment, "demo")
        assert ended.returncode == 0, ended.stdout

    def test_it_says_that_it_needs_one(self, environment):
        ended = run(environment | {"BRIDGE_REST_TOKEN": ""}, "demo")
        assert (ended.returncode, "BRIDGE_REST_TOKEN=" in ended.stdout) == (1, True)

    def test_it_says_what_a_gateway_answers_whose_tokens_it_does_not_know_of(self, environment):
        unaware = {"BRIDGE_REST_TOKEN": "", "GATEWAY_TOKENS_FILE": ""}
        ended = run(environment | unaware, "demo")
        assert (ended.returncode, "401" in ended.stdout) == (1, True), ended.stdout


def test_without_the_bridges_token_there_is_no_sample_job(environment, tmp_path):
    settings = from_env(environment | {"GATEWAY_TOKENS_FILE": str(tmp_path / "tokens")})
    assert "BRIDGE_REST_TOKEN" in reason_for_no_sample(settings)


def test_one_that_is_interrupted_does_not_count_as_done(environment):
    with launched(environment | {"LIGHT_HANGS": "1"}, "demo", module=LIGHT) as demo:
        demo.read_until("Demo through")
        os.killpg(demo.process.pid, signal.SIGINT)
        assert demo.end() == 1
        assert processes_of(environment) == []
