"""What `make lint` checks the document with: rules that say why they are off, and a checker that is pinned without a registry's address."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "tools"


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
