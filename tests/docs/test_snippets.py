"""Every block of code in the documents is run as it is printed, but for its ports, or says below why it cannot be.

The commands run in a shell that has nothing but what a user's has, in a folder that is like a checkout; all share one stack, which
the README's first command started. What MCP clients are told to send is in `test_mcp_page.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import mcp_bridge.config
import mistral_batch.config
import sandbox.config
import service.config
from tests.support.bridge import bridge_process
from tests.support.processes import ROOT, free_port, run, wait_until
from tests.support.tools_available import NODE_MODULES, needed, node_tool, tool_python

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = {
    field.metadata.get("env")
    for module in (service.config, mcp_bridge.config, sandbox.config, mistral_batch.config)
    for field in fields(module.Settings)
}

DEPLOYMENT = "test_deployment_page.py runs it in folders of its own"
# A part of the block -> why nothing here can run it.
NOT_RUN = {
    "apt-get install": f"root's; {DEPLOYMENT}",
    "install -d -m 0755 /etc": f"root's; {DEPLOYMENT}",
    "doctor --ask-upstream": f"root's; {DEPLOYMENT}",
    "cp deploy/systemd/": "starts systemd's units, as root",
    "sed 's/gateway.example.org": "replaces the system's nginx, as root",
    "pipx install WHEEL": "installs from outside; tests/system/test_installed.py has the wheel",
    "--no-index WHEEL": "root's; tests/system/test_installed.py has the wheel",
    "docker build": "needs a container engine",
    "4318": "needs a collector of spans",
    "UPDATE_DOCS=1 make test": "runs these tests",
    "claude mcp add": "a client that is not installed; test_mcp_page.py makes the calls",
    "gemini mcp add": "a client that is not installed; test_mcp_page.py makes the calls",
    "codex mcp add": "a client that is not installed; test_mcp_page.py makes the calls",
    "cline mcp install": "a client that is not installed; test_mcp_page.py makes the calls",
    "StreamableHttpMcpTransport": "Java, with libraries that come by Maven alone",
    "from any_llm": "not among the locked tools; the page says with which version it was tried",
    "import litellm": "not among the locked tools; the page says with which version it was tried",
    "MistralAiBatchChatModel": "Java, with libraries that come by Maven alone",
    "from bespokelabs": "not among the locked tools; the page says with which version it was tried",
    "from instructor": "not among the locked tools; the page says with which version it was tried",
    "from airflow": "not among the locked tools; the page says with which version it was tried",
    "from batchling": "not among the locked tools; the page says with which version it was tried",
}
# A part of a program -> the environment of .tools that has what it imports, in this order; this one's Python without.
TOOLS = {
    "import mistral_batch\n": "",
    "from mcp import Client\n": "",
    "from mcp import ClientSession": "mcp-1",
    "from langchain_mcp_adapters": "mcp-1",
    "from agents.mcp": "mcp-1",
    "mistralai": "mistralai-3",
}
# A command that serves until it is stopped -> the setting that holds its port.
SERVES = {
    r"gunicorn wsgi:app|\bmake run": "GATEWAY_PORT",
    r"mcp_bridge\.gunicorn_conf|-m mcp_bridge$": "BRIDGE_PORT",
    r"-m sandbox$": "SANDBOX_PORT",
}
PORTS = {"GATEWAY_PORT": 8080, "BRIDGE_PORT": 9090, "SANDBOX_PORT": 8081}
LINE = '{"custom_id": "%d", "body": {"messages": [{"role": "user", "content": "Hello"}]}}\n'


@dataclass(frozen=True)
class Block:
    """A block of code: its language, "" when it names none, and its text."""

    name: str
    language: str
    text: str

    @property
    def reason(self) -> str:
        """Why it is not run, or an empty string."""
        return next((NOT_RUN[part] for part in NOT_RUN if part in self.text), "")

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a shell's block, each with the lines that the document shows as its output."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if found and unfinished(found[-1][0]):
                found[-1] = (f"{found[-1][0]}\n{line}", [])
            elif line.startswith(("$ ", "# ")) or self.language == "sh":
                found.append((line.removeprefix("$ "), []))  # what begins with # is root's
            else:
                found[-1][1].append(line)
        return found


def unfinished(command: str) -> bool:
    """Whether the shell would wait for another line."""
    return subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode != 0 or (
        command.endswith(("\\", "|"))
    )


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        found = [
            token
            for token in MarkdownIt().parse(document.read_text())
            if token.type in ("fence", "code_block")
        ]
        for number, token in enumerate(found, 1):
            name = f"{document.relative_to(ROOT)} {token.info or 'no language'} {number}"
            yield Block(name, token.info, token.content)


BLOCKS = list(blocks())


@dataclass(frozen=True)
class Surroundings:
    """What the blocks run in: a folder like a checkout, a shell's environment, and where the stack listens."""

    folder: Path
    environ: dict[str, str]
    ports: dict[str, int]  # as PORTS
    token_port: int  # of a bridge that wants MISTRAL_BATCH_TOKEN

    def here(self, text: str, ports: dict[str, int]) -> str:
        """The text with the addresses of what listens here."""
        if "MISTRAL_BATCH_TOKEN" in text:
            ports = {**ports, "BRIDGE_PORT": self.token_port}
        for setting, port in PORTS.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ports[setting]}")
        return text


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """After the README's first command, in a shell without a setting but ports, and a pace that suits tests."""
    folder = checkout(tmp_path_factory.mktemp("checkout"))
    ports = {name: free_port() for name in PORTS}
    path = os.environ["PATH"].split(os.pathsep)
    environ = {
        "PATH": os.pathsep.join(each for each in path if not each.startswith(sys.prefix)),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "WEB_CONCURRENCY": "1",
        "SANDBOX_SPEED": "1000",
    }
    first = next(block for block in BLOCKS if block.name.startswith("README.md console"))
    (command, _), *rest = first.commands
    assert command == "make run" and not rest
    log = folder / "stack.log"
    with log.open("w") as output:
        stack = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environ | {name: str(port) for name, port in ports.items()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Serving" in log.read_text() or stack.poll() is not None, 60)
        assert stack.poll() is None, log.read_text()
        token = run(
            [sys.executable, "-m", "service", "token", "agent", "--file", str(folder / "callers")]
            + [word for scope in ("jobs", "files") for word in ("--scope", f"{scope}:read")],
        ).stdout.strip()
        rest_url = f"http://127.0.0.1:{ports['GATEWAY_PORT']}"
        with bridge_process(rest_url, BRIDGE_TOKENS_FILE=folder / "callers") as bridge:
            environ |= {
                "MISTRAL_BATCH_TOKEN": token,
                "MISTRAL_AI_API_KEY": "sk-of-a-test",
                "GATEWAY_UPSTREAM_URL": f"http://127.0.0.1:{ports['SANDBOX_PORT']}/v1",
                "BRIDGE_REST_URL": rest_url,
                "MISTRAL_BATCH_URL": rest_url,
            }
            yield Surroundings(folder, environ, ports, bridge.port)
    finally:
        os.killpg(stack.pid, signal.SIGTERM)
        stack.wait(20)


def checkout(folder: Path) -> Path:
    """A copy of this one, and what the blocks take for granted: requests, a capability and its words."""
    needed(ROOT / ".venv" / "bin" / "python", "run `make test`")
    shutil.copytree(
        ROOT,
        folder,
        ignore=shutil.ignore_patterns(".*", "tests", "bench", "tokens"),
        dirs_exist_ok=True,
    )
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # Older than what it installed, whatever a change of branch did to it: make installs nothing.
    os.utime(folder / "requirements.lock", (0, 0))
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "requests.jsonl").write_text("".join(LINE % number for number in range(3)))
    # An answer that is no success is a failure of the command.
    (folder / ".curlrc").write_text("fail\nretry-connrefused\nretry = 9\n")
    for name in ("mine", "other"):
        (folder / f"{name}.yaml").symlink_to(ROOT / "openapi" / "batch-batch-jobs.yaml")
        (folder / f"{name}.overlay.yaml").write_text(
            yaml.safe_dump(
                {
                    "overlay": "1.0.0",
                    "info": {"title": "Words", "version": "1"},
                    "actions": [{"target": "$.info", "update": {"title": "Mine"}}],
                }
            )
        )
    return folder


