"""The stack's settings, `.env` and `.env.example`."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from environment import SettingsError
from stack.__main__ import notes
from stack.config import PROJECT, from_env
from stack.dotenv import read_dotenv
from tests.stack.conftest import KEYS

NOWHERE = Path("/nonexistent/.env")
EXAMPLE = dict(re.findall(r"^#([A-Z_]+)=(.*)$", (PROJECT / ".env.example").read_text(), re.M))
OF_THE_STACK = {*KEYS, "DEMO_WITH_REAL_KEY"}
CONFIGS = [
    importlib.import_module(f"{path.parent.name}.config")
    for path in sorted(PROJECT.glob("*/config.py"))
    if path.parent.name != "stack"
]


def variables(config: Any) -> dict[str, str]:
    """Maps each setting of a config module to its environment variable."""
    return {
        field.name: field.metadata["env"] for field in fields(config.Settings) if field.metadata
    }


def comparable(value: Any) -> Any:
    """A setting's value, with a relative path to the project like its absolute form."""
    is_file = isinstance(value, Path) or (isinstance(value, str) and value.endswith(".yaml"))
    return (PROJECT / value).resolve() if is_file else value


def test_the_example_names_every_setting_and_no_other():
    declared = {variable for config in CONFIGS for variable in variables(config).values()}
    assert set(EXAMPLE) == declared | OF_THE_STACK


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_the_example_holds_the_defaults(config):
    key = {KEYS[0]: "a-key"}
    stated = {name: value for name, value in EXAMPLE.items() if name not in OF_THE_STACK}
    example, default = config.Settings.from_env(stated | key), config.Settings.from_env(key)
    for name in variables(config):
        assert comparable(getattr(example, name)) == comparable(getattr(default, name)), name


def test_a_copy_of_the_example_with_everything_uncommented_changes_nothing(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        re.sub(r"^#([A-Z_]+=)", r"\1", (PROJECT / ".env.example").read_text(), flags=re.M)
    )
    assert from_env({}, dotenv).endpoints == from_env({}, NOWHERE).endpoints


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("export NAME = value", "value"),
        ('NAME="a # value"', "a # value"),
        ("NAME='it is'  # said", "it is"),
        ("NAME=a#b # a comment", "a#b"),
        ("NAME=http://host:80/v1?a=b", "http://host:80/v1?a=b"),
        ("NAME=", ""),
        ("NAME= # a comment", ""),
        ("NAME=#value", "#value"),
        ("NAME=a 'b'", "a 'b'"),
        ("NAME= a\t # b", "a"),
    ],
)
def test_a_dotenv_line_is_read_as_usual(line, value, tmp_path):
    (tmp_path / ".env").write_text(f"# a comment\n\n{line}\n")
    assert read_dotenv(tmp_path / ".env") == {"NAME": value}


def test_a_dotenv_line_of_blanks_is_read_as_fast_as_any_other(tmp_path):
    # It took hours while its end was looked for at each blank.
    value = "a" + " " * 200_000 + "b"
    (tmp_path / ".env").write_text(f"NAME={value}\n")
    assert read_dotenv(tmp_path / ".env") == {"NAME": value}


def test_a_dotenv_line_that_says_nothing_is_named_without_its_text(tmp_path):
    (tmp_path / ".env").write_text("\nMISTRAL_API_KEY: a-key\n")
    with pytest.raises(ValueError, match=r"^\.env, line 2: [^:]*$"):
        read_dotenv(tmp_path / ".env")


@pytest.mark.parametrize("line", ['NAME="a', "NAME='it's'", 'NAME="a"b', "NAME: a", "$env:NAME=1"])
def test_a_dotenv_line_that_could_mean_two_things_is_refused(line, tmp_path):
    (tmp_path / ".env").write_text(f"{line}\n")
    with pytest.raises(SettingsError, match="line 1"):
        read_dotenv(tmp_path / ".env")


