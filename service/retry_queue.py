"""Operations at which the store failed, repeated until it answers, on a thread that lives as long as there are some."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from .store import StoreUnavailable
from .threads import NoThread, start_thread

PAUSE = 1.0
"""Seconds between two tries."""

LIMIT = 1000
"""Operations that are kept; of more, the newest are given up."""

log = logging.getLogger("gateway.store")


class RetryQueue:
    """Operations in their order; each may be carried out twice. `patience`: seconds until one is given up.

    Thread-safe. They end with their process: what is left then must be safe to leave undone.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._operations: deque[tuple[float, Callable[[], object]]] = deque()
        self._lock = threading.Lock()

    def add(self, operation: Callable[[], object]) -> None:
        """Carries `operation` out soon, again and again until it raises no StoreUnavailable."""
        with self._lock:
            if len(self._operations) >= LIMIT:
                log.error("%d operations wait for the store already: one is given up", LIMIT)
                return
            self._operations.append((time.monotonic() + self.patience, operation))
            if len(self._operations) > 1:
                return  # they have their thread
            try:
                start_thread("store-retries", self._run)
            except NoThread as error:
                self._operations.clear()
                log.error("an operation that the store failed at is given up: %s", error.detail)

    def _run(self) -> None:
        while True:
            until, operation = self._operations[0]
            try:
                operation()
            except StoreUnavailable as error:
                if time.monotonic() < until:
                    time.sleep(PAUSE)
                    continue
                log.error("the store failed for too long, an operation is given up: %s", error)
            except Exception:  # a thread's outermost edge: the others are carried out all the same
                log.exception("an operation that the store failed at is given up")
            with self._lock:
                self._operations.popleft()
                if not self._operations:
                    return
