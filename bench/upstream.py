"""The fake upstream: nginx for answers at once, an asyncio server for answers that take their time or must be looked at,
one with threads for files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import work
from bench.load import Caller
from bench.machine import LOADED_BY, PEERS
from bench.processes import Server, Target, free_port
from bench.targets import nginx
from bench.work import Request

_SERVER = """
  open_file_cache max=10; add_header X-Request-ID $http_x_request_id;
  server {
    listen 127.0.0.1:{port} backlog=4096;
    listen 127.0.0.1:SECURE ssl backlog=4096;
    ssl_certificate CERTIFICATES/server.pem; ssl_certificate_key CERTIFICATES/server.key;
    location = /v1/batch/jobs {
      if ($request_method = POST) { return 200 'JOB'; }
      alias {folder}/list.json;
    }
    location = /connections { stub_status; }
    location / { return 200 'JOB'; }
  }"""


@dataclass(frozen=True)
class Upstream:
    """nginx with the job, the list and creates, over HTTP and over TLS; `authority` is the file of who signed for it."""

    server: Server
    secure_url: str
    authority: Path

    @property
    def url(self) -> str:
        """Where it is, over HTTP."""
        return self.server.url

    def connections(self) -> int:
        """How many connections it has accepted so far."""
        with Caller(self.server) as caller:
            _, _, page = caller.call(Request("/connections"))
        return int(page.split(b"requests")[1].split()[0])


@contextmanager
def started(folder: Path, python: str | Path = PEERS) -> Iterator[Upstream]:
    """A running upstream, with its files below `folder`; `python` is one that has trustme."""
    certify = [python, "-m", "trustme", "-q", "-d", folder, "-i", "127.0.0.1", "localhost"]
    subprocess.run(certify, check=True)
    secure = free_port()
    content = _SERVER.replace("SECURE", str(secure)).replace("CERTIFICATES", str(folder))
    target = nginx("upstream", content.replace("JOB", work.JOB.decode()))
    files = {**target.files, "list.json": work.LIST.decode()}
    with replace(target, cpu=LOADED_BY, files=files).started("", folder) as server:
        yield Upstream(server, f"https://localhost:{secure}", folder / "client.pem")


def slow(folder: Path, milliseconds: int) -> AbstractContextManager[Server]:
    """An upstream that answers after so many milliseconds, and remembers the last body it got."""
    command = (sys.executable, "-m", "bench.slow", "{port}", str(milliseconds))
    name = f"upstream of {milliseconds} ms"
    return Target(name, command, cpu=LOADED_BY, probe="/last").started("", folder)


def files(folder: Path) -> AbstractContextManager[Server]:
    """An upstream that takes and gives files, and remembers the last small upload."""
    command = (sys.executable, "-m", "bench.file_server", "{port}")
    target = Target("upstream of files", command, cpu=LOADED_BY, probe="/last")
    return target.started("", folder)


def last_upload(server: Server) -> bytes:
    """The body of the last upload that an upstream of files got, a small one."""
    with Caller(server) as caller:
        _, _, body = caller.call(Request("/last"))
    return body


def last_body(server: Server) -> object:
    """The last body that a slow upstream got, parsed."""
    with Caller(server) as caller:
        _, _, body = caller.call(Request("/last"))
    return json.loads(body)
