"""`mistral-batch-gateway`: its commands, in this process. tests/system/test_installed.py has them from a wheel."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from dataclasses import replace

import pytest

from stack.config import free_ports, from_env
from stack.processes import port_complaints
from stack.programs import main

COMMANDS = ["run", "serve", "mcp", "sandbox", "derive", "doctor", "config", "token", "healthcheck"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_its_own_name_and_what_it_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mistral-batch-gateway {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_does_not_take_is_refused_before_anything_starts(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--stdout"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mistral-batch-gateway ")


def test_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.findall(r"^    (\w+)\b", capsys.readouterr().out, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("words", [[], ["--stdio", "mcp"], ["MCP"], ["demo"]], ids=str)
def test_without_a_command_that_there_is_nothing_starts(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_an_unknown_command_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["srve"])
    refusal = capsys.readouterr().err
    assert [name for name in COMMANDS if repr(name) not in refusal] == []


def test_a_taken_port_is_said_with_the_command_that_was_typed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, ExitStack() as claims:
        port = str(taken.getsockname()[1])
        settings = from_env({"BRIDGE_PORT": port}, tmp_path / ".env", "the-command run")
        complaints = port_complaints(replace(settings, **free_others(settings)), claims)
    assert re.fullmatch(r"to use others: BRIDGE_PORT=\d+ the-command run", complaints[-1])


def free_others(settings):
    others = zip(("rest", "sandbox"), free_ports(2), strict=True)
    return {name: replace(getattr(settings, name), port=port) for name, port in others}
