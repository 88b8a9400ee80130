"""Two hosts with a shared Redis behind nginx: a key is good for one job, whichever host it reaches, and when one is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.support.api import JOBS, job
from tests.support.processes import Sandbox, wait_until
from tests.system.front import Front, front
from tests.system.hosts import Host, Token, gateway_on, hosts, mistral, redis

PATIENCE = {
    "GATEWAY_CONNECT_TIMEOUT": 3,
    "GATEWAY_READ_TIMEOUT": 6,
    "GATEWAY_TIMEOUT": 6,
}
"""Seconds, short so that what is lost is given up soon."""


@dataclass(frozen=True)
class Fleet:
    """Two hosts and the addresses of their gateways."""

    first: Host
    first_address: str
    second_address: str
    token: Token


@pytest.fixture(scope="module")
def fleet(running_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts with a gateway each, Redis and a stand-in for Mistral in the middle."""
    folder = tmp_path_factory.mktemp("hosts")
    token = Token(folder)
    with ExitStack() as parts:
        first, second = parts.enter_context(hosts(2, 3))
        store = parts.enter_context(redis(folder))
        upstream, authority = parts.enter_context(mistral(running_sandbox, folder))
        settings = {
            "GATEWAY_STORE": store,
            "GATEWAY_CA_FILE": authority,
            "GATEWAY_TOKENS_FILE": token.file,
            "GATEWAY_ALLOWED_HOSTS": f"localhost,{first.address},{second.address}",
            **PATIENCE,
        }
        addresses = [
            parts.enter_context(gateway_on(host, upstream, **settings)) for host in (first, second)
        ]
        yield Fleet(first, *addresses, token)


def create(nginx: Front, key: str) -> requests.Response:
    """The answer to one create, over a connection of its own."""
    with nginx.new_session() as session:
        headers = {**nginx.session.headers, "Idempotency-Key": key}
        return session.post(nginx.url + JOBS, json=job(), headers=headers, timeout=30)


def test_a_key_that_reaches_two_hosts_at_once_makes_one_job(
    fleet: Fleet, sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    sandbox.faults({"fault": "latency", "processed": True, "seconds": 0.5, "times": None})
    with front(folder, certificate, fleet.first_address, fleet.second_address) as nginx:
        fleet.token.give(nginx)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(create, [nginx] * 20, ["at-once"] * 20))
        again = create(nginx, "at-once")
        wait_until(lambda: len(nginx.log()) >= 21)
        asked = {line["server"] for line in nginx.log()}
    assert asked == {fleet.first_address, fleet.second_address}
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    (arrived,) = sandbox.ledger(method="POST")
    assert arrived["job_id"] == again.json()["id"]


def test_a_host_that_is_cut_off_in_the_middle_of_a_create_leaves_one_job_which_the_other_finds(
    fleet: Fleet, sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    sandbox.faults(
        {"fault": "latency", "processed": True, "seconds": 2, "match": {"method": "POST"}}
    )
    with front(
        folder,
        certificate,
        fleet.first_address,
        f"{fleet.second_address} backup",
        read_timeout="3s",
    ) as nginx:
        fleet.token.give(nginx)
        with ThreadPoolExecutor() as pool:
            lost = pool.submit(create, nginx, "cut-off")
            wait_until(lambda: sandbox.ledger(method="POST"))
            fleet.first.cut()
            assert (lost.result().status_code, lost.result().json()["retryable"]) == (504, True)
        answers: list[requests.Response] = []

        def settled() -> bool:
            answers.append(create(nginx, "cut-off"))
            return answers[-1].status_code != 409  # while the first host may still be at it

        wait_until(settled, 30)
        asked = nginx.log()[-1]["server"]
        fleet.first.plug_in()
    assert answers[-1].status_code == 200
    assert asked.endswith(fleet.second_address)
    (arrived,) = sandbox.ledger(method="POST")
    assert arrived["job_id"] == answers[-1].json()["id"]
