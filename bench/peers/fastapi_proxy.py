"""FastAPI and one shared client; a create is validated by a pydantic model and sent on from it.

`CLIENT` says which client: httpx, or `aiohttp`, the fastest that is common in Python. `SENT` says how a create is sent: by
httpx's `json=`, as its documentation shows (unset); as pydantic writes it (`text`); the bytes that came (`raw`). Files pass in
pieces, both ways.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastapi import FastAPI, Request, Response  # type: ignore[import-not-found,unused-ignore]
from fastapi.responses import StreamingResponse  # type: ignore[import-not-found,unused-ignore]
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

POOL = int(os.environ["POOL"])
UPSTREAM = os.environ["UPSTREAM"]
SENT = os.environ.get("SENT", "json")
AIOHTTP = os.environ.get("CLIENT") == "aiohttp"
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}
JSON = {"Content-Type": "application/json"}

if AIOHTTP:
    import aiohttp  # type: ignore[import-not-found,unused-ignore]
else:
    import httpx


class BatchRequest(BaseModel):
    """One request of a job."""

    custom_id: str | None = None
    body: dict[str, Any]


class CreateBatchJob(BaseModel):
    """A job to create, as a FastAPI gateway would declare it."""

    model_config = ConfigDict(extra="allow")

    endpoint: str
    model: str | None = None
    agent_id: str | None = None
    requests: list[BatchRequest] | None = Field(default=None, max_length=10_000)
    input_files: list[str] | None = None
    metadata: dict[str, str] | None = None
    timeout_hours: int = Field(default=24, ge=1, le=168)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Opens the client where its event loop is, and closes it."""
    client: Any
    if AIOHTTP:
        connector, jar = aiohttp.TCPConnector(limit=POOL), aiohttp.DummyCookieJar()
        client = aiohttp.ClientSession(
            UPSTREAM, headers=HEADERS, connector=connector, cookie_jar=jar
        )
    else:
        limits = httpx.Limits(max_connections=POOL, max_keepalive_connections=POOL)
        timeout = httpx.Timeout(40, connect=5)
        client = httpx.AsyncClient(
            base_url=UPSTREAM, headers=HEADERS, timeout=timeout, limits=limits, trust_env=False
        )
    async with client as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


async def get_job(job_id: UUID) -> Response:
    """One job."""
    return await _passed("GET", f"/v1/batch/jobs/{job_id}")


async def list_jobs() -> Response:
    """All jobs."""
    return await _passed("GET", "/v1/batch/jobs")


async def create_job(job: CreateBatchJob, request: Request) -> Response:
    """A new job."""
    if AIOHTTP:
        content = job.model_dump_json(exclude_unset=True).encode()
        return await _passed("POST", "/v1/batch/jobs", data=content, headers=JSON)
    if SENT == "json":
        return await _passed("POST", "/v1/batch/jobs", json=job.model_dump(exclude_unset=True))
    text = job.model_dump_json(exclude_unset=True) if SENT == "text" else await request.body()
    return await _passed("POST", "/v1/batch/jobs", content=text, headers=JSON)


async def upload_file(request: Request) -> Response:
    """A new file, its form as it comes."""
    sent = "data" if AIOHTTP else "content"
    headers = {name: request.headers[name] for name in ("Content-Type", "Content-Length")}
    return await _passed("POST", "/v1/files", **{sent: request.stream()}, headers=headers)


async def download_file(file_id: UUID) -> Response:
    """A file's content, as it comes."""
    path = f"/v1/files/{file_id}/content"
    client = app.state.client
    if AIOHTTP:
        answer = await client.get(path)
        pieces, close, status = answer.content.iter_any(), answer.release, answer.status
    else:
        answer = await client.send(client.build_request("GET", path), stream=True)
        pieces, close, status = answer.aiter_raw(), answer.aclose, answer.status_code
    headers = {name: answer.headers[name] for name in ("Content-Type", "Content-Length")}
    return StreamingResponse(pieces, status, headers, background=BackgroundTask(close))


async def _passed(method: str, path: str, **sent: Any) -> Response:
    if AIOHTTP:
        async with app.state.client.request(method, path, **sent) as answer:
            content, status = await answer.read(), answer.status
    else:
        answer = await app.state.client.request(method, path, **sent)
        content, status = answer.content, answer.status_code
    return Response(content, status, media_type=answer.headers.get("Content-Type"))


app.add_api_route("/v1/batch/jobs/{job_id}", get_job)
app.add_api_route("/v1/batch/jobs", list_jobs)
app.add_api_route("/v1/batch/jobs", create_job, methods=["POST"])
app.add_api_route("/v1/files", upload_file, methods=["POST"])
app.add_api_route("/v1/files/{file_id}/content", download_file)
