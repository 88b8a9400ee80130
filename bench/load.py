"""Load by wrk, and single calls from this process: for bodies too large to be repeated fast, and to look at answers."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

    WrongAnswer when there were no answers, or errors. Without rest, requests whose clients have gone would take CPU
    time from whatever is measured next: a server that spent a whole second on them once seemed to need it for one answer.
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
        self.name = server.target.name
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

    def expect(self, request: Request, content: bytes = work.JOB) -> Answer:
        """The answer to one request; WrongAnswer when it is not this content."""
        answer = self.call(request)
        if not answer.gives(content):
            was = f"{answer.status} {answer.content_type} {answer.body[:300]!r}"
            raise WrongAnswer(f"{self.name} answered {request.method} {request.path} with {was}")
        return answer

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@contextmanager
def small_requests(server: Server) -> Iterator[list[float]]:
    """Gets the job again and again beside the `with` block, and gives the milliseconds that each took.

    WrongAnswer at its end when one was answered otherwise.
    """
    taken: list[float] = []
    over = threading.Event()
    with Caller(server) as caller, ThreadPoolExecutor(1) as pool:
        caller.expect(work.GET_JOB)  # connects

        def ask() -> None:
            while not taken or not over.wait(0.001):
                taken.append(caller.expect(work.GET_JOB).milliseconds)

        asking = pool.submit(ask)
        try:
            yield taken
        finally:
            over.set()
        asking.result()
