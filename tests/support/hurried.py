"""An event loop on which hours take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Hurried(asyncio.SelectorEventLoop):
    """Its time is that of the next timer whenever there is nothing to do. Nothing on it may wait for a thread or another process."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def hurry(timeout: float | None) -> Any:
            assert timeout is not None, "nothing will ever happen"
            self.now += timeout
            return select(0)

        self._selector.select = hurry  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def run(test: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `test` returns on such a loop."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        return runner.run(test())
