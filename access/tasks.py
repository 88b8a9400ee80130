"""Tasks of the event loop that several requests wait for."""

from __future__ import annotations

import asyncio


def under_way(task: asyncio.Task[None] | None) -> asyncio.Task[None] | None:
    """`task` while it can be waited for: until it has ended, or its loop has."""
    if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
        return None
    return task
