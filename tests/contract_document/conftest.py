"""The committed document, read as both processes read it: every `$ref` in place."""

from __future__ import annotations

from typing import Any

import pytest

from openapi import contract


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    return contract.load().document
