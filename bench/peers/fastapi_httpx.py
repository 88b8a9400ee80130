"""FastAPI and one shared httpx client; a create is validated by a pydantic model and sent on from it.

`SENT` says how: `json`, httpx's parameter, as its documentation shows; `text`, written by pydantic; `raw`, the bytes that came.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
from fastapi import FastAPI, Request, Response  # type: ignore[import-not-found,unused-ignore]

from bench.peers.shapes import CreateBatchJob

POOL = int(os.environ["POOL"])
SENT = os.environ.get("SENT", "json")
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}
JSON = {"Content-Type": "application/json"}

client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM"],
    headers=HEADERS,
    timeout=httpx.Timeout(40, connect=5),
    limits=httpx.Limits(max_connections=POOL, max_keepalive_connections=POOL),
    trust_env=False,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Closes the client with the application."""
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


async def get_job(job_id: UUID) -> Response:
    """One job."""
    return _passed(await client.get(f"/v1/batch/jobs/{job_id}"))


async def list_jobs() -> Response:
    """All jobs."""
    return _passed(await client.get("/v1/batch/jobs"))


async def create_job(job: CreateBatchJob, request: Request) -> Response:
    """A new job."""
    if SENT == "json":
        members = job.model_dump(exclude_unset=True)
        return _passed(await client.post("/v1/batch/jobs", json=members))
    text = job.model_dump_json(exclude_unset=True) if SENT == "text" else await request.body()
    return _passed(await client.post("/v1/batch/jobs", content=text, headers=JSON))


def _passed(answer: httpx.Response) -> Response:
    return Response(
        answer.content, answer.status_code, media_type=answer.headers.get("content-type")
    )


app.add_api_route("/v1/batch/jobs/{job_id}", get_job)
app.add_api_route("/v1/batch/jobs", list_jobs)
app.add_api_route("/v1/batch/jobs", create_job, methods=["POST"])