def run_shell(commands: list[tuple[str, list[str]]], surroundings: Surroundings) -> None:
    """Runs the commands in one shell; one that serves runs on beside the others, as in a terminal of its own."""
    serves = [served(command) for command, _ in commands]
    ports = {name: free_port() for name in PORTS} if any(serves) else surroundings.ports
    environ = surroundings.environ | {name: str(port) for name, port in ports.items()}
    script = []
    for (command, _), setting in zip(commands, serves, strict=True):
        script.append(surroundings.here(command, ports))
        if setting:
            answers = f"curl -qs -o answer http://127.0.0.1:{ports[setting]}/"
            script[-1] = (
                f"{script[-1].removesuffix('&')} &\nuntil {answers}; do kill -0 $!; sleep 0.2; done"
            )
    done = finished(
        ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(script)], surroundings, environ
    )
    shown = [line for _, lines in commands for line in lines]
    pattern = ".*".join(re.escape(line).replace(r"\.\.\.", ".*") for line in shown)
    assert re.search(pattern, done, re.DOTALL), done


def served(command: str) -> str:
    """The setting of the port where a command will serve, or an empty string."""
    command = command.removesuffix("&").strip()
    return next((SERVES[known] for known in SERVES if re.search(known, command)), "")


def finished(command: list[str], surroundings: Surroundings, environ: dict[str, str]) -> str:
    """What a command wrote, once it has ended well; what it left running is ended."""
    with TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=surroundings.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        assert code == 0, output.read()
        output.seek(0)
        return output.read()


