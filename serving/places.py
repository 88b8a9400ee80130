"""Places for those that wait, of which nobody who is known by name takes all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Places:
    """So many places. A caller with a name has half of them at most; those without one are not told apart, and have all."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.share = max(1, count // 2)
        self.taken: Counter[str] = Counter()

    def all_taken(self) -> bool:
        """True when there is none for anybody."""
        return self.taken.total() >= self.count

    def share_taken(self, caller: str) -> bool:
        """True when there is no more for `caller`."""
        return bool(caller) and self.taken[caller] >= self.share

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """One place, taken while the context lasts."""
        self.taken[caller] += 1
        try:
            yield
        finally:
            self.taken[caller] -= 1
            if not self.taken[caller]:
                del self.taken[caller]
