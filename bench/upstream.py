"""The fake upstream: nginx for answers at once, an asyncio server for answers that take their time or must be looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from bench import work
from bench.machine import LOADED_BY, PEERS
from bench.processes import Server, free_port

# One process without a master, whose connections live as long as their clients want.
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log crit;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off; default_type application/json; server_tokens off;
  keepalive_requests 1000000000; keepalive_timeout 1h; tcp_nodelay on;
  client_max_body_size 64m; client_body_buffer_size 32m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  open_file_cache max=10; sendfile on;
  server {{
    listen 127.0.0.1:{plain} backlog=4096;
    listen 127.0.0.1:{secure} ssl backlog=4096;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    location = /v1/batch/jobs {{
      if ($request_method = POST) {{ return 200 '{job}'; }}
      alias {folder}/list.json;
    }}
    location = /connections {{ stub_status; }}
    location / {{ return 200 '{job}'; }}
  }}
}}
"""


class Upstream:
    """nginx with the job, the list and creates, over HTTP and over TLS."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.plain, self.secure = free_port(), free_port()
        self.authority = folder / "client.pem"
        names = ["127.0.0.1", "localhost"]
        certify: list[str | Path] = [python, "-m", "trustme", "-q", "-d", folder, "-i"]
        subprocess.run([*certify, *names], check=True)
        (folder / "list.json").write_bytes(work.LIST)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder, plain=self.plain, secure=self.secure, job=work.JOB.decode()
            ),
            encoding="utf-8",
        )
        nginx = shutil.which("nginx") or "nginx"
        self.server = Server(
            [nginx, "-p", folder, "-c", configuration],
            {},
            self.plain,
            folder / "nginx.out",
            cpus={LOADED_BY},
        )
        self.url = f"http://127.0.0.1:{self.plain}"
        self.secure_url = f"https://localhost:{self.secure}"

    def connections(self) -> int:
        """How many connections it has accepted so far."""
        return int(_got(f"{self.url}/connections").split(b"requests")[1].split()[0])


@contextmanager
def started(folder: Path, python: Path = PEERS) -> Iterator[Upstream]:
    """A running upstream, with its files below `folder`; `python` is one that has trustme."""
    upstream = Upstream(folder, python)
    try:
        yield upstream
    finally:
        upstream.server.stop()


@contextmanager
def slow(folder: Path, milliseconds: int) -> Iterator[Server]:
    """An upstream that answers after so many milliseconds, and remembers the last body it got."""
    port = free_port()
    server = Server(
        [sys.executable, "-m", "bench.slow", str(port), str(milliseconds)],
        {},
        port,
        folder / f"slow-{milliseconds}.out",
        cpus={LOADED_BY},
        probe="/last",
    )
    try:
        yield server
    finally:
        server.stop()


def last_body(server: Server) -> object:
    """The last body that a slow upstream got, parsed."""
    return json.loads(_got(f"{server.url}/last"))


def _got(url: str) -> bytes:
    with build_opener(ProxyHandler({})).open(
        url
    ) as answer:  # past proxies that the environment names
        content: bytes = answer.read()
    return content
