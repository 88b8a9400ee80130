"""Ending with the process that started this one, however that ends. Linux sees to it; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

END_WITH_PARENT = "--end-with-parent"
"""The argument by which `make` has the stack end with it."""

_PR_SET_PDEATHSIG = 1  # prctl(2), <linux/prctl.h>
_libc = ctypes.CDLL(None)


def end_with_parent(by: signal.Signals, parent: int | None = None) -> None:
    """Has this process get the signal `by` when its parent ends, also by SIGKILL, or at once when `parent` no longer is it.

    The parent is the thread that started it. What this process starts does not inherit it; what it executes does.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, by)
        if parent not in (None, os.getppid()):
            os.kill(os.getpid(), by)
