"""A batch job and its life, as a pure function of the clock.

What will become of a job is decided when it is created (`Plan`); how far it is follows from its age
(`progress`). Nothing runs in the background, and a look never changes anything.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox.config import Settings

# Names of Mistral's OpenAPI, schema BatchJobStatus.
STATUSES = (
    "QUEUED",
    "RUNNING",
    "SUCCESS",
    "FAILED",
    "TIMEOUT_EXCEEDED",
    "CANCELLATION_REQUESTED",
    "CANCELLED",
)
TERMINAL = frozenset({"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"})

# The metadata member that chooses how a job ends, and its values.
OUTCOME = "sandbox_outcome"
OUTCOMES = {
    "all-failed": "ends SUCCESS although every request failed",
    "some-failed": "ends SUCCESS with every other request failed",
    "failed": "ends FAILED after half of the requests",
    "timeout": "ends TIMEOUT_EXCEEDED after half of the requests, whatever its `timeout_hours`",
    "stuck": "stays QUEUED until `timeout_hours` have passed",
    "endless": "stays RUNNING, one request short of the end, until `timeout_hours` have passed",
}

# A request fails when its body contains this; `-string` or `-object` chooses the error's form.
FAIL_MARK = "sandbox:fail"
FAILURE_MESSAGES = ("The sandbox failed this request", "The sandbox rejected this request's body")
MODEL_MESSAGE = "No model: neither the job nor the request names one"
MESSAGES = (*FAILURE_MESSAGES, MODEL_MESSAGE)


@dataclass(frozen=True)
class Request:
    """One line of a job's input."""

    custom_id: str | None
    body: dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """What a job is to be made from, which decides what becomes of it.

    `body` is that of the create; `reasons` make the job FAILED at its start; only when `marked` may a
    request contain FAIL_MARK.
    """

    body: dict[str, Any]
    requests: Sequence[Request]
    reasons: Sequence[str]
    marked: bool

    @property
    def outcome(self) -> str | None:
        """How the job's metadata want it to end, one of OUTCOMES."""
        return (self.body.get("metadata") or {}).get(OUTCOME)


@dataclass(frozen=True)
class Failure:
    """A request that fails: its place in the order of completion and its row of MESSAGES."""

    position: int
    index: int
    kind: int


@dataclass(frozen=True)
class Plan:
    """What will become of a job. Ages are job seconds since its creation."""

    total: int
    validated: float
    started: float
    finish: float
    outcome: str
    work: float
    ceiling: int
    failures: tuple[Failure, ...] = ()
    reasons: tuple[str, ...] = ()

    def completed(self, age: float) -> int:
        """How many requests are done at an age; never falls."""
        if age >= self.finish and self.outcome == "SUCCESS":
            return self.total
        if age <= self.started:
            return 0
        return min(self.ceiling, int(self.total * (age - self.started) / self.work))


@dataclass
class Job:
    """A job as created; `cancelled` (the age at which that was asked for) alone changes later."""

    id: str
    workspace: str
    user: str
    created: float
    endpoint: str
    plan: Plan
    requests: Sequence[Request]
    output_file: str
    error_file: str
    input_files: list[str] = field(default_factory=list)
    model: str | None = None
    agent_id: str | None = None
    metadata: dict[str, str] | None = None
    cancel_seconds: float = 0.0
    cancelled: float | None = None
    listed: float = -math.inf


@dataclass(frozen=True)
class Progress:
    """How far a job is; `started` and `ended` are ages or None."""

    status: str
    total: int
    completed: int
    failed: int
    started: float | None
    ended: float | None

    @property
    def succeeded(self) -> int:
        """Requests that have been completed and did not fail."""
        return self.completed - self.failed

    def has_results(self, partial: bool) -> bool:
        """Whether there are results: at the end only, of SUCCESS, and if `partial` of whatever else completed something."""
        done = partial and self.completed > 0
        return self.status == "SUCCESS" or (done and self.status in TERMINAL)


def progress(job: Job, tick: float) -> Progress:
    """How far the job is at a job second of the clock."""
    plan, age = job.plan, tick - job.created
    if job.cancelled is None:
        worked, ended = min(age, plan.finish), plan.finish
        running = "RUNNING" if age >= plan.started else "QUEUED"
        status = plan.outcome if age >= ended else running
    else:
        worked, ended = min(age, job.cancelled), job.cancelled + job.cancel_seconds
        status = "CANCELLED" if age >= ended else "CANCELLATION_REQUESTED"
    completed = plan.completed(worked)
    return Progress(
        status=status,
        total=plan.total if worked >= plan.validated else 0,
        completed=completed,
        failed=bisect_right(plan.failures, completed - 1, key=lambda failure: failure.position),
        started=plan.started if worked >= plan.started else None,
        ended=ended if age >= ended else None,
    )


