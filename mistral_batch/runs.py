"""A run on disk: what it is, and how far each of its chunks has come, so that it can go on after anything.

A step is written down before the next one begins. `Run.save` replaces the manifest as a whole, so that what is on disk is always one
state of the run or the next.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec
from filelock import FileLock, Timeout

from .errors import BatchError, InputError

VERSION = 1
MANIFEST = "run.json"
LOCK = "lock"
FINAL = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")
"""Mistral's OpenAPI, schema BatchJobStatus: states that do not change any more."""


class NoSuchRun(InputError):
    """There is no run of this name; the text says which there are."""


class NotWritten(BatchError):
    """A file cannot be written, say because the disk is full; what was there before is as it was."""


class Chunk(msgspec.Struct):
    """A part of an attempt that is one job. What is empty has not come to pass yet.

    `content` is the name of the file in the run's folder with a request a line, `digest` the SHA-256 of that file. `status` is the
    job's, and `why` what it says of its failure; `fetched` says that all results that there are were saved, in the files named
    `saved`; `lost` why others cannot be had. A chunk that was cancelled before it was sent is fetched and has no job.
    """

    number: int
    requests: int
    size: int
    digest: str
    content: str
    file_id: str = ""
    job_id: str = ""
    status: str = ""
    why: str = ""
    done: int = 0
    failed: int = 0
    fetched: bool = False
    saved: list[str] = []
    lost: str = ""

    @property
    def final(self) -> bool:
        """True when its job has ended."""
        return self.status in FINAL

    @property
    def sent(self) -> bool:
        """True when there is a job of it, or will never be one."""
        return bool(self.job_id) or self.fetched


class Attempt(msgspec.Struct):
    """All requests of the run for the first one; those that failed and may succeed for each further one."""

    number: int
    chunks: list[Chunk]
    planned: bool = False
    """False until all chunks are here."""

    @property
    def finished(self) -> bool:
        """True when nothing of it is to be sent or fetched."""
        return self.planned and all(chunk.fetched for chunk in self.chunks)

    @property
    def settled(self) -> bool:
        """True when it has finished and nothing is lost: what is, is worth another look, since it may have been a wrong token."""
        return self.finished and not any(chunk.lost for chunk in self.chunks)


class Manifest(msgspec.Struct):
    """What a run is, and where it stands. `identity` is a hash of `requests`, `terms` and `again`, of nothing else."""

    version: int
    name: str
    identity: str
    requests: str
    """The digest of all request lines."""
    terms: dict[str, Any]
    """The members that all creates share: `endpoint`, `model` and the like."""
    url: str
    again: int
    """How often the same had been bought before."""
    source: str
    """The path of the table."""
    digest: str
    """The SHA-256 of its content."""
    options: dict[str, Any]
    created_at: int
    attempts: list[Attempt] = []


