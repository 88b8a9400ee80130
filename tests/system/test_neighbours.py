"""Two gateways with tokens behind nginx: what one caller's refused body, or the death of a gateway, costs all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.api import JOBS
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until, wait_until_ready
from tests.system.front import Front, Load, front
from tests.system.hosts import Token

BODY = bytes(30 * 2**20)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """Of the honest callers."""
    return Token(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def pair(running_sandbox: Sandbox, token: Token) -> Iterator[tuple[Gateway, Gateway]]:
    """Two REST services of one host with tokens."""
    url, settings = f"{running_sandbox.url}/v1", {"GATEWAY_TOKENS_FILE": token.file}
    with gateway_process(url, **settings) as first:
        settings["GATEWAY_STORE"] = first.environ["GATEWAY_STORE"]
        with gateway_process(url, **settings) as second:
            yield first, second


@pytest.fixture
def nginx(
    pair: tuple[Gateway, Gateway],
    sandbox: Sandbox,
    token: Token,
    folder: Path,
    certificate: tuple[str, str],
) -> Iterator[Front]:
    """nginx before both, whose client has the token."""
    with front(folder, certificate, *(each.address for each in pair)) as running:
        token.give(running)
        yield running


# RFC 9112 section 9.6: a server that answers before it has read everything keeps on reading, so that its answer arrives.
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("POST", {"Authorization": "Bearer expired", "Content-Type": "application/json"}),
    ],
    ids=["a list without a token", "a large create with a wrong one"],
)
def test_a_body_that_is_refused_unread_gets_its_answer_and_others_notice_nothing(
    nginx: Front, method: str, headers: dict[str, str]
) -> None:
    def refused(_: int) -> int:
        with nginx.new_session() as stranger:
            url = nginx.url + JOBS
            return stranger.request(method, url, data=BODY, headers=headers, timeout=30).status_code

    with Load(nginx, reading=2, creating=2) as load, ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(refused, range(8)))
        load.more()
    assert load.failed == []
    assert statuses == [401] * len(statuses)


def kill_worker(server: Gateway) -> None:
    """Ends its one worker at once; returns when there is another that answers."""
    workers = server.workers
    server.kill_workers()
    wait_until(lambda: server.workers not in ([], workers))
    wait_until_ready(f"{server.url}/livez", server.process)


def kill_and_start(server: Gateway) -> None:
    """Ends master and worker at once, and starts them again."""
    server.kill()
    server.start()


@pytest.mark.parametrize("death", [kill_worker, kill_and_start], ids=["worker", "gateway"])
def test_gateways_that_die_one_after_the_other_cost_only_the_creates_in_their_hands(
    nginx: Front,
    pair: tuple[Gateway, Gateway],
    sandbox: Sandbox,
    death: Callable[[Gateway], None],
) -> None:
    sandbox.faults({"fault": "latency", "seconds": 0.05, "times": None})
    with Load(nginx, reading=4, creating=3) as load:
        for server in pair:
            load.more()
            death(server)
        load.more()
    lost = [key for key, _ in load.failed]
    assert "" not in lost, "a reading was lost"
    assert len(lost) <= 3 * len(pair)
