"""The store of idempotency keys, shared by all workers: a SQLite file on one host, Redis for several.

A store knows three atomic operations on records and nothing of what they mean; `idempotency` knows that. Every failure of
a store is StoreUnavailable.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import redis

SCHEMA_VERSION = 1
_BUSY = 2.0  # seconds that a write waits for another worker's


class StoreUnavailable(Exception):
    """The store cannot be read or written now; the message says why, without data."""


class Record(msgspec.Struct, kw_only=True):
    """What is known of one key. Times are wall-clock seconds, since processes and hosts share them.

    `state` is claimed (its owner works on it until `lease_until`), unknown (sent, outcome not known) or done (with
    the answer). `owner` changes with every hand that takes the record.
    """

    id: str
    owner: str
    fingerprint: str
    state: str
    claimed_at: float
    lease_until: float
    expires: float
    status: int = 0
    content_type: str = ""
    body: bytes = b""


class Store(Protocol):
    """Atomic operations on records, safe across threads, processes and (Redis) hosts."""

    def secret(self) -> bytes:
        """A secret of this store's own, made once: 32 bytes."""

    def insert(self, record: Record) -> Record | None:
        """Stores `record` and returns None, or returns the unexpired record that already has its id."""

    def replace(self, record: Record, owner: str) -> bool:
        """Stores `record` in place of the one with its id if that is still `owner`'s; says whether it was."""

    def delete(self, record: Record) -> None:
        """Forgets the record with this id if it is still this owner's."""


def open_store(location: str) -> Store:
    """The store at `location`: a `redis://` (or `rediss://`) URL, otherwise the path of a SQLite file."""
    return (
        RedisStore(location)
        if location.startswith(("redis://", "rediss://"))
        else SQLiteStore(Path(location))
    )


class SQLiteStore:
    """Records in a SQLite file in WAL mode, one connection a thread. The file is readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    def secret(self) -> bytes:
        """As in Store."""
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            (value,) = db.execute("SELECT value FROM secret").fetchone()
            return bytes(value)

    def insert(self, record: Record) -> Record | None:
        """As in Store; also forgets what has expired."""
        with self._writing() as db:
            db.execute("DELETE FROM record WHERE expires < ?", (time.time(),))
            found = db.execute("SELECT data FROM record WHERE id = ?", (record.id,)).fetchone()
            if found:
                return msgspec.msgpack.decode(found[0], type=Record)
            db.execute(
                "INSERT INTO record VALUES (?, ?, ?, ?)",
                (record.id, record.owner, record.expires, msgspec.msgpack.encode(record)),
            )
            return None

    def replace(self, record: Record, owner: str) -> bool:
        """As in Store."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE record SET owner = ?, expires = ?, data = ? WHERE id = ? AND owner = ?",
                (record.owner, record.expires, msgspec.msgpack.encode(record), record.id, owner),
            )
            return changed.rowcount == 1

    def delete(self, record: Record) -> None:
        """As in Store."""
        with self._writing() as db:
            db.execute("DELETE FROM record WHERE id = ? AND owner = ?", (record.id, record.owner))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._connection()
            with db:
                db.execute("BEGIN IMMEDIATE")
                yield db
        except (sqlite3.Error, OSError) as error:
            self._local.connection = None
            raise StoreUnavailable(f"{self.path}: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        # A connection must not cross a fork; the id of the process that opened it tells.
        if getattr(self._local, "connection", None) is None or self._local.process != os.getpid():
            self._local.connection = self._open()
            self._local.process = os.getpid()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(
            os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        )  # SQLite's side files inherit the mode
        db = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise sqlite3.DatabaseError(
                    f"made by a newer gateway (schema {version}, known is {SCHEMA_VERSION})"
                )
            if version == 0:
                db.execute(
                    "CREATE TABLE record (id TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL, data BLOB NOT NULL)"
                )
                db.execute("CREATE INDEX expiry ON record (expires)")
                db.execute("CREATE TABLE secret (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return db


class RedisStore:
    """Records as hashes with an expiry of Redis's own; the compare-and-set operations are Lua scripts, which Redis runs alone."""

    PREFIX = "gateway:v1:"

    _INSERT = """
        local found = redis.call('HGET', KEYS[1], 'data')
        if found then return found end
        redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'data', ARGV[2])
        redis.call('PEXPIREAT', KEYS[1], ARGV[3])
        return false
    """
    _REPLACE = """
        if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[4] then return 0 end
        redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'data', ARGV[2])
        redis.call('PEXPIREAT', KEYS[1], ARGV[3])
        return 1
    """
    _DELETE = """
        if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end
    """

    def __init__(self, url: str) -> None:
        # Redis's client repeats a command by itself when told to; a claim that was taken must not be taken again.
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=_BUSY,
            socket_connect_timeout=_BUSY,
            retry=None,
            retry_on_timeout=False,
        )

    def secret(self) -> bytes:
        """As in Store."""
        with self._asking() as client:
            client.set(f"{self.PREFIX}secret", secrets.token_bytes(32), nx=True)
            return bytes(client.get(f"{self.PREFIX}secret"))

    def insert(self, record: Record) -> Record | None:
        """As in Store."""
        with self._asking() as client:
            found = client.eval(self._INSERT, 1, *self._arguments(record))
        return msgspec.msgpack.decode(found, type=Record) if found else None

    def replace(self, record: Record, owner: str) -> bool:
        """As in Store."""
        with self._asking() as client:
            return bool(client.eval(self._REPLACE, 1, *self._arguments(record), owner))

    def delete(self, record: Record) -> None:
        """As in Store."""
        with self._asking() as client:
            client.eval(self._DELETE, 1, self.PREFIX + record.id, record.owner)

    def _arguments(self, record: Record) -> tuple[str, str, bytes, int]:
        return (
            self.PREFIX + record.id,
            record.owner,
            msgspec.msgpack.encode(record),
            int(record.expires * 1000),
        )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[redis.Redis]:
        try:
            yield self.client
        except redis.RedisError as error:
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error
