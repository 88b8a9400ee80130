"""The command `python -m mcp_bridge.settings`: shows the settings that `config` has, each with its value and where it comes from.

No secret is shown.
"""

from __future__ import annotations

from collections.abc import Mapping

import environment
from mcp_bridge.config import Settings


def table(environ: Mapping[str, str] | None = None) -> str:
    """A line for each setting."""
    return environment.table(environment.report(Settings, environ))


if __name__ == "__main__":
    print(table())
