"""Limits that several files must agree on: time limits, which are ordered, and sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from gunicorn.app.wsgiapp import WSGIApplication

import mcp_bridge.config
import service.config
import service.flask_dispatch
from tests.support.processes import ROOT
from tests.support.request_way import end_logging
from tests.system.front import CONFIGURATION


def defaults(settings: type[Any]) -> dict[str, Any]:
    return {f.metadata["env"]: f.default for f in fields(settings) if f.metadata}


SERVICE = defaults(service.config.Settings)
BRIDGE = defaults(mcp_bridge.config.Settings)


def nginx(directive: str, *, files: bool = False) -> str:
    """The one value of a directive: in the locations of files, or in all the rest."""
    locations = r"^ {8}location [^{]*/v1/files.*?^ {8}}$"
    text = CONFIGURATION.read_text()
    found = re.findall(locations, text, re.MULTILINE | re.DOTALL)
    text = "\n".join(found) if files else re.sub(locations, "", text, flags=re.M | re.S)
    values = re.findall(rf"^\s*{directive}\s+(\S+);", text, re.MULTILINE)
    assert len(set(values)) == 1, f"{directive}: {values}"
    return str(values[0])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def gunicorn(configuration: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """gunicorn's settings from a configuration file of ours, as it reads them itself, in an environment without ours."""
    for name in {*SERVICE, *BRIDGE}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MISTRAL_AI_API_KEY", "sk-CANARY-0123456789")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["gunicorn", "-c", configuration])
    try:
        return WSGIApplication().cfg
    finally:
        end_logging()


def units() -> Iterator[tuple[str, float]]:
    for path in sorted((ROOT / "deploy" / "systemd").glob("*.service")):
        yield path.name, seconds(re.findall(r"^TimeoutStopSec=(\S+)", path.read_text(), re.M)[0])


def pods() -> Iterator[tuple[str, float, float]]:
    """(name, time until SIGKILL, time before SIGTERM) of each Deployment."""
    for document in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()):
        if document["kind"] == "Deployment":
            spec = document["spec"]["template"]["spec"]
            before = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            yield document["metadata"]["name"], spec["terminationGracePeriodSeconds"], before


def test_the_time_limits_are_ordered_from_the_inside_to_the_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = SERVICE["GATEWAY_TIMEOUT"]
    ladder = [
        ("upstream connect", SERVICE["GATEWAY_CONNECT_TIMEOUT"]),
        ("upstream silence beside callers that wait", service.flask_dispatch.SILENCE),
        ("upstream read", SERVICE["GATEWAY_READ_TIMEOUT"]),
        ("whole exchange", exchange),
        ("MCP bridge", BRIDGE["BRIDGE_TIMEOUT"]),
        ("gunicorn's graceful stop", gunicorn("gunicorn.conf.py", monkeypatch).graceful_timeout),
        ("nginx", seconds(nginx("proxy_read_timeout"))),
        ("systemd's and compose's kill", min(stop for _, stop in units())),
    ]
    values = [value for _, value in ladder]
    assert values == sorted(set(values)), ladder
    wait = SERVICE["GATEWAY_WAIT_LIMIT"]
    assert exchange <= wait < BRIDGE["BRIDGE_TIMEOUT"]
    values.insert(values.index(exchange) + 1, wait)
    table = (ROOT / "docs" / "deployment.md").read_text().partition("## Time limits")[2]
    table = table.partition("A body may have")[0]
    assert [float(text) for text in re.findall(r"\| (\d+) \|", table)] == values


@pytest.mark.parametrize("configuration", ["gunicorn.conf.py", "python:mcp_bridge.gunicorn_conf"])
def test_nobody_kills_what_gunicorn_still_lets_finish(
    configuration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graceful = gunicorn(configuration, monkeypatch).graceful_timeout
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    stops = dict(units())
    stops |= {name: stop - before for name, stop, before in pods()}
    stops |= {name: seconds(s["stop_grace_period"]) for name, s in compose["services"].items()}
    assert {name: stop for name, stop in stops.items() if stop <= graceful} == {}


def test_nginx_closes_a_kept_connection_before_gunicorn_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = CONFIGURATION.read_text()
    upstream = text.partition("upstream rest_reading {")[2].partition("}")[0]
    kept = re.findall(r"keepalive_timeout (\S+);", upstream)
    assert seconds(kept[0]) < gunicorn("gunicorn.conf.py", monkeypatch).keepalive


def test_nginx_takes_the_bodies_and_urls_that_the_gateway_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert nginx("client_max_body_size") == f"{SERVICE['GATEWAY_MAX_BODY'] >> 20}m"
    assert nginx("client_max_body_size", files=True) == f"{SERVICE['GATEWAY_MAX_FILE'] >> 20}m"
    buffers = re.findall(r"large_client_header_buffers \d+ (\d+)k;", CONFIGURATION.read_text())
    settings = gunicorn("gunicorn.conf.py", monkeypatch)
    assert (
        int(buffers[0]) * 1024 - 2
        == settings.limit_request_line
        == settings.limit_request_field_size
    )


def test_both_lists_of_rest_servers_are_the_same() -> None:
    text = CONFIGURATION.read_text()
    reading, changing = (
        re.findall(
            r"^ *server (.+?);", text.partition(f"upstream {name} {{")[2].partition("}")[0], re.M
        )
        for name in ("rest_reading", "rest_changing")
    )
    assert reading == changing


def test_no_server_is_given_up_for_what_a_caller_can_cause() -> None:
    servers = re.findall(r"^[ #]*server [^{]+?;", CONFIGURATION.read_text(), re.MULTILINE)
    assert len(servers) >= 3
    assert [server for server in servers if not server.endswith(" max_fails=0;")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.*")), ids=lambda path: path.name)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"\b(?:GATEWAY|BRIDGE|SANDBOX)_[A-Z_]*[A-Z]", path.read_text()))
    sandbox = (ROOT / "docs" / "sandbox.md").read_text()
    assert {n for n in named - set(SERVICE) - set(BRIDGE) if f"`{n}`" not in sandbox} == set()
