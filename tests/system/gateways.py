"""REST services as an operator starts them, with ports they keep over a restart. Not a test module."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.mcp_bridge.processes import close
from tests.support.processes import (
    Sandbox,
    children,
    free_port,
    start,
    stop,
    wait_for_line,
    wait_until,
)
from tests.system.front import Front
from tests.system.gateway import environment

JOBS = "/v1/batch/jobs"
KEY = "sk-CANARY-0123456789"
_STARTED = re.compile(r"(Listening at: \S+)")


class Gateway:
    """A REST service at 127.0.0.1:`port`, or one that takes over the listening `socket`, as from systemd."""

    def __init__(
        self,
        upstream: str,
        store: Path | str,
        listening: socket.socket | None = None,
        **settings: object,
    ) -> None:
        self.listening = listening
        self.port = listening.getsockname()[1] if listening else free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.environ = environment(
            upstream,
            KEY,
            GATEWAY_PORT=self.port,
            GATEWAY_STORE=store,
            GATEWAY_LOG_FORMAT="json",
            WEB_CONCURRENCY=1,
            **settings,
        )
        self.output: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it listens; its worker may not answer yet."""
        command = [sys.executable, "-m", "gunicorn", "--log-level", "info", "wsgi:app"]
        if self.listening is None:
            self.process = start(command, self.environ)
        else:
            self.process = _start_with_socket(command, self.environ, self.listening)
        wait_for_line(self.process, _STARTED, self.output)

    @property
    def pid(self) -> int:
        """The master's."""
        assert self.process
        return self.process.pid

    def reload(self) -> None:
        """As `systemctl reload`; returns when its old workers are gone."""
        old = children(self.pid)
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: not set(old) & set(children(self.pid)))

    def kill(self) -> None:
        """Ends master and workers at once."""
        os.killpg(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """As `systemctl stop`."""
        if self.process:
            stop(self.process)
            close(self.process)
            self.process = None

    def inflight(self) -> float:
        """Requests that it is answering, the one that asks included."""
        session = requests.Session()
        session.trust_env = False
        text = session.get(f"http://{self.address}/metrics", timeout=5).text
        return float(
            next(s for s in text.splitlines() if s.startswith("gateway_inflight")).split()[1]
        )


def _start_with_socket(
    command: list[str], environ: dict[str, str], listening: socket.socket
) -> subprocess.Popen[str]:
    """The protocol of sd_listen_fds(3): the socket is descriptor 3, and the variables name the process itself."""
    script = f'exec 3<&{listening.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        env=environ,
        pass_fds=(listening.fileno(),),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def gateway(
    sandbox: Sandbox,
    store: Path | str,
    listening: socket.socket | None = None,
    **settings: object,
) -> Iterator[Gateway]:
    """A running REST service before the sandbox; settings by their variables' names."""
    running = Gateway(f"{sandbox.url}/v1", store, listening, **settings)
    running.start()
    try:
        yield running
    finally:
        running.end()


def job(text: str = "Hello") -> dict[str, Any]:
    """The body of a create."""
    messages = {"messages": [{"role": "user", "content": text}]}
    return {
        "endpoint": "/v1/chat/completions",
        "model": "mistral-small-latest",
        "requests": [{"custom_id": "1", "body": messages}],
    }


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
            self.pool.submit(self._run, False) for _ in range(reading)
        ]
        self.clients += [self.pool.submit(self._run, True) for _ in range(creating)]
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
                headers = {"Idempotency-Key": key}
                return session.post(url, json=job(), headers=headers, timeout=30).status_code
            return session.get(url, params={"page_size": 1}, timeout=30).status_code
        except requests.RequestException:
            return 0
