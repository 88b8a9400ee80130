"""What is measured: the gateway, the bridge and their peers."""

from __future__ import annotations

import os
from dataclasses import replace

from bench.machine import LITELLM as LITELLM_COMMAND
from bench.machine import PEERS, PYTHON, ROOT
from bench.processes import Command, Target
from bench.work import JOB_ID, LEGACY, MODERN, tool_call

GATEWAY = Target(
    "gateway",
    (PYTHON, "-m", "gunicorn", "wsgi:app"),
    {
        "GATEWAY_PORT": "{port}",
        "GATEWAY_UPSTREAM_URL": "{upstream}/v1",
        "GATEWAY_STORE": "{folder}/keys.sqlite3",
        "GATEWAY_LOG_FORMAT": "json",
        "GATEWAY_AUDIT_LOG": "{folder}/audit",
        "MISTRAL_AI_API_KEY": "made-up",
        "WEB_CONCURRENCY": "1",
    },
)
"""As in production: every check, guard, id, metric and log line on; logs go to files."""

GATEWAY_2 = replace(
    GATEWAY.with_settings(f"{GATEWAY.name}, 2 workers", WEB_CONCURRENCY=2), cpu=None
)
GATEWAY_UNCHECKED = GATEWAY.with_settings(
    f"{GATEWAY.name}, files unchecked", GATEWAY_CHECK_FILES="off"
)
GATEWAY_UNCOLLECTED = replace(
    GATEWAY,
    name="gateway without a collector",
    command=(
        PYTHON, "-c", "import gc, gunicorn.app.wsgiapp as g; gc.disable(); g.run()", "wsgi:app",
    ),
)  # fmt: skip
"""To see what the garbage collector does to the tail."""

BRIDGE = Target(
    "bridge",
    (PYTHON, "-m", "mcp_bridge"),
    {
        "BRIDGE_PORT": "{port}",
        "BRIDGE_REST_URL": "{upstream}",
        "BRIDGE_LOG_FORMAT": "json",
        "BRIDGE_AUDIT_LOG": "{folder}/audit",
    },
    probe="/livez",
)


def _in_each_version(target: Target, tool: str, argument: str) -> dict[str, Target]:
    """The target, asked for the job by a tool in each version of MCP."""
    requests = {each: tool_call(each, tool, {argument: JOB_ID}) for each in (MODERN, LEGACY)}
    return {
        version: replace(target, name=f"{target.name}, {version}", request=request)
        for version, request in requests.items()
    }


BRIDGES = _in_each_version(BRIDGE, "get-batch-job", "job_id")


def _flask(workers: int) -> Command:
    return (
        PEERS, "-m", "gunicorn", "bench.peers.flask_requests:app", "--config", os.devnull,
        "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--workers", str(workers),
        "--threads", "256", "--keep-alive", "75", "--backlog", "2048", "--no-control-socket",
    )  # fmt: skip


def _uvicorn(name: str, module: str, pool: int) -> Target:
    """A peer under uvicorn with what `uvicorn[standard]` brings: uvloop and httptools."""
    return Target(
        name,
        (PEERS, "-m", "uvicorn", f"bench.peers.{module}:app", "--port", "{port}",
         "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
        {"UPSTREAM": "{upstream}", "POOL": str(pool)},
    )  # fmt: skip


FLASK = Target("Flask + requests", _flask(1), {"UPSTREAM": "{upstream}", "POOL": "256"})
FLASK_2 = replace(FLASK, name=f"{FLASK.name}, 2 workers", command=_flask(2), cpu=None)

FASTAPI_HTTPX = _uvicorn("FastAPI + httpx", "fastapi_proxy", 8)
"""With the fastest of the pools of 8, 32, 100 and 1,000 connections: httpx goes through all that it has for each request."""

FASTAPI_HTTPX_TEXT = FASTAPI_HTTPX.with_settings(
    "FastAPI + httpx, written by pydantic", SENT="text"
)
FASTAPI_HTTPX_RAW = FASTAPI_HTTPX.with_settings("FastAPI + httpx, bytes as they came", SENT="raw")
FASTAPI_AIOHTTP = _uvicorn("FastAPI + aiohttp", "fastapi_proxy", 512).with_settings(
    CLIENT="aiohttp"
)
STARLETTE_HTTPX = _uvicorn("Starlette + httpx", "starlette_httpx", 8)
AIOHTTP = Target(
    "aiohttp",
    (PEERS, "-m", "bench.peers.aiohttp_proxy", "{port}"),
    {"UPSTREAM": "{upstream}", "POOL": "512"},
)
FASTMCP = replace(
    _uvicorn("fastmcp", "fastmcp_openapi", 512).with_settings(
        GATEWAY_OPENAPI=ROOT / "openapi" / "openapi.yaml"
    ),
    probe="/mcp",
)
FASTMCPS = _in_each_version(FASTMCP, "getbatchjob", "job-id")
LITELLM = Target(
    "LiteLLM pass-through",
    (LITELLM_COMMAND, "--config", "{folder}/config.yaml", "--host", "127.0.0.1",
     "--port", "{port}", "--num_workers", "1", "--telemetry", "False"),
    # It takes some asking to have callers without keys.
    {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION",
     "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"},
    {
        "config.yaml": """
model_list: []
general_settings:
  pass_through_endpoints:
    - path: /v1/batch/jobs
      target: {upstream}/v1/batch/jobs
      include_subpath: true
      headers: {Authorization: Bearer made-up}
"""
    },
)  # fmt: skip

# One process without a master, whose connections live as long as their clients want.
_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error crit;
events { worker_connections 4096; multi_accept on; }
http {
  access_log off; default_type application/json; server_tokens off; tcp_nodelay on; sendfile on;
  keepalive_requests 1000000000; keepalive_timeout 1h;
  client_max_body_size 64m; client_body_buffer_size 32m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  CONTENT
}
"""


def nginx(name: str, content: str) -> Target:
    """An nginx with this content in its `http` block."""
    command = ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf")
    return Target(name, command, files={"nginx.conf": _NGINX.replace("CONTENT", content)})


NGINX = nginx(
    "nginx",
    """
  upstream api { server {authority}; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{port} backlog=4096;
    location / {
      proxy_pass http://api; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer made-up";
    }
  }""",
)

NGINX_FILES = nginx(
    "nginx",
    """
  upstream api { server {authority}; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{port} backlog=4096;
    location / {
      client_max_body_size 0; client_body_buffer_size 256k; proxy_request_buffering off;
      proxy_buffers 16 64k; proxy_max_temp_file_size 0;
      proxy_pass http://api; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer made-up";
    }
  }""",
)
"""Files pass in pieces, both ways."""
