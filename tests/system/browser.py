"""Swagger UI in headless Chromium, driven by browser.mjs. Not a test module."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.tools_available import needed, needed_package

SCRIPT = Path(__file__).with_suffix(".mjs")


def visited(url: str, *screenshot: Path) -> dict[str, Any]:
    """What a visit of /docs below `url` in Chromium saw; with a screenshot, operations were executed before it."""
    needed_package("playwright-core")
    node, chromium = needed("node", "install Node.js"), needed("chromium", "install Chromium")
    done = subprocess.run(
        [node, SCRIPT, url, chromium, *screenshot],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
