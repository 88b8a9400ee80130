"""Files through the gateway and its peers: what passing them on takes, what checking them costs, and what job calls feel of it."""

from __future__ import annotations

import http.client
import json
import select
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from queue import SimpleQueue

from bench import targets, upstream, work
from bench.beside import compare_beside
from bench.load import Caller, Sample, WrongAnswer
from bench.processes import Server
from bench.run import Run, Samples, median
from bench.work import Request

OURS, UNCHECKED = targets.GATEWAY.name, targets.GATEWAY_UNCHECKED.name
NGINX, HTTPX, AIOHTTP = (
    targets.NGINX_FILES.name, targets.FASTAPI_HTTPX.name, targets.FASTAPI_AIOHTTP.name,
)  # fmt: skip
PEERS = (targets.NGINX_FILES, targets.FASTAPI_HTTPX, targets.FASTAPI_AIOHTTP)
TRANSFER = ("MB/s", "CPU ms", "peak MiB")

SLOW = 1 << 18
"""Bytes a second of a slow transfer: four times what the gateway wants at least."""

TRANSFERS = 16
"""As many as a worker of the gateway has places for."""

BEATS = 8
"""Pieces of a slow transfer in a second."""


def uploads(run: Run) -> None:
    """Upload a file of a million batch requests: checked, unchecked, and through the peers."""
    lines = _lines(run)
    megabytes = lines * work.LINE_BYTES / 1e6
    file = run.folder / "requests.jsonl"
    with file.open("wb") as out:
        out.writelines(work.batch_lines(lines))
    with (
        upstream.files(run.folder) as files,
        run.started(targets.GATEWAY, targets.GATEWAY_UNCHECKED, *PEERS, url=files.url) as servers,
    ):
        for server in servers.values():
            check_upload(server, files)
        samples: Samples = run.rounds(
            {(name, lines): partial(upload, server, file) for name, server in servers.items()}
        )
    file.unlink()
    what = f"upload of {lines:,} lines ({megabytes:.0f} MB)"
    compare = partial(run.compare, what, samples, lines, UNCHECKED)
    compare(HTTPX, "MB/s", at_least=1.0)
    compare(HTTPX, "CPU ms")
    compare(AIOHTTP, "MB/s")
    compare(NGINX, "MB/s")
    compare = partial(run.compare, f"{what}, checked", samples, lines, OURS)
    compare(UNCHECKED, "MB/s", peer="itself unchecked")
    compare(HTTPX, "MB/s")
    costs = [
        checked["CPU ms"] - unchecked["CPU ms"]
        for checked, unchecked in zip(samples[OURS, lines], samples[UNCHECKED, lines], strict=True)
    ]
    rate = megabytes * 1000 / max(1.0, statistics.median(costs))
    run.figure(f"{what}, checked", "the check alone, by its CPU", rate, "MB/s", at_least=150)
    peak = median(samples[OURS, lines], "peak MiB")
    run.figure(f"{what}, checked", "memory of the worker", peak, "MiB", at_most=100)
    run.medians("uploads", samples, TRANSFER, "lines")


def downloads(run: Run) -> None:
    """Download a file of as many bytes."""
    size = _lines(run) * work.LINE_BYTES
    megabytes = round(size / 1e6)
    with (
        upstream.files(run.folder) as files,
        run.started(targets.GATEWAY, *PEERS, url=files.url) as servers,
    ):
        for server in servers.values():
            check_download(server)
        samples: Samples = run.rounds(
            {
                (name, megabytes): partial(download, server, work.file_id(size))
                for name, server in servers.items()
            }
        )
    what = f"download of {megabytes} MB"
    compare = partial(run.compare, what, samples, megabytes, OURS)
    compare(HTTPX, "MB/s", at_least=1.0)
    compare(HTTPX, "CPU ms")
    compare(AIOHTTP, "MB/s")
    compare(NGINX, "MB/s")
    peak = median(samples[OURS, megabytes], "peak MiB")
    run.figure(what, "memory of the worker", peak, "MiB", at_most=100)
    run.medians("downloads", samples, TRANSFER, "MB")


def jobs_beside_files(run: Run) -> None:
    """Get a job beside 16 slow transfers, up and down, and alone."""
    with (
        upstream.files(run.folder) as files,
        run.started(targets.GATEWAY, url=files.url) as servers,
    ):
        compare_beside(
            *(
                run,
                "jobs_beside_files",
                servers[OURS],
                slow_transfers,
                f"{TRANSFERS} slow transfers",
            ),
            {"p50 ms": 1.2, "answers/s": None, "p99 ms": None},
            seconds=run.plan.seconds,
        )


def _lines(run: Run) -> int:
    return work.QUICK_LINES if run.plan.quick else work.LINES


