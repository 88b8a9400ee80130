"""Whether a run of tests ends when it has told its summary: `python -m tests.support.endings`.

Runs the tests that use an optional tool, for each tool, once as this machine is and once as if it had not got the tool, and prints
for both what they came to and how long after its summary the process ended. Exits with 1 when one took longer than
`LIMIT` seconds, or failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.processes import ROOT

LIMIT = 10.0
"""Seconds from the summary to the end of the process."""

_USES = re.compile(r"""needed\(\s*"([\w-]+)\"""")
_SUMMARY = re.compile(r"^(?=.*\d+ (?:passed|skipped|failed|error)).* in [\d.]+s")


def users() -> dict[str, list[str]]:
    """Each optional tool with the test modules that call for it, themselves or through what they import."""
    texts = {file: file.read_text() for file in sorted((ROOT / "tests").rglob("*.py"))}
    found: dict[str, list[str]] = {}
    for tool in sorted({tool for text in texts.values() for tool in _USES.findall(text)}):
        files = {file for file, text in texts.items() if tool in _USES.findall(text)}
        while more := {
            file
            for file, text in texts.items()
            if file not in files and any(_dotted(used) in text for used in files)
        }:
            files |= more
        found[tool] = [
            str(file.relative_to(ROOT)) for file in sorted(files) if file.name.startswith("test_")
        ]
    return found


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def path_without(tool: str, folder: Path) -> str:
    """A search path on which every command is found but `tool`; its links are made in `folder`."""
    for entry in reversed(os.environ["PATH"].split(os.pathsep)):
        for command in Path(entry).glob("*"):
            link = folder / command.name
            if command.name != tool and os.access(command, os.X_OK):
                link.unlink(missing_ok=True)
                link.symlink_to(command)
    return str(folder)


def run(modules: list[str], path: str) -> tuple[str, float, int]:
    """The summary of a run of the tests in `modules`, the seconds from it to the end, and the exit status."""
    environ = {name: value for name, value in os.environ.items() if name != "CI"} | {"PATH": path}
    summary, told = "no summary", time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *modules],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if _SUMMARY.search(line):
                summary, told = line.strip(), time.monotonic()
    return summary, time.monotonic() - told, process.returncode


def main() -> int:
    """A line for each tool and run; 1 when one did not end in time or failed."""
    bad = 0
    for tool, modules in users().items():
        with TemporaryDirectory() as folder:
            paths = {"with": os.environ["PATH"], "without": path_without(tool, Path(folder))}
            if not shutil.which(tool):
                del paths["with"]
            for word, path in paths.items():
                summary, seconds, status = run(modules, path)
                bad |= seconds > LIMIT or status != 0
                print(f"{word:8}{tool:18}{seconds:6.1f} s  {summary}", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
