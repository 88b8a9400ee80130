"""The way of a request through the project's own files: `python -m tests.support.request_way`.

Counts, for a GET with a token, a keyed create, an upload, a download and a tool call (in the bridge alone), each call of a function of the
project's packages: on all threads but the log's, after a first request of the same kind, with a real socket to a server that
answers from a script. A coroutine that goes on after an await counts as a call, since who follows the way passes it too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from unittest.mock import patch

import access.token_file
import mcp_bridge.app
import mcp_bridge.config
import service.app
import service.config
import telemetry.logs
from access.token_file import make_token
from service.config import start_logging
from tests.support import asgi
from tests.support.api import JOB_ID, JOBS

ROOT = Path(__file__).parents[2]
PACKAGES = ("access", "mcp_bridge", "openapi", "service", "serving", "telemetry")
JOB = {"id": JOB_ID, "object": "batch", "status": "QUEUED", "model": "m", "created_at": 1}
JOB_OR_FILE = {**JOB, "purpose": "batch"}
CREATE = {"endpoint": "/v1/chat/completions", "model": "m", "input_files": [JOB_ID]}
SCOPES = ["jobs:read", "jobs:write", "files:read", "files:write"]
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{"custom_id": "1", "body": {}}\n\r\n--x--\r\n'
)


@dataclass(frozen=True)
class Call:
    """A call of a function of the project.

    `again`: a coroutine goes on; `sent`: the request has left for the next server.
    """

    file: str
    function: str
    thread: str
    again: bool
    sent: bool


class Way:
    """The calls of one request, in their order."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls

    @property
    def files(self) -> list[str]:
        """The files entered, in the order of their first call."""
        return [*dict.fromkeys(call.file for call in self.calls)]

    @property
    def changes(self) -> int:
        """How often the next call is in another file."""
        return sum(
            one.file != other.file for one, other in zip(self.calls, self.calls[1:], strict=False)
        )

    @property
    def functions(self) -> int:
        """Different functions that were called."""
        return len({(call.file, call.function) for call in self.calls})

    def entered(self, layers: list[str]) -> list[str]:
        """Those of `layers` that were entered on the way in, each as often as the way comes to it from another of them."""
        stops: list[str] = []
        left = set()  # threads that have handed the request over, and may have something to finish
        last = self.calls[0]
        for call in self.calls:
            if call.sent or call.again or call.file not in layers or call.thread in left:
                continue
            if call.thread != last.thread:
                left.add(last.thread)
            if stops[-1:] != [call.file]:
                stops.append(call.file)
            last = call
        return stops


class _Recorder:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.frames: set[FrameType] = set()
        self.on = False
        self.sent = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and self.on:
            name = frame.f_code.co_filename
            thread = threading.current_thread().name
            if name.startswith(_OWN) and thread not in _LOG_THREADS:
                file = name[len(_OWN[0]) - len(PACKAGES[0]) - 1 :]
                again = frame in self.frames
                self.frames.add(frame)
                self.calls.append(Call(file, frame.f_code.co_qualname, thread, again, self.sent))


_OWN = tuple(f"{ROOT}/{package}/" for package in PACKAGES)
_LOG_THREADS = {"log"}


class _Next(BaseHTTPRequestHandler):
    """The server behind the one that is followed: Mistral's, or the REST service."""

    protocol_version = "HTTP/1.1"
    recorder: _Recorder

    def do_GET(self) -> None:
        self.recorder.sent = True
        content = json.dumps(JOB_OR_FILE).encode()
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Request-ID", self.headers.get("X-Request-ID", ""))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _next_server(recorder: _Recorder) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Next", (_Next,), {"recorder": recorder}))
    server.daemon_threads = True  # kept connections outlast what is followed
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


async def _followed(
    recorder: _Recorder, request: Callable[[], Awaitable[tuple[int, bytes]]]
) -> Way:
    for _ in range(2):
        recorder.calls, recorder.frames, recorder.sent, recorder.on = [], set(), False, True
        status, _ = await request()
        await asyncio.sleep(0)
        recorder.on = False
        recorder.frames.clear()
        if status != 200:
            raise RuntimeError(f"the answer was {status}")
    return Way(recorder.calls)


