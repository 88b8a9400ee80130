"""The document passes `.spectral.yaml`, and its checker is pinned without a registry's address."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.tools_available import needed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "tools"
SPECTRAL = TOOLS / "node_modules" / ".bin" / "spectral"


def test_spectral_finds_no_error_and_no_warning() -> None:
    needed(SPECTRAL)
    lint = subprocess.run(
        [
            SPECTRAL,
            "lint",
            "openapi/openapi.yaml",
            "--ruleset",
            ".spectral.yaml",
            "--fail-severity",
            "warn",
        ],
        cwd=ROOT,
        env={**os.environ, "SCARF_ANALYTICS": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_every_rule_that_is_off_says_why() -> None:
    blocks = (
        (ROOT / ".spectral.yaml").read_text(encoding="utf-8").split("rules:\n")[1].split("\n\n")
    )
    assert all(block.lstrip().startswith("# ") and ": off" in block for block in blocks)


def test_node_tools_are_pinned_by_version_and_hash_only() -> None:
    wanted = json.loads((TOOLS / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    packages = json.loads((TOOLS / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    locked = {name: package for name, package in packages.items() if name}
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in package and "resolved" not in package for package in locked.values())
