"""Memory that bodies may take in one process: reserved as they come, given back when nobody needs them."""

from __future__ import annotations

import asyncio
from typing import Any


class OutOfMemory(Exception):
    """What is under way leaves no memory for more."""


class MemoryBudget:
    """`limit` bytes in all, for one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0


class Reservation:
    """What one body takes of the budget, in bytes."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self.size = 0

    def resize(self, size: int) -> None:
        """Takes `size` bytes in all; OutOfMemory when there are no more."""
        if self.budget.reserved + size - self.size > self.budget.limit:
            raise OutOfMemory
        self.budget.reserved += size - self.size
        self.size = size

    def release(self, user: asyncio.Future[Any] | None = None) -> None:
        """Gives all of it back; while `user` of the body goes on, as that of a client that has left does, when it has ended."""
        if user and not user.done():
            user.add_done_callback(self._ended)
            return
        self.budget.reserved -= self.size
        self.size = 0

    def _ended(self, user: asyncio.Future[Any]) -> None:
        user.cancelled() or user.exception()  # nobody else may be there to be told of it
        self.release()
