"""A long run: `python -m bench.soak --minutes 10`, or `make soak MINUTES=10`. Does the gateway keep to what it had at the start?

Clients do all that clients do (jobs with keys, lists, cancels, nonsense, leaving in the middle, tools), the upstream fails in
all its ways, and memory, descriptors, threads and store are looked at meanwhile. Exits with 1 when they do not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import report, work
from bench.load import Caller
from bench.processes import Server, Target
from bench.targets import BRIDGE, GATEWAY
from bench.work import JOBS_PATH, LEGACY, MODERN, Request, tool_call

CLIENTS = 16
RATE = 150
"""Calls a second."""

THREADS = 64
CROWD = THREADS + 8
"""Calls at once after the warm-up, more than the gateway has threads: from then on, all there will be are there."""

GROWTH = {"MiB": 10.0, "fds": 0, "threads": 2}
"""By how much what a process holds may grow after the warm-up.

10 MiB are, in ten minutes, 140 bytes for each call. Threads that come and go are Starlette's for pages such as /metrics:
they end when they have had nothing to do for a while.
"""

SANDBOX = Target(
    "sandbox",
    (sys.executable, "-m", "sandbox"),
    {"SANDBOX_PORT": "{port}", "SANDBOX_SEED": "1"},
    cpu=None,
    probe="/sandbox/faults",
)
# Limits so short that what fails, fails within the run, and keys expire in it. One arena: with the usual many, each keeps
# free memory of its own, and a process grows by some 15 MiB in ten minutes of which none is held by anything.
_LIMITS: dict[str, Any] = {
    "MALLOC_ARENA_MAX": 1,
    "GATEWAY_THREADS": THREADS,
    "GATEWAY_CONNECT_TIMEOUT": 1,
    "GATEWAY_READ_TIMEOUT": 2,
    "GATEWAY_TIMEOUT": 5,
    "GATEWAY_SETTLE": 5,
    "GATEWAY_KEY_EXPIRY": 30,
}
_FAULTS: list[dict[str, Any]] = [
    {"fault": "drop-after", "match": {"method": "POST"}},
    {"fault": "html-503", "match": {"method": "GET"}},
    {"fault": "rate-limited"},
    {"fault": "truncated", "match": {"method": "GET"}},
    {"fault": "invalid-json", "match": {"method": "POST"}},
    {"fault": "hang", "seconds": 10, "match": {"method": "GET"}},
    {"fault": "drop-before", "reset": True},
    {"fault": "slow", "interval": 0.01},
    {"fault": "gzip"},
    {"fault": "redirect"},
    {"fault": "html-502", "processed": True, "match": {"method": "POST"}},
]


def main() -> int:
    """Runs it and prints what it found; 1 when something grew."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    minutes: float = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    run = soak(minutes * 60, warm=60, samples=20)
    print(table(run))
    print("\nanswers: " + ", ".join(f"{how} x {n}" for how, n in sorted(run.answers.items())))
    print("\n".join(run.faults()) or "nothing grew")
    return bool(run.faults())


@dataclass(frozen=True)
class Soak:
    """What a run found: samples by column, the first after the warm-up, the last after everything has come to rest."""

    samples: list[dict[str, float]]
    answers: Counter[str]

    def faults(self) -> list[str]:
        """What did not hold."""
        first, last = self.samples[0], self.samples[-1]
        return [
            f"{name} {unit}: {last[f'{name} {unit}'] - first[f'{name} {unit}']:g} more"
            for name in ("REST", "bridge")
            for unit, most in GROWTH.items()
            if last[f"{name} {unit}"] - first[f"{name} {unit}"] > most
        ]


def soak(seconds: float, warm: float, samples: int) -> Soak:
    """A run of `seconds` after a warm-up of `warm`, sampled `samples` times."""
    with TemporaryDirectory(prefix="soak-") as name, started(Path(name)) as stack:
        # Until everything is there that there will be: threads with their stacks, connections, memory for all kinds of calls.
        _crowd(stack)
        stack.new_sandbox()
        with load(stack):
            time.sleep(warm)
        _crowd(stack)  # what kept connections the failures have ended
        time.sleep(_LIMITS["GATEWAY_TIMEOUT"] + 1)  # until nothing is under way any more
        found = [stack.sample(0, 0)]
        begun = time.monotonic()
        with load(stack) as answers:
            for number in range(1, samples + 1):
                until = begun + seconds * number / samples
                while (left := until - time.monotonic()) > 0:
                    stack.new_sandbox()
                    time.sleep(min(10.0, left))
                found.append(stack.sample(time.monotonic() - begun, answers.total()))
        # What is left when nobody calls: a sample in which nothing grew, or the last one within 15 seconds.
        end = time.monotonic() + 15
        while True:
            _ask(
                stack.gateway.url + "/metrics"
            )  # Starlette ends its idle threads when it needs one
            last = stack.sample(time.monotonic() - begun, answers.total())
            if time.monotonic() > end or not Soak([found[0], last], Counter()).faults():
                return Soak([*found, last], answers)
            time.sleep(0.2)


