"""A long run: `python -m bench.soak --minutes 10`, or `make soak MINUTES=10`. Does the gateway keep to what it had at the start?

Clients do all that clients do (jobs with keys, lists, cancels, nonsense, leaving in the middle, tools), the upstream fails in
all its ways, and memory, descriptors, threads and store are looked at meanwhile. Exits with 1 when they do not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import work
from bench.processes import Server
from bench.subjects import BRIDGE, GATEWAY, Subject
from bench.tools import LEGACY, MODERN, Message, message

CLIENTS = 16
THREADS = 64
CROWD = THREADS + 8
"""Calls at once after the warm-up, more than the gateway has threads: from then on, all there will be are there."""

GROWTH = 10 << 20
"""Bytes that a process may grow after the warm-up: in ten minutes, 140 for each call."""

COMING_AND_GOING = 2
"""Threads of Starlette's for pages such as /metrics, which end when they have had nothing to do for a while."""

SANDBOX = Subject(
    "sandbox",
    (sys.executable, "-m", "sandbox"),
    {"SANDBOX_PORT": "{port}", "SANDBOX_SEED": "1"},
    pinned=False,
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


@dataclass(frozen=True)
class Usage:
    """What one process holds. `resident` is in bytes."""

    resident: int
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """All of it at one moment, `second` seconds after the warm-up. `store` is in bytes."""

    second: float
    calls: int
    gateway: Usage
    bridge: Usage
    store: int


@dataclass(frozen=True)
class Soak:
    """What a run found: the first sample is after the warm-up, the last one after everything has come to rest."""

    samples: list[Sample]
    answers: Counter[str]

    def faults(self) -> list[str]:
        """What did not hold."""
        first, last = self.samples[0], self.samples[-1]
        found = []
        for name in ("gateway", "bridge"):
            before, after = getattr(first, name), getattr(last, name)
            if after.resident - before.resident > GROWTH:
                found.append(f"{name}: {_mib(after.resident - before.resident)} MiB more memory")
            if after.descriptors > before.descriptors:
                found.append(f"{name}: {after.descriptors - before.descriptors} more descriptors")
            if after.threads > before.threads + COMING_AND_GOING:
                found.append(f"{name}: {after.threads - before.threads} more threads")
        return found


@dataclass(frozen=True)
class Stack:
    """The processes of a run."""

    sandbox: Server
    gateway: Server
    bridge: Server
    store: Path

    def sample(self, second: float, calls: int) -> Sample:
        """What they hold now."""
        size = sum(each.stat().st_size for each in self.store.parent.glob(f"{self.store.name}*"))
        return Sample(second, calls, usage(self.gateway), usage(self.bridge), size)

    def new_sandbox(self) -> None:
        """Has the sandbox forget its jobs, lest the run measure it, and fail once in each way."""
        self._tell("/sandbox/reset", None)
        self._tell("/sandbox/faults", random.sample(_FAULTS, len(_FAULTS)))

    def page(self) -> None:
        """Asks the gateway for a page that Starlette's threads make."""
        _ask(urllib.request.Request(f"{self.gateway.url}/metrics"))

    def wait(self, seconds: float) -> None:
        """Has the sandbox take that long for each answer, from now on."""
        rule = {"fault": "latency", "seconds": seconds, "times": None}
        self._tell("/sandbox/faults", [rule])

    def _tell(self, path: str, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        _ask(urllib.request.Request(self.sandbox.url + path, data, method="POST"))


def _ask(request: urllib.request.Request) -> None:
    """Sends it past any proxy; raises unless it succeeds."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request):
        pass


def usage(server: Server) -> Usage:
    """What the worker of a server holds now."""
    (pid,) = server.workers()
    process = Path(f"/proc/{pid}")
    return Usage(
        server.resident(), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
    )  # fmt: skip


@contextmanager
def started(folder: Path) -> Iterator[Stack]:
    """Sandbox, REST service and bridge, run by this Python, with their files below `folder`."""
    store = folder / "keys.sqlite3"
    ours = replace(GATEWAY, command=(sys.executable, *GATEWAY.command[1:]), probe="/livez")
    bridge = replace(BRIDGE, command=(sys.executable, *BRIDGE.command[1:]), pinned=False)
    with ExitStack() as running:
        sandbox = running.enter_context(SANDBOX.started("", folder))
        own = ours.with_settings(pinned=False, GATEWAY_STORE=store, **_LIMITS)
        gateway = running.enter_context(own.started(sandbox.url, folder))
        yield Stack(
            sandbox, gateway, running.enter_context(bridge.started(gateway.url, folder)), store
        )


class Client:
    """One client with its connections, that never stops doing something else."""

    def __init__(self, stack: Stack, seed: int, answers: Counter[str]) -> None:
        self.stack = stack
        self.random = random.Random(seed)  # noqa: S311
        self.answers = answers
        self.job = work.JOB_ID
        self.key = uuid.uuid4().hex
        self.kept = {
            server.port: http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            for server in (stack.gateway, stack.bridge)
        }

    def act(self) -> None:
        """Does one thing, and counts how it was answered."""
        way = self.random.choices([*WAYS], [*WAYS.values()])[0]
        self.answers[f"{way.__name__} {way(self)}"] += 1

    def close(self) -> None:
        """Closes its connections."""
        for connection in self.kept.values():
            connection.close()

    def create(self) -> str:
        """A job with a new key; one in ten is large."""
        self.key = uuid.uuid4().hex
        return self.repeat()

    def repeat(self) -> str:
        """The last create, as it was."""
        size = 200 if self.key[0] < "2" else 2
        headers = {"Content-Type": "application/json", "Idempotency-Key": self.key}
        status, body = self.call("POST", work.JOBS_PATH, work.create_body(size), headers)
        with contextlib.suppress(ValueError, KeyError):
            self.job = json.loads(body)["id"]
        return status

    def get(self) -> str:
        """The last job."""
        return self.call("GET", f"{work.JOBS_PATH}/{self.job}")[0]

    def list(self) -> str:
        """The newest jobs."""
        return self.call("GET", f"{work.JOBS_PATH}?page_size=20")[0]

    def cancel(self) -> str:
        """The last job is stopped."""
        return self.call("POST", f"{work.JOBS_PATH}/{self.job}/cancel")[0]

    def probe(self) -> str:
        """What probes, collectors and people ask for."""
        return self.call(
            "GET", self.random.choice(["/livez", "/readyz", "/metrics", "/openapi.json"])
        )[0]

    def nonsense(self) -> str:
        """What is refused, each for a reason of its own."""
        post, json_type = work.JOBS_PATH, {"Content-Type": "application/json"}
        # The path is new each time: nothing may be remembered of it.
        asked: tuple[Any, ...] = self.random.choice(
            [
                ("POST", post, b'{"model": ', json_type),
                ("POST", post, b'{"model": 7, "timeoutHours": 1}', json_type),
                ("POST", post, b"[" * 5000, json_type),
                ("POST", post, b"\xff\xfe", json_type),
                ("POST", post, b"<job/>", {"Content-Type": "text/xml"}),
                ("GET", f"{post}/..%2f{uuid.uuid4()}"),
                ("GET", f"{post}?page={uuid.uuid4()}"),
                ("DELETE", f"/{uuid.uuid4()}"),
                ("GET", "/livez", None, {"Host": f"{uuid.uuid4()}.example"}),
            ]
        )
        return self.call(*asked)[0]

    def leave(self) -> str:
        """Hangs up in the middle of its request, or before the answer, politely or not."""
        server = self.random.choice([self.stack.gateway, self.stack.bridge])
        body = work.create_body(20)
        path = work.JOBS_PATH if server is self.stack.gateway else "/mcp"
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
        return self.send(message(self.random.choice([MODERN, LEGACY]), tool, arguments))

    def bad_tool(self) -> str:
        """A tool call that names no tool, or no good argument."""
        name = self.random.choice(["get-batch-job", f"tool-{uuid.uuid4()}"])
        return self.send(message(MODERN, name, {"job_id": "none"}))

    def send(self, call: Message) -> str:
        """The status of a message to the bridge."""
        return self.call("POST", "/mcp", call.body, call.headers, self.stack.bridge)[0]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        server: Server | None = None,
    ) -> tuple[str, bytes]:
        """Status and body of the answer over the kept connection, or a new one if it was closed; "none": no answer."""
        connection = self.kept[(server or self.stack.gateway).port]
        for _ in range(2):
            try:
                connection.request(method, path, body, headers or {})
                answer = connection.getresponse()
                return str(answer.status), answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
        return "none", b""


WAYS: dict[Callable[[Client], str], int] = {
    Client.create: 20, Client.repeat: 5, Client.get: 25, Client.list: 10, Client.cancel: 5,
    Client.nonsense: 8, Client.leave: 5, Client.probe: 7, Client.tool: 12, Client.bad_tool: 3,
}  # fmt: skip
"""What clients do, and how often."""


class Load:
    """Clients at work, together `rate` calls a second at most, for as long as the `with` block lasts."""

    def __init__(self, stack: Stack, rate: float) -> None:
        self.answers: Counter[str] = Counter()
        self.pause = CLIENTS / rate
        self.clients = [Client(stack, seed, self.answers) for seed in range(CLIENTS)]
        self._over = threading.Event()

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._runs = [self._pool.submit(self._run, client) for client in self.clients]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for run in self._runs:
            run.result()

    def _run(self, client: Client) -> None:
        with contextlib.closing(client):
            while not self._over.is_set():
                client.act()
                self._over.wait(self.pause)


def warm_up(stack: Stack, seconds: float, rate: float) -> None:
    """Has everything be there that there will be: threads with their stacks, connections, memory for all kinds of calls."""
    _crowd(stack)
    stack.new_sandbox()
    with Load(stack, rate):
        time.sleep(seconds)
    _crowd(stack)  # what kept connections the failures have ended
    time.sleep(_LIMITS["GATEWAY_TIMEOUT"] + 1)  # until nothing is under way any more


def _crowd(stack: Stack) -> None:
    """Calls by so many at once that every thread has one."""
    stack.wait(1)
    crowd = [Client(stack, number, Counter()) for number in range(CROWD)]
    with ThreadPoolExecutor(CROWD) as pool:
        for way in (Client.get, Client.tool):
            list(pool.map(way, crowd))
    for client in crowd:
        client.close()


def at_rest(stack: Stack, reference: Sample, calls: int, second: float) -> Sample:
    """What is held when nobody calls: the first sample no worse than `reference`, or the last one within 15 seconds."""
    end = time.monotonic() + 15
    while True:
        stack.page()  # Starlette ends its idle threads when it needs one
        sample = stack.sample(second, calls)
        if time.monotonic() > end or not Soak([reference, sample], Counter()).faults():
            return sample
        time.sleep(0.2)


def soak(seconds: float, rate: float = 150.0, warm: float = 20.0, samples: int = 10) -> Soak:
    """A run of `seconds` after a warm-up of `warm`, looked at `samples` times."""
    with TemporaryDirectory(prefix="soak-") as name, started(Path(name)) as stack:
        warm_up(stack, warm, rate)
        found = [stack.sample(0, 0)]
        begun = time.monotonic()
        with Load(stack, rate) as load:
            for number in range(1, samples + 1):
                until = begun + seconds * number / samples
                while (left := until - time.monotonic()) > 0:
                    stack.new_sandbox()
                    time.sleep(min(10.0, left))
                found.append(stack.sample(time.monotonic() - begun, load.answers.total()))
        total = load.answers.total()
        found.append(at_rest(stack, found[0], total, time.monotonic() - begun))
    return Soak(found, load.answers)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


def table(run: Soak) -> str:
    """The samples as a Markdown table, for people and documents."""
    lines = [
        "| after | calls | REST MiB | fds | threads | bridge MiB | fds | threads | store KiB |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in run.samples:
        held = [
            text
            for one in (each.gateway, each.bridge)
            for text in (_mib(one.resident), str(one.descriptors), str(one.threads))
        ]
        row = [f"{each.second:.0f} s", str(each.calls), *held, str(each.store >> 10)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    """Runs it and prints what it found; 1 when something grew."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=150, help="calls a second")
    chosen = parser.parse_args()
    run = soak(chosen.minutes * 60, chosen.rate, warm=60, samples=20)
    print(table(run))
    print("\nanswers: " + ", ".join(f"{how} x {n}" for how, n in sorted(run.answers.items())))
    print("\n".join(run.faults()) or "nothing grew")
    return bool(run.faults())


if __name__ == "__main__":
    sys.exit(main())