def check_upload(server: Server, files: Server) -> None:
    """WrongAnswer unless it sends a form upstream as it came, and passes on the answer."""
    form = work.FORM_BEGIN + b"".join(work.batch_lines(1_000)) + work.FORM_END
    with Caller(server) as caller:
        request = Request(work.FILES_PATH, "POST", form, work.FORM)
        caller.expect(request, json.dumps(work.file(len(form))).encode())
    if upstream.last_upload(files) != form:
        raise WrongAnswer(f"{server.target.name} changed an upload")


def check_download(server: Server) -> None:
    """WrongAnswer unless it passes on content, and its type, as they came."""
    size = 3 * work.PIECE // 2
    with Caller(server) as caller:
        answer = caller.call(Request(work.content_path(work.file_id(size))))
    content = work.CONTENT + work.CONTENT[: size - work.PIECE]
    if answer != (200, "application/octet-stream", content):
        raise WrongAnswer(f"{server.target.name} changed a download")


def upload(server: Server, file: Path) -> Sample:
    """One upload of the file, by a connection of its own."""
    size = file.stat().st_size
    length = len(work.FORM_BEGIN) + size + len(work.FORM_END)

    def send(connection: http.client.HTTPConnection) -> None:
        with file.open("rb") as lines:
            pieces = iter(partial(lines.read, work.PIECE), b"")
            body = chain([work.FORM_BEGIN], pieces, [work.FORM_END])
            headers = {**work.FORM, "Content-Length": str(length)}
            connection.request("POST", work.FILES_PATH, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200 or json.loads(content) != work.file(length):
            raise WrongAnswer(f"an upload was answered {answer.status}: {content[:300]!r}")

    return _measured(server, size, send)


def download(server: Server, file_id: str) -> Sample:
    """One download, by a connection of its own."""
    size = work.file_size(file_id)

    def receive(connection: http.client.HTTPConnection) -> None:
        connection.request("GET", work.content_path(file_id))
        answer = connection.getresponse()
        buffer, came = bytearray(work.PIECE), 0
        while count := answer.readinto(buffer):
            came += count
        if answer.status != 200 or came != size:
            raise WrongAnswer(f"a download was answered {answer.status}, {came} of {size} bytes")

    return _measured(server, size, receive)


def _measured(
    server: Server, size: int, transfer: Callable[[http.client.HTTPConnection], None]
) -> Sample:
    server.forget_peak()
    before = server.cpu_seconds()
    with closing(_connection(server)) as connection:
        begun = time.perf_counter()
        transfer(connection)
        taken = time.perf_counter() - begun
    cpu = server.cpu_seconds() - before
    sample = {"MB/s": size / 1e6 / taken, "CPU ms": cpu * 1000, "peak MiB": server.peak()}
    server.wait_until_idle()
    return sample


def _connection(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)


@contextmanager
def slow_transfers(server: Server) -> Iterator[None]:
    """Half of them uploads, half downloads, all under way while the `with` block runs; WrongAnswer at its end if one was not."""
    begun: SimpleQueue[BaseException | None] = SimpleQueue()
    over = threading.Event()
    ways = (_upload_slowly, _download_slowly)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        under_way = [
            pool.submit(ways[number % 2], server, partial(begun.put, None), over)
            for number in range(TRANSFERS)
        ]
        for each in under_way:
            each.add_done_callback(lambda ended: begun.put(ended.exception()))
        try:
            for _ in under_way:
                if error := begun.get():
                    raise error
            yield
        finally:
            over.set()
    for each in under_way:
        each.result()


def _upload_slowly(server: Server, begun: Callable[[], object], over: threading.Event) -> None:
    length = len(work.FORM_BEGIN) + work.LINES * work.LINE_BYTES + len(work.FORM_END)
    (lines,) = work.batch_lines(1_000)
    piece = SLOW // BEATS
    with closing(_connection(server)) as connection:
        connection.putrequest("POST", work.FILES_PATH)
        for name, value in {**work.FORM, "Content-Length": str(length)}.items():
            connection.putheader(name, value)
        connection.endheaders(work.FORM_BEGIN)
        content = b""
        for first in chain([True], repeat(False)):
            content = content if len(content) >= piece else content + lines
            connection.send(content[:piece])
            content = content[piece:]
            if first:
                begun()
            if over.wait(1 / BEATS):
                break
        answered, _, _ = select.select([connection.sock], [], [], 0)
        if answered:
            raise WrongAnswer(f"a slow upload was answered {connection.getresponse().status}")


def _download_slowly(server: Server, begun: Callable[[], object], over: threading.Event) -> None:
    with closing(_connection(server)) as connection:
        connection.request("GET", work.content_path(work.file_id(work.LINES * work.LINE_BYTES)))
        answer = connection.getresponse()
        if answer.status != 200:
            raise WrongAnswer(f"a slow download was answered {answer.status}")
        begun()
        while not over.wait(1 / BEATS):
            if not answer.read(SLOW // BEATS):
                raise WrongAnswer("a slow download ended")
