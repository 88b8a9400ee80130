"""The worker processes of gateways. Not a test module."""

from __future__ import annotations

import os
import signal

from tests.support.processes import children
from tests.system.gateway import Gateway


def workers(gateway: Gateway) -> list[int]:
    """The process ids of a gateway's workers: the children of the gunicorn that was started."""
    return children(gateway.process.pid)


def kill_workers(gateway: Gateway) -> None:
    """Ends all workers at once, without a warning; gunicorn starts new ones."""
    for pid in workers(gateway):
        os.kill(pid, signal.SIGKILL)
