"""A sample batch job and its life on the screen: what `make run` and `make demo` share."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from stack import rest
from stack.config import Door
from stack.screen import Screen

Job = dict[str, Any]


class Pace(NamedTuple):
    """How a job is watched: `pause` seconds between two looks, `patience` seconds at most."""

    pause: float
    patience: float


SANDBOX_PACE = Pace(0.25, 60)
REAL_PACE = Pace(2, 3600)

# https://docs.mistral.ai/api/endpoint/batch: the statuses in which a job stays.
FINISHED = ("SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED")
_QUESTIONS = (
    "What is the capital of France?",
    "Name one use of a batch job.",
    "Translate 'good morning' into Italian.",
    "What is seven times eight?",
    "Give a synonym for 'fast'.",
    "Which planet is closest to the sun?",
    "Spell 'batch' backwards.",
    "What does HTTP stand for?",
)


def create(door: Door, count: int) -> Job:
    """A new job of `count` chat requests, given inline."""
    requests = [
        {"custom_id": f"question-{number + 1}", "body": _chat(_QUESTIONS[number % len(_QUESTIONS)])}
        for number in range(count)
    ]
    return rest.call(
        door,
        "POST",
        rest.JOBS,
        {
            "model": "mistral-small-latest",
            "endpoint": "/v1/chat/completions",
            "requests": requests,
            "metadata": {"purpose": "demo"},
        },
    )


def watch(door: Door, job: Job, screen: Screen, count: int, pace: Pace) -> Job:
    """The job of `count` requests once it has finished, its progress shown meanwhile.

    Raises:
        CallFailed: the service refused, or the job took longer than the pace allows.
    """
    deadline = time.monotonic() + pace.patience
    while True:
        job = rest.call(door, "GET", f"{rest.JOBS}/{job['id']}")
        # Mistral counts total_requests only once the job has been validated.
        screen.progress(job["completed_requests"], count, job["status"])
        if job["status"] in FINISHED:
            screen.end_progress()
            return job
        if time.monotonic() > deadline:
            screen.end_progress()
            raise rest.CallFailed(
                f"job {job['id']} is still {job['status']} after {pace.patience:.0f} s"
            )
        time.sleep(pace.pause)


def results(door: Door, job: Job) -> list[tuple[str, str]]:
    """The finished job's results as (custom id, answer in one line), ordered by custom id."""
    outputs = rest.call(door, "GET", f"{rest.JOBS}/{job['id']}?inline=true")["outputs"] or []
    return sorted((str(line["custom_id"]), _answer(line)) for line in outputs)


def cancel(door: Door, job: Job) -> Job:
    """The job after asking to cancel it."""
    return rest.call(door, "POST", f"{rest.JOBS}/{job['id']}/cancel")


def newest(door: Door, count: int) -> list[Job]:
    """The `count` newest jobs."""
    jobs: list[Job] = rest.call(door, "GET", f"{rest.JOBS}?page_size={count}")["data"]
    return jobs


def tally(job: Job) -> str:
    """What became of the job's requests, in words."""
    return (
        f"{job['status']}: {job['succeeded_requests']} succeeded, {job['failed_requests']} failed"
    )


def _chat(question: str) -> dict[str, Any]:
    return {"max_tokens": 40, "messages": [{"role": "user", "content": question}]}


def _answer(line: dict[str, Any], width: int = 60) -> str:
    try:
        text = str(line["response"]["body"]["choices"][0]["message"]["content"])
    except (KeyError, TypeError, IndexError):
        text = str(line.get("error") or line.get("response"))
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
