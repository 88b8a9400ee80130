"""The store of idempotency keys for the workers of one host, in a SQLite file."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import msgspec

from access.files import open_plain

from .store import BUSY, Record, Store, StoreUnavailable

SCHEMA_VERSION = 1

_PAUSE = 0.01  # seconds between two tries

log = logging.getLogger("gateway.store")


class SQLiteStore(Store):
    """Records in a SQLite file in WAL mode that only its owner may read.

    One connection a process, since SQLite lets one write at a time: threads that wait here wait in turn. What fails is rolled
    back before anybody sees it.
    """

    loses_answers = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def now(self) -> float:
        """The host's clock."""
        return time.time()

    def insert(self, record: Record) -> Record | None:
        """Also forgets what has expired."""
        with self._writing() as db:
            db.execute("DELETE FROM record WHERE expires < ?", (self.now(),))
            found = db.execute("SELECT data FROM record WHERE id = ?", (record.id,)).fetchone()
            if found:
                return msgspec.msgpack.decode(found[0], type=Record)
            db.execute(
                "INSERT INTO record VALUES (?, ?, ?, ?)",
                (record.id, record.owner, record.expires, msgspec.msgpack.encode(record)),
            )
            return None

    def replace(self, record: Record, owner: str) -> bool:
        with self._writing() as db:
            changed = db.execute(
                "UPDATE record SET owner = ?, expires = ?, data = ? WHERE id = ? AND owner = ?",
                (record.owner, record.expires, msgspec.msgpack.encode(record), record.id, owner),
            )
            return changed.rowcount == 1

    def delete(self, record: Record) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM record WHERE id = ? AND owner = ?", (record.id, record.owner))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; whatever fails in it, a record that cannot be read included, fails the store."""
        if not self._lock.acquire(timeout=BUSY):
            raise StoreUnavailable(f"{self.path}: busy for {BUSY:g} seconds")
        try:
            db = self._connection()
            with db:
                _patiently(db, "BEGIN IMMEDIATE")
                yield db
        except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
            self._close()
            raise StoreUnavailable(f"{self.path}: {error}") from error
        finally:
            self._lock.release()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or self._identity != self._present_identity():
            if self._db is not None:
                log.warning("%s was replaced: keys that it held are forgotten", self.path)
            self._close()
            self._db = self._open()
            self._identity = self._present_identity()
        return self._db

    def _present_identity(self) -> tuple[int, ...]:
        """What tells that a connection is not this process's (it must not cross a fork), or not to the file of this name."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return ()
        return os.getpid(), status.st_dev, status.st_ino

    def _close(self) -> None:
        if self._db is not None and self._identity[:1] == (os.getpid(),):
            self._db.close()
        self._db = None

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that exists is not opened here: closing it would drop this process's locks on it (POSIX).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if not self.path.is_file():
            raise OSError("is not a file")
        wait = min(BUSY, 3 * _PAUSE)
        db = sqlite3.connect(self.path, wait, isolation_level=None, check_same_thread=False)
        try:
            _patiently(db, "PRAGMA schema_version")  # refuses what is no database, untouched
            self.path.chmod(0o600)  # SQLite's side files inherit it
            _prepare(db)
        except sqlite3.Error:
            db.close()
            raise
        return db


def look_at_file(path: Path) -> str:
    """What can be said of a store at `path` without opening it, which would change it; StoreUnavailable when it cannot be used."""
    folder = path.parent
    try:
        if path.exists():
            with open_plain(path) as file:
                head = file.read(100)
            # sqlite.org/fileformat.html, The Database Header
            if head and not head.startswith(b"SQLite format 3\0"):
                raise StoreUnavailable(f"{path}: file is not a database")
            if (version := int.from_bytes(head[60:64])) > SCHEMA_VERSION:
                raise StoreUnavailable(f"{path}: {_newer(version)}")
            if not os.access(path, os.W_OK):
                raise StoreUnavailable(f"{path} cannot be written")
        while not folder.exists():
            folder = folder.parent
        with TemporaryFile(dir=folder):  # has no name
            pass
    except OSError as error:
        raise StoreUnavailable(f"{path}: {folder} cannot be used: {error.strerror}") from error
    return "can be written" if path.exists() else "is made when it is first needed"


def _newer(version: int) -> str:
    return f"made by a newer gateway (schema {version}, known is {SCHEMA_VERSION})"


def _prepare(db: sqlite3.Connection) -> None:
    """Makes the tables in a new file; sqlite3.DatabaseError for a file of another program's, or of a newer gateway."""
    _patiently(db, "PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    with db:
        _patiently(db, "BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(_newer(version))
        if version == 0:
            db.execute(
                "CREATE TABLE record"
                " (id TEXT PRIMARY KEY, owner TEXT NOT NULL, expires REAL NOT NULL, data BLOB NOT NULL)"
            )
            db.execute("CREATE INDEX expiry ON record (expires)")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _patiently(db: sqlite3.Connection, statement: str) -> None:
    """Runs a statement that may have to wait for other processes, BUSY seconds at most.

    SQLite's own waiting looks ever more seldom, so that one busy writer starves the others, and does not wait at all
    while two of them put a new file into WAL mode.
    """
    until = time.monotonic() + BUSY
    while True:
        try:
            db.execute(statement).fetchall()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # less its extension
            if not busy or time.monotonic() + _PAUSE > until:
                raise
        time.sleep(_PAUSE)
