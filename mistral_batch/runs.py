"""A run on disk: what it is, and how far each of its chunks has come, so that it can go on after anything.

A step is written down before the next one begins. `Run.save` replaces the manifest as a whole, so that what is on disk is always one
state of the run or the next.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1
MANIFEST = "run.json"
FINAL = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")
"""Mistral's OpenAPI, schema BatchJobStatus: states that do not change any more."""


class NoSuchRun(LookupError):
    """There is no run of this name; the text says which there are."""


class Chunk(msgspec.Struct):
    """A part of an attempt that is one job. What is empty has not come to pass yet.

    `content` is the name of the file in the run's folder with a request a line, `digest` the SHA-256 of that file. `status` is the
    job's; `fetched` says that all results that there are were saved, in the files named `saved`; `lost` why others cannot be had.
    """

    number: int
    requests: int
    size: int
    digest: str
    content: str
    file_id: str = ""
    job_id: str = ""
    status: str = ""
    done: int = 0
    failed: int = 0
    fetched: bool = False
    saved: list[str] = []
    lost: str = ""

    @property
    def final(self) -> bool:
        """True when its job has ended."""
        return self.status in FINAL


class Attempt(msgspec.Struct):
    """All requests of the run for the first one; those that failed and may succeed for each further one."""

    number: int
    chunks: list[Chunk]
    planned: bool = False
    """False until all chunks are here."""


class Manifest(msgspec.Struct):
    """What a run is, and where it stands; `identity` is a hash of all that makes it this run and no other."""

    version: int
    name: str
    identity: str
    url: str
    source: str
    """The path of the table."""
    digest: str
    """The SHA-256 of its content."""
    options: dict[str, Any]
    created_at: int
    attempts: list[Attempt] = []


def identity(digest: str, options: Mapping[str, Any], url: str) -> str:
    """The same for the same table, options and place, whenever and wherever it is run."""
    known = {name: value for name, value in options.items() if value not in (None, "", [], {})}
    text = json.dumps([VERSION, digest, known, url], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Run:
    """One run and its folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in a folder; NoSuchRun when there is none that can be read."""
        try:
            content = (folder / MANIFEST).read_bytes()
            manifest = msgspec.json.decode(content, type=Manifest)
        except FileNotFoundError as error:
            raise NoSuchRun(f"{folder} has no run in it") from error
        except msgspec.DecodeError as error:
            raise NoSuchRun(f"{folder / MANIFEST} cannot be read: {error}") from error
        if manifest.version != VERSION:
            raise NoSuchRun(f"{folder} is of another version of this program")
        return cls(folder, manifest)

    @classmethod
    def create(cls, folder: Path, manifest: Manifest) -> Run:
        """Begins a run, whose folder is made for its user only."""
        folder.mkdir(parents=True, mode=0o700)
        run = cls(folder, manifest)
        run.save()
        return run

    def save(self) -> None:
        """Writes the manifest to disk, whole or not at all."""
        part = self.folder / f"{MANIFEST}.part"
        with part.open("wb") as target:
            target.write(msgspec.json.format(msgspec.json.encode(self.manifest)))
            target.flush()
            os.fsync(target.fileno())
        part.replace(self.folder / MANIFEST)

    def metadata(self, attempt: Attempt, chunk: Chunk) -> dict[str, str]:
        """By which a chunk's job is found again: of one identity there is one chunk of this number in an attempt."""
        place = f"{attempt.number}.{chunk.number}"
        return {"run": self.manifest.identity[:32], "chunk": f"{place}-{chunk.digest[:16]}"}

    def key(self, attempt: Attempt, chunk: Chunk) -> str:
        """The idempotency key of a chunk's create."""
        parts = [self.manifest.identity, attempt.number, chunk.number, chunk.digest]
        return f"mistral-batch-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


class Runs:
    """All runs, each in a folder of `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __iter__(self) -> Iterator[Run]:
        for manifest in sorted(self.home.glob(f"*/{MANIFEST}")):
            yield Run.open(manifest.parent)

    def find(self, identity: str) -> Run | None:
        """The run that is this; None when it was not begun here."""
        return next((run for run in self if run.manifest.identity == identity), None)

    def named(self, name: str) -> Run:
        """The run of this name, or whose name alone begins so; NoSuchRun."""
        if (self.home / name / MANIFEST).exists():
            return Run.open(self.home / name)
        known = [run for run in self if run.manifest.name.startswith(name)]
        if len(known) == 1:
            return known[0]
        listed = ", ".join(run.manifest.name for run in known or self) or "none"
        raise NoSuchRun(f"there is no one run {name!r}; there are {listed}")
