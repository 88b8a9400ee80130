"""The REST service as users run it: `gunicorn wsgi:app`, on a free port. Not a test module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests

from tests.support.processes import (
    Process,
    Sandbox,
    run,
    start,
    stop,
    store_file,
    wait_for_line,
    wait_until,
)

KEY = "sk-end-to-end-0123456789"
OWN = ("GATEWAY_", "MISTRAL_", "WEB_CONCURRENCY", "GUNICORN_")
_LISTENING = re.compile(r"Listening at: (http://[\d.:]+)")


class Gateway:
    """A running REST service."""

    def __init__(self, process: Process, workers: int) -> None:
        self.process = process
        self.output: list[str] = []  # every line that it writes
        self.url = wait_for_line(process, _LISTENING, self.output)
        # A signal is lost on a worker that is still coming up.
        wait_until(lambda: self.said("ASGI server listening") == workers)
        self.port = int(self.url.rpartition(":")[2])
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Connection"] = "close"  # an idle connection would hold up the stop

    def end(self, seconds: float = 20) -> int:
        """Ends it by SIGTERM, with all of its output read; its exit code."""
        self.process.terminate()
        code = self.process.wait(seconds)
        stream = self.process.stdout
        wait_until(lambda: stream is None or stream.closed)
        return code

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


@dataclass(frozen=True)
class Stack:
    """The REST service and the sandbox behind it."""

    gateway: Gateway
    sandbox: Sandbox


def environment(upstream: str = "", key: str | None = KEY, **settings: Any) -> dict[str, str]:
    """The environment of a gateway with nothing of ours in it but this; settings by their variables' names."""
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(OWN)}
    chosen = {"GATEWAY_UPSTREAM_URL": upstream, "MISTRAL_AI_API_KEY": key, **settings}
    return inherited | {n: str(v) for n, v in chosen.items() if v not in ("", None)}


def command(*arguments: str) -> list[str]:
    """How gunicorn is started; without arguments exactly as the README says."""
    return [sys.executable, "-m", "gunicorn", *arguments, "wsgi:app"]


@contextmanager
def gateway_process(
    upstream: str = "", *, log_level: str = "info", anew: bool = False, **settings: Any
) -> Iterator[Gateway]:
    """A gateway before `upstream`, a base URL; `gateway_process(url, WEB_CONCURRENCY=2)`."""
    with store_file() as store:
        chosen = {"WEB_CONCURRENCY": 1, "GATEWAY_STORE": store, **settings}
        # Port 0 is gunicorn's to choose; at the level info it says which port that was.
        process = start(
            command("--bind", "127.0.0.1:0", "--log-level", log_level),
            environment(upstream, **chosen),
            anew=anew,
        )
        try:
            gateway = Gateway(process, int(chosen["WEB_CONCURRENCY"]))
            yield gateway
            gateway.session.close()
            gateway.end()
        finally:
            stop(process)


def failed_start(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself, with its code and output."""
    done = run(command(*arguments), environ)
    done.stdout += done.stderr
    return done
