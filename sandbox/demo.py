"""The demonstration set: a job in every status, two users and two workspaces, always the same ids.

The jobs that are under way stay so.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass

from sandbox.jobs import Failure, Job, Plan, Request
from sandbox.state import State

SPACE = uuid.UUID("5a4db0c5-0000-4000-8000-000000000000")


@dataclass(frozen=True)
class Sample:
    """A job of the set: `age` is job seconds since creation; `total` requests, `failed` of them."""

    name: str
    status: str
    endpoint: str
    model: str
    team: str
    age: float
    total: int
    failed: int = 0
    user: str = "default"
    workspace: str = "default"


CHAT = "/v1/chat/completions"
SMALL, MEDIUM, LARGE = (f"mistral-{size}-latest" for size in ("small", "medium", "large"))
LABELS, EMBED = "/v1/chat/classifications", "/v1/embeddings"
VOICE, VOXTRAL = "/v1/audio/transcriptions", "voxtral-mini-latest"
STOPPING = "CANCELLATION_REQUESTED"

# A table: one row, one line.
# fmt: off
SAMPLES = (
    Sample("nightly-ocr", "SUCCESS", "/v1/ocr", "mistral-ocr-latest", "archive", 200_000, 40),
    Sample("too-slow", "TIMEOUT_EXCEEDED", CHAT, LARGE, "support", 120_000, 500, 0, "colleague"),
    Sample("labels", "SUCCESS", LABELS, "ministral-8b-latest", "support", 90_000, 25, 0, "colleague"),
    Sample("half-broken", "SUCCESS", CHAT, SMALL, "web", 50_000, 12, 5),
    Sample("all-broken", "SUCCESS", EMBED, "mistral-embed", "web", 40_000, 3, 3),
    Sample("bad-input", "FAILED", CHAT, "unknown-model", "web", 30_000, 0),
    Sample("stopped", "CANCELLED", CHAT, LARGE, "support", 20_000, 80),
    Sample("elsewhere", "SUCCESS", CHAT, SMALL, "secret", 10_000, 2, 0, "stranger", "elsewhere"),
    Sample("stopping", STOPPING, CHAT, MEDIUM, "support", 900, 60, 0, "colleague"),
    Sample("under-way", "RUNNING", EMBED, "mistral-embed", "search", 600, 1000),
    Sample("waiting", "QUEUED", VOICE, VOXTRAL, "media", 60, 20),
)
# fmt: on


def load(state: State) -> None:
    """Adds the set to the sandbox, unless it is there."""
    with state.lock:
        for sample in SAMPLES:
            job = _job(sample, state.clock.now())
            if job.id not in state.jobs:
                state.add(job)
        for jobs in state.workspaces.values():
            jobs.sort(key=lambda job: job.created)


def _job(sample: Sample, now: float) -> Job:
    def request(number: int) -> Request:
        text = f"Sample {number} of {sample.name}"
        body = {"messages": [{"role": "user", "content": text}], "input": text}
        return Request(f"{sample.name}-{number}", body)

    stopping = sample.status in ("CANCELLED", STOPPING)
    return Job(
        id=_id(sample.name),
        workspace=sample.workspace,
        user=sample.user,
        created=now - sample.age,
        endpoint=sample.endpoint,
        plan=_plan(sample),
        requests=[request(index + 1) for index in range(sample.total)],
        output_file=_id(sample.name + "/output"),
        error_file=_id(sample.name + "/error"),
        input_files=[_id(sample.name + "/input")],
        model=sample.model,
        metadata={"name": sample.name, "team": sample.team},
        cancelled=200.0 if stopping else None,
        cancel_seconds=10.0 if sample.status == "CANCELLED" else math.inf,
    )


def _plan(sample: Sample) -> Plan:
    """Queued for 30 job seconds, running for 300, or without end."""
    endless = sample.status in ("QUEUED", "RUNNING", STOPPING, "CANCELLED")
    return Plan(
        total=sample.total,
        validated=0.0,
        started=math.inf if sample.status == "QUEUED" else 30.0,
        finish=math.inf if endless else 330.0,
        outcome=sample.status,
        work=300.0,
        ceiling=sample.total // 2 if sample.status != "SUCCESS" else sample.total,
        failures=tuple(Failure(n * 2 % sample.total, n, n % 2) for n in range(sample.failed)),
        reasons=("Unknown model: unknown-model",) if sample.status == "FAILED" else (),
    )


def _id(name: str) -> str:
    """A UUID that depends on the name alone, in the form of a random one."""
    return str(uuid.UUID(int=uuid.uuid5(SPACE, name).int, version=4))
