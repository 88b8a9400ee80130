"""How gunicorn serves the bridge with several workers: `gunicorn -c python:mcp_bridge.workers`."""

from mcp_bridge.config import Settings, log_to_stderr
from telemetry.workers import Log

_settings = Settings.from_env()
log_to_stderr(_settings)

wsgi_app = "mcp_bridge.app:create_app()"
bind = f"{_settings.host}:{_settings.port}"  # how many workers: WEB_CONCURRENCY, read by gunicorn
worker_class = "asgi"
asgi_loop = "asyncio"
graceful_timeout = int(_settings.timeout) + 5  # calls in flight reach their own limit
control_socket_disable = True
logger_class = Log
loglevel = "warning"