@dataclass(frozen=True)
class Stack:
    """The processes of a run."""

    sandbox: Server
    gateway: Server
    bridge: Server
    store: Path

    def sample(self, second: float, calls: int) -> dict[str, float]:
        """What their workers hold now, `second` seconds after the warm-up, by column."""
        found: dict[str, float] = {"second": round(second), "calls": calls}
        for name, server in (("REST", self.gateway), ("bridge", self.bridge)):
            (pid,) = server.workers()
            found[f"{name} MiB"] = round(server.resident(), 2)
            found[f"{name} fds"] = len([*Path(f"/proc/{pid}/fd").iterdir()])
            found[f"{name} threads"] = len([*Path(f"/proc/{pid}/task").iterdir()])
        files = self.store.parent.glob(f"{self.store.name}*")
        return {**found, "store KiB": sum(each.stat().st_size for each in files) >> 10}

    def new_sandbox(self) -> None:
        """Has the sandbox forget its jobs, lest the run measure it, and fail once in each way."""
        _ask(self.sandbox.url + "/sandbox/reset", b"")
        self.fail(random.sample(_FAULTS, len(_FAULTS)))

    def fail(self, rules: list[dict[str, Any]]) -> None:
        """Has the sandbox fail by these rules, from now on."""
        _ask(self.sandbox.url + "/sandbox/faults", json.dumps(rules).encode())


