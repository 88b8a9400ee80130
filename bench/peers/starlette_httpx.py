"""Starlette and one shared httpx client: bodies pass as they come, and nothing is checked."""

from __future__ import annotations

import os

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

POOL = int(os.environ["POOL"])
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}
JSON = {"Content-Type": "application/json"}

client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM"],
    headers=HEADERS,
    timeout=httpx.Timeout(40, connect=5),
    limits=httpx.Limits(max_connections=POOL, max_keepalive_connections=POOL),
    trust_env=False,
)


async def proxy(request: Request) -> Response:
    """Passes one request on, and its answer back as it is."""
    body = await request.body() if request.method == "POST" else None
    answer = await client.request(
        request.method, request.url.path, content=body, headers=JSON if body else None
    )
    return Response(
        answer.content, answer.status_code, media_type=answer.headers.get("content-type")
    )


app = Starlette(
    routes=[
        Route("/v1/batch/jobs", proxy, methods=["GET", "POST"]),
        Route("/v1/batch/jobs/{job_id}", proxy),
    ]
)
