"""Every capability of the family runs: derived, served by gunicorn, called, and what reaches the upstream compared.

The calls and what must arrive are in tests/openapi/capabilities/calls.yaml.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
import yaml

from tests.support.gateway import Gateway, failed_start, gateway_environment, gateway_process
from tests.support.processes import ROOT, run
from tests.support.upstreams import Echo, Received, echo_upstream

CAPABILITIES = ROOT / "tests" / "openapi" / "capabilities"
CALLS = yaml.safe_load((CAPABILITIES / "calls.yaml").read_text(encoding="utf-8"))
BASE = "/base/v9"

Call = dict[str, Any]


def derived(capability: Path, folder: Path) -> Path:
    """The document that the command derives from a capability file."""
    document = folder / f"{capability.stem}.openapi.yaml"
    derive = [sys.executable, "-m", "openapi.derive"]
    run([*derive, str(capability), "--output", str(document)]).check_returncode()
    return document


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with echo_upstream() as echo:
        yield echo


Secrets = dict[str, str]
Served = Callable[[str, Secrets], Gateway]


@pytest.fixture(scope="module")
def served(echo: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serves a capability with its secrets, until another is asked for."""
    folder, upstream = tmp_path_factory.mktemp("derived"), f"http://127.0.0.1:{echo.port}{BASE}"
    with ExitStack() as last:

        @lru_cache(maxsize=1)
        def start(capability: str, secrets: tuple[tuple[str, str], ...]) -> Gateway:
            last.close()
            document = derived(CAPABILITIES / f"{capability}.yaml", folder)
            return last.enter_context(
                gateway_process(upstream, key=None, GATEWAY_OPENAPI=document, **dict(secrets))
            )

        yield lambda capability, secrets: start(capability, tuple(secrets.items()))


@pytest.mark.parametrize(
    "call",
    # Calls of one capability stand together, so that one process serves them.
    sorted(CALLS, key=lambda call: (call["capability"], str(call["environment"]))),
    ids=lambda call: f"{call['capability']}-{call['operation']}",
)
def test_a_call_reaches_the_upstream_as_the_capability_says(
    call: Call, served: Served, echo: Echo
) -> None:
    gateway = served(call["capability"], call["environment"])
    echo.received.clear()
    answer = made(call["request"], gateway)
    assert answer.status_code == 200, answer.text
    (received,) = echo.received
    expected = call["upstream"]
    assert (received.method, split(received.target)) == (
        expected["method"],
        split(BASE + expected["path"]),
    )
    assert {n: received.headers.get(n) for n in expected.get("headers", {})} == expected.get(
        "headers", {}
    )
    assert [name for name in expected.get("without", []) if name in received.headers] == []
    assert body(received) == expected.get("body")


def made(request: Call, gateway: Gateway) -> Any:
    """The answer to a call of the table."""
    query = urlencode([(name, value) for name, value in request.get("query", [])])
    return gateway.request(
        request["method"],
        f"{request['path']}?{query}" if query else request["path"],
        headers=request.get("headers"),
        json=request.get("body"),
    )


def split(target: str) -> tuple[str, list[tuple[str, str]]]:
    """(raw path, pairs of the query in any order)."""
    path, _, query = target.partition("?")
    return path, sorted(parse_qsl(query, keep_blank_values=True))


def body(received: Received) -> Any:
    return json.loads(received.body) if received.body else None


@pytest.mark.parametrize("capability", ["barometer", "kiosk"])
def test_a_capability_without_a_usable_base_uri_needs_the_upstreams_address(
    capability: str, tmp_path: Path
) -> None:
    document = derived(CAPABILITIES / f"{capability}.yaml", tmp_path)
    ended = failed_start(gateway_environment(GATEWAY_OPENAPI=document, BAROMETER_KEY="k"))
    assert (ended.returncode, len(ended.stdout.splitlines())) == (2, 1)
    assert "GATEWAY_UPSTREAM_URL" in ended.stdout
