"""The gateway's gunicorn configuration with the garbage collector off, to see what it does to the tail."""

from __future__ import annotations

import gc
from runpy import run_path
from typing import Any

from bench.machine import ROOT

_collected = run_path(str(ROOT / "gunicorn.conf.py"))
globals().update({name: value for name, value in _collected.items() if not name.startswith("__")})


def post_fork(server: Any, worker: Any) -> None:
    """In each worker."""
    _collected["post_fork"](server, worker)
    gc.disable()
