"""Settings of every process: how they are read, and that a report shows what people recognise, and no secret."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

import environment
import mcp_bridge.config
import mistral_batch.config
import sandbox.config
import service.config
from environment import (
    NAMES,
    SettingReport,
    SettingsError,
    dotenv_note,
    misspelt,
    read_settings,
    setting,
)
from tests.support import processes
from tests.support.gateway import command

PROCESSES = [
    service.config.Settings,
    mcp_bridge.config.Settings,
    sandbox.config.Settings,
    mistral_batch.config.Settings,
]
PYTHON = [sys.executable, "-m"]


@dataclass(frozen=True)
class Example:
    """A setting of each kind."""

    names: tuple[str, ...] = setting("X_NAMES", ("a", "b"), "")
    wait: float = setting("X_WAIT", 5.0, "")
    count: int = setting("X_COUNT", 3, "")
    seed: int = setting("X_SEED", -1, "")
    on: bool = setting("X_ON", True, "")
    level: str = setting("X_LEVEL", "info", "", choices=("info", "warning"))
    status: int = setting("X_STATUS", 404, "", choices=(404, 422))
    token: str = setting("X_TOKEN", "", "", secret=True)
    store: str = setting("X_STORE", "", "", secret=True)
    made: Any = None


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("X_NAMES", "c, d,,", {"names": ("c", "d")}),
        ("X_WAIT", "0.5", {"wait": 0.5}),
        ("X_COUNT", " 0 ", {"count": 0}),
        ("X_SEED", "-1", {"seed": -1}),
        ("X_ON", "off", {"on": False}),
        ("X_ON", "YES", {"on": True}),
        ("X_LEVEL", "Warning", {"level": "warning"}),
        ("X_STATUS", "422", {"status": 422}),
        ("X_TOKEN", " ", {}),
        ("X_OTHER", "x", {}),
    ],
)
def test_a_variable_is_read_in_the_type_of_its_default(
    variable: str, text: str, expected: dict[str, object]
) -> None:
    assert read_settings(Example, {variable: text}) == expected


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("X_WAIT", "soon"),
        ("X_WAIT", "nan"),
        ("X_WAIT", "inf"),
        ("X_COUNT", "1.5"),
        ("X_COUNT", "-1"),
        ("X_SEED", "-2"),
        ("X_ON", "maybe"),
        ("X_LEVEL", "loud"),
        ("X_STATUS", "500"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_its_variable_s_name(
    variable: str, text: str
) -> None:
    with pytest.raises(SettingsError, match=variable):
        read_settings(Example, {variable: text})


def test_the_process_s_environment_is_read_when_no_other_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("X_COUNT", "7")
    assert read_settings(Example) == {"count": 7}


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (".run/gateway.sqlite3", ".run/gateway.sqlite3"),
        ("redis://db", "redis://db"),
        ("redis://db:1/0", "redis://db:1/0"),
        ("rediss://user:CANARY@db:1/0", "rediss://db:1/0"),
        ("redis://:CANARY@[::1]:1/0", "redis://[::1]:1/0"),
        ("redis://:p@ss-CANARY@db:1/0", "redis://db:1/0"),
        ("redis://db:1/0?password=CANARY", "redis://db:1/0"),
        ("redis://db:1/0#CANARY", "redis://db:1/0"),
        ("redis://:ab/cd-CANARY@db/0", "***"),
        ("redis://user:12/CANARY@db/0", "***"),
        ("redis://user:12/CANARY", "***"),
        ("redis://user:12?CANARY@db/0", "***"),
        ("redis://user:12#CANARY@db/0", "***"),
        ("redis://[CANARY@db/0", "***"),
        ("redis:/:CANARY@db/0", "***"),
        ("redis://", "***"),
    ],
)
def test_a_store_is_shown_without_what_may_be_a_password(location: str, expected: str) -> None:
    assert environment.redact_store(location) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.example/v1", "https://api.example/v1"),
        ("https://a.example,https://b.example", "https://a.example,https://b.example"),
        ("https://user:p@ss/w@api.example/v1", "https://***@api.example/v1"),
        ("https://api.example/keys?token=CANARY\n&x=y", "https://api.example/keys?***"),
        ("https://api.example/keys#token=CANARY", "https://api.example/keys#***"),
        ("https://user:CANARY\n@api.example", "https://***@api.example"),
        ("https:user:CANARY@api.example", "***@api.example"),
        ("https:/user:CANARY@api.example", "***@api.example"),
        ("https:\\\\user:CANARY@api.example", "https:\\\\***@api.example"),
        ("user:CANARY@api.example", "***@api.example"),
        ("/run/tokens@host", "/run/tokens@host"),
        ("100/minute", "100/minute"),
    ],
)
def test_a_url_is_shown_without_user_and_query(text: str, expected: str) -> None:
    assert environment.redact_url(text) == expected


def test_what_is_no_path_may_be_a_secret_in_the_wrong_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").touch()
    monkeypatch.chdir(tmp_path)
    assert [
        environment.redact_path(text) for text in ("key", "/run/none", "sk-CANARY", "x" * 300)
    ] == [
        "key",
        "/run/none",
        "9 characters, not shown",
        "300 characters, not shown",
    ]


def test_a_report_has_value_and_source_of_a_setting_and_of_a_secret_its_length() -> None:
    environ = {"X_TOKEN": "CANARY", "X_STORE": "redis://:CANARY@db", "X_WAIT": " "}
    reports = environment.report(Example, environ, {"X_STORE": environment.redact_store})
    assert [row for row in reports if row.name not in ("X_COUNT", "X_SEED")] == [
        SettingReport("X_NAMES", "a, b", "default"),
        SettingReport("X_WAIT", "5", "default"),
        SettingReport("X_ON", "on", "default"),
        SettingReport("X_LEVEL", "info", "default"),
        SettingReport("X_STATUS", "404", "default"),
        SettingReport("X_TOKEN", "6 characters, not shown", "environment"),
        SettingReport("X_STORE", "redis://db", "environment"),
    ]


def of(settings: type[Any]) -> set[str]:
    return {entry.metadata["env"] for entry in fields(settings) if "env" in entry.metadata}


def test_the_list_of_names_has_every_setting_and_no_other() -> None:
    assert set().union(*map(of, PROCESSES)) == NAMES


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GATEWAY_TOKEN_FILE", "GATEWAY_TOKENS_FILE"),
        ("GATEWAY_TOKENS", "GATEWAY_TOKENS_FILE"),
        ("GATEWAY_ALLOWED_HOST", "GATEWAY_ALLOWED_HOSTS"),
        ("GATEWAY_LOGLEVEL", "GATEWAY_LOG_LEVEL"),
        ("gateway_tokens_file", "GATEWAY_TOKENS_FILE"),
        ("GATEWAY-TOKENS-FILE", "GATEWAY_TOKENS_FILE"),
        ("GATEWY_TOKENS_FILE", "GATEWAY_TOKENS_FILE"),
        ("BRIDGE_TOKEN_FILE", "BRIDGE_TOKENS_FILE"),
        ("SANDBOX_PROT", "SANDBOX_PORT"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
        ("MISTRAL_BATCH_TOKN", "MISTRAL_BATCH_TOKEN"),
        ("GATEWAY_FROBNICATE", ""),
    ],
)
def test_a_variable_that_looks_like_a_setting_and_is_none_is_found_with_the_one_that_is_meant(
    variable: str, meant: str
) -> None:
    found = misspelt(of(service.config.Settings), {variable: "x"})
    assert [(wrong.name, wrong.near) for wrong in found] == [(variable, meant)]


@pytest.mark.parametrize("settings", PROCESSES, ids=lambda settings: settings.__module__)
def test_all_processes_may_share_one_environment(settings: type[Any]) -> None:
    assert misspelt(of(settings), dict.fromkeys(NAMES, "x")) == []


@pytest.mark.parametrize(
    "variable", ["SANDBOX_ID", "API_GATEWAY_PORT", "PORT", "MISTRAL_MODEL", "OTEL_SERVICE_NAME"]
)
def test_a_variable_of_somebody_else_is_left_alone(variable: str) -> None:
    assert misspelt(of(service.config.Settings), {variable: "x"}) == []


def test_an_empty_variable_that_is_no_setting_is_as_one_that_is_not_set() -> None:
    assert misspelt(of(service.config.Settings), {"GATEWAY_TOKEN_FILE": " "}) == []


# kubernetes.io/docs/concepts/services-networking/service (Environment variables), for a service named gateway with a port
# named http, and for one named gateway-store; docs.docker.com, Legacy container links, for --link x:gateway.
LINKS = {
    "GATEWAY_SERVICE_HOST": "10.0.0.1",
    "GATEWAY_SERVICE_PORT": "8080",
    "GATEWAY_SERVICE_PORT_HTTP": "8080",
    "GATEWAY_PORT": "tcp://10.0.0.1:8080",
    "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "GATEWAY_PORT_8080_TCP_PROTO": "tcp",
    "GATEWAY_PORT_8080_TCP_PORT": "8080",
    "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1",
    "GATEWAY_STORE_SERVICE_HOST": "10.0.0.2",
    "GATEWAY_STORE_PORT": "tcp://10.0.0.2:6379",
    "GATEWAY_NAME": "/web/gateway",
    "GATEWAY_ENV_PATH": "/usr/bin",
}


def test_what_an_orchestrator_says_of_a_service_of_that_name_is_no_setting() -> None:
    links = {
        name.replace("GATEWAY", prefix): value
        for prefix in ("GATEWAY", "BRIDGE", "SANDBOX")
        for name, value in LINKS.items()
    }
    key = {"MISTRAL_AI_API_KEY": "a-key"}
    assert service.config.Settings.from_env(links | key).port == 8080
    assert mcp_bridge.config.Settings.from_env(links).port == 9090
    assert sandbox.config.Settings.from_env(links).port == 8081


STARTS = {
    "REST service": command(),
    "bridge": [*PYTHON, "mcp_bridge"],
    "bridge's workers": [*PYTHON, "gunicorn", "-c", "python:mcp_bridge.gunicorn_conf"],
    "bridge over stdio": [*PYTHON, "mcp_bridge", "--stdio"],
    "sandbox": [*PYTHON, "sandbox"],
    "make run": [*PYTHON, "stack"],
}


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GATEWAY_PORT", raising=False)
    return tmp_path / ".env"


def test_of_a_dotenv_that_is_not_read_no_piece_of_a_secret_is_shown(dotenv: Path) -> None:
    secret = "A_CREDENTIAL_KEY='-----BEGIN\nQ2hhbGxlbmdl=\nQ2hhbGxlbmdl==\nPART = x'\nSOME_WORD=x\n"
    dotenv.write_text(f"{secret}export GATEWAY_PORT=1\nGATEWAY_HOST=\n")
    assert dotenv_note(dotenv.parent).startswith(".env sets A_CREDENTIAL_KEY, GATEWAY_PORT, but")


@pytest.mark.parametrize(
    ("content", "sourced"),
    [
        (b"GATEWAY_PORT=1\n", True),
        (b"# caf\xc3\xa9\nGATEWAY_PORT=1", True),
        (b"GATEWAY_PORT=1\r\n", False),
        (b"\xef\xbb\xbfGATEWAY_PORT=1\n", False),
        ("GATEWAY_PORT=1\n".encode("utf-16"), False),
    ],
)
def test_a_shell_is_told_to_read_a_dotenv_that_it_can_read(
    content: bytes, sourced: bool, dotenv: Path
) -> None:
    dotenv.write_bytes(content)
    note = dotenv_note(dotenv.parent)
    assert (".env sets GATEWAY_PORT" in note, "set -a" in note) == (True, sourced)


def test_a_dotenv_of_blank_lines_is_read_as_fast_as_any_other(dotenv: Path) -> None:
    # It took hours while each line was tried to begin at all that follow.
    dotenv.write_text("\n \t" * 300_000 + "\nGATEWAY_PORT=1")
    assert "GATEWAY_PORT" in dotenv_note(dotenv.parent)


def test_a_dotenv_that_never_ends_is_not_looked_at(dotenv: Path) -> None:
    dotenv.symlink_to("/dev/zero")
    assert dotenv_note(dotenv.parent) == ""
    dotenv.unlink()
    os.mkfifo(dotenv)
    assert dotenv_note(dotenv.parent) == ""


@pytest.mark.parametrize("process", STARTS)
def test_every_process_refuses_to_start_with_a_setting_that_is_none(process: str) -> None:
    prefix = {"sandbox": "SANDBOX", "REST service": "GATEWAY"}.get(process, "BRIDGE")
    environ = processes.environment(MISTRAL_AI_API_KEY="a-key", **{f"{prefix}_PROT": "CANARY"})
    done = processes.run(STARTS[process], environ)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"{prefix}_PROT is no setting; {prefix}_PORT is" in output
    assert "Traceback" not in output and "CANARY" not in output


def test_every_fault_of_the_settings_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(Example, {"X_COUNT": "many", "X_ON": "maybe"})
    assert "X_COUNT" in str(caught.value) and "X_ON" in str(caught.value)


COMMANDS = [
    "service config",
    "service token --help",
    "service doctor",
    "mcp_bridge.settings",
    "openapi.derive --output -",
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_quiet_when_nobody_reads_its_output_to_the_end(words: str) -> None:
    piped = f"{sys.executable} -m {words} | true"
    upstream = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9"}
    done = processes.run(["sh", "-c", piped], processes.environment(**upstream))
    assert done.stderr == ""