def view(job: Job, now: Progress, wall: Callable[[float], float], partial: bool) -> dict[str, Any]:
    """The job as Mistral's schema BatchJob has it; `wall` turns job seconds into Unix time."""

    def timestamp(age: float | None) -> int | None:
        return None if age is None else int(wall(job.created + age))

    errors = Counter(MESSAGES[failure.kind] for failure in job.plan.failures[: now.failed])
    if now.status == "FAILED":
        errors.update(job.plan.reasons)
    results = now.has_results(partial)
    return {
        "id": job.id,
        "object": "batch",
        "input_files": job.input_files,
        "metadata": job.metadata,
        "endpoint": job.endpoint,
        "model": job.model,
        "agent_id": job.agent_id,
        "output_file": job.output_file if results and now.succeeded else None,
        "error_file": job.error_file if results and now.failed else None,
        "errors": [{"message": message, "count": count} for message, count in errors.items()],
        "outputs": None,
        "status": now.status,
        "created_at": timestamp(0.0),
        "total_requests": now.total,
        "completed_requests": now.completed,
        "succeeded_requests": now.succeeded,
        "failed_requests": now.failed,
        "started_at": timestamp(now.started),
        "completed_at": timestamp(now.ended),
    }


def completion_order(job_id: str, total: int) -> list[int]:
    """The indices of a job's requests in the order in which they complete."""
    return random.Random(job_id).sample(range(total), total)  # noqa: S311 (no secret)


def plan(job_id: str, draft: Draft, settings: Settings) -> Plan:
    """What will become of a new job; random numbers come from its id."""
    rng = random.Random(job_id)  # noqa: S311 (no secret)
    outcome, reasons = draft.outcome, draft.reasons
    total = 0 if reasons else len(draft.requests)
    queued = settings.queue_seconds * rng.uniform(0.9, 1.1)
    started = math.inf if outcome == "stuck" else queued
    work = settings.run_seconds * rng.uniform(0.9, 1.1) + settings.request_seconds * total
    finish, result, ceiling = started + work, "SUCCESS", total
    if reasons:
        finish, result = started + work / 10, "FAILED"
    elif outcome == "endless":
        finish, ceiling = math.inf, max(total - 1, 0)
    elif outcome in ("failed", "timeout"):
        finish, ceiling = started + work / 2, total // 2
        result = "FAILED" if outcome == "failed" else "TIMEOUT_EXCEEDED"
    timeout = draft.body["timeout_hours"] * 3600.0
    if finish > timeout:
        finish, result = timeout, "TIMEOUT_EXCEEDED"
    if outcome == "failed" and not reasons:
        reasons = ("The sandbox failed this job",)
    return Plan(
        total=total,
        validated=queued / 2,
        started=started,
        finish=finish,
        outcome=result,
        work=work or 1.0,
        ceiling=ceiling,
        failures=_failures(job_id, draft, settings, rng) if total else (),
        reasons=tuple(reasons),
    )


def _failures(
    job_id: str, draft: Draft, settings: Settings, rng: random.Random
) -> tuple[Failure, ...]:
    has_model = draft.body.get("model") or draft.body.get("agent_id")
    strict = settings.missing_model == "fail" and not has_model
    chosen = draft.outcome in ("all-failed", "some-failed")
    if not (draft.marked or strict or chosen or settings.failure_percent):
        return ()

    def kind(index: int, body: dict[str, Any]) -> int | None:
        text = str(body) if draft.marked else ""
        if FAIL_MARK in text:
            forms = {"-string": 0, "-object": 1}
            return next((n for form, n in forms.items() if FAIL_MARK + form in text), index % 2)
        if strict and not (body.get("model") or body.get("agent_id")):
            return MESSAGES.index(MODEL_MESSAGE)
        if chosen and (draft.outcome == "all-failed" or index % 2):
            return index // 2 % 2
        if rng.uniform(0, 100) < settings.failure_percent:
            return index // 2 % 2
        return None

    order = completion_order(job_id, len(draft.requests))
    kinds = ((position, i, kind(i, draft.requests[i].body)) for position, i in enumerate(order))
    return tuple(Failure(position, i, row) for position, i, row in kinds if row is not None)
