"""Every create is cut at every stage in every form, for every kind of client; the sandbox's ledger is the judge.

Never more than one job for a key, never more than one send for a call without a key, and every success names a job that exists.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.idempotency.fault_proxy import (
    ANSWERS,
    CARRIED_OUT,
    CUTS,
    EARLY,
    NOT_CARRIED_OUT,
    Fault,
    FaultProxy,
    fault_proxy,
)
from tests.support.api import CREATE, JOBS, creates, jobs, keyed
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, store_file, wait_until
from tests.support.tools_available import tool_python

# Short limits, so that a lost answer is given up soon; the lease of a killed call is the timeout and five seconds.
LIMITS: dict[str, Any] = {
    "GATEWAY_CONNECT_TIMEOUT": 0.4,
    "GATEWAY_READ_TIMEOUT": 0.6,
    "GATEWAY_TIMEOUT": 1.45,
    "GATEWAY_SETTLE": 600,
}


@dataclass(frozen=True)
class Line:
    """A gateway with two workers, the proxy behind it, the sandbox behind that."""

    gateway: Gateway
    proxy: FaultProxy
    sandbox: Sandbox


@pytest.fixture(scope="module")
def running_line(running_sandbox: Sandbox, certificate: tuple[str, str]) -> Iterator[Line]:
    own: dict[str, Any] = {"GATEWAY_CA_FILE": certificate[0], "WEB_CONCURRENCY": 2}
    with (
        store_file() as store,
        fault_proxy(running_sandbox.url, certificate) as proxy,
        gateway_process(proxy.url, GATEWAY_STORE=store, **own, **LIMITS) as gateway,
    ):
        yield Line(gateway, proxy, running_sandbox)


@pytest.fixture
def line(running_line: Line) -> Iterator[Line]:
    running_line.sandbox.reset()
    yield running_line
    running_line.proxy.strike(None)


def faults() -> Iterator[Fault]:
    for stage in (*NOT_CARRIED_OUT, *CARRIED_OUT):
        for form in CUTS:
            yield Fault(stage, form)
    for stage in NOT_CARRIED_OUT[len(EARLY) :]:
        for form in ANSWERS:
            yield Fault(stage, form)
    for form in ANSWERS:
        if form.startswith(
            "html"
        ):  # a refusal (429) after the create was carried out would be a lie
            yield Fault("committed", form)


every_fault = pytest.mark.parametrize(
    "fault", [*faults()], ids=lambda fault: f"{fault.stage}-{fault.form}"
)


def named_job_exists(answer: requests.Response, sandbox: Sandbox) -> bool:
    return not answer.ok or answer.json()["id"] in [job["id"] for job in jobs(sandbox)]


@every_fault
def test_a_create_without_a_key_is_sent_at_most_once(line: Line, fault: Fault) -> None:
    line.proxy.strike(fault)
    answer = line.gateway.post(JOBS, CREATE)
    assert line.proxy.struck == 1
    assert line.proxy.creates == (fault.stage not in EARLY)
    assert len(creates(line.sandbox)) == (fault.stage in CARRIED_OUT)
    assert named_job_exists(answer, line.sandbox)
    if not answer.ok and fault.stage not in EARLY and "429" not in fault.form:
        assert answer.json()["type"] == "/problems#create-outcome-unknown"


@every_fault
def test_a_create_with_a_key_makes_at_most_one_job_and_finds_the_one_that_it_made(
    line: Line, fault: Fault
) -> None:
    key = keyed(str(uuid.uuid4()))
    line.proxy.strike(fault)
    answers = [line.gateway.post(JOBS, CREATE, headers=key) for _ in range(2)]
    assert line.proxy.struck == 1
    assert len(creates(line.sandbox)) == len(jobs(line.sandbox)) <= 1
    assert all(named_job_exists(answer, line.sandbox) for answer in answers)
    if fault.stage in CARRIED_OUT:
        assert [answer.status_code for answer in answers] == [200, 200]
    elif fault.stage in EARLY or "429" in fault.form:
        assert [answer.ok for answer in answers] == [False, True]
    else:
        problems = [answer.json()["type"] for answer in answers]
        assert problems == ["/problems#create-outcome-unknown", "/problems#outcome-still-unknown"]


def persistent(send: Callable[[], requests.Response]) -> list[requests.Response]:
    """What a client gets that repeats its call, whatever comes, until it succeeds; six times at most, without waiting."""
    answers: list[requests.Response] = []
    while len(answers) < 6 and not (answers and answers[-1].ok):
        answers.append(send())
    return answers


@every_fault
def test_a_client_that_repeats_with_its_key_while_everything_fails_twice_makes_at_most_one_job(
    line: Line, fault: Fault
) -> None:
    key = keyed(str(uuid.uuid4()))
    line.proxy.strike(Fault(fault.stage, fault.form, times=2))
    answers = persistent(lambda: line.gateway.post(JOBS, CREATE, headers=key))
    assert len(jobs(line.sandbox)) <= 1
    assert len(creates(line.sandbox)) <= 1
    assert all(named_job_exists(answer, line.sandbox) for answer in answers)


SDK_FAULTS = [
    Fault("connect", "reset"),
    Fault("request", "close"),
    Fault("committed", "close"),
    Fault("committed", "html 503"),
    Fault("headers", "429 seconds"),
    Fault("answer", "reset"),
]


Create = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="module", params=["mistralai-3", "mistralai-1"])
def sdk_create(request: pytest.FixtureRequest) -> Iterator[Create]:
    """Creates a job with an official SDK at a URL, with a key or an empty one; says what came of it."""
    script = str(Path(__file__).with_name("sdk_create.py"))
    with subprocess.Popen(
        [tool_python(request.param), script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sdk:

        def create(url: str, key: str) -> dict[str, Any]:
            assert sdk.stdin and sdk.stdout
            too_long = threading.Timer(60, sdk.kill)
            too_long.start()
            print(json.dumps([url, key]), file=sdk.stdin, flush=True)
            answer = sdk.stdout.readline()
            too_long.cancel()
            report: dict[str, Any] = json.loads(answer)
            return report

        yield create


@pytest.mark.parametrize("key", ["", "a key"], ids=["no key", "key"])
@pytest.mark.parametrize("fault", SDK_FAULTS, ids=lambda fault: f"{fault.stage}-{fault.form}")
def test_the_official_sdk_with_its_retries_on(
    line: Line, fault: Fault, key: str, sdk_create: Create
) -> None:
    line.proxy.strike(fault)
    key = key and str(uuid.uuid4())
    report = sdk_create(line.gateway.url, key)
    made = [job["id"] for job in jobs(line.sandbox)]
    assert report["id"] is None or report["id"] in made
    if key:
        assert len(creates(line.sandbox)) <= 1
        assert report["id"] or fault.stage == "request"
    else:
        # Each repetition of the SDK's is a call of its own to the gateway, and each is sent once.
        early = line.proxy.struck if fault.stage in EARLY else 0
        assert line.proxy.creates + early == report["calls"]


def test_a_client_that_leaves_loses_nothing_but_its_answer(line: Line) -> None:
    key = str(uuid.uuid4())
    line.sandbox.faults({"fault": "latency", "match": {"method": "POST"}, "seconds": 0.3})
    body = json.dumps(CREATE).encode()
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", line.gateway.port)) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: creates(line.sandbox))
    wait_until(lambda: jobs(line.sandbox))
    answers: list[requests.Response] = []

    def call() -> bool:
        answers.append(line.gateway.post(JOBS, CREATE, headers=keyed(key)))
        return answers[-1].ok

    wait_until(call)
    assert answers[-1].headers["Idempotency-Replayed"] == "true"
    assert [job["id"] for job in jobs(line.sandbox)] == [answers[-1].json()["id"]]
    assert len(creates(line.sandbox)) == 1
