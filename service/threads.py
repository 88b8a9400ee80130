"""Starting threads, of which a system may have no more to give."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from .problems import Problem


class NoThread(Problem):
    """The system has no thread to give now; nothing was begun."""

    def __init__(self) -> None:
        super().__init__(
            "overloaded", "The system gives this process no thread.", headers=[("Retry-After", "1")]
        )


def start_thread(name: str, run: Callable[[], object]) -> Thread:
    """A daemon thread that has begun to `run`. Raises NoThread."""
    thread = Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThread from error
    return thread
