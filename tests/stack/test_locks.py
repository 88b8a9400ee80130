"""The lock files: every package by hash, and no word about where it came from."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from stack.config import PROJECT

LOCKS = [*PROJECT.glob("requirements*.lock"), *PROJECT.glob("tests/tools/*.lock")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_pinned_names_and_hashes_alone(lock):
    for requirement in lock.read_text().replace(" \\\n", " ").splitlines():
        pinned, *hashes = re.split(r"\s+--hash=", requirement)
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.!+]+( ; .+)?", pinned), requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)


def test_everything_that_the_project_asks_for_is_locked():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    for file, asked in (
        ("requirements.lock", project["project"]["dependencies"]),
        ("requirements-dev.lock", project["dependency-groups"]["dev"]),
        ("requirements-otel.lock", project["project"]["dependencies"]),
        ("requirements-otel.lock", project["project"]["optional-dependencies"]["otel"]),
    ):
        locked = set(re.findall(r"^([a-z0-9.-]+)==", (PROJECT / file).read_text(), re.M))
        assert {re.match(r"[\w.-]+", each)[0].lower() for each in asked} <= locked


def test_what_traces_need_is_locked_as_it_is_tested_and_beside_what_the_gateway_needs():
    runtime, tested, traced = (
        set(
            re.findall(
                r"^([a-z0-9.-]+==\S+)", (PROJECT / f"requirements{of}.lock").read_text(), re.M
            )
        )
        for of in ("", "-dev", "-otel")
    )
    assert runtime <= traced <= tested


def test_nothing_says_to_install_the_project_by_a_name_under_which_it_is_not_published():
    """Somebody else could publish another thing under it."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.yaml", "deploy", "Makefile"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    told = re.compile(r"(pip|pipx|uv|uvx)( \w+)* +['\"]?mistral-batch-gateway")
    assert not [name for name in listed if told.search((PROJECT / name).read_text())]
