"""gunicorn's part: the metrics of its workers, and its own log lines; for use in a configuration file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers import base  # type: ignore[import-untyped]
from gunicorn.workers.workertmp import WorkerTmp  # type: ignore[import-untyped]

from . import metrics


def share_metrics(workers: int) -> None:
    """Makes memory for the metrics of `workers`, four times over: a reload has old and new ones, and an operator may add some."""
    metrics.make_slots(max(16, 4 * workers))


def place_worker(worker: Any, others: Iterable[Any]) -> None:
    """Gives a worker that is about to be forked memory for its metrics that none of the `others`, which live, has."""
    worker.slot = metrics.free_slot({other.slot for other in others})


def enter_worker(worker: Any) -> None:
    """Has this process, the worker, count in its own memory."""
    metrics.use_slot(worker.slot)


def forget_worker(worker: Any) -> None:
    """Takes a dead worker out of the gauges; what it counted stays counted."""
    metrics.clear_gauges(worker.slot)


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """Where a worker gives its sign of life: memory, where the stock one is a file in the folder for temporary files.

    When there is no room for that file, gunicorn 27.0.1 does not start, and ends with all workers when one is replaced.
    """

    def __init__(self, cfg: Any) -> None:
        memory = os.memfd_create("heartbeat")
        os.fchown(memory, cfg.uid, cfg.gid)  # only its owner may set its times
        self._tmp = os.fdopen(memory, "w+b", 0)


if hasattr(os, "memfd_create"):  # on Linux
    base.WorkerTmp = Heartbeat


class Log(Logger):  # type: ignore[misc]
    """gunicorn's own lines, as this process writes all others."""

    def setup(self, cfg: Any) -> None:
        """Takes gunicorn's handlers away again."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logging.getLogger("gunicorn").setLevel(logging.NOTSET)
