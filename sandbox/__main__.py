"""Serves the sandbox: `python -m sandbox`.

One gunicorn worker, since the state is in memory, with many threads. It stops at once, whatever
hangs: there is nothing to save.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from access.listen import check_free, in_brackets
from environment import SettingsError, dotenv_note
from sandbox import demo
from sandbox.admin import BANNER
from sandbox.app import create_app
from sandbox.config import Settings


def main(arguments: list[str] | None = None, prog: str = "python -m sandbox") -> int:
    """Serves until told to stop; 2 on settings that cannot be used. `prog` is what people typed."""
    argparse.ArgumentParser(
        prog=prog, description="Serves the sandbox. docs/sandbox.md has its settings."
    ).parse_args(arguments)
    try:
        settings = Settings.from_env()
        check_free(settings.host, settings.port, prefix="SANDBOX_")
    except SettingsError as error:
        print(f"sandbox: cannot start: {error}", file=sys.stderr)
        return 2
    if note := dotenv_note():
        print(f"sandbox: {note}", file=sys.stderr)
    Server(settings).run()
    return 0


class Server(BaseApplication):  # type: ignore[misc]
    """The sandbox under gunicorn, configured from the settings alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"{in_brackets(self.settings.host)}:{self.settings.port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self.settings.threads,
            "worker_connections": self.settings.threads * 4,
            "keepalive": 75,
            "timeout": 0,
            "graceful_timeout": 0,
            "limit_request_line": 0,
            "loglevel": "error",
            "control_socket_disable": True,
            "post_worker_init": _announce,
            "worker_exit": lambda _server, _worker: os._exit(0),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        app = create_app(self.settings)
        if self.settings.demo:
            demo.load(app.extensions["sandbox"])
        return app


def _announce(worker: Any) -> None:
    """Says that requests are answered from now on, and where."""
    host, port = worker.sockets[0].getsockname()[:2]
    seed = worker.wsgi.extensions["sandbox"].seed
    ready = f"ready on http://{in_brackets(host)}:{port} (SANDBOX_SEED={seed} repeats it)"
    with suppress(BrokenPipeError):  # who has read enough (`| head -1`) is served all the same
        print(f"sandbox: {BANNER}\nsandbox: {ready}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
