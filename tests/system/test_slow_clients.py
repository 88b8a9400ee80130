"""slowhttptest's three attacks, against nginx as deployed and against the gateway alone: others are answered meanwhile."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Iterator

import pytest
import requests

from tests.support.api import JOBS
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import sandbox_process
from tests.support.tools_available import needed
from tests.system.front import Front, front
from tests.system.tls import plain_door

CONNECTIONS = 150
SECONDS = 5
ATTACKS = {
    "slow headers": ["-H", "-i", "1", "-x", "10"],
    "slow body": ["-B", "-i", "1", "-s", "8192", "-f", "application/json"],
    "slow reading": ["-X", "-w", "64", "-y", "128", "-n", "1", "-z", "16", "-k", "3"],
}
LARGE = "/openapi.json"
"""What is read slowly: an answer larger than what the kernel takes off our hands."""


@pytest.fixture(scope="module")
def rest() -> Iterator[Gateway]:
    """A REST service before a sandbox."""
    with (
        sandbox_process(speed=0) as sandbox,
        gateway_process(f"{sandbox.url}/v1") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def nginx(
    rest: Gateway, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx before it."""
    with front(tmp_path_factory.mktemp("nginx"), certificate, rest.address) as running:
        yield running


class Attack:
    """slowhttptest at work on a base URL."""

    def __init__(self, name: str, url: str) -> None:
        path = LARGE if name == "slow reading" else JOBS
        limits = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", str(SECONDS)]
        tool = needed("slowhttptest", "apt-get install slowhttptest")
        self.process = subprocess.Popen(
            [tool, *ATTACKS[name], *limits, "-u", url + path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Attack:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.output = self.process.communicate()[0]

    @property
    def connected(self) -> int:
        """How many connections it had in the end, by what it printed."""
        plain = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]", b"", self.output)
        return int(re.findall(rb"connected:\s+(\d+)", plain)[-1])

    @property
    def over(self) -> bool:
        """True when it has ended."""
        return self.process.poll() is not None


def ask_meanwhile(attack: Attack, url: str, authority: str | None) -> Iterator[int]:
    """The statuses of others' calls, each over a connection of its own, until the attack ends."""
    while not attack.over:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = authority or True
            yield session.get(url + JOBS, timeout=10).status_code


@pytest.mark.exclusive  # a busy machine does not get to all connections in these few seconds, each of which begins with TLS
@pytest.mark.parametrize("name", ATTACKS)
def test_nginx_keeps_slow_clients_from_the_gateway_and_answers_others(
    name: str, nginx: Front, rest: Gateway
) -> None:
    with plain_door(nginx) as door, Attack(name, door) as attack:
        found = [
            (status, rest.inflight())
            for status in ask_meanwhile(attack, nginx.url, nginx.authority)
        ]
    assert attack.connected == CONNECTIONS
    assert {status for status, _ in found} == {200}
    assert statistics.median(held for _, held in found) == 1  # the one that asks


@pytest.mark.parametrize("name", ATTACKS)
def test_the_gateway_alone_answers_others_while_clients_are_slow(name: str, rest: Gateway) -> None:
    url = f"http://{rest.address}"
    with Attack(name, url) as attack:
        statuses = set(ask_meanwhile(attack, url, None))
    assert attack.connected == CONNECTIONS
    assert statuses == {200}
