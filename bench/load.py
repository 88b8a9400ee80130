"""Load by wrk, and single calls from this process: for bodies too large to be repeated fast, and to look at answers."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import work
from bench.machine import LOADED_BY
from bench.processes import Server
from bench.work import Request

_SCRIPT = Path(__file__).with_name("load.lua")


class WrongAnswer(RuntimeError):
    """A server gave other answers than the work's, errors or none, so its figures would mean nothing."""


@dataclass(frozen=True)
class Sample:
    """One load: answers per second, milliseconds of latency, CPU microseconds of the server per answer.

    There is none of a load with errors; the figure is there to be shown.
    """

    rate: float
    p50: float
    p99: float
    p999: float
    longest: float
    cpu: float
    requests: int
    errors: int = 0


def load(
    server: Server, clients: int, seconds: int, request: Request, *, pinned: bool = True
) -> Sample:
    """Asks `server` from so many connections for so many seconds, and lets it come to rest.

    Without that, what clients left in its queue would take CPU time from whatever is measured next: a second in which a
    server only worked off 1,000 abandoned requests once counted as one answer of 1,000,000 us. WrongAnswer when there were no answers, or errors.
    """
    command = ["taskset", "-c", str(LOADED_BY)] if pinned else []
    command += [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds}s",
        "--timeout",
        "15s",
        "-s",
        str(_SCRIPT),
    ]
    command += [f"-H{name}: {value}" for name, value in request.headers.items()]
    keys = f"{uuid.uuid4().hex}-" if request.keyed else ""
    command += [server.url + request.path, "--", request.method, request.body.decode(), keys]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = server.cpu_seconds() - before
    server.wait_until_idle()
    asked = f"{request.method} {request.path} by {clients} clients for {seconds} s"
    if done.returncode != 0:
        raise WrongAnswer(f"{asked}: wrk ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    requests = found.pop("requests")
    errors = {kind: count for kind, count in found.pop("errors").items() if count}
    if not requests or errors or cpu <= 0:
        raise WrongAnswer(
            f"{asked}: {requests} answers, {errors or 'no'} errors, {cpu:.2f} s of CPU"
        )
    rate = requests / found.pop("seconds")
    return Sample(rate=rate, cpu=cpu * 1e6 / requests, requests=requests, **found)


@dataclass(frozen=True)
class Answer:
    """One answer, and the milliseconds it took."""

    request: Request
    status: int
    content_type: str
    body: bytes
    milliseconds: float

    def gives(self, content: bytes) -> bool:
        """Whether it is this JSON: by REST byte by byte, by a tool as structured content and as text."""
        if self.status != 200:
            return False
        if self.request.path == work.MCP_PATH:
            return work.tool_contents(self.body) == [json.loads(content)] * 2
        return self.body == content and self.content_type.startswith("application/json")


class Caller:
    """A connection to a server, kept open."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def call(self, request: Request) -> Answer:
        """The answer to one request."""
        headers = dict(request.headers)
        if request.keyed:
            headers["Idempotency-Key"] = uuid.uuid4().hex
        begun = time.perf_counter()
        self.connection.request(request.method, request.path, request.body or None, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        taken = (time.perf_counter() - begun) * 1000
        return Answer(
            request, answer.status, answer.headers.get("Content-Type", ""), content, taken
        )

    def create(self, request: Request) -> Answer:
        """The answer to a create; WrongAnswer when it is not the job."""
        answer = self.call(request)
        if not answer.gives(work.JOB):
            raise WrongAnswer(f"a create was answered {answer.status} {answer.body[:300]!r}")
        return answer

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


class Stall:
    """A `with` block beside which a small request is sent again and again; `longest` is the slowest's milliseconds."""

    def __init__(self, server: Server) -> None:
        self.longest = 0.0
        self._caller = Caller(server)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Stall:
        self._caller.call(work.GET_JOB)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._caller.connection.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            self.longest = max(self.longest, self._caller.call(work.GET_JOB).milliseconds)
            time.sleep(0.001)
