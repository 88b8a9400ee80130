"""The command `python -m mcp_bridge.settings`: shows the settings that `config` has, each with its value and where it comes from.

No secret is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import environment
from mcp_bridge.config import Settings


def table(environ: Mapping[str, str] | None = None) -> str:
    """A line for each setting."""
    return environment.table(environment.report(Settings, environ))


def main() -> int:
    """Prints them."""
    print(table())
    if note := environment.dotenv_note():
        print(f"# {note}")
    return 0


if __name__ == "__main__":
    sys.exit(environment.run_command(main))