def identity(requests: str, terms: Mapping[str, Any], again: int = 0) -> str:
    """The same for the same requests and terms, from whatever table, whenever and wherever it is run, by whatever name of the place:
    whether there are jobs of it is for the place to say."""
    known = {name: value for name, value in terms.items() if value not in (None, "", [], {})}
    text = json.dumps([requests, known, again], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def mark(identity: str) -> dict[str, str]:
    """The metadata that all jobs of the run of this identity have."""
    return {"run": identity[:32]}


class Run:
    """One run and its folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in a folder; NoSuchRun when there is none that can be read."""
        return cls(folder, _manifest(folder))

    @property
    def was_sent(self) -> bool:
        """True when any of it was."""
        return any(chunk.job_id for each in self.manifest.attempts for chunk in each.chunks)

    @property
    def all_sent(self) -> bool:
        """True when all of it was."""
        chunks = [chunk for each in self.manifest.attempts for chunk in each.chunks]
        return bool(chunks) and all(chunk.sent for chunk in chunks)

    @property
    def finished(self) -> bool:
        """True when nothing of it is to be sent or fetched."""
        attempts = self.manifest.attempts
        return bool(attempts) and all(attempt.finished for attempt in attempts)

    @property
    def settled(self) -> bool:
        """True when each of its attempts is."""
        attempts = self.manifest.attempts
        return bool(attempts) and all(attempt.settled for attempt in attempts)

    @contextmanager
    def lock(self, busy: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Has the run for this process alone, as it stands by then.

        As long as another process has it, the manifest is read anew and `busy` called each second, which may raise to give up.
        The lock of a process that was killed is free, and so is that of a copied folder.
        """
        lock, patience = FileLock(self.folder / LOCK), 0.0
        while True:
            with suppress(Timeout), _disk(self.folder):
                lock.acquire(timeout=patience)
                break
            self.manifest, patience = _manifest(self.folder), 1.0
            busy()
        try:
            self.manifest = _manifest(self.folder)
            for part in self.folder.glob("*.part"):  # of who was killed
                part.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def save(self) -> None:
        """Writes the manifest to disk, whole or not at all; NotWritten."""
        with written(self.folder / MANIFEST) as target:
            target.write(msgspec.json.format(msgspec.json.encode(self.manifest)))

    def metadata(self, attempt: Attempt, chunk: Chunk) -> dict[str, str]:
        """By which a chunk's job is found again: of one identity there is one chunk of this number in an attempt."""
        place = f"{attempt.number}.{chunk.number}"
        return {**mark(self.manifest.identity), "chunk": f"{place}-{chunk.digest[:16]}"}

    def key(self, attempt: Attempt, chunk: Chunk) -> str:
        """The idempotency key of a chunk's create."""
        parts = [self.manifest.identity, attempt.number, chunk.number, chunk.digest]
        return f"mistral-batch-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"

    def cancelled(self, number: int) -> Path:
        """A file that is there once no more may be sent of this attempt: who cancels does not have the lock."""
        return self.folder / f"{number}.cancelled"


class Runs:
    """All runs, each in a folder of `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __iter__(self) -> Iterator[Run]:
        """Those that can be read, oldest first."""
        found = []
        for manifest in self.home.glob(f"*/{MANIFEST}"):
            with suppress(NoSuchRun):
                found.append(Run.open(manifest.parent))
        return iter(sorted(found, key=lambda run: (run.manifest.created_at, run.manifest.name)))

    def find(
        self, requests: str, terms: Mapping[str, Any], url: str, again: bool = False
    ) -> Run | None:
        """The newest run of the same requests, terms and place; None when none was begun here.

        One that was begun to buy anew, and of which nothing was sent, is found by who asks to buy `again`, else only if there is no other.
        """
        same = [
            run
            for run in self
            if run.manifest.identity == identity(requests, terms, run.manifest.again)
            and _address(run.manifest.url) == _address(url)
        ]
        return max(same, key=lambda run: (again or run.was_sent, run.manifest.again), default=None)

    def begin(
        self,
        requests: str,
        terms: Mapping[str, Any],
        url: str,
        *,
        source: str,
        digest: str,
        options: Mapping[str, Any],
        again: bool = False,
        has_jobs: Callable[[str], bool] = lambda _: False,
    ) -> Run:
        """The run that `find` finds, else a new one; with `again` a new one unless that which there is has not finished.

        So the same command after a crash goes on, with `again` too. `has_jobs` says whether the place has any of an identity, say
        made from another machine: then it is not anew. NotWritten.
        """
        with _disk(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
        with _disk(self.home), FileLock(self.home / LOCK):
            found = self.find(requests, terms, url, again)
            if found and not (again and found.finished):
                return found
            times = found.manifest.again + 1 if found else 0
            while again and has_jobs(identity(requests, terms, times)):
                times += 1
            what = identity(requests, terms, times)
            folder = self._free(_stem(source), what)
            run = Run(
                folder,
                Manifest(
                    version=VERSION,
                    name=folder.name,
                    identity=what,
                    requests=requests,
                    terms=dict(terms),
                    url=url,
                    again=times,
                    source=source,
                    digest=digest,
                    options=dict(options),
                    created_at=int(time.time()),
                ),
            )
            folder.mkdir(mode=0o700, exist_ok=True)
            run.save()
            return run

    def named(self, name: str) -> Run:
        """The run of this name, or whose name alone begins so; NoSuchRun."""
        if Path(name).name == name and (self.home / name / MANIFEST).exists():
            return Run.open(self.home / name)
        known = [run for run in self if run.manifest.name.startswith(name)]
        if name and len(known) == 1:
            return known[0]
        stem = [run for run in known if run.manifest.name.rpartition("-")[0] == name]
        if len(stem) == 1:
            return stem[0]
        listed = ", ".join(run.manifest.name for run in known or self) or "none"
        how = "several runs begin so" if name and known else "no run begins so"
        raise NoSuchRun(f"{name!r} names no run: {how}; there are {listed}")

    def _free(self, stem: str, identity: str) -> Path:
        """A folder without a run: the shortest such name."""
        lengths = range(4, len(identity) + 1)
        folders = (self.home / f"{stem}-{identity[:length]}" for length in lengths)
        return next(folder for folder in folders if not (folder / MANIFEST).exists())


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file that will be at `path`, whole or not at all, also when several write it; NotWritten."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with _disk(path):
        try:
            mode = path.stat().st_mode & 0o777 if path.exists() else None
            part.touch(0o666 if mode is None else 0o600)
            with part.open("wb") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            if mode is not None:
                part.chmod(mode)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:  # an exception of requests, which all are OSErrors
            raise
        raise NotWritten(
            f"{path} cannot be written: {error.strerror}. Once it can be, run the same command again, which goes on from here"
        ) from error


def _manifest(folder: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise NoSuchRun(f"{folder} has no run in it") from error
    except (msgspec.DecodeError, OSError) as error:
        raise NoSuchRun(f"{folder / MANIFEST} cannot be read: {error}") from error
    if manifest.version != VERSION:
        raise NoSuchRun(f"{folder} is of another version of this program")
    return manifest


def _address(url: str) -> tuple[Any, ...]:
    """The same for all spellings of a place's address."""
    parts = urlsplit(url.lower())
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, host, port, parts.path.rstrip("/")


def _stem(source: str) -> str:
    """What a run of a table is called: of its file's name what is safe everywhere."""
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", Path(source).stem.split(".")[0]).strip("-")
    return plain[:40] or "table"
