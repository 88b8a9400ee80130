"""How gunicorn serves the bridge with several workers: `gunicorn -c python:mcp_bridge.gunicorn_conf`."""

import sys

from access.listen import check_sockets, in_brackets
from environment import SettingsError
from mcp_bridge.config import Settings, log_to_stderr
from mcp_bridge.edge import admission
from openapi.contract import ContractError
from serving.gunicorn_worker import Log

try:
    _settings = Settings.from_env()
    log_to_stderr(_settings)
    admission(_settings)
except (SettingsError, ContractError) as error:
    print(f"mcp_bridge: cannot start: {error}", file=sys.stderr)
    sys.exit(2)

wsgi_app = "mcp_bridge.app:create_served_app()"
bind = f"{in_brackets(_settings.host)}:{_settings.port}"  # how many workers: WEB_CONCURRENCY, read by gunicorn
worker_class = "serving.gunicorn_worker.Worker"
asgi_loop = "asyncio"
graceful_timeout = int(_settings.timeout) + 5  # calls in flight reach their own limit
control_socket_disable = True
logger_class = Log
loglevel = "warning"


def when_ready(server):  # type: ignore[no-untyped-def]
    """Refuses an address of --bind or of a socket handed over, as that of the settings before."""
    try:
        sockets = [listener.sock for listener in server.LISTENERS]
        check_sockets(sockets, protected=_settings.protected, prefix="BRIDGE_")
    except SettingsError as error:
        print(f"mcp_bridge: cannot start: {error}", file=sys.stderr)
        sys.exit(2)
