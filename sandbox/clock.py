"""The sandbox's clock: job seconds, which run at a factor of real time and can be advanced.

Everything that lasts (queueing, running, timeouts, retention) is measured in job seconds; what
clients see as timestamps is real time, so that `created_after` means what they expect.
"""

from __future__ import annotations

import time


class Clock:
    """Job seconds since the start. With speed 0 time stands still except for `advance`."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._started = time.time()
        self._monotonic = time.monotonic()
        self._advanced = 0.0

    def now(self) -> float:
        """Job seconds since the clock was made."""
        return (time.monotonic() - self._monotonic) * self.speed + self._advanced

    def wall(self, tick: float) -> float:
        """The Unix time, in real seconds, at which a job second falls."""
        return self._started + tick / self._scale

    def tick(self, wall: float) -> float:
        """The job second at a Unix time: the inverse of `wall`."""
        return (wall - self._started) * self._scale

    def advance(self, seconds: float) -> None:
        """Move the clock forward by job seconds."""
        self._advanced += seconds

    @property
    def _scale(self) -> float:
        return self.speed or 1.0
