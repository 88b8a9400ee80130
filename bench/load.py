"""Load by wrk, and single calls from this process: for bodies too large to be repeated fast, and to check answers."""

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
from pathlib import Path
from typing import Any

from bench import work
from bench.machine import LOADED_BY
from bench.processes import Server
from bench.work import Request

Sample = dict[str, float]
"""One measurement, by the heads of columns. A load's are `answers`, `answers/s`, `CPU us` (of the server, for each answer),
and latencies: `p50 ms`, `p99 ms`, `p99.9 ms`, `longest ms`."""


class WrongAnswer(RuntimeError):
    """A server gave other answers than the work's, errors or none, so its figures would mean nothing."""


def load(
    server: Server,
    clients: int,
    seconds: int,
    request: Request,
    *,
    pinned: bool = True,
    alone: bool = True,
) -> Sample:
    """Asks `server` from so many connections for so many seconds, and lets it come to rest, if it is `alone` asked.

    WrongAnswer when there were no answers, or errors. Without rest, requests whose clients have gone would take CPU
    time from whatever is measured next: a server that spent a whole second on them once seemed to need it for one answer.
    """
    script = Path(__file__).with_name("load.lua")
    command = ["taskset", "-c", str(LOADED_BY)] if pinned else []
    command += [
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds}s",
        "--timeout",
        "15s",
        "-s",
        str(script),
    ]
    command += [f"-H{name}: {value}" for name, value in request.headers.items()]
    keys = f"{uuid.uuid4().hex}-" if request.keyed else ""
    command += [server.url + request.path, "--", request.method, request.body.decode(), keys]
    before = server.cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = server.cpu_seconds() - before
    if alone:
        server.wait_until_idle()
    asked = f"{request.method} {request.path} by {clients} clients for {seconds} s"
    if done.returncode != 0:
        raise WrongAnswer(f"{asked}: wrk ended with {done.returncode}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    answers = found["answers"]
    errors = {kind: count for kind, count in found.pop("errors").items() if count}
    if not answers or errors or cpu <= 0:
        raise WrongAnswer(
            f"{asked}: {answers} answers, {errors or 'no'} errors, {cpu:.2f} s of CPU"
        )
    return {**found, "CPU us": cpu * 1e6 / answers}


class Caller:
    """A connection to a server, kept open."""

    def __init__(self, server: Server) -> None:
        self._name = server.target.name
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def call(self, request: Request) -> tuple[int, str, bytes]:
        """Status, media type and content of the answer to one request."""
        headers = dict(request.headers)
        if request.keyed:
            headers["Idempotency-Key"] = uuid.uuid4().hex
        self._connection.request(request.method, request.path, request.body or None, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()

    def expect(self, request: Request, content: bytes = work.JOB) -> float:
        """The milliseconds that one answer took; WrongAnswer unless it is this JSON.

        By REST byte by byte, by a tool as structured content and as text.
        """
        begun = time.perf_counter()
        status, media_type, body = self.call(request)
        taken = (time.perf_counter() - begun) * 1000
        if request.path == work.MCP_PATH and status == 200:
            right = work.tool_contents(body) == [json.loads(content)] * 2
        else:
            right = (status, media_type, body) == (200, "application/json", content)
        if not right:
            was = f"{status} {media_type} {body[:300]!r}"
            raise WrongAnswer(f"{self._name} answered {request.method} {request.path} with {was}")
        return taken

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it; the next call opens another."""
        self._connection.close()


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
                taken.append(caller.expect(work.GET_JOB))

        asking = pool.submit(ask)
        try:
            yield taken
        finally:
            over.set()
        asking.result()
