"""The operator's commands, run as an operator runs them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_bridge.config import Settings as BridgeSettings
from service import config
from service.config import Settings
from tests.support import processes
from tests.support.gateway import command, gateway_environment
from tests.support.processes import ROOT, sandbox_process, start, stop, wait_for_line

KEY = "sk-CANARY-commands"


def run(*words: str, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": "/usr/bin:/bin", "GATEWAY_STORE": str(tmp_path / "keys.sqlite3"), **environ}
    done = processes.run([sys.executable, "-m", "service", *words], own)
    assert KEY not in done.stdout + done.stderr
    return done


def test_config_names_every_setting_with_its_origin_and_no_secret(tmp_path: Path) -> None:
    environ = {
        "MISTRAL_AI_API_KEY": KEY,
        "GATEWAY_PORT": "1234",
        "GATEWAY_STORE": "redis://:hunter2@db:1/0",
    }
    done = run("config", tmp_path=tmp_path, **environ)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert lines["GATEWAY_PORT"].split()[1:] == ["1234", "(environment)"]
    assert lines["GATEWAY_TIMEOUT"].split()[1:] == ["45", "(default)"]
    assert "hunter2" not in done.stdout
    assert "not shown" in lines["MISTRAL_AI_API_KEY"]


@pytest.mark.parametrize("command", ["config", "doctor"])
@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_STORE": f"redis://:p@ss-{KEY}@127.0.0.1:1/0"},
        {"GATEWAY_STORE": f"redis://127.0.0.1:1/0?password={KEY}"},
        {"GATEWAY_STORE": f"redis://:ab/cd-{KEY}@127.0.0.1:1/0"},
        {"GATEWAY_UPSTREAM_URL": f"https://user:ab/{KEY}@host"},
        {"GATEWAY_JWKS_URL": f"https://host/keys?token={KEY}"},
        {"MISTRAL_AI_API_KEY": "", "MISTRAL_AI_API_KEY_FILE": KEY},
    ],
)
def test_no_command_shows_a_secret_however_it_is_written(
    command: str, environ: dict[str, str], tmp_path: Path
) -> None:
    upstream = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    run(
        command, tmp_path=tmp_path, **{"MISTRAL_AI_API_KEY": KEY, **upstream, **environ}
    )  # looks itself


def test_doctor_finds_nothing_wrong_with_a_gateway_that_can_run(tmp_path: Path) -> None:
    with sandbox_process() as sandbox:
        environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": f"{sandbox.url}/v1"}
        done = run("doctor", "--ask-upstream", tmp_path=tmp_path, **environ)
        assert (done.returncode, "wrong" in done.stdout) == (0, False), done.stdout
        assert [entry["method"] for entry in sandbox.ledger()] == ["GET"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "MISTRAL_AI_API_KEY is not set"),
        ({"MISTRAL_AI_API_KEY": f"Bearer {KEY}"}, "starts with 'Bearer'"),
        ({"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}, "upstream"),
        (
            {
                "MISTRAL_AI_API_KEY": KEY,
                "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
                "GATEWAY_STORE": "/proc/keys",
            },
            "store",
        ),
    ],
)
def test_doctor_names_what_is_wrong(environ: dict[str, str], expected: str, tmp_path: Path) -> None:
    done = run("doctor", tmp_path=tmp_path, **environ)
    assert done.returncode == 1
    assert any(
        line.startswith("wrong") and expected in line
        for line in (done.stdout + done.stderr).splitlines()
    )


def test_doctor_says_that_there_is_no_key_and_looks_at_the_rest(tmp_path: Path) -> None:
    with sandbox_process() as sandbox:
        done = run("doctor", tmp_path=tmp_path, GATEWAY_UPSTREAM_URL=f"{sandbox.url}/v1")
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("ok ", "wrong "))] == [
        "ok     settings",
        "wrong  key",
        "ok     store",
        "ok     upstream",
    ]
    assert done.returncode == 1
    assert any(line.split()[:3] == ["MISTRAL_AI_API_KEY", "(not", "set)"] for line in lines)
    assert f"at 127.0.0.1:8080 by {os.cpu_count()} worker" in done.stdout


def test_doctor_doubts_a_setting_that_is_gone(tmp_path: Path) -> None:
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    done = run("doctor", tmp_path=tmp_path, GATEWAY_TAG_JOBS="off", **environ)
    assert "doubt  GATEWAY_TAG_JOBS:" in done.stdout


@pytest.mark.parametrize(("timeout", "doubted"), [("49", False), ("50", True)])
def test_doctor_doubts_a_time_limit_that_others_are_not_made_for_and_goes_on(
    timeout: str, doubted: bool, tmp_path: Path
) -> None:
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    done = run("doctor", tmp_path=tmp_path, GATEWAY_TIMEOUT=timeout, **environ)
    lines = done.stdout.splitlines()
    found = [line for line in lines if line.startswith("doubt ") and "BRIDGE_TIMEOUT" in line]
    assert bool(found) == doubted
    assert any(line.startswith("wrong ") for line in lines)


def test_the_limits_that_doctor_knows_are_the_real_ones() -> None:
    assert BridgeSettings().timeout == config.LONGEST
    table = (ROOT / "docs" / "deployment.md").read_text().partition("## Time limits")[2]
    limits = dict(re.findall(r"\| (\d+) \| `?([\w.]+)", table))
    stop, nginx = (
        next(int(seconds) for seconds, where in limits.items() if where == name)
        for name in ("gunicorn.conf.py", "proxy_read_timeout")
    )
    assert nginx - stop == config.LONGEST - Settings.timeout


def test_the_bridge_s_settings_have_a_command_of_their_own_that_shows_no_secret() -> None:
    environ = {
        "PATH": "/usr/bin:/bin",
        "BRIDGE_REST_TOKEN": KEY,
        "BRIDGE_REST_URL": f"http://user:{KEY}@127.0.0.1:1",
        "BRIDGE_PORT": "1234",
    }
    done = processes.run([sys.executable, "-m", "mcp_bridge.settings"], environ)
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["BRIDGE_PORT"].split()[1:] == ["1234", "(environment)"]
    assert lines["BRIDGE_TIMEOUT"].split()[1:] == ["50", "(default)"]
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]"])
def test_the_gateway_listens_where_its_host_says_and_healthcheck_finds_it(
    host: str, tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as chosen:
        try:
            chosen.bind((host.strip("[]"), 0))
        except OSError:
            pytest.skip("no IPv6 here")
        port = chosen.getsockname()[1]
    settings = {"GATEWAY_HOST": host, "GATEWAY_PORT": str(port), "MISTRAL_AI_API_KEY": KEY}
    store = tmp_path / "served.sqlite3"
    environ = gateway_environment("http://127.0.0.1:9/v1", GATEWAY_STORE=store, WEB_CONCURRENCY=1)
    process = start(command("--log-level", "info"), {**environ, **settings})
    try:
        wait_for_line(process, re.compile(r"(ASGI server listening)"), [])
        address = {name: settings[name] for name in ("GATEWAY_HOST", "GATEWAY_PORT")}
        done = run("healthcheck", tmp_path=tmp_path, GATEWAY_TIMEOUT="soon", **address)
        assert done.returncode == 0, done.stderr
    finally:
        stop(process)


def test_healthcheck_fails_when_nobody_answers(tmp_path: Path) -> None:
    done = run("healthcheck", tmp_path=tmp_path, MISTRAL_AI_API_KEY=KEY, GATEWAY_PORT="9")
    assert done.returncode == 1
