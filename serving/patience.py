"""How long a body may take to come, so that who sends slowly, or announces much and sends nothing, holds no memory for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

SECONDS = 20.0
"""Seconds that each PIECE of a body, and what is left after the last, may take to come."""

PIECE = 1_310_720
"""Bytes: 64 KiB for each of these seconds."""


@asynccontextmanager
async def patience() -> AsyncIterator[Callable[[int], None]]:
    """While a body is received: what this gives is told how many bytes of it are here; TimeoutError when it takes too long."""
    whole = 0  # bytes of the pieces that are here
    async with asyncio.timeout(SECONDS) as limit:

        def came(size: int) -> None:
            nonlocal whole
            if limit.expired():
                # Some ways of waiting let what comes in that instant swallow the cancellation (wait_for of Python 3.11).
                raise TimeoutError
            if size - whole >= PIECE:
                whole = size
                limit.reschedule(asyncio.get_running_loop().time() + SECONDS)

        yield came
