"""gunicorn's part: what the master prepares and clears away for its workers, for use in a configuration file.

Metrics are shared through a directory of small memory-mapped files. prometheus-client learns of it from the environment,
when it is first imported, so this module imports it late.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from . import METRICS_DIRECTORY

_MEMORY = Path("/dev/shm")  # noqa: S108 - only a place for mkdtemp, which makes a private directory
_PREFIX = "gateway-metrics-"
_IN_USE = "in-use"
_YOUNG = 60.0  # seconds: it may not be locked yet

_shared: list[Path] = []


def share_metrics() -> None:
    """Makes this master's directory for metrics, once: a new one even when an old master handed down its own."""
    if _shared:
        return  # the configuration is read again
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _clear_leftovers(place)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    _lock(directory)  # held by the master and its workers for as long as one of them lives
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
    """Removes what masters left that were killed."""
    for directory in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or in use
            if time.time() - directory.stat().st_mtime > _YOUNG:
                os.close(_lock(directory))
                shutil.rmtree(directory)


def _lock(directory: Path) -> int:
    file = os.open(directory / _IN_USE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


class Log(Logger):  # type: ignore[misc]
    """gunicorn's own lines, as this process writes all others."""

    def setup(self, cfg: Any) -> None:
        """Takes gunicorn's handlers away again."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        logging.getLogger("gunicorn").setLevel(logging.NOTSET)
