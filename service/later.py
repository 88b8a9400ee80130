"""What is owed to the store: operations that failed, repeated until the store answers, on a thread that lives as long."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from .store import StoreUnavailable

PAUSE = 1.0
"""Seconds between two tries."""

MOST = 1000
"""Operations that are kept; of more, the newest are given up."""

log = logging.getLogger("gateway.store")


class Later:
    """Operations on their way, in their order; each may be carried out twice. `patience`: seconds until one is given up.

    Thread-safe. They end with their process: what is owed then must be safe to leave undone.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._owed: deque[tuple[float, Callable[[], object]]] = deque()
        self._lock = threading.Lock()

    def add(self, operation: Callable[[], object]) -> None:
        """Carries `operation` out soon, again and again until it raises no StoreUnavailable."""
        with self._lock:
            if len(self._owed) >= MOST:
                log.error("%d operations wait for the store already: one is given up", MOST)
                return
            self._owed.append((time.monotonic() + self.patience, operation))
            if len(self._owed) > 1:
                return  # they have their thread
            try:
                threading.Thread(target=self._run, name="later", daemon=True).start()
            except RuntimeError as error:  # there are too many
                self._owed.clear()
                log.error("no thread to repeat what the store failed at, it is given up: %s", error)

    def _run(self) -> None:
        while True:
            until, operation = self._owed[0]
            try:
                operation()
            except StoreUnavailable as error:
                if time.monotonic() < until:
                    time.sleep(PAUSE)
                    continue
                log.error("the store failed for too long, an operation is given up: %s", error)
            except Exception:  # a thread's outermost edge: the others are owed all the same
                log.exception("an operation that the store owes is given up")
            with self._lock:
                self._owed.popleft()
                if not self._owed:
                    return
