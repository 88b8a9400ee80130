"""Finding batch jobs again: the one module of the service that knows what a batch job is.

A created job carries a tag in its metadata, by which it is found in the list; a cancelled job is found by its id.
Source: Mistral's OpenAPI document (metadata: names of 1 to 32, values of 1 to 512 characters; list: newest first).

What is found decides whether a call is sent again, so each look has a connection of its own: nothing but its answer can come there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from openapi.contract import Contract, Operation, path_variables
from openapi.json_text import UNREADABLE, legible, read_json
from openapi.validation import Violation

from .idempotency import Recovery
from .problems import Problem
from .translation import Answer, Inputs, UpstreamRequest, fill
from .upstream import Upstream
from .upstream_connection import Exchange

TAG = "gw_op"
"""The metadata member that holds the tag. The contract refuses members with its prefix from callers."""

CLOCK_SLACK = 86400.0
"""Seconds by which the clocks may differ: jobs of so long before the call are looked at too."""

PAGE_SIZE = 100
PAGES = 50

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
    """A created job, found in the list by its tag; never found, so never created again, when tagging is off."""

    repeatable = False
    advice = "Look in the list of jobs, newest first, before you create another."

    def __init__(
        self, upstream: Upstream, listing: Operation, settle: float, tagging: bool
    ) -> None:
        self.upstream = upstream
        self.listing = listing
        self.settle = settle if tagging else math.inf
        self.tagging = tagging

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` with the tag among the job's metadata."""
        if not self.tagging:
            return request
        content = request.body or b"{}"
        try:
            members = msgspec.json.decode(content, type=dict[str, Raw])
        except RecursionError as error:  # the stack is deeper here than where the body was checked
            raise Problem("malformed-request", "The body is nested too deeply.") from error
        metadata = msgspec.json.decode(members.get("metadata", b"null")) or {}
        if not isinstance(metadata, dict):
            violation = Violation("/body/metadata", "must be an object")
            raise Problem("validation-failed", violations=[violation])
        members["metadata"] = Raw(msgspec.json.encode({**metadata, TAG: tag}))
        body = bytearray(len(content) + 128)
        msgspec.json.Encoder().encode_into(members, body)
        return replace(request, body=body)

    def recognises(self, answer: Answer) -> bool:
        """True when `answer` is a job."""
        return _is_job(answer)

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The tagged job as the answer to its creation. The tag is compared here: how the list filters is not documented."""
        if not self.tagging:
            return None
        for listed, job in self._jobs(since, time.monotonic() + limit):
            if _tag(job) == tag:
                return Answer(200, "application/json", _original(listed, job))
        return None

    def _jobs(self, since: float, deadline: float) -> Iterator[tuple[bytes, Raw]]:
        """All jobs since then, each with the answer that lists it.

        Problem when not all could be looked at, from which nothing may be concluded.
        """
        seen = 0
        for number in range(PAGES):
            answer = self._page(number, since, deadline)
            page = _decoded(answer, _Page)
            yield from ((answer, job) for job in page.data)
            seen += len(page.data)
            # A short page may be all that the upstream gives at a time, so it ends the list only when the total agrees.
            if not page.data or (len(page.data) < PAGE_SIZE and seen >= (page.total or math.inf)):
                return
        raise Problem("upstream-answer-too-large", f"There are more than {seen} jobs to look at.")

    def _page(self, number: int, since: float, deadline: float) -> bytes:
        earliest = datetime.fromtimestamp(since - CLOCK_SLACK, UTC)
        query = (
            ("page", str(number)),
            ("page_size", str(PAGE_SIZE)),
            ("created_after", earliest.strftime("%Y-%m-%dT%H:%M:%SZ")),
            ("order_by", "-created"),
        )
        left = deadline - time.monotonic()
        if left <= 0:
            raise Problem("upstream-timeout", "There was no time to look at all jobs.")
        asked = fill(self.listing, Inputs(query=query))
        return self.upstream.send(asked, Exchange(fresh=True), left).body


class Cancelled:
    """A cancelled job, found by its id."""

    repeatable = True
    settle = 0.0
    advice = "Get the job to see whether it is being cancelled."

    def __init__(self, upstream: Upstream, getting: Operation) -> None:
        self.upstream = upstream
        self.getting = getting

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` as it is: its target names the job."""
        return request

    def recognises(self, answer: Answer) -> bool:
        """True when `answer` is a job."""
        return _is_job(answer)

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The job, if it is no longer under way."""
        answer = self.upstream.send(self._getting(request), Exchange(fresh=True), max(0.1, limit))
        return None if _decoded(answer.body, _Job).status in _UNDER_WAY else answer

    def _getting(self, request: UpstreamRequest) -> UpstreamRequest:
        (name,) = path_variables(self.getting.path)
        job_id = request.target.removesuffix("/cancel").rpartition("/")[2]
        return fill(self.getting, Inputs(path={name: job_id}))


class _Page(msgspec.Struct):
    data: list[Raw]
    total: int | None = None


class _Job(msgspec.Struct):
    id: str
    status: str = ""
    metadata: Any = None


_Shape = TypeVar("_Shape")


def _is_job(answer: Answer) -> bool:
    try:
        return bool(_decoded(answer.body, _Job).id)
    except Problem:
        return False


def _tag(job: Raw) -> Any:
    """A listed job's tag; None for one without."""
    metadata = _decoded(job, _Job).metadata
    return metadata.get(TAG) if isinstance(metadata, dict) else None


def _original(listed: bytes, job: Raw) -> bytes:
    """The bytes of `job` as they are in the answer, which may have been read with something in their place.

    They are where it is found first: no text has its tag in it but its own.
    """
    text = bytes(job)
    begin = legible(listed).index(text)
    return listed[begin : begin + len(text)]


def _decoded(content: bytes | Raw, shape: type[_Shape]) -> _Shape:
    try:
        return read_json(content, shape)
    except UNREADABLE as error:
        raise Problem("upstream-bad-response", "The upstream's answer has another form.") from error
