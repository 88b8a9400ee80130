"""A gateway whose user may have hardly any threads: requests wait for those that there are, or are told at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.support.api import JOBS
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox
from tests.support.tools_available import needed

LIMIT = 12
"""Processes and threads that its user may have (RLIMIT_NPROC), of which gunicorn and the logs take some."""

CALLS = 40
UPSTREAM = 0.5
"""Seconds that the upstream takes for each answer: in a second's patience, few threads answer far less than all."""


@contextmanager
def limited_gateway(upstream: str, folder: Path) -> Iterator[Gateway]:
    """A gateway of one worker, under a user of its own, since the limit counts all that a user runs and spares root."""
    if os.geteuid() != 0:
        reason = "only root can start a process as another user"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    user = 20_000 + os.getpid() % 20_000
    os.chown(folder, user, user)
    limited = [
        needed("setpriv", "apt-get install util-linux"),
        *(f"--reuid={user}", f"--regid={user}", "--clear-groups"),
        # Python may be somewhere in root's home. This capability has nothing to do with limits.
        *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
        *(needed("prlimit", "apt-get install util-linux"), f"--nproc={LIMIT}"),
    ]
    with gateway_process(
        upstream, within=limited, GATEWAY_STORE=folder / "keys.sqlite3"
    ) as gateway:
        yield gateway


def test_reads_wait_for_the_threads_that_there_are_and_are_turned_away_after_a_second(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults({"fault": "latency", "seconds": UPSTREAM, "times": None})
    with limited_gateway(f"{sandbox.url}/v1", tmp_path) as gateway:
        with ThreadPoolExecutor(CALLS) as pool:
            answers = list(pool.map(ask, [gateway.url + JOBS] * CALLS))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        others = [answer for answer in answers if answer.status_code == 503]
        told = {(answer.json()["type"], answer.headers["Retry-After"]) for answer in others}
        assert told == {("/problems#overloaded", "1")}
        assert len(sandbox.ledger()) == statuses.count(200)
        assert gateway.get(JOBS).status_code == 200
    assert not gateway.said("Traceback")


def ask(url: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=60)
