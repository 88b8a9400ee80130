"""How gunicorn serves the bridge with several workers: `gunicorn -c python:mcp_bridge.gunicorn_conf`."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from access.listen import in_brackets
from environment import SettingsError
from mcp_bridge.config import Settings, log_to_stderr
from mcp_bridge.edge import admission
from mcp_bridge.messages import PATH
from openapi.contract import ContractError
from serving import gunicorn_start, raise_descriptors
from serving.gunicorn_worker import Log

try:
    _settings = Settings.from_env()
    log_to_stderr(_settings)
    admission(_settings)
except (SettingsError, ContractError) as error:
    print(f"mcp_bridge: cannot start: {error}", file=sys.stderr)
    sys.exit(2)

raise_descriptors()

wsgi_app = "mcp_bridge.app:create_served_app()"
bind = f"{in_brackets(_settings.host)}:{_settings.port}"  # how many workers: WEB_CONCURRENCY, read by gunicorn
worker_class = "serving.gunicorn_worker.Worker"
asgi_loop = "asyncio"
graceful_timeout = int(_settings.timeout) + 5  # calls in flight reach their own limit
control_socket_disable = True
logger_class = Log
loglevel = "warning"


def on_starting(server: Any) -> None:
    """Refuses an address that cannot be had."""
    _or_exit(gunicorn_start.check_addresses, server, prefix="BRIDGE_")


def when_ready(server: Any) -> None:
    """Refuses an address of --bind or of a socket handed over, as that of the settings before."""
    protected = _settings.protected
    _or_exit(gunicorn_start.check_listeners, server, protected=protected, prefix="BRIDGE_")


def pre_fork(server: Any, worker: Any) -> None:
    """Has one of the workers say that they serve."""
    gunicorn_start.choose_speaker(server, worker)


def post_worker_init(worker: Any) -> None:
    """Says that it serves, and where."""
    gunicorn_start.announce(worker, logging.getLogger("mcp_bridge"), "MCP", PATH)


def _or_exit(check: Callable[..., None], *arguments: Any, **named: Any) -> None:
    try:
        check(*arguments, **named)
    except SettingsError as error:
        print(f"mcp_bridge: cannot start: {error}", file=sys.stderr)
        sys.exit(2)
