"""A sample batch job and its life on the screen: what `make run` and `make demo` share."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from openapi.contract import Contract
from stack import rest
from stack.config import Endpoint
from stack.screen import Screen

Job = dict[str, Any]


class Pace(NamedTuple):
    """How a job is watched: `pause` seconds between two polls, `patience` seconds at most."""

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
REQUESTS = len(_QUESTIONS)


_CALLS = (
    ("POST", rest.JOBS),
    ("GET", rest.JOBS),
    ("GET", f"{rest.JOBS}/id"),
    ("POST", f"{rest.JOBS}/id/cancel"),
)


def upstreams(contract: Contract) -> set[str]:
    """The namespaces that sample and demo call; empty when the document has not all of their calls."""
    found = [contract.find(method, path)[0] for method, path in _CALLS]
    return {each.namespace for each in found if each} if all(found) else set()


def finish(endpoint: Endpoint, screen: Screen, pace: Pace) -> tuple[Job, list[str]]:
    """Shows a job of REQUESTS requests from its creation to its end; returns it and a line for each of its results.

    Raises CallFailed when the service refuses, or the job takes longer than the pace allows.
    """
    job = watch(endpoint, create(endpoint, screen, REQUESTS), screen, REQUESTS, pace)
    outputs = rest.call(endpoint, "GET", f"{rest.JOBS}/{job['id']}?inline=true")["outputs"] or []
    counted = f"{job['succeeded_requests']} succeeded, {job['failed_requests']} failed"
    screen.say(f"  results   {job['status']}: {counted}")
    return job, sorted(f"{line['custom_id']:<12}{_answer(line)}" for line in outputs)


def create(endpoint: Endpoint, screen: Screen, count: int) -> Job:
    """A new job of `count` chat requests, given inline."""
    questions = (_QUESTIONS[number % REQUESTS] for number in range(count))
    requests = [
        {
            "custom_id": f"question-{number}",
            "body": {"max_tokens": 40, "messages": [{"role": "user", "content": question}]},
        }
        for number, question in enumerate(questions, 1)
    ]
    body = {
        "model": "mistral-small-latest",
        "endpoint": "/v1/chat/completions",
        "requests": requests,
        "metadata": {"purpose": "demo"},
    }
    job = rest.call(endpoint, "POST", rest.JOBS, body)
    screen.say(f"  create    job {job['id']}, {count} requests")
    return job


def watch(endpoint: Endpoint, job: Job, screen: Screen, count: int, pace: Pace) -> Job:
    """The job of `count` requests once it has finished, its progress shown meanwhile; raises CallFailed as `finish`."""
    deadline = time.monotonic() + pace.patience
    try:
        while True:
            job = rest.call(endpoint, "GET", f"{rest.JOBS}/{job['id']}")
            # Mistral counts total_requests only once the job has been validated.
            screen.progress(job["completed_requests"], count, job["status"])
            if job["status"] in FINISHED:
                return job
            if time.monotonic() > deadline:
                late = f"is still {job['status']} after {pace.patience:.0f} s"
                raise rest.CallFailed(f"job {job['id']} {late}")
            time.sleep(pace.pause)
    finally:
        screen.end_progress()


def _answer(line: dict[str, Any], width: int = 60) -> str:
    try:
        text = str(line["response"]["body"]["choices"][0]["message"]["content"])
    except (KeyError, TypeError, IndexError):
        text = str(line.get("error") or line.get("response"))
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
