"""How often one caller may call, and what they are told of it.

Expectations: draft-ietf-httpapi-ratelimit-headers-10 for the headers, RFC 9110 section 10.2.3 for Retry-After.
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import parse
from responses import RequestsMock

from access import AccessDenied
from access.rate_limit import MemoryWindow, RateLimit
from access.redis_window import RedisWindow
from tests.access.conftest import Gateway as Make
from tests.access.conftest import Tokens, bearing
from tests.conftest import UPSTREAM
from tests.support.api import JOBS
from tests.support.processes import free_port
from tests.support.tools_available import needed

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def jobs(mistral: RequestsMock) -> None:
    mistral.get(UPSTREAM + JOBS, json={})


def test_without_the_setting_there_is_no_limit(gateway: Make) -> None:
    answer = gateway().get(JOBS)
    assert not [name for name in answer.headers if name.startswith("ratelimit")]


def test_every_answer_says_what_the_limit_is_and_what_is_left(gateway: Make) -> None:
    client = gateway(GATEWAY_RATE_LIMIT="3/minute")
    for left, path in [(2, JOBS), (1, "/v1/nothing"), (0, f"{JOBS}?page=x")]:
        headers = client.get(path).headers
        assert headers["ratelimit-policy"] == '"3-in-60s";q=3;w=60'
        assert re.fullmatch(rf'"3-in-60s";r={left};t=([1-9]|[1-5]\d|60)', headers["ratelimit"])


def test_one_call_too_many_is_refused_and_told_when_to_come_back(
    gateway: Make, mistral: RequestsMock
) -> None:
    client = gateway(GATEWAY_RATE_LIMIT="2/hour")
    assert [client.get(JOBS).status_code for _ in range(2)] == [200, 200]
    answer = client.get(JOBS)
    assert answer.status_code == 429
    problem = answer.json()
    assert (problem["type"], problem["source"]) == ("/problems#too-many-requests", "gateway")
    assert problem["retryable"] is True
    assert 3590 <= int(answer.headers["retry-after"]) <= 3601
    assert ";r=0;" in answer.headers["ratelimit"]
    assert len(mistral.calls) == 2


def test_the_one_that_is_allowed_last_is_the_one_that_counts(gateway: Make) -> None:
    client = gateway(GATEWAY_RATE_LIMIT="5/second; 2/hour")
    assert [client.get(JOBS).status_code for _ in range(3)] == [200, 200, 429]
    assert int(client.get(JOBS).headers["retry-after"]) > 3000


def test_callers_are_counted_apart(gateway: Make, token_file: Tokens) -> None:
    one, other = token_file.add("one", "jobs:read"), token_file.add("other", "jobs:read")
    client = gateway(GATEWAY_TOKENS_FILE=token_file.path, GATEWAY_RATE_LIMIT="1/hour")
    assert client.get(JOBS, headers=bearing(one)).status_code == 200
    assert client.get(JOBS, headers=bearing(one)).status_code == 429
    assert client.get(JOBS, headers=bearing(other)).status_code == 200


def test_who_has_no_token_uses_up_nobody_s_calls(gateway: Make, token_file: Tokens) -> None:
    secret = token_file.add("one", "jobs:read")
    client = gateway(GATEWAY_TOKENS_FILE=token_file.path, GATEWAY_RATE_LIMIT="1/hour")
    assert [client.get(JOBS).status_code for _ in range(3)] == [401] * 3
    assert client.get(JOBS, headers=bearing(secret)).status_code == 200


def test_probes_and_pages_are_not_limited(gateway: Make) -> None:
    client = gateway(GATEWAY_RATE_LIMIT="1/hour")
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        assert [client.get(path).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("text", ["many", "10", "10/fortnight", "-1/minute"])
def test_a_limit_that_is_none_is_refused_at_the_start(text: str, gateway: Make) -> None:
    with pytest.raises(ValueError, match=r"GATEWAY_RATE_LIMIT: .* is no limit such as 100/minute"):
        gateway(GATEWAY_RATE_LIMIT=text)


@pytest.mark.parametrize("jump", [-3600, 7200])
def test_a_clock_that_jumps_changes_nothing(
    jump: float, gateway: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = gateway(GATEWAY_RATE_LIMIT="2/hour")
    assert client.get(JOBS).status_code == 200
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + jump)
    left = re.fullmatch(r'"2-in-3600s";r=0;t=(\d+)', client.get(JOBS).headers["ratelimit"])
    assert left and 3590 <= int(left[1]) <= 3600
    answer = client.get(JOBS)
    assert answer.status_code == 429
    assert 3590 <= int(answer.headers["retry-after"]) <= 3600


def test_the_window_moves_and_lets_one_in_for_each_that_leaves_it() -> None:
    now = 0.0
    window = MemoryWindow(parse("2/minute"), clock=lambda: now)
    counted = []
    for moment in (0.0, 20.0, 40.0, 59.9, 60.0, 61.0, 80.0):
        now = moment
        counted.append(tuple(asyncio.run(window.count("a"))))
    assert counted == [
        (True, 1, 60.0),
        (True, 0, 40.0),
        (False, 0, 20.0),
        (False, 0, pytest.approx(0.1)),
        (True, 0, 20.0),
        (False, 0, 19.0),
        (True, 0, 40.0),
    ]


def test_who_no_longer_calls_is_forgotten() -> None:
    now = 0.0
    window = MemoryWindow(parse("2/minute"), clock=lambda: now)

    async def call(callers: list[str]) -> None:
        for caller in callers:
            await window.count(caller)

    asyncio.run(call([f"caller {number}" for number in range(1000)]))
    now = 30.0
    asyncio.run(call(["caller 0", "caller 1", "caller 1"]))
    now = 60.0
    asyncio.run(call(["new"]))
    assert list(window.calls) == ["caller 0", "caller 1", "new"]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis server of the test's own: its URL and the process."""
    server = needed("redis-server", "install Redis")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)  # there is no event to wait for but the port itself
        yield f"redis://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def shared_window(rates: RateLimit) -> RedisWindow:
    window = rates.windows[0]
    assert isinstance(window, RedisWindow)
    return window


