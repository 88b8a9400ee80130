"""The requests of an attempt, divided into chunks, each of which fits into one job: written to the run's folder before anything is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import BatchError
from .runs import Attempt, Chunk, Run, written


class ChunkDamaged(BatchError):
    """A chunk's file is not what it was when it was written; nothing of it was sent."""


@dataclass(frozen=True)
class Limits:
    """What one job may have: requests, and bytes of all of them. Mistral's own are 1,000,000 and 512 MB, for files."""

    requests: int
    size: int


INLINE = Limits(1_000, 4 << 20)
"""What is sent within the create: as much as Mistral's own client does."""

FILE = Limits(100_000, 200 << 20)
"""Less than Mistral takes, so that a job that fails costs less, and results come earlier."""


def plan(run: Run, number: int, lines: Iterable[bytes], limits: Limits = FILE) -> Attempt:
    """The attempt `number` of `run` with `lines`, one for each request, without line ends; the run has it from then on. NotWritten.

    What was broken off is written again: the same lines make the same chunks.
    """
    attempts = run.manifest.attempts
    attempt = next((each for each in attempts if each.number == number), None)
    if attempt and attempt.planned:
        return attempt
    attempt = Attempt(number, list(_written(run.folder, number, lines, limits)), planned=True)
    run.manifest.attempts = [*(each for each in attempts if each.number != number), attempt]
    run.save()
    return attempt


def is_inline(attempt: Attempt) -> bool:
    """True when the requests are sent within the create."""
    return len(attempt.chunks) == 1 and all(
        only.requests <= INLINE.requests and only.size <= INLINE.size for only in attempt.chunks
    )


def content(run: Run, chunk: Chunk) -> Path:
    """The file with a chunk's requests; ChunkDamaged when it has others, or is gone."""
    path = run.folder / chunk.content
    try:
        with path.open("rb") as source:
            whole = hashlib.file_digest(source, "sha256").hexdigest() == chunk.digest
    except FileNotFoundError:
        whole = False
    if not whole:
        raise ChunkDamaged(
            f"{path} was changed or lost. Delete {run.folder} and run the same command again: jobs that there are will be found"
        )
    return path


def _written(folder: Path, attempt: int, lines: Iterable[bytes], limits: Limits) -> Iterator[Chunk]:
    rest = iter(lines)
    line = next(rest, None)
    number = 0
    while line is not None:
        number += 1
        name = f"{attempt}.{number}-requests.jsonl"
        digest, requests, size = hashlib.sha256(), 0, 0
        with written(folder / name) as target:
            while line is not None and requests < limits.requests:
                if requests and size + len(line) + 1 > limits.size:
                    break
                target.write(line + b"\n")
                digest.update(line + b"\n")
                requests += 1
                size += len(line) + 1
                line = next(rest, None)
        yield Chunk(number, requests, size, digest.hexdigest(), name)
