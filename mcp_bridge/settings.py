"""`python -m mcp_bridge.settings`: the bridge's settings, each with its value and where it comes from; no secret."""

from __future__ import annotations

import os
from collections.abc import Mapping

from access import shown
from mcp_bridge.config import Settings


def table(environ: Mapping[str, str] = os.environ) -> str:
    """A line for each setting."""
    return shown.table(shown.origins(Settings, environ))


if __name__ == "__main__":
    print(table())