async def close(*used: RateLimit) -> None:
    """As the end of a process does."""
    for rates in used:
        await shared_window(rates).client.aclose()


async def test_processes_that_share_a_redis_count_together_and_do_without_it_when_it_fails(
    redis: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, process = redis
    one, other = RateLimit("2/hour", url), RateLimit("2/hour", url)
    assert '"2-in-3600s";r=1' in dict(await one.count("a"))["RateLimit"]
    assert '"2-in-3600s";r=0' in dict(await other.count("a"))["RateLimit"]
    with pytest.raises(AccessDenied, match="too-many-requests"):
        await one.count("a")
    process.kill()
    process.wait()
    assert await one.count("a") == []
    await close(one, other)


@pytest.mark.parametrize("ahead", [60, -60])
async def test_hosts_whose_clocks_differ_go_by_the_clock_of_redis(
    ahead: float, redis: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = redis
    right = time.time
    wrong_host, right_host = RateLimit("2/minute", url), RateLimit("2/minute", url)
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    await wrong_host.count("a")
    monkeypatch.setattr(time, "time", right)
    await right_host.count("a")
    with pytest.raises(AccessDenied) as caught:
        await right_host.count("a")
    assert 50 <= int(dict(caught.value.headers)["Retry-After"]) <= 60
    await close(wrong_host, right_host)


async def test_calls_that_redis_dated_before_its_clock_was_set_back_do_not_count(
    redis: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, _ = redis
    rates = RateLimit("2/minute", url)
    await rates.count("a")
    client = shared_window(rates).client
    [key] = await client.keys()
    assert 0 < await client.pttl(key) <= 60_000  # it does not stay
    [date] = await client.lrange(key, 0, -1)
    await client.rpush(key, int(date) + 3_600_000_000)
    assert '"2-in-60s";r=0' in dict(await rates.count("a"))["RateLimit"]
    await close(rates)
