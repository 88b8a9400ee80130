"""`deploy/nginx.conf` under a real nginx, on free ports and with paths of its own, and clients that load it. Not a test module."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.api import JOBS, job, keyed
from tests.support.processes import ROOT, free_port, wait_until
from tests.support.tools_available import needed

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
HOST = "localhost"
"""The name by which callers know the gateway, and of its certificate."""


class Front:
    """A running nginx. `authority` is the PEM file that its certificate is checked with."""

    def __init__(
        self, process: subprocess.Popen[bytes], folder: Path, port: int, authority: str
    ) -> None:
        self.process = process
        self.folder = folder
        self.port = port
        self.url = f"https://{HOST}:{port}"
        self.authority = authority
        self.session = self.new_session()

    def new_session(self) -> requests.Session:
        """A client with connections of its own."""
        session = requests.Session()
        session.trust_env = False
        session.verify = self.authority
        return session

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """The answer, redirects not followed."""
        options = {"timeout": 20, "allow_redirects": False} | options
        return self.session.request(method, self.url + path, **options)

    def connect(self, server_name: str | None = None) -> ssl.SSLSocket:
        """A connection for bytes of the test's own."""
        context = ssl.create_default_context(cafile=self.authority)
        plain = socket.create_connection((HOST, self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname=server_name or HOST)

    def raw(self, content: bytes) -> bytes:
        """Everything that is answered to `content` until the connection ends."""
        with self.connect() as connection:
            connection.sendall(content)
            answer = b""
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except (ConnectionResetError, ssl.SSLError):
                pass
        return answer

    def log(self) -> list[dict[str, Any]]:
        """The access log's lines."""
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def errors(self) -> str:
        """The error log."""
        return (self.folder / "error.log").read_text()


def rendered(
    folder: Path,
    certificate: tuple[str, str],
    *,
    port: int,
    rest: Iterable[str],
    mcp: str = "127.0.0.1:9",
    rate: str = "100000r/s",
    read_timeout: str = "60s",
) -> Path:
    """The configuration in `folder`, with the texts replaced that its head names, and this machine's paths."""
    chain, key = certificate
    text = CONFIGURATION.read_text()
    for old, new in {
        "gateway.example.org": HOST,
        "/etc/nginx/tls/gateway.pem": chain,
        "/etc/nginx/tls/gateway.key": key,
        "\n        server 127.0.0.1:8080 max_fails=0;": "".join(
            f"\n        server {s} max_fails=0;" for s in rest
        ),
        "server 127.0.0.1:9090 max_fails=0;": f"server {mcp} max_fails=0;",
        "rate=50r/s": f"rate={rate}",
        # Where a test's nginx is: not on the machine's own ports, nor in its folders.
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "user www-data;": "user root;" if os.getuid() == 0 else "",
        "/run/nginx.pid": str(folder / "nginx.pid"),
        "/var/log/nginx/error.log": str(folder / "error.log"),
        "/var/log/nginx/gateway.json": str(folder / "access.log"),
        "/var/lib/nginx/": f"{folder}/",
        "proxy_read_timeout    60s;": f"proxy_read_timeout {read_timeout};",
        "worker_processes auto;": "worker_processes 1; daemon off;",
    }.items():
        assert old in text, f"nginx.conf has no {old!r}"
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def small(folder: Path, size: str) -> list[str]:
    """What starts a command so that it alone sees, in the place of `folder`, an empty file system of that size."""
    alone = [needed("unshare", "apt-get install util-linux"), "--mount"]
    if os.getuid():
        alone.append("--map-root-user")
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespaces here: {tried.stderr.strip()}")
    folder.mkdir(parents=True)
    script = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'
    return [*alone, "sh", "-c", script, size, str(folder)]


@contextmanager
def front(
    folder: Path,
    certificate: tuple[str, str],
    *rest: str,
    within: Sequence[str] = (),
    **options: Any,
) -> Iterator[Front]:
    """nginx before the REST services `rest`, each an address and what else a `server` line has.

    `within`: words before its command, which start it in surroundings of its own.
    """
    nginx = needed("nginx", "apt-get install nginx")
    port = free_port()
    folder.mkdir(exist_ok=True)
    path = rendered(folder, certificate, port=port, rest=rest, **options)
    command = [nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]
    subprocess.run([*command, "-t", "-q"], check=True)
    process = subprocess.Popen([*within, *command])
    try:
        wait_until(lambda: _listens(process, port))
        running = Front(process, folder, port, certificate[0])
        yield running
        running.session.close()
    finally:
        process.terminate()
        process.wait(10)


class Load:
    """Clients that list jobs (`reading`) or create one after the other, each with a key of its own, until told to stop.

    They send the headers of the client of `nginx`.
    """

    def __init__(self, nginx: Front, reading: int = 0, creating: int = 0) -> None:
        self.nginx = nginx
        self.counts = (reading, creating)
        self.over = False
        self.answers: list[tuple[str, int]] = []
        """(the key, or empty for a reading, and the status; 0: no answer at all) in the order of arrival."""

    def __enter__(self) -> Load:
        reading, creating = self.counts
        self.pool = ThreadPoolExecutor(reading + creating)
        self.clients: list[Future[None]] = [
            self.pool.submit(self._run, number < creating) for number in range(reading + creating)
        ]
        self.more(2)
        return self

    def __exit__(self, *_: Any) -> None:
        self.over = True
        self.pool.shutdown()
        for client in self.clients:
            client.result()

    def more(self, rounds: int = 5) -> None:
        """Returns when every client, on average, had that many more answers."""
        target = len(self.answers) + rounds * sum(self.counts)
        wait_until(lambda: len(self.answers) >= target, 30)

    @property
    def failed(self) -> list[tuple[str, int]]:
        """The answers that were no success."""
        return [answer for answer in self.answers if answer[1] != 200]

    def _run(self, creating: bool) -> None:
        with self.nginx.new_session() as session:
            session.headers.update(self.nginx.session.headers)
            while not self.over:
                key = str(uuid.uuid4()) if creating else ""
                self.answers.append((key, self.one(session, key)))

    def one(self, session: requests.Session, key: str) -> int:
        """The status of one request; 0 without an answer."""
        url = self.nginx.url + JOBS
        try:
            if key:
                return session.post(url, json=job(), headers=keyed(key), timeout=30).status_code
            return session.get(url, params={"page_size": 1}, timeout=30).status_code
        except requests.RequestException:
            return 0


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "nginx ended before it was ready"
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
