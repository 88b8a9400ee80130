"""Finding the job of a create whose answer was lost: the one module of the service that knows what a batch job is.

A created job carries a tag in its metadata, by which it is found in the list. The contract says which operation creates and
which lists (`x-recovery`). Source: Mistral's OpenAPI document (metadata: names of 1 to 32, values of 1 to 512 characters; list:
newest first).

What is found decides whether a request is sent again, so each search has connections of its own: nothing but its answers can
come there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from openapi.contract import Contract, ContractError, Operation
from openapi.json_text import UNREADABLE, legible, read_json
from openapi.validation import Violation

from .idempotency import Recovery
from .problems import Problem
from .translation import Answer, Inputs, UpstreamRequest, build_request
from .upstream import Upstreams
from .upstream_connection import CancellableRequest, Deadline

KIND = "batch-job"
"""The contract's word for this way to recover."""

TAG = "gw_op"
"""The metadata member that holds the tag. The contract refuses members with its prefix from callers."""

CLOCK_SLACK = 86400.0
"""Seconds by which the clocks may differ: jobs of so long before the request are looked at too."""

PAGE_SIZE = 100
PAGES = 50


def check_recoveries(contract: Contract) -> None:
    """Raises ContractError when the contract wants a recovery of a kind that there is not."""
    for operation in contract.operations.values():
        if operation.recovery and operation.recovery.kind != KIND:
            raise ContractError(
                f"{contract.source}: x-recovery of {operation.id}: there is no kind {operation.recovery.kind!r}, only {KIND}"
            )


def recoveries(contract: Contract, upstream: Upstreams, settle: float) -> dict[str, Recovery]:
    """The recoveries that the contract wants, by operation id; none for a contract of something else."""
    return {
        operation.id: JobRecovery(
            upstream, contract.operations[operation.recovery.search_operation], settle
        )
        for operation in contract.operations.values()
        if operation.recovery
    }


class JobRecovery:
    """The recovery of a created job, which is found in the list by its tag."""

    advice = "Look in the list of jobs, newest first, before you create another."

    def __init__(self, upstream: Upstreams, listing: Operation, settle: float) -> None:
        self.upstream = upstream
        self.listing = listing
        self.settle = settle

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` with the tag among the job's metadata."""
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
        try:
            return bool(_decoded(answer.body, _Job).id)
        except Problem:
            return False

    def find(self, tag: str, since: float, deadline: Deadline) -> Answer | None:
        """The tagged job as the answer to its creation. The tag is compared here: how the list filters is not documented."""
        for page, job in self._jobs(since, deadline):
            metadata = _decoded(job, _Job).metadata
            if isinstance(metadata, dict) and metadata.get(TAG) == tag:
                return Answer(200, "application/json", _original(page, job))
        return None

    def _jobs(self, since: float, deadline: Deadline) -> Iterator[tuple[bytes, Raw]]:
        """All jobs since then, each with the answer that lists it.

        Problem when not all could be looked at, from which nothing may be concluded.
        """
        earliest = datetime.fromtimestamp(since - CLOCK_SLACK, UTC)
        seen = 0
        for number in range(PAGES):
            query = (
                ("page", str(number)),
                ("page_size", str(PAGE_SIZE)),
                ("created_after", earliest.strftime("%Y-%m-%dT%H:%M:%SZ")),
                ("order_by", "-created"),
            )
            if deadline.expired:
                raise Problem("upstream-timeout", "There was no time to look at all jobs.")
            request = build_request(self.listing, Inputs(query=query))
            answer = self.upstream.send(request, CancellableRequest(deadline, fresh=True)).body
            page = _decoded(answer, _Page)
            yield from ((answer, job) for job in page.data)
            seen += len(page.data)
            # A short page may be all that the upstream gives at a time, so it ends the list only when the total agrees.
            if not page.data or (len(page.data) < PAGE_SIZE and seen >= (page.total or math.inf)):
                return
        raise Problem("upstream-answer-too-large", f"There are more than {seen} jobs to look at.")


class _Page(msgspec.Struct):
    data: list[Raw]
    total: int | None = None


class _Job(msgspec.Struct):
    id: str
    metadata: Any = None


_Shape = TypeVar("_Shape")


def _original(page: bytes, job: Raw) -> bytes:
    """The bytes of `job` as they are in the answer, which may have been read with something in their place.

    They are where it is found first: no text has its tag in it but its own.
    """
    text = bytes(job)
    begin = legible(page).index(text)
    return page[begin : begin + len(text)]


def _decoded(content: bytes | Raw, shape: type[_Shape]) -> _Shape:
    try:
        return read_json(content, shape)
    except UNREADABLE as error:
        raise Problem("upstream-bad-response", "The upstream's answer has another form.") from error
