"""Where it runs: the machine, its CPUs and how they are shared out, the versions of what is measured."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".tools" / "gateway" / "bin" / "python"
"""What runs the gateway and the bridge: an environment of requirements.lock alone, as an operator installs it."""

PEERS = ROOT / ".tools" / "peers" / "bin" / "python"
LITELLM = ROOT / ".tools" / "litellm" / "bin"

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
_ASK = (
    "import importlib.metadata as m, json, sys\n"
    "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


def missing() -> list[str]:
    """What the benchmark needs and does not find, each with where to get it."""
    tools = {"wrk": "Debian: apt install wrk", "nginx": "Debian: apt install nginx"}
    faults = [f"{tool} ({remedy})" for tool, remedy in tools.items() if not shutil.which(tool)]
    faults += [
        f"{python.parent.parent} (make bench installs it)"
        for python in (PYTHON, PEERS)
        if not python.exists()
    ]
    return faults


def description() -> dict[str, Any]:
    """Machine and versions, for the results."""
    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cpus": len(CPUS),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
        "nginx": _said(["nginx", "-v"], r"nginx/([\d.]+)"),
        "wrk": _said(["wrk", "-v"], r"wrk \S*?/?(\d[\w.]*)"),
        "gateway": _versions(PYTHON),
        "peers": _versions(PEERS),
        "litellm": _versions(LITELLM / "python"),
    }


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.machine()


def _said(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else ""


def _versions(python: Path) -> dict[str, str]:
    """The installed versions of what matters; empty when there is no such environment."""
    if not python.exists():
        return {}
    done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in _PACKAGES.split() if name in found}
