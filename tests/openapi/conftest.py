"""Invented capability files that together use every construct that is read."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openapi.capability import read
from openapi.contract import Contract, load
from openapi.derive import OWN_CAPABILITY, derive, render

CAPABILITIES = Path(__file__).with_name("capabilities")
FAMILY = sorted(path for path in CAPABILITIES.glob("*.yaml") if path.name != "calls.yaml")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`family` is each invented capability; `every_capability` is these and the project's own."""
    for name, files in (("family", FAMILY), ("every_capability", [*FAMILY, OWN_CAPABILITY])):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, files, ids=lambda path: path.stem)


@functools.cache
def derived_once(capability: Path) -> dict[str, Any]:
    return derive(read(capability))


@pytest.fixture
def derived() -> Callable[[str], dict[str, Any]]:
    """The document derived from the capability of that name."""
    return lambda name: copy.deepcopy(derived_once(CAPABILITIES / f"{name}.yaml"))


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Contract]:
    """The contract that both processes would run on for that capability file."""

    @functools.cache
    def load_derived(capability: Path) -> Contract:
        document = tmp_path_factory.mktemp(capability.stem) / "openapi.yaml"
        document.write_text(render(derived_once(capability), "a test"), encoding="utf-8")
        return load(document)

    return load_derived


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The committed document, read as both processes read it: every `$ref` in place."""
    return load().document
