"""gunicorn with the service's configuration, from whatever folder it is started in."""

from __future__ import annotations

import os
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]


class Server(WSGIApplication):  # type: ignore[misc]
    """Takes nothing from the command line; what GUNICORN_CMD_ARGS says comes before the configuration."""

    def init(self, parser: Any, opts: Any, args: Any) -> None:
        """Names the configuration, and with it the application."""
        opts.config = "python:service.gunicorn_conf"
        self.app_uri = None

    def chdir(self) -> None:
        """Leaves out what gunicorn does besides: a module that lies there would be imported in place of an installed one."""
        os.chdir(self.cfg.chdir)
