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
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".tools" / "gateway" / "bin" / "python"
"""What runs the gateway and the bridge: an environment of requirements.lock alone, as an operator installs it."""

PEERS = ROOT / ".tools" / "peers" / "bin" / "python"
LITELLM_BIN = ROOT / ".tools" / "litellm" / "bin"

CPUS = sorted(os.sched_getaffinity(0))
"""Those that this process may use."""

SERVED_BY = CPUS[0]
"""The CPU that a measured server with one worker has to itself."""

LOADED_BY = CPUS[-1]
"""The CPU of everything else: load, fake upstream, this process."""

_PACKAGES = """
connexion flask werkzeug gunicorn gunicorn_h1c requests urllib3 jsonschema-rs msgspec mcp uvicorn
httpx2 fastapi starlette pydantic httpx aiohttp uvloop httptools fastmcp litellm
"""


def missing() -> list[str]:
    """What the benchmark needs and does not find, each with where to get it."""
    absent = [
        f"{tool} (Debian: apt install {tool})"
        for tool in ("wrk", "nginx")
        if not shutil.which(tool)
    ]
    absent += [
        f"{each.parent.parent} (make bench installs it)"
        for each in (PYTHON, PEERS)
        if not each.exists()
    ]
    return absent


def description() -> dict[str, Any]:
    """Machine and versions, for the results."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.+)", cpuinfo)
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(CPUS),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "nginx": _version(["nginx", "-v"], r"nginx/([\d.]+)"),
        "wrk": _version(["wrk", "-v"], r"wrk \S*?/?(\d[\w.]*)"),
        "gateway": _packages(PYTHON),
        "peers": _packages(PEERS),
        "litellm": _packages(LITELLM_BIN / "python"),
    }


def _version(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else ""


def _packages(python: Path) -> dict[str, str]:
    """The installed versions of what matters; empty when there is no such environment."""
    folders = [str(folder) for folder in python.parents[1].glob("lib/*/site-packages")]
    versions = {each.name.lower(): each.version for each in distributions(path=folders)}
    return {name: versions[name] for name in _PACKAGES.split() if name in versions}
