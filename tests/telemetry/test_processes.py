"""Logs, metrics and traces of real gateways: several workers, killed workers, pipes that nobody reads, an exporter."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import JOBS
from tests.support.processes import ROOT, run
from tests.telemetry.gateway import JOB, KEY, Gateway, Upstream, eventually, gateway, upstream

LIST = 'http_server_request_duration_seconds_{}{{http_request_method="GET",http_response_status_code="200",http_route="/v1/batch/jobs"}}'
CREATE = {"endpoint": "/v1/ocr", "model": "m", "input_files": [JOB["id"]]}


@pytest.fixture
def mistral() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


def ask_often(running: Gateway, times: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: running.ask("GET", JOBS)[0], range(times)))
    assert answers == [200] * times


def counted(running: Gateway) -> float:
    return running.metrics().get(LIST.format("count"), 0)


def test_counters_of_two_workers_sum_up_and_outlive_a_worker(
    tmp_path: Path, mistral: Upstream
) -> None:
    with gateway(tmp_path, mistral.url, WEB_CONCURRENCY="2") as running:
        ask_often(running, 120)
        eventually(lambda: counted(running) == 120)
        for worker in (before := running.workers()):
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: len(now := running.workers()) == 2 and not set(now) & set(before))
        eventually(lambda: running.ask("GET", "/livez")[0] == 200)
        ask_often(running, 80)
        eventually(lambda: counted(running) == 200)
        assert running.metrics()[f'{LIST.format("bucket")[:-1]},le="+Inf"}}'] == 200
        # Only the one that asks is under way.
        eventually(lambda: running.metrics()["gateway_inflight_requests"] == 1)


def test_requests_under_way_are_counted_and_those_of_a_dead_worker_forgotten(
    tmp_path: Path, mistral: Upstream
) -> None:
    with gateway(tmp_path, mistral.url, WEB_CONCURRENCY="2") as running:
        mistral.hold.clear()
        threads = [threading.Thread(target=_ask_quietly, args=(running,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        eventually(lambda: running.metrics()["gateway_inflight_requests"] == 6)
        for worker in running.workers():
            os.kill(worker, signal.SIGKILL)
        for thread in threads:
            thread.join()
        eventually(lambda: running.metrics()["gateway_inflight_requests"] == 1)


def _ask_quietly(running: Gateway) -> None:
    with contextlib.suppress(OSError):
        running.ask("GET", JOBS)


def test_a_log_pipe_that_nobody_reads_does_not_stop_requests(
    tmp_path: Path, mistral: Upstream
) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, b"x" * 4096)  # full before the gateway starts
    try:
        with gateway(tmp_path, mistral.url, writing, GATEWAY_AUDIT_LOG="stderr") as running:
            ask_often(running, 300)
            assert running.ask("POST", JOBS, body=CREATE)[0] == 200
            assert len(eventually(running.workers)) == 1
    finally:
        os.close(reading), os.close(writing)


def test_a_stopped_gateway_has_written_all_its_lines(tmp_path: Path, mistral: Upstream) -> None:
    with gateway(tmp_path, mistral.url, WEB_CONCURRENCY="2") as running:
        ask_often(running, 50)
    assert sum(line["operation"] == "listbatchjobs" for line in running.requests) == 50


def test_a_process_that_ends_at_once_has_written_its_last_line() -> None:
    code = "import logging; from telemetry import logs; logs.start([], 'info', 'json'); logging.error('bye')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert json.loads(done.stderr)["message"] == "bye"


def test_no_output_of_a_gateway_in_trouble_has_the_key(tmp_path: Path, mistral: Upstream) -> None:
    with gateway(tmp_path, mistral.url, GATEWAY_LOG_LEVEL="debug", GATEWAY_TIMEOUT="1", GATEWAY_READ_TIMEOUT="1",
                 GATEWAY_CONNECT_TIMEOUT="1") as running:  # fmt: skip
        own = {"Authorization": f"Bearer {KEY}"}
        for status in (200, 401, 404, 500):
            mistral.status = status
            running.ask("GET", JOBS, own)
            running.ask("POST", JOBS, own, CREATE)
        running.ask("GET", "/%1b%5b2J", own)
        mistral.hold.clear()
        assert running.ask("GET", JOBS)[0] == 504
        page = json.dumps(running.metrics())
    written = (
        (tmp_path / "stdout").read_bytes() + (tmp_path / "stderr").read_bytes() + page.encode()
    )
    assert b"upstream-timeout" in written and b"CANARY" not in written
    assert all(line.get("path", "").isprintable() for line in running.requests)


def test_a_client_that_leaves_during_a_create_is_told_of_once_with_what_became_of_the_create(
    tmp_path: Path, mistral: Upstream
) -> None:
    with gateway(tmp_path, mistral.url) as running:
        mistral.hold.clear()
        leave_a_create(running, mistral)
        eventually(lambda: running.ask("GET", "/livez")[0] == 200)
        assert running.audit == []
        mistral.hold.set()
        (line,) = eventually(lambda: running.audit)
        assert (line["outcome"], line["status"], line["id"], line["upstream_status"]) == (
            "client-left", 499, JOB["id"], 200,
        )  # fmt: skip
        (told,) = eventually(lambda: running.requests)
        assert told["status"] == 499


def test_a_worker_that_ends_tells_of_a_create_whose_client_has_left_first(
    tmp_path: Path, mistral: Upstream
) -> None:
    with gateway(tmp_path, mistral.url) as running:
        mistral.hold.clear()
        leave_a_create(running, mistral)
        eventually(lambda: running.ask("GET", "/livez")[0] == 200)
        running.process.terminate()
        eventually(lambda: not answers(running))
        mistral.hold.set()
        running.process.wait(30)
        assert [(line["status"], line["id"]) for line in running.audit] == [(499, JOB["id"])]


def answers(running: Gateway) -> bool:
    try:
        return running.ask("GET", "/livez")[0] == 200
    except OSError:
        return False


def leave_a_create(running: Gateway, mistral: Upstream) -> None:
    """Sends a create, and closes its connection when the upstream has it."""
    body = json.dumps(CREATE)
    with socket.create_connection(("127.0.0.1", running.port)) as leaving:
        leaving.sendall(
            f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        eventually(lambda: mistral.received)


def test_the_audit_log_may_be_a_file_of_its_own(tmp_path: Path, mistral: Upstream) -> None:
    file = tmp_path / "audit.log"
    with gateway(tmp_path, mistral.url, GATEWAY_AUDIT_LOG=str(file)) as running:
        running.ask("POST", JOBS, body=CREATE)
        (line,) = eventually(lambda: [json.loads(line) for line in file.read_bytes().splitlines()])
    assert (line["operation"], line["id"], running.audit) == ("createbatchjob", JOB["id"], [])
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_written_is_named_at_start(tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "MISTRAL_AI_API_KEY": "a-key",
        "GATEWAY_STORE": str(tmp_path / "s"),
        "GATEWAY_AUDIT_LOG": "/nowhere/audit",
    }
    done = run([sys.executable, "-m", "gunicorn", "wsgi:app"], environ)
    assert done.returncode == 2
    assert (
        done.stderr.startswith("gateway: cannot start: GATEWAY_AUDIT_LOG")
        and "Traceback" not in done.stderr
    )


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CollectorHandler)
        self.bodies: list[bytes] = []


class _CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_spans_of_request_and_upstream_are_exported_and_agree_with_the_headers(
    workers: str, tmp_path: Path, mistral: Upstream
) -> None:
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            "WEB_CONCURRENCY": workers,
        }
        with gateway(tmp_path, mistral.url, **settings) as running:
            for _ in range(6):
                running.ask("GET", JOBS, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
            running.ask("GET", JOBS, {"traceparent": f"00-{'c' * 32}-{'b' * 16}-00"})
        collector.shutdown()
        thread.join()
    spans = [
        span
        for body in collector.bodies
        for resource in trace_service.ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() in ("a" * 32, "c" * 32)
    ]
    assert {span.trace_id.hex() for span in spans} == {"a" * 32}  # the other caller does not sample
    servers = {span.span_id: span for span in spans if span.parent_span_id.hex() == "b" * 16}
    clients = [span for span in spans if span.parent_span_id in servers]
    assert (len(servers), len(clients)) == (6, 6)
    assert {span.name for span in servers.values()} == {f"GET {JOBS}"}
    sent = {headers["traceparent"].split("-")[2] for headers in mistral.received}
    assert {span.span_id.hex() for span in clients} < sent


def test_without_the_extra_a_configured_export_is_a_line_in_the_log(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from starlette.testclient import TestClient; from service.app import create_app;"
        "from service.config import Settings, start_logging;"
        "settings = Settings.from_env(); start_logging(settings);"
        "assert TestClient(create_app(settings)).get('/livez').status_code == 200"
    )
    environ = {
        **os.environ,
        "MISTRAL_AI_API_KEY": "a-key",
        "GATEWAY_STORE": str(tmp_path / "store"),
        "OTEL_TRACES_EXPORTER": "otlp",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"requirements-otel.lock" in done.stderr
