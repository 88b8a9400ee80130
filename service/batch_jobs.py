"""Finding batch jobs again: the one module of the service that knows what a batch job is.

A created job carries a tag in its metadata, by which it is found in the list; a cancelled job is found by its id.
Source: Mistral's OpenAPI document (metadata: names of 1 to 32, values of 1 to 512 characters; list: newest first).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from openapi.contract import Contract, Operation, path_variables

from .errors import Problem
from .exchange import Exchange
from .idempotency import Recovery
from .messages import Answer, Inputs, UpstreamRequest, fill
from .upstream import Upstream

TAG = "gw_op"
"""The metadata member that holds the tag. The contract refuses members with its prefix from callers."""

CLOCK_SLACK = 600.0
"""Seconds by which the upstream's clock may be behind ours."""

PAGE_SIZE = 100
PAGES = 5

_UNDER_WAY = ("QUEUED", "RUNNING")


def recoveries(
    contract: Contract, upstream: Upstream, settle: float, *, tagging: bool
) -> dict[str, Recovery]:
    """The recoveries for the operations of `contract`, by operation id; none for a contract of something else."""
    operations = contract.operations
    found: dict[str, Recovery] = {}
    if {"createbatchjob", "listbatchjobs"} <= operations.keys():
        found["createbatchjob"] = Created(upstream, operations["listbatchjobs"], settle, tagging)
    if {"cancelbatchjob", "getbatchjob"} <= operations.keys():
        found["cancelbatchjob"] = Cancelled(upstream, operations["getbatchjob"])
    return found


class Created:
    """A created job, found in the list by its tag; never found when tagging is off."""

    advice = "Look in the list of jobs, newest first, before you create another; an Idempotency-Key makes repeating safe."

    def __init__(
        self, upstream: Upstream, listing: Operation, settle: float, tagging: bool
    ) -> None:
        self.upstream = upstream
        self.listing = listing
        self.settle = settle if tagging else float("inf")
        self.tagging = tagging

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` with the tag among the job's metadata."""
        if not self.tagging:
            return request
        members = msgspec.json.decode(request.body or b"{}", type=dict[str, Raw])
        metadata = msgspec.json.decode(members.get("metadata", Raw(b"null"))) or {}
        members["metadata"] = Raw(msgspec.json.encode({**metadata, TAG: tag}))
        body = bytearray(len(request.body or b"") + 128)
        msgspec.json.Encoder().encode_into(members, body)
        return replace(request, body=body)

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The tagged job as the answer to its creation. The tag is compared here: how the list filters is not documented."""
        if not self.tagging:
            return None
        for job in self._jobs(since, time.monotonic() + limit):
            if isinstance(job.get("metadata"), dict) and job["metadata"].get(TAG) == tag:
                return Answer(200, "application/json", msgspec.json.encode(job))
        return None

    def _jobs(self, since: float, deadline: float) -> Iterator[dict[str, Any]]:
        created_after = datetime.fromtimestamp(since - CLOCK_SLACK, UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        for page in range(PAGES):
            query = (
                ("page", str(page)),
                ("page_size", str(PAGE_SIZE)),
                ("created_after", created_after),
                ("order_by", "-created"),
            )
            request = fill(self.listing, Inputs(query=query))
            answer = self.upstream.send(request, Exchange(), max(0.1, deadline - time.monotonic()))
            jobs = _parsed(answer).get("data") or []
            yield from jobs
            if len(jobs) < PAGE_SIZE:
                return


class Cancelled:
    """A cancelled job, found by its id. Cancelling again does no harm, so one that is not cancelled is sent again at once."""

    settle = 0.0
    advice = "Get the job to see whether it is being cancelled."

    def __init__(self, upstream: Upstream, getting: Operation) -> None:
        self.upstream = upstream
        self.getting = getting

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` as it is: its target names the job."""
        return request

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The job, if it is no longer under way."""
        answer = self.upstream.send(self._getting(request), Exchange(), max(0.1, limit))
        return None if _parsed(answer).get("status") in _UNDER_WAY else answer

    def _getting(self, request: UpstreamRequest) -> UpstreamRequest:
        (name,) = path_variables(self.getting.path)
        job_id = request.target.removesuffix("/cancel").rpartition("/")[2]
        return fill(self.getting, Inputs(path={name: job_id}))


def _parsed(answer: Answer) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Problem(
            "upstream-bad-response", "The upstream's answer is not a JSON object."
        ) from error
