"""The gateway's gunicorn configuration with the garbage collector off, to see what it does to the tail."""

from __future__ import annotations

import gc
from runpy import run_path
from typing import Any

from bench.machine import ROOT

globals().update(
    {n: v for n, v in run_path(str(ROOT / "gunicorn.conf.py")).items() if not n.startswith("__")}
)


def post_fork(server: Any, worker: Any) -> None:
    """In each worker."""
    gc.disable()
