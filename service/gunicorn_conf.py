"""How gunicorn serves the REST service: `gunicorn -c python:service.gunicorn_conf`, and by `gunicorn.conf.py` any that is started in this folder.

Facts behind the choices: docs/adr/0003-serving.md.
"""

import gc
import logging
import os
from typing import Any

from access.listen import in_brackets
from environment import SettingsError
from service.config import refuse_start, settings_or_exit
from serving import gunicorn_start, raise_descriptors
from serving.gunicorn_worker import Log
from telemetry import metrics

settings = settings_or_exit()
raise_descriptors()

wsgi_app = "service.wsgi:app"
bind = f"{in_brackets(settings.host)}:{settings.port}"
workers = settings.workers or os.cpu_count() or 1
worker_class = "serving.gunicorn_worker.Worker"
asgi_loop = "asyncio"  # uvloop starves connections for seconds at saturation
preload_app = True  # workers share the memory of what is loaded once
control_socket_disable = True

backlog = 2048
keepalive = 75
timeout = 60  # without a sign of life from a worker's event loop
graceful_timeout = int(settings.timeout) + 10
# A client that left needs no answer; safe calls are abandoned upstream.
asgi_disconnect_grace_period = 0

limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190

logger_class = Log
accesslog = None
loglevel = "warning"


def on_starting(server: Any) -> None:
    """Makes the memory in which workers count: a reload has old and new ones, and an operator may add some."""
    try:
        gunicorn_start.check_addresses(server, "GATEWAY_")
    except SettingsError as error:
        refuse_start(str(error))
    metrics.make_slots(max(16, 4 * server.num_workers))


def when_ready(server: Any) -> None:
    """Refuses an address of --bind or of a socket that was handed over, as the settings' own was refused before."""
    try:
        gunicorn_start.check_listeners(server, protected=settings.protected, prefix="GATEWAY_")
    except SettingsError as error:
        refuse_start(str(error))


def pre_fork(server: Any, worker: Any) -> None:
    """Keeps the garbage collector away from what every worker shares, and gives the new one what it needs to know."""
    gunicorn_start.choose_speaker(server, worker)
    worker.root = settings.root_path
    worker.slot = metrics.free_slot({other.slot for other in server.WORKERS.values()})
    gc.freeze()


def post_fork(server: Any, worker: Any) -> None:
    """Collects less often: requests make few cycles, and each collection is a pause that some request waits for."""
    metrics.use_slot(worker.slot)
    gc.set_threshold(20_000, 20, 50)


def post_worker_init(worker: Any) -> None:
    """Says that it serves, and where."""
    gunicorn_start.announce(worker, logging.getLogger("gateway.start"), "REST")


def child_exit(server: Any, worker: Any) -> None:
    """Takes a worker that ended out of the gauges."""
    metrics.clear_gauges(worker.slot)
