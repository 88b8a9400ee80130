"""gunicorn's part: what the master prepares and clears away for its workers, for use in a configuration file.

Metrics are shared through a directory of small memory-mapped files. prometheus-client learns of it from the environment,
when it is first imported, so this module imports it late.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from . import METRICS_DIRECTORY

_MEMORY = Path("/dev/shm")  # noqa: S108 - only a place for mkdtemp, which makes a private directory
_PREFIX = "gateway-metrics-"

_shared: list[Path] = []


def share_metrics() -> None:
    """Makes this master's directory for metrics, once: a new one even when an old master handed down its own."""
    if _shared:
        return  # the configuration is read again
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _clear_leftovers(place)
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
    _shared.append(directory)
    atexit.register(_clear, directory, os.getpid())
    os.environ[METRICS_DIRECTORY] = str(directory)  # noqa: TID251 - the library's only way in


def forget_worker(pid: int) -> None:
    """Takes a dead worker out of the gauges; what it counted stays counted."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _clear(directory: Path, master: int) -> None:
    if os.getpid() == master:
        shutil.rmtree(directory, ignore_errors=True)


def _clear_leftovers(place: Path) -> None:
    """Removes what masters left that were killed: their process ids, which are in the names, are gone or this one's."""
    for directory in place.glob(f"{_PREFIX}*"):
        master = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if master == str(os.getpid()) or not Path("/proc", master).exists():
            shutil.rmtree(directory, ignore_errors=True)


class Log(Logger):  # type: ignore[misc]
    """gunicorn's own lines, as this process writes all others."""

    def setup(self, cfg: Any) -> None:
        """Takes gunicorn's handlers away again."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logging.getLogger("gunicorn").setLevel(logging.NOTSET)
