"""Where it runs: the machine, its CPUs and how they are shared out, the versions of what is measured."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".tools" / "gateway" / "bin" / "python"
"""What runs the gateway and the bridge: an environment of requirements.lock alone, as an operator installs it."""

PEERS = ROOT / ".tools" / "peers" / "bin" / "python"
LITELLM = ROOT / ".tools" / "litellm" / "bin" / "litellm"

CPUS = sorted(os.sched_getaffinity(0))
"""Those that this process may use."""

SERVED_BY = CPUS[0]
"""The CPU that a measured server with one worker has to itself."""

LOADED_BY = CPUS[-1]
"""The CPU of everything else: load, fake upstream, this process."""

_PACKAGES = {
    PYTHON: "connexion flask requests gunicorn mcp",
    PEERS: "fastapi httpx aiohttp starlette uvicorn fastmcp",
    LITELLM: "litellm",
}
"""Which versions are reported, by a program of the environment that has them."""


def missing() -> list[str]:
    """What the benchmark needs and does not find, each with where to get it."""
    tools = [each for each in ("wrk", "nginx") if not shutil.which(each)]
    environments = [each.parents[1] for each in (PYTHON, PEERS) if not each.exists()]
    return [
        *(f"{each} (Debian: apt install {each})" for each in tools),
        *(f"{each} (make bench installs it)" for each in environments),
    ]


def description() -> str:
    """Machine and versions, in two sentences."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.+)", cpuinfo)
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    versions = []
    for program, names in _PACKAGES.items():
        folders = [str(folder) for folder in program.parents[1].glob("lib/*/site-packages")]
        found = {each.name.lower(): each.version for each in distributions(path=folders)}
        versions += [f"{name} {found[name]}" for name in names.split() if name in found]
    for tool in ("nginx", "wrk"):
        done = subprocess.run([tool, "-v"], capture_output=True, text=True, check=False)
        number = re.search(r"\d[\d.]+", done.stdout + done.stderr)
        versions.append(f"{tool} {number[0]}" if number else tool)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}, on {len(CPUS)} CPUs ({model[1] if model else platform.machine()}),"
        f" {memory} GiB, {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f} before it began.\n"
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )
