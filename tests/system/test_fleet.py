"""Several REST services behind nginx, and one that is replaced: what callers notice when one ends, in each way it can."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.api import JOBS, job
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until
from tests.system.front import Load, front

DELAYED = {"fault": "latency", "seconds": 0.05, "times": None}


@pytest.fixture(scope="module")
def pair(running_sandbox: Sandbox) -> Iterator[tuple[Gateway, Gateway]]:
    """Two REST services of one host, which share its store; tests take `two`."""
    with (
        gateway_process(f"{running_sandbox.url}/v1") as first,
        gateway_process(
            f"{running_sandbox.url}/v1", GATEWAY_STORE=first.environ["GATEWAY_STORE"]
        ) as second,
    ):
        yield first, second


@pytest.fixture
def two(pair: tuple[Gateway, Gateway]) -> tuple[Gateway, Gateway]:
    """Both of them, running again if a test before ended one."""
    for each in pair:
        if each.process.poll() is not None:
            each.start()
    return pair


def arrivals(sandbox: Sandbox) -> Counter[str]:
    """How often each create arrived: keyed ones differ in the tag that the gateway gave them."""
    return Counter(row["body"] for row in sandbox.ledger(method="POST", path=JOBS))


def test_a_create_is_never_passed_on_once_it_was_sent(
    two: tuple[Gateway, Gateway], sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    first, second = two
    sandbox.faults(
        {"fault": "latency", "processed": True, "seconds": 30, "match": {"method": "POST"}}
    )
    with front(folder, certificate, first.address, f"{second.address} backup") as nginx:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(nginx.request, "POST", JOBS, json=job())
            wait_until(lambda: sandbox.ledger(method="POST"))
            first.kill()
            assert answer.result().status_code == 502
            assert answer.result().json()["retryable"] is False
        assert nginx.request("GET", JOBS).status_code == 200  # the second would have answered
    assert len(sandbox.ledger(method="POST")) == 1


def test_a_create_is_passed_on_when_the_first_server_is_not_there(
    two: tuple[Gateway, Gateway], sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    first, second = two
    first.kill()
    with front(folder, certificate, first.address, f"{second.address} backup") as nginx:
        assert nginx.request("POST", JOBS, json=job()).status_code == 200


@pytest.mark.parametrize("ending", [Gateway.kill, Gateway.end], ids=["killed", "stopped"])
def test_one_of_two_servers_ends_and_only_creates_in_its_hands_are_lost_and_none_doubled(
    two: tuple[Gateway, Gateway],
    sandbox: Sandbox,
    folder: Path,
    certificate: tuple[str, str],
    ending: Callable[[Gateway], None],
) -> None:
    sandbox.faults(DELAYED)
    first, second = two
    with front(folder, certificate, first.address, second.address) as nginx:
        with Load(nginx, reading=6, creating=4) as load:
            load.more()
            ending(first)
            load.more(20)
        lost = [key for key, _ in load.failed]
        assert {status for _, status in load.failed} <= {502}
        assert "" not in lost, "a reading was lost"
        assert len(lost) <= 4
        with nginx.new_session() as session:
            repeated = [load.one(session, key) for key in lost]
    assert set(repeated) <= {200, 409}  # 409: while it may still be under way in what was killed
    assert max(arrivals(sandbox).values()) == 1


def replace_worker(server: Gateway) -> None:
    """A worker that is told to end, as gunicorn does with one that is too old."""
    (worker,) = server.workers
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: server.workers not in ([], [worker]))


@pytest.mark.parametrize("change", [Gateway.reload, replace_worker], ids=["reload", "worker"])
def test_workers_are_replaced_under_load_and_nothing_is_lost(
    two: tuple[Gateway, Gateway],
    sandbox: Sandbox,
    folder: Path,
    certificate: tuple[str, str],
    change: Callable[[Gateway], None],
) -> None:
    sandbox.faults(DELAYED)
    first, second = two
    with (
        front(folder, certificate, first.address, second.address) as nginx,
        Load(nginx, reading=6, creating=4) as load,
    ):
        load.more()
        change(first)
        load.more()
    assert load.failed == []


def test_the_only_server_is_restarted_under_load_and_nothing_is_lost_since_systemd_holds_its_socket(
    sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    sandbox.faults(DELAYED)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as held,
        gateway_process(f"{sandbox.url}/v1", listening=held) as server,
        front(folder, certificate, server.address) as nginx,
        Load(nginx, reading=6, creating=4) as load,
    ):
        load.more()
        before = server.pid
        server.end()
        server.start()
        load.more()
        assert server.pid != before
    assert load.failed == []


def test_systemd_is_told_when_the_service_is_ready(
    running_sandbox: Sandbox, tmp_path: Path
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        socket.create_server(("127.0.0.1", 0)) as held,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        told = {"NOTIFY_SOCKET": tmp_path / "notify"}
        with gateway_process(f"{running_sandbox.url}/v1", listening=held, **told):
            assert b"READY=1" in systemd.recv(4096).splitlines()


def test_a_server_that_is_told_to_stop_finishes_what_it_has_and_takes_nothing_new(
    two: tuple[Gateway, Gateway], sandbox: Sandbox, folder: Path, certificate: tuple[str, str]
) -> None:
    sandbox.faults(
        {"fault": "latency", "processed": True, "seconds": 1, "match": {"method": "POST"}}
    )
    first, _ = two
    with (
        front(folder, certificate, first.address) as nginx,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(nginx.request, "POST", JOBS, json=job())
        wait_until(lambda: sandbox.ledger(method="POST"))
        first.end()
        assert answer.result().status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first.port))
