"""fastmcp's `from_openapi` on the gateway's own document: `uvicorn bench.peers.fastmcp_openapi:app`."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
import yaml
from fastmcp import FastMCP  # type: ignore[import-not-found,unused-ignore]

document = yaml.safe_load(Path(os.environ["GATEWAY_OPENAPI"]).read_text(encoding="utf-8"))
POOL = int(os.environ["POOL"])

client = httpx2.AsyncClient(
    base_url=os.environ["UPSTREAM"],
    timeout=httpx2.Timeout(40, connect=5),
    limits=httpx2.Limits(max_connections=POOL, max_keepalive_connections=POOL),
    trust_env=False,
)
server = FastMCP.from_openapi(openapi_spec=document, client=client, name="fastmcp")
app = server.http_app(path="/mcp", stateless_http=True, json_response=True)
