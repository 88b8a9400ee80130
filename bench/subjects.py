"""What is measured: the gateway, the bridge and their peers, and how each is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import work
from bench.machine import LITELLM, PEERS, PYTHON, ROOT, SERVED_BY
from bench.processes import Server, free_port

Command = tuple[str | Path, ...]


@dataclass(frozen=True)
class Subject:
    """A server that can be measured. `command` and `environ` may have {port}, {upstream} (a base URL),
    {authority} (its host and port) and {folder} in their texts.

    `files` are written into the folder first. `pinned`: it has one CPU to itself.
    """

    name: str
    command: Command
    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    pinned: bool = True
    probe: str = work.JOB_PATH
    patience: float = 60.0

    def with_settings(self, name: str = "", *, pinned: bool = True, **environ: object) -> Subject:
        """The same with other environment variables."""
        changed = {**self.environ, **{key: str(value) for key, value in environ.items()}}
        return replace(self, name=name or self.name, pinned=pinned, environ=changed)

    @contextmanager
    def started(self, upstream: str, folder: Path) -> Iterator[Server]:
        """The running server, before `upstream`, a base URL; its log and files are below `folder`."""
        port = free_port()
        own = folder / f"{self.name.replace(' ', '-').replace('/', '-')}-{port}"
        own.mkdir()
        texts = {
            "{port}": str(port),
            "{upstream}": upstream,
            "{authority}": upstream.partition("//")[2],
            "{folder}": str(own),
        }
        for name, content in self.files.items():
            (own / name).write_text(_filled(content, texts), encoding="utf-8")
        server = Server(
            [_filled(str(word), texts) for word in self.command],
            {name: _filled(value, texts) for name, value in self.environ.items()},
            port,
            own / "log",
            cpus={SERVED_BY} if self.pinned else None,
            probe=self.probe,
            patience=self.patience,
        )
        try:
            yield server
        finally:
            server.stop()


def _filled(text: str, texts: Mapping[str, str]) -> str:
    for name, value in texts.items():
        text = text.replace(name, value)
    return text


def _uvicorn(name: str, module: str, **environ: object) -> Subject:
    """A peer under uvicorn with what `uvicorn[standard]` brings: uvloop and httptools."""
    return Subject(
        name,
        (PEERS, "-m", "uvicorn", f"bench.peers.{module}:app", "--port", "{port}",
         "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
        {"UPSTREAM": "{upstream}", **{key: str(value) for key, value in environ.items()}},
    )  # fmt: skip


def _gunicorn_threads(workers: int, threads: int) -> Command:
    return (
        PEERS, "-m", "gunicorn", "bench.peers.flask_requests:app", "--config", os.devnull,
        "--bind", "127.0.0.1:{port}", "--worker-class", "gthread", "--workers", str(workers),
        "--threads", str(threads), "--keep-alive", "75", "--backlog", "2048",
        "--no-control-socket",
    )  # fmt: skip


GATEWAY = Subject(
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

GATEWAY_UNCOLLECTED = replace(
    GATEWAY,
    name="gateway without a collector",
    command=(PYTHON, "-m", "gunicorn", "--config", "python:bench.uncollected", "wsgi:app"),
)

FLASK = Subject(
    "Flask + requests", _gunicorn_threads(1, 256), {"UPSTREAM": "{upstream}", "POOL": "256"}
)
FLASK_2 = replace(FLASK, command=_gunicorn_threads(2, 256), pinned=False)

HTTPX_POOLS = (1000, 100, 32, 8)
FASTAPI_HTTPX = _uvicorn("FastAPI + httpx", "fastapi_httpx", POOL=100)
FASTAPI_HTTPX_TEXT = FASTAPI_HTTPX.with_settings(
    "FastAPI + httpx, written by pydantic", SENT="text"
)
FASTAPI_HTTPX_RAW = FASTAPI_HTTPX.with_settings("FastAPI + httpx, bytes as they came", SENT="raw")
FASTAPI_AIOHTTP = _uvicorn("FastAPI + aiohttp", "fastapi_aiohttp", POOL=512)
STARLETTE_HTTPX = _uvicorn("Starlette + httpx", "starlette_httpx", POOL=100)
AIOHTTP = Subject(
    "aiohttp",
    (PEERS, "-m", "bench.peers.aiohttp_proxy", "{port}"),
    {"UPSTREAM": "{upstream}", "POOL": "512"},
)
NGINX = Subject(
    "nginx",
    ("nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf"),
    files={
        "nginx.conf": """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error crit;
events { worker_connections 4096; multi_accept on; }
http {
  access_log off; keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 32m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream api { server {authority}; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{port} backlog=4096;
    location / {
      proxy_pass http://api; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Authorization "Bearer made-up";
    }
  }
}
"""
    },
)
LITELLM_PROXY = Subject(
    "LiteLLM pass-through",
    (LITELLM / "litellm", "--config", "{folder}/config.yaml", "--host", "127.0.0.1",
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
    patience=180.0,
)  # fmt: skip

BRIDGE = Subject(
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
FASTMCP = replace(
    _uvicorn("fastmcp", "fastmcp_openapi", POOL=512, GATEWAY_OPENAPI=ROOT / "openapi/openapi.yaml"),
    probe="/mcp",
)
