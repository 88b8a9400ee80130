"""The REST service as users run it, `gunicorn wsgi:app`, on a port that it keeps over a restart. Not a test module."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from tests.support.processes import (
    Process,
    Sandbox,
    children,
    environment,
    free_port,
    run,
    start,
    stop,
    store_file,
    wait_for_line,
    wait_until,
)

KEY = "sk-CANARY-0123456789"
_LISTENING = re.compile(r"(Listening at: \S+)")


class Gateway:
    """A REST service before `upstream`, a base URL; settings by their variables' names.

    `listening`: a socket that it takes over, as from systemd. `within`: words before its command, which start it in
    surroundings of its own.
    """

    process: Process

    def __init__(
        self,
        upstream: str = "",
        *,
        listening: socket.socket | None = None,
        within: Sequence[str] = (),
        host: str = "127.0.0.1",
        log_level: str = "info",
        anew: bool = False,
        **settings: Any,
    ) -> None:
        self.port: int = listening.getsockname()[1] if listening else free_port()
        self.address = f"{host}:{self.port}"
        self.url = f"http://{self.address}"
        self.output: list[str] = []  # every line that it writes
        self.environ = gateway_environment(
            upstream,
            **{
                "GATEWAY_HOST": host,
                "GATEWAY_PORT": self.port,
                "WEB_CONCURRENCY": 1,
                **settings,
            },
        )
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Connection"] = "close"  # an idle connection would hold up the stop
        self._listening = listening
        self._command = [
            *within,
            *command("--log-level", log_level),
        ]  # at info it says when it is ready
        self._anew = anew

    def start(self) -> None:
        """Returns when all of its workers answer: a signal is lost on one that is still coming up."""
        ready = self.said("ASGI server listening") + int(self.environ["WEB_CONCURRENCY"])
        if self._listening:
            self.process = _start_with_socket(self._command, self.environ, self._listening)
        else:
            self.process = start(self._command, self.environ, anew=self._anew)
        wait_for_line(self.process, _LISTENING, self.output)
        wait_until(lambda: self.said("ASGI server listening") == ready)

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """The processes that answer."""
        return children(self.pid)

    def reload(self) -> None:
        """As `systemctl reload`; returns when its old workers are gone."""
        old = self.workers
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: not set(old) & set(self.workers))

    def kill_workers(self) -> None:
        """Ends all workers at once, without a warning; gunicorn starts new ones."""
        for pid in self.workers:
            os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """Ends master and workers at once."""
        os.killpg(self.pid, signal.SIGKILL)
        stop(self.process)

    def end(self, seconds: float = 20) -> int:
        """As `systemctl stop`, with all of its output read; its exit code."""
        self.process.terminate()
        self.process.wait(seconds)
        return stop(self.process)

    def said(self, text: str) -> int:
        """How many lines of the output have this in them."""
        return sum(text in line for line in list(self.output))

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """The answer, redirects not followed."""
        options = {"timeout": 30, "allow_redirects": False} | options
        return self.session.request(method, self.url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """The answer to a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> requests.Response:
        """The answer to a POST."""
        return self.request("POST", path, json=json, **options)

    def inflight(self) -> float:
        """Requests that it has, the one that asks included: those that it is answering, and those that wait."""
        samples = self.get("/metrics", timeout=5).text.splitlines()
        kinds = ("gateway_inflight_requests ", "gateway_inflight_waits ")
        return sum(float(sample.split()[1]) for sample in samples if sample.startswith(kinds))


@dataclass(frozen=True)
class Stack:
    """The REST service and the sandbox behind it."""

    gateway: Gateway
    sandbox: Sandbox


def gateway_environment(
    upstream: str = "", key: str | None = KEY, **settings: Any
) -> dict[str, str]:
    """As `environment`, with an upstream and a key, unless `settings` have others."""
    usual = {"GATEWAY_UPSTREAM_URL": upstream or None, "MISTRAL_AI_API_KEY": key or None}
    return environment(**{**usual, **settings})


def command(*arguments: str) -> list[str]:
    """How gunicorn is started; without arguments exactly as the README says."""
    return [sys.executable, "-m", "gunicorn", *arguments, "wsgi:app"]


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
def gateway_process(upstream: str = "", **options: Any) -> Iterator[Gateway]:
    """A running `Gateway`, with a store of its own unless it is given one: `gateway_process(url, WEB_CONCURRENCY=2)`."""
    with store_file() as store:
        gateway = Gateway(upstream, **{"GATEWAY_STORE": store, **options})
        try:
            gateway.start()
            yield gateway
            gateway.end()
        finally:
            gateway.session.close()
            stop(gateway.process)


def failed_start(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself, with its code and output."""
    done = run(command(*arguments), environ)
    done.stdout += done.stderr
    return done
