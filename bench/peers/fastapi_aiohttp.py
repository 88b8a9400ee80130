"""FastAPI and one shared aiohttp client session: the fastest client that is common in Python."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aiohttp  # type: ignore[import-not-found,unused-ignore]
from fastapi import FastAPI, Response  # type: ignore[import-not-found,unused-ignore]

from bench.peers.shapes import CreateBatchJob

UPSTREAM = os.environ["UPSTREAM"]
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def lifespan(own: FastAPI) -> AsyncIterator[None]:
    """Opens the session where its event loop is, and closes it."""
    connector = aiohttp.TCPConnector(limit=int(os.environ["POOL"]))
    async with aiohttp.ClientSession(
        UPSTREAM, headers=HEADERS, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as own.state.session:
        yield


app = FastAPI(lifespan=lifespan)


async def get_job(job_id: UUID) -> Response:
    """One job."""
    return await _passed("GET", f"/v1/batch/jobs/{job_id}")


async def list_jobs() -> Response:
    """All jobs."""
    return await _passed("GET", "/v1/batch/jobs")


async def create_job(job: CreateBatchJob) -> Response:
    """A new job."""
    return await _passed("POST", "/v1/batch/jobs", job.model_dump_json(exclude_unset=True).encode())


async def _passed(method: str, path: str, body: bytes | None = None) -> Response:
    headers = JSON if body else None
    async with app.state.session.request(method, path, data=body, headers=headers) as answer:
        return Response(
            await answer.read(), answer.status, media_type=answer.headers.get("Content-Type")
        )


app.add_api_route("/v1/batch/jobs/{job_id}", get_job)
app.add_api_route("/v1/batch/jobs", list_jobs)
app.add_api_route("/v1/batch/jobs", create_job, methods=["POST"])
