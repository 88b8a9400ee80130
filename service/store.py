"""The store of idempotency keys, shared by all workers: its records, what can be done with them, and the choice of one.

`sqlite_store` is for the workers of one host, `redis_store` for several hosts. A store knows atomic operations on records and
nothing of what they mean; `idempotency` knows that. Every failure of a store is StoreUnavailable, and a failed operation may
be repeated; whether it may also have been carried out, the store says.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec

BUSY = 2.0
"""Seconds that an operation waits for others', or for the store's server."""


class StoreUnavailable(Exception):
    """The store cannot be read or written now; the message says why, without data."""


class Record(msgspec.Struct, kw_only=True):
    """What is known of one key. Times are seconds of the store's clock, which all processes and hosts share.

    `state` is claimed (its owner works on it until `lease_until`), unknown (sent, outcome not known) or done (with
    the answer). `owner` is another one after every change, so that a change that comes late, or twice, meets nothing that
    it could undo; `tag`, by which the call can be found, never changes.
    """

    id: str
    owner: str
    fingerprint: str
    tag: str
    state: str
    claimed_at: float
    lease_until: float
    expires: float
    status: int = 0
    content_type: str = ""
    body: bytes = b""


class Store(Protocol):
    """Atomic operations on records, safe across threads, processes and (Redis) hosts."""

    loses_answers: ClassVar[bool]
    """True when an operation that failed may have been carried out all the same, or still may be at any time."""

    def now(self) -> float:
        """Seconds of the clock that records are dated by."""

    def insert(self, record: Record) -> Record | None:
        """Stores `record` and returns None, or returns the unexpired record that already has its id."""

    def replace(self, record: Record, owner: str) -> bool:
        """Stores `record` in place of the one with its id if that is still `owner`'s; says whether it was."""

    def delete(self, record: Record) -> None:
        """Forgets the record with this id if it is still this owner's."""

    def check(self) -> None:
        """Stores a record of no call and forgets it; StoreUnavailable when that, and so a claim, is not possible now."""
        now, name = self.now(), uuid.uuid4().hex
        trial = Record(
            id=f"trial-{name}",
            owner=name,
            fingerprint="",
            tag="",
            state="claimed",
            claimed_at=now,
            lease_until=now,
            expires=now + BUSY,
        )
        self.insert(trial)
        self.delete(trial)


def is_redis(location: str) -> bool:
    """True for the URL of a Redis server."""
    return location.startswith(("redis://", "rediss://"))


def open_store(location: str) -> Store:
    """The store at `location`: a `redis://` (or `rediss://`) URL, otherwise the path of a SQLite file.

    Nothing is opened before it is needed. ValueError for a URL that cannot be read.
    """
    if is_redis(location):
        # Slow to import, and seldom needed.
        from .redis_store import RedisStore

        return RedisStore(location)
    from .sqlite_store import SQLiteStore

    return SQLiteStore(Path(location))