def run_console(block: Block, surroundings: Surroundings) -> None:
    assert not any(command.startswith("#") for command, _ in block.commands), "only root can"
    if block.text != "$ make run\n":  # what all the others run against
        run_shell(block.commands, surroundings)


def run_python(block: Block, surroundings: Surroundings) -> None:
    tool = next(TOOLS[part] for part in TOOLS if part in block.text)
    python = tool_python(tool) if tool else sys.executable
    text = surroundings.here(block.text, surroundings.ports)
    assert finished([python, "-c", text], surroundings, surroundings.environ)


def run_typescript(block: Block, surroundings: Surroundings) -> None:
    """By the project's own Node, which leaves types out by itself."""
    program = surroundings.folder / "snippet.mts"
    program.write_text(surroundings.here(block.text, surroundings.ports))
    node = node_tool("@mistralai/mistralai", "package.json")[0]
    assert "SUCCESS" in finished([node, str(program)], surroundings, surroundings.environ)


def read_settings(text: str) -> None:
    names = [line.partition("=")[0] for line in text.splitlines()]
    assert names and {*names} <= SETTINGS


def read_text(text: str) -> None:
    """What people read: an answer, a picture, words of an agent. No command hides in it."""
    assert not re.search(r"^[$#] ", text, re.MULTILINE)


RUN: dict[str, Callable[[Block, Surroundings], None]] = {
    "console": run_console,
    "sh": run_console,
    "python": run_python,
    "typescript": run_typescript,
}
READ: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "ini": read_settings,
    "text": read_text,
    "python": lambda text: compile(text, "snippet", "exec"),
}


def of(languages: dict[str, Any], chosen: Callable[[Block], bool] = lambda _: True) -> Any:
    found = [block for block in BLOCKS if block.language in languages and chosen(block)]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.name)


@of(RUN, lambda block: not block.reason)
def test_a_block_runs_as_it_is_printed(block: Block, surroundings: Surroundings) -> None:
    RUN[block.language](block, surroundings)


@of(READ)
def test_a_block_can_be_read(block: Block) -> None:
    READ[block.language](block.text)


def test_every_block_is_run_or_read_or_says_why_not() -> None:
    known = {*RUN, *READ}
    assert [
        block.name for block in BLOCKS if block.language not in known and not block.reason
    ] == []


def test_every_reason_is_that_of_a_block() -> None:
    assert [part for part in NOT_RUN if not any(part in block.text for block in BLOCKS)] == []


SECTION = re.search(r"^## Running it\n(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
assert SECTION
RUNNING = re.findall(r"`((?:\.venv/bin/|python |gunicorn )[^`]*)`", SECTION[1])


@pytest.mark.parametrize("command", RUNNING)
def test_a_command_of_running_it_works_in_a_fresh_shell(
    command: str, surroundings: Surroundings
) -> None:
    run_shell([(command, [])], surroundings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_command_in_a_sentence_can_be_pasted(document: Path) -> None:
    """The name of a command alone, as in a table of settings, is `python -m service token`; whoever runs it needs its path."""
    ours = r"`((?:\w+=\S+ )*(?:gunicorn (?:wsgi|-c)|python -m (?:service|mcp_bridge|sandbox|stack|openapi|bench)\b)[^`]*)`"
    text = re.sub(r"<!-- table: settings -->.*?<!-- end -->", "", document.read_text(), flags=re.S)
    assert re.findall(ours, text) == []