def _ask(url: str, body: bytes | None = None) -> None:
    """Past any proxy; raises unless it succeeds."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, body):
        pass


@contextmanager
def started(folder: Path) -> Iterator[Stack]:
    """Sandbox, REST service and bridge, run by this Python, with their files below `folder`."""
    store = folder / "keys.sqlite3"

    rest, mcp = (
        replace(each, command=(sys.executable, *each.command[1:]), cpu=None, probe="/livez")
        for each in (GATEWAY.with_settings(GATEWAY_STORE=store, **_LIMITS), BRIDGE)
    )
    with (
        SANDBOX.started("", folder) as sandbox,
        rest.started(sandbox.url, folder) as gateway,
        mcp.started(gateway.url, folder) as bridge,
    ):
        yield Stack(sandbox, gateway, bridge, store)


class Client:
    """One client with its connections, that never stops doing something else."""

    def __init__(self, stack: Stack, seed: int, answers: Counter[str]) -> None:
        self.stack = stack
        self.random = random.Random(seed)  # noqa: S311
        self.answers = answers
        self.job = work.JOB_ID
        self.key = uuid.uuid4().hex
        self.rest, self.mcp = Caller(stack.gateway), Caller(stack.bridge)

    def act(self) -> None:
        """Does one thing, and counts how it was answered."""
        way = self.random.choices([*WAYS], [*WAYS.values()])[0]
        self.answers[f"{way.__name__} {way(self)}"] += 1

    def close(self) -> None:
        """Closes its connections."""
        self.rest.close()
        self.mcp.close()

    def create(self) -> str:
        """A job with a new key; one in eight is large."""
        self.key = uuid.uuid4().hex
        return self.repeat()

    def repeat(self) -> str:
        """The last create, as it was."""
        body = work.create_body(200 if self.key[0] < "2" else 2)
        headers = {"Content-Type": "application/json", "Idempotency-Key": self.key}
        status, answer = self.call(Request(JOBS_PATH, "POST", body, headers))
        with suppress(ValueError, KeyError):
            self.job = json.loads(answer)["id"]
        return status

    def get(self) -> str:
        """The last job."""
        return self.call(Request(f"{JOBS_PATH}/{self.job}"))[0]

    def list(self) -> str:
        """The newest jobs."""
        return self.call(Request(f"{JOBS_PATH}?page_size=20"))[0]

    def cancel(self) -> str:
        """The last job is stopped."""
        return self.call(Request(f"{JOBS_PATH}/{self.job}/cancel", "POST"))[0]

    def probe(self) -> str:
        """What probes, collectors and people ask for."""
        paths = ["/livez", "/readyz", "/metrics", "/openapi.json"]
        return self.call(Request(self.random.choice(paths)))[0]

    def nonsense(self) -> str:
        """What is refused, each for a reason of its own."""
        # The path is new each time: nothing may be remembered of it.
        requests = [
            work.create_job(b'{"model": '),
            work.create_job(b'{"model": 7, "timeoutHours": 1}'),
            work.create_job(b"[" * 5000),
            work.create_job(b"\xff\xfe"),
            Request(JOBS_PATH, "POST", b"<job/>", {"Content-Type": "text/xml"}),
            Request(f"{JOBS_PATH}/..%2f{uuid.uuid4()}"),
            Request(f"{JOBS_PATH}?page={uuid.uuid4()}"),
            Request(f"/{uuid.uuid4()}", "DELETE"),
            Request("/livez", headers={"Host": f"{uuid.uuid4()}.example"}),
        ]
        return self.call(self.random.choice(requests))[0]

    def leave(self) -> str:
        """Hangs up in the middle of its request, or before the answer, politely or not."""
        server = self.random.choice([self.stack.gateway, self.stack.bridge])
        body = work.create_body(20)
        path = JOBS_PATH if server is self.stack.gateway else work.MCP_PATH
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        sent = self.random.choice([head[:30], head, head + body[:5000], head + body])
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(sent)
            if self.random.random() < 0.5:  # by RST
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return "-"

    def tool(self) -> str:
        """A tool call, in either form of the protocol."""
        tool, arguments = self.random.choice(
            [
                ("get-batch-job", {"job_id": self.job}),
                ("list-batch-jobs", {"page_size": 5}),
                ("create-batch-job", json.loads(work.create_body(2))),
            ]
        )
        version = self.random.choice([MODERN, LEGACY])
        return self.call(tool_call(version, tool, arguments), self.mcp)[0]

    def bad_tool(self) -> str:
        """A tool call that names no tool, or no good argument."""
        name = self.random.choice(["get-batch-job", f"tool-{uuid.uuid4()}"])
        return self.call(tool_call(MODERN, name, {"job_id": "none"}), self.mcp)[0]

    def call(self, request: Request, caller: Caller | None = None) -> tuple[str, bytes]:
        """Status and body of the answer over the kept connection, or a new one if it was closed; "none": no answer."""
        caller = caller or self.rest
        for _ in range(2):
            try:
                status, _, body = caller.call(request)
                return str(status), body
            except (OSError, HTTPException):
                caller.close()
        return "none", b""


WAYS: dict[Callable[[Client], str], int] = {
    Client.create: 20, Client.repeat: 5, Client.get: 25, Client.list: 10, Client.cancel: 5,
    Client.nonsense: 8, Client.leave: 5, Client.probe: 7, Client.tool: 12, Client.bad_tool: 3,
}  # fmt: skip
"""What clients do, and how often."""


@contextmanager
def load(stack: Stack) -> Iterator[Counter[str]]:
    """Clients at work, together RATE calls a second at most, for as long as the `with` block lasts; counts their answers."""
    answers: Counter[str] = Counter()
    over = threading.Event()

    def run(client: Client) -> None:
        with closing(client):
            while not over.is_set():
                client.act()
                over.wait(CLIENTS / RATE)

    with ThreadPoolExecutor(CLIENTS) as pool:
        runs = [pool.submit(run, Client(stack, seed, answers)) for seed in range(CLIENTS)]
        try:
            yield answers
        finally:
            over.set()
    for each in runs:
        each.result()


def _crowd(stack: Stack) -> None:
    """Calls by so many at once that every thread has one."""
    stack.fail([{"fault": "latency", "seconds": 1, "times": None}])
    crowd = [Client(stack, number, Counter()) for number in range(CROWD)]
    with ThreadPoolExecutor(CROWD) as pool:
        for way in (Client.get, Client.tool):
            list(pool.map(way, crowd))
    for client in crowd:
        client.close()


def table(run: Soak) -> str:
    """The samples as a Markdown table, for people and documents."""
    return report.table([*run.samples[0]], [[*each.values()] for each in run.samples])


if __name__ == "__main__":
    sys.exit(main())
