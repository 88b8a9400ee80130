"""The limit of a request's time: made once when it is handed to a thread, then handed down to whoever spends of it."""

from __future__ import annotations

import time


class Deadline:
    """`seconds` from now, by a clock that nobody sets."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; 0 afterwards."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """True from then on."""
        return time.monotonic() >= self._end

    def before(self, seconds: float) -> Deadline:
        """The one that is so many seconds earlier."""
        return Deadline(self.left() - seconds)