LINES = "# café\nGATEWAY_PORT=1001\nBRIDGE_PORT=1002\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dotenv_is_read_in_utf_8_with_and_without_a_mark_and_with_any_line_end(
    encoding, line_end, tmp_path
):
    (tmp_path / ".env").write_bytes(LINES.replace("\n", line_end).encode(encoding))
    assert read_dotenv(tmp_path / ".env") == {"GATEWAY_PORT": "1001", "BRIDGE_PORT": "1002"}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32"])
def test_dotenv_in_another_encoding_is_a_line_that_says_which_is_wanted(encoding, tmp_path):
    (tmp_path / ".env").write_bytes(LINES.encode(encoding))
    with pytest.raises(SettingsError, match="UTF-8") as caught:
        from_env({}, tmp_path / ".env")
    assert len(str(caught.value).splitlines()) == 1


def test_dotenv_that_cannot_be_read_is_a_line_that_says_why(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for what in (tmp_path, pipe):
        with pytest.raises(SettingsError, match="no plain file"):
            from_env({}, what)
    (tmp_path / ".env").write_bytes(b"GATEWAY_PORT=1\0\n")
    with pytest.raises(SettingsError, match="zero bytes"):
        from_env({}, tmp_path / ".env")


def test_a_misspelt_setting_in_dotenv_is_refused(tmp_path):
    (tmp_path / ".env").write_text("GATEWAY_TOKEN_FILE=tokens\n")
    with pytest.raises(SettingsError, match=r"GATEWAY_TOKENS_FILE is \(in \.env\)$"):
        from_env({}, tmp_path / ".env")


def test_the_real_environment_wins_over_the_file(tmp_path):
    (tmp_path / ".env").write_text("GATEWAY_PORT=1001\nBRIDGE_PORT=1002\n")
    settings = from_env({"GATEWAY_PORT": "2001"}, tmp_path / ".env")
    assert (settings.rest.port, settings.bridge.port) == (2001, 1002)
    assert settings.from_file == settings.on_free_ports().from_file == ("BRIDGE_PORT",)


def test_a_key_in_the_file_means_the_real_upstream(tmp_path):
    (tmp_path / ".env").write_text("MISTRAL_AI_API_KEY=a-key\n")
    settings = from_env({}, tmp_path / ".env")
    assert not settings.sandboxed
    assert "GATEWAY_UPSTREAM_URL" not in settings.environment


def test_without_a_key_another_upstream_is_not_used_and_that_is_known(tmp_path):
    settings = from_env({"GATEWAY_UPSTREAM_URL": "https://api.example"}, NOWHERE)
    assert settings.environment["GATEWAY_UPSTREAM_URL"] == "http://127.0.0.1:8081/v1"
    assert settings.overridden


def test_it_is_said_what_is_not_as_in_production_unless_it_was_set():
    assert ["GATEWAY_STORE" in note for note in notes(from_env({}, NOWHERE))] == [True, False]
    chosen = {"GATEWAY_STORE": "keys.sqlite3", "GATEWAY_AUDIT_LOG": "stderr"}
    assert list(notes(from_env(chosen, NOWHERE))) == []


def test_without_a_key_every_process_is_pointed_at_the_one_before_it():
    environment = from_env({"SANDBOX_PORT": "1", "GATEWAY_PORT": "2"}, NOWHERE).environment
    assert environment["GATEWAY_UPSTREAM_URL"] == "http://127.0.0.1:1/v1"
    assert environment["BRIDGE_REST_URL"] == "http://127.0.0.1:2"


def test_the_token_of_the_stacks_own_calls_is_read_as_the_bridge_reads_it(tmp_path):
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbfmbg_of-the-bridge\r\n")
    given = {"BRIDGE_REST_TOKEN_FILE": str(file)}
    bridge = importlib.import_module("mcp_bridge.config").Settings.from_env(given)
    assert from_env(given, NOWHERE).rest.token == bridge.rest_token == "mbg_of-the-bridge"
