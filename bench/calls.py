"""Single calls from this process: for bodies too large to be repeated fast, and for looking at answers."""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from bench import work
from bench.processes import Server

JSON = {"Content-Type": "application/json", "Accept": "application/json"}


@dataclass(frozen=True)
class Answer:
    """One answer, and the milliseconds it took."""

    status: int
    content_type: str
    body: bytes
    milliseconds: float


class Caller:
    """A connection to a server, kept open."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = JSON
    ) -> Answer:
        """The answer to one request."""
        begun = time.perf_counter()
        self.connection.request(method, path, body, dict(headers))
        answer = self.connection.getresponse()
        content = answer.read()
        taken = (time.perf_counter() - begun) * 1000
        return Answer(answer.status, answer.headers.get("Content-Type", ""), content, taken)

    def create(self, body: bytes, *, keyed: bool = False) -> Answer:
        """The answer to a create; RuntimeError when it is not the job."""
        headers = {**JSON, "Idempotency-Key": uuid.uuid4().hex} if keyed else JSON
        answer = self.call("POST", work.JOBS_PATH, body, headers)
        if answer.status != 200 or answer.body != work.JOB:
            raise RuntimeError(f"a create was answered {answer.status} {answer.body[:300]!r}")
        return answer

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


class Stall:
    """A `with` block beside which a small request is sent again and again; `longest` is the slowest's milliseconds."""

    def __init__(self, server: Server) -> None:
        self.caller = Caller(server)
        self.caller.call("GET", work.JOB_PATH)
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Stall:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.caller.connection.close()

    def _ask(self) -> None:
        while not self._over.is_set():
            taken = self.caller.call("GET", work.JOB_PATH).milliseconds
            self.longest = max(self.longest, taken)
            time.sleep(0.001)