def follow() -> dict[str, Way]:
    """The ways of a GET with a token, of a keyed create, of a file both ways, and of a tool call in the bridge."""
    recorder, interval = _Recorder(), access.token_file.CHECK_INTERVAL
    with TemporaryDirectory() as folder, _next_server(recorder) as url:
        tokens = Path(folder) / "tokens"
        token, _ = make_token("somebody", SCOPES, file=tokens)
        bearer = {"Host": "127.0.0.1:8080", "Authorization": f"Bearer {token}"}
        threading.setprofile(recorder)  # for the threads that start from now on
        sys.setprofile(recorder)
        try:
            # What is done once a second is in the way of no request, but of whichever comes then.
            access.token_file.CHECK_INTERVAL = math.inf
            return asyncio.run(_ways(recorder, url, folder, bearer, str(tokens)))
        finally:
            end_logging()
            access.token_file.CHECK_INTERVAL = interval
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]


def end_logging() -> None:
    """Undoes `start_logging`."""
    logging.getLogger("gateway").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    for logger in (logging.getLogger(), telemetry.logs.audit_log):
        for handler in logger.handlers[:]:
            if isinstance(handler, telemetry.logs.LineHandler | logging.NullHandler):
                logger.removeHandler(handler)
    telemetry.logs.audit_log.propagate = True
    telemetry.logs.audit_log.setLevel(logging.NOTSET)


async def _ways(
    recorder: _Recorder, url: str, folder: str, bearer: dict[str, str], tokens: str
) -> dict[str, Way]:
    settings = service.config.Settings.from_env(
        {
            "MISTRAL_AI_API_KEY": "sk-0",
            "GATEWAY_UPSTREAM_URL": url,
            "GATEWAY_STORE": f"{folder}/keys.sqlite3",
            "GATEWAY_TOKENS_FILE": tokens,
            "GATEWAY_AUDIT_LOG": "off",
        }
    )
    start_logging(settings)
    rest = service.app.create_app(settings)
    keys = iter(range(9))
    body = json.dumps(CREATE).encode()

    def get() -> Awaitable[tuple[int, bytes]]:
        return asgi.call(rest, "GET", f"{JOBS}/{JOB_ID}", bearer)

    def create() -> Awaitable[tuple[int, bytes]]:
        headers = {
            **bearer,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Idempotency-Key": f"k{next(keys)}",
        }
        return asgi.call(rest, "POST", JOBS, headers, body)

    def upload() -> Awaitable[tuple[int, bytes]]:
        headers = {
            **bearer,
            "Content-Type": "multipart/form-data; boundary=x",
            "Content-Length": str(len(FORM)),
        }
        return asgi.call(rest, "POST", "/v1/files", headers, FORM)

    def download() -> Awaitable[tuple[int, bytes]]:
        return asgi.call(rest, "GET", f"/v1/files/{JOB_ID}/content", bearer)

    ways = {
        "GET a job": await _followed(recorder, get),
        "POST a create with a key": await _followed(recorder, create),
        "POST a file": await _followed(recorder, upload),
        "GET a file's content": await _followed(recorder, download),
    }
    bridge = mcp_bridge.app.create_app(
        mcp_bridge.config.Settings.from_env({"BRIDGE_REST_URL": url, "BRIDGE_TOKENS_FILE": tokens})
    )
    message = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "get-batch-job", "arguments": {"job_id": JOB_ID}},
        }
    ).encode()

    def tool_call() -> Awaitable[tuple[int, bytes]]:
        headers = {
            **bearer,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2025-06-18",
            "Content-Length": str(len(message)),
        }
        return asgi.call(bridge, "POST", "/mcp", headers, message)

    # What a call does that takes long is no part of its way.
    with patch("mcp_bridge.message_reader.WATCHED_AFTER", 3600.0):
        async with asgi.started(bridge):
            ways["tool get-batch-job, in the bridge"] = await _followed(recorder, tool_call)
    return ways


@contextmanager
def _silent() -> Iterator[None]:
    """Sends nowhere what is written to the standard streams in the block, by whatever means."""
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        logging.shutdown()
        for number, stream in zip((1, 2), kept, strict=True):
            os.dup2(stream, number)


def main() -> None:
    """Prints a line for each request, and with -v the files in their order."""
    with _silent():
        ways = follow()
    print(f"{'':36}{'calls':>7}{'functions':>11}{'files':>7}{'file changes':>14}")
    for name, way in ways.items():
        print(
            f"{name:36}{len(way.calls):>7}{way.functions:>11}{len(way.files):>7}{way.changes:>14}"
        )
    if "-v" in sys.argv:
        for name, way in ways.items():
            print(f"\n{name}")
            last = ""
            for each in way.calls:
                if each.file != last:
                    print(f"\n{'  ' if each.sent else ''}{each.file}: ", end="")
                print(each.function, end=" ")
                last = each.file
            print()


if __name__ == "__main__":
    main()
