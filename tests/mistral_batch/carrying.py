"""Runs of the tests' own, as the command carries them out. Not a test module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistral_batch.api import BatchAPI
from mistral_batch.chunks import FILE, Limits, plan
from mistral_batch.engine import PENDING, Engine
from mistral_batch.runs import Attempt, Chunk, Run, Runs

if TYPE_CHECKING:  # it brings pytest, for which a process would wait
    from tests.support.processes import Sandbox

TERMS = {"model": "mistral-small-latest", "endpoint": "/v1/chat/completions"}
TWO = Limits(2, 1 << 20)
"""Two requests a job."""
ALL_DAY = 86_000.0
"""Job seconds after which every job has ended."""


def lines(mark: str, count: int) -> list[bytes]:
    """Requests that no other test makes."""
    return [
        json.dumps(
            {"custom_id": f"{mark}-{i}", "body": {"messages": [{"role": "user", "content": "Hi"}]}}
        ).encode()
        for i in range(count)
    ]


def outcome(name: str) -> dict[str, Any]:
    """The metadata by which the sandbox makes this of a job."""
    return {"sandbox_outcome": name}


def begin(
    home: Path,
    url: str,
    requests: Iterable[bytes],
    *,
    terms: Mapping[str, Any] = TERMS,
    **again: Any,
) -> Run:
    """The run of these requests."""
    digest = hashlib.sha256(b"".join(line + b"\n" for line in requests)).hexdigest()
    return Runs(home).begin(
        digest, terms, url, source="of/a table.csv", digest=digest, options={}, **again
    )


def carry_out(
    api: BatchAPI,
    home: Path,
    requests: list[bytes],
    changed: Callable[[Chunk], None] = lambda _: None,
    *,
    limits: Limits = FILE,
    pending: int = PENDING,
    number: int = 1,
    **terms: Any,
) -> Attempt:
    """The attempt as it is when it was carried out, by the same steps as the command's."""
    run = begin(home, api.url, requests, terms={**TERMS, **terms})
    with run.lock():
        attempt = plan(run, number, requests, limits)
        Engine(api, run, attempt, pending, changed).go()
    return attempt


def ends(sandbox: Sandbox) -> Callable[[Chunk], None]:
    """Has every job end as soon as it was made."""
    return lambda chunk: None if chunk.final else sandbox.advance(ALL_DAY)


def results(home: Path) -> list[str]:
    """The ids that have a result, as often as they have one."""
    return sorted(
        str(json.loads(line)["custom_id"])
        for path in home.glob("*/*.jsonl")
        if "requests" not in path.name
        for line in path.read_bytes().splitlines()
    )


def asked(requests: Iterable[bytes]) -> list[str]:
    """The ids that are asked for."""
    return sorted(str(json.loads(line)["custom_id"]) for line in requests)


def sent(sandbox: Sandbox) -> list[Any]:
    """What each create that arrived was answered with."""
    return [each["status"] for each in sandbox.ledger(method="POST", path="/v1/batch/jobs")]
