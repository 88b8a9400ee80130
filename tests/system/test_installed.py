"""The wheel, installed in a fresh environment outside this folder: every command works from it, in a folder that knows nothing of the project.

That folder has modules named as ours and as those that ours import, as somebody's own project may; what is installed is not written to.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from openapi.contract import load
from tests.support.processes import (
    ROOT,
    Process,
    environment,
    free_port,
    stop,
    wait_for_line,
    wait_until,
)
from tests.support.tools_available import tool_python

PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
TOOLS = sorted(operation.tool.name for operation in load().operations.values() if operation.tool)
KEY = "sk-CANARY-0123456789"


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder where its commands run."""

    environment: Path
    folder: Path

    def command(self, *words: str, name: str = "mistral-batch-gateway") -> list[str]:
        """The words of a command."""
        return [str(self.environment / "bin" / name), *words]

    def environ(self, **settings: object) -> dict[str, str]:
        """What a shell of somebody's has, and these settings."""
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            **{name: str(value) for name, value in settings.items()},
        }

    def start(self, *words: str, **settings: object) -> Process:
        """A process that runs on, its output readable."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environ(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *words: str, name: str = "mistral-batch-gateway", **settings: object
    ) -> subprocess.CompletedProcess[str]:
        """A command that has ended."""
        return subprocess.run(
            self.command(*words, name=name),
            cwd=self.folder,
            env=self.environ(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> dict[str, int]:
        """All that is in the environment and the folder, with when each was changed; but what Python compiles of others' modules."""
        kept = [
            *(
                path
                for path in self.environment.glob("lib/**/*")
                if not path.is_symlink() and path.parts[-2:-1] != ("__pycache__",)
            ),
            *(path for path in self.folder.glob("**/*") if ".run" not in path.parts),
        ]
        return {str(path): path.stat().st_mtime_ns for path in kept if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [tool_python("hatchling"), "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, env=environment(), check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The wheel by pip, and beside it what requirements.lock names, as it is installed here, but nothing else."""
    made = tmp_path_factory.mktemp("installed") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    packages = next(made.glob("lib/*/site-packages"))
    for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # another system's
        tops = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "/")}
        for top in tops - {"__pycache__"} - {path.name for path in packages.iterdir()}:
            (packages / top).symlink_to(Path(str(found.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python"), "-q", "install"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True)
    folder = tmp_path_factory.mktemp("somebody")
    others = ("environment.py", "wsgi.py", "gunicorn.conf.py", "connexion.py", "uvicorn.py")
    for name in (*PACKAGES, *others):
        path = folder / name / "__init__.py" if name in PACKAGES else folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('a module of the folder was taken for another')")
    here = Installed(made, folder)
    before = here.files()
    yield here
    assert here.files() == before


def test_the_wheel_has_the_packages_with_their_data_and_the_commands_and_nothing_else(
    wheel: Path,
) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        scripts = opened.read(next(each for each in names if each.endswith("entry_points.txt")))
    files = [name for name in names if ".dist-info/" not in name]
    ours = [path for package in PACKAGES for path in (ROOT / package).rglob("*.*")]
    ours = [path for path in ours if path.suffix in (".py", ".yaml", ".json", ".typed")]
    assert {str(path.relative_to(ROOT)) for path in ours} == {*files} - {"environment.py"}
    commands = re.findall(r"^([\w-]+) =", scripts.decode(), re.MULTILINE)
    assert sorted(commands) == ["mistral-batch", "mistral-batch-gateway"]


@pytest.fixture(scope="module")
def stack(installed: Installed) -> Iterator[dict[str, int]]:
    """`run`, with its ports, once it has shown the results of a sample job; its settings are partly in the folder's .env."""
    ports = {f"{prefix}_PORT": free_port() for prefix in ("GATEWAY", "BRIDGE", "SANDBOX")}
    (installed.folder / ".env").write_text("SANDBOX_SPEED=1000\nWEB_CONCURRENCY=1\n")
    process, output = installed.start("run", **ports), list[str]()
    try:
        wait_for_line(process, re.compile("(Serving); Ctrl-C"), output)
        yield ports
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        stop(process)
        (installed.folder / ".env").unlink()
    said = "".join(output)
    assert "from .env: SANDBOX_SPEED, WEB_CONCURRENCY" in said
    assert "8 succeeded" in said and "Stopped." in said


def test_run_has_everything_answer_and_leaves_nothing_in_the_folder(
    installed: Installed, stack: dict[str, int]
) -> None:
    alive = installed.run("healthcheck", "--ready", GATEWAY_PORT=stack["GATEWAY_PORT"])
    assert json.loads(alive.stdout)["status"] == "ok"
    assert not (installed.folder / ".run").exists()


@pytest.mark.anyio
async def test_an_mcp_client_lists_and_calls_tools_over_stdio(
    installed: Installed, stack: dict[str, int], tmp_path: Path
) -> None:
    command, *words = installed.command("mcp", "--stdio")
    environ = installed.environ(BRIDGE_REST_URL=f"http://127.0.0.1:{stack['GATEWAY_PORT']}")
    server = StdioServerParameters(command=command, args=words, env=environ, cwd=installed.folder)
    async with Client(server) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == TOOLS
        found = await client.call_tool("list-batch-jobs", {"page_size": 3})
    assert not found.is_error and found.structured_content


def test_a_table_is_carried_out_and_joined_by_mistral_batch(
    installed: Installed, stack: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("n\n7\n8\n")
    asked = ["--prompt", "Is {n} prime?", "--model", "mistral-small-latest", "--yes"]
    done = installed.run(
        *("run", str(tmp_path / "rows.csv"), *asked),
        name="mistral-batch",
        MISTRAL_BATCH_URL=f"http://127.0.0.1:{stack['GATEWAY_PORT']}",
        MISTRAL_BATCH_HOME=tmp_path / "home",
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["n"] for row in rows] == ["7", "8"] and all(row["answer"] for row in rows)


SERVING = {
    "serve": (r"serving REST at (http://\S+),", "GATEWAY_PORT"),
    "mcp": (r"serving MCP at (http://[^/]+/mcp)", "BRIDGE_PORT"),
    "sandbox": (r"ready on (http://\S+)", "SANDBOX_PORT"),
}


@pytest.mark.parametrize("command", SERVING)
def test_a_program_serves_by_its_own_name_until_sigterm(command: str, installed: Installed) -> None:
    line, port = SERVING[command]
    settings = {port: free_port(), "MISTRAL_AI_API_KEY": KEY, "WEB_CONCURRENCY": 2}
    process, output = installed.start(command, **settings), list[str]()
    try:
        url = wait_for_line(process, re.compile(line), output)
        assert str(settings[port]) in url
        if command == "serve":
            healthy = installed.run("healthcheck", GATEWAY_PORT=settings[port])
            assert healthy.returncode == 0
            os.kill(process.pid, signal.SIGHUP)  # a reload finds all of it once more
            wait_until(lambda: sum("serving REST" in each for each in output) == 2)
    finally:
        assert stop(process) == 0
    assert "Traceback" not in "".join(output)


def test_the_operator_s_commands_work_there(installed: Installed, stack: dict[str, int]) -> None:
    assert "GATEWAY_STORE" in installed.run("config").stdout
    assert installed.run("token", "agent", "--scope", "jobs:read").stdout.startswith("mbg_")
    upstream = f"http://127.0.0.1:{stack['SANDBOX_PORT']}/v1"
    judged = installed.run("doctor", MISTRAL_AI_API_KEY=KEY, GATEWAY_UPSTREAM_URL=upstream)
    assert "Traceback" not in judged.stderr and KEY not in judged.stdout
    assert judged.returncode == 0, judged.stdout


def test_what_is_derived_from_the_installed_capabilities_is_what_is_installed(
    installed: Installed,
) -> None:
    assert installed.run("derive").stdout == (ROOT / "openapi" / "openapi.yaml").read_text()
