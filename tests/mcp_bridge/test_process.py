"""Starting the bridge: its settings, and what it says when it cannot run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import uvicorn

from environment import SettingsError
from mcp_bridge.__main__ import listen
from mcp_bridge.config import Settings
from tests.support.processes import ROOT, environment, run


def test_every_setting_names_its_variable_and_its_meaning() -> None:
    for entry in fields(Settings):
        assert entry.metadata["env"].startswith(("BRIDGE_", "GATEWAY_"))
        assert entry.metadata["help"]


def test_settings_come_from_the_environment_and_empty_ones_stay_at_their_defaults() -> None:
    settings = Settings.from_env(
        {"BRIDGE_PORT": "1234", "BRIDGE_TIMEOUT": " 5.5 ", "BRIDGE_HOST": "", "OTHER": "x"}
    )
    assert (settings.port, settings.timeout, settings.host) == (1234, 5.5, "127.0.0.1")


def test_lists_are_separated_by_commas() -> None:
    settings = Settings.from_env({"BRIDGE_ALLOWED_HOSTS": "a.example, b.example:*,"})
    assert settings.allowed_hosts == ("a.example", "b.example:*")


def test_a_setting_that_cannot_be_used_is_named_without_its_value() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"BRIDGE_PORT": "SECRET"})
    assert "BRIDGE_PORT" in str(caught.value) and "SECRET" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert "SECRET" not in repr(Settings.from_env({"BRIDGE_REST_TOKEN": "SECRET"}))


def test_the_bridge_gives_up_before_its_clients_and_after_the_rest_service() -> None:
    from service.config import Settings as RestSettings

    rest = next(entry.default for entry in fields(RestSettings) if entry.name == "timeout")
    assert rest < Settings().timeout < 60


def test_the_bridge_takes_as_large_a_body_as_the_rest_service() -> None:
    from service.config import Settings as RestSettings

    rest = next(entry for entry in fields(RestSettings) if entry.name == "max_body")
    ours = next(entry for entry in fields(Settings) if entry.name == "max_body")
    assert (ours.default, ours.metadata["env"]) == (rest.default, rest.metadata["env"])


@pytest.mark.parametrize(
    ("arguments", "variable", "value"),
    [
        ([], "BRIDGE_PORT", "many"),
        ([], "BRIDGE_TIMEOUT", "nan"),
        ([], "BRIDGE_TIMEOUT", "-1"),
        ([], "BRIDGE_TIMEOUT", "0"),
        ([], "BRIDGE_LOG_LEVEL", "loud"),
        ([], "GATEWAY_OPENAPI", "/nonexistent.yaml"),
        (["--stdio"], "GATEWAY_OPENAPI", "pyproject.toml"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_exit_2(
    arguments: list[str], variable: str, value: str
) -> None:
    done = bridge(*arguments, **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith("mcp_bridge: cannot start: ")
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_nothing_but_the_protocol_is_written_to_standard_output() -> None:
    done = bridge("--stdio", BRIDGE_LOG_LEVEL="DEBUG", BRIDGE_REST_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (0, "")


def test_no_answer_waits_for_the_client_s_acknowledgement() -> None:
    config = uvicorn.Config(lambda: None, host="127.0.0.1", port=0, log_config=None)
    with listen(config) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_gunicorn_gets_its_settings_from_the_same_place() -> None:
    code = "import mcp_bridge.gunicorn_conf as w; print(w.bind, w.worker_class, w.graceful_timeout)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(BRIDGE_PORT="1234", BRIDGE_TIMEOUT="7"),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["127.0.0.1:1234", "serving.gunicorn_worker.Worker", "12"]


def bridge(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "mcp_bridge", *arguments], environment(**settings))


def test_the_token_for_rest_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("SECRET\n")
    settings = Settings.from_env({"BRIDGE_REST_TOKEN_FILE": str(file)})
    assert settings.rest_token == "SECRET"
    file.write_bytes("\ufeffSECRET\r\n".encode())  # as Windows writes it
    assert Settings.from_env({"BRIDGE_REST_TOKEN_FILE": str(file)}).rest_token == "SECRET"
    assert "SECRET" not in repr(settings)


def test_a_token_file_that_is_a_pipe_is_refused_and_does_not_hang_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with pytest.raises(
        SettingsError, match="BRIDGE_REST_TOKEN_FILE cannot be read: it is no plain"
    ):
        Settings.from_env({"BRIDGE_REST_TOKEN_FILE": str(tmp_path / "token")})


@pytest.mark.parametrize(
    "url",
    [
        "http://user:SECRET@127.0.0.1:1", "http://SECRET@127.0.0.1:1", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://h:0",
        "http://h:x", "http://h?token=SECRET", "http://h#SECRET", "http://h /", "http://h\n.evil", "http://[::1", "unix:/tmp/x",
    ],
)  # fmt: skip
def test_an_address_of_rest_that_cannot_be_called_as_it_is_stops_the_start(url: str) -> None:
    """A user in it would be sent in place of the bridge's token, or be an exception of every call."""
    with pytest.raises(SettingsError, match="BRIDGE_REST_URL must be") as caught:
        Settings.from_env({"BRIDGE_REST_URL": url})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "token", ["SECRET\nSECRET", "SECRET\r\nX: y", "SEC RET", "SECRÉT", "SECRET\0"]
)
def test_a_token_for_rest_that_no_header_can_carry_stops_the_start(
    token: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8", newline="")
    for name, value in (("BRIDGE_REST_TOKEN", token), ("BRIDGE_REST_TOKEN_FILE", str(file))):
        with pytest.raises(SettingsError, match=name) as caught:
            Settings.from_env({name: value})
        assert "RET" not in str(caught.value)


@pytest.mark.parametrize("others", [{}, {"BRIDGE_REST_TOKEN": "SECRET"}])
def test_a_token_file_that_is_missing_or_one_too_many_is_refused(
    others: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="BRIDGE_REST_TOKEN_FILE") as caught:
        Settings.from_env({"BRIDGE_REST_TOKEN_FILE": str(tmp_path / "none"), **others})
    assert "SECRET" not in str(caught.value)
