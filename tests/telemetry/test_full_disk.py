"""Real gateways whose file systems are full: for memory, for temporary files, for the audit log.

Each has its own, small and in memory, in a mount namespace that no other process sees.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import JOBS
from tests.support.tools_available import needed
from tests.telemetry.gateway import JOB, Gateway, Upstream, eventually, gateway, upstream

CREATE = {"endpoint": "/v1/ocr", "model": "m", "input_files": [JOB["id"]]}
CREATED = 'http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="/v1/batch/jobs"}'
LOST = 'gateway_log_lines_dropped_total{log="audit"}'


@pytest.fixture
def mistral() -> Iterator[Upstream]:
    with upstream() as server:
        yield server


def small(folder: str | Path, options: str) -> list[str]:
    """A command that runs another with a file system of its own in `folder`; skips without the right to make one, fails in CI."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    namespace = [needed("unshare", "install util-linux"), *root, "--mount", "sh", "-ec"]
    mount = f'mount -t tmpfs -o {options} tmpfs "{folder}"; exec "$@"'
    if subprocess.run([*namespace, mount, "sh", "true"], capture_output=True).returncode:
        reason = "a process may not have file systems of its own here"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return [*namespace, mount, "sh"]


def seen_by(running: Gateway, path: str | Path) -> Path:
    """`path` as the gateway sees it."""
    return Path(f"/proc/{running.process.pid}/root{path}")


def fill(folder: Path) -> Path:
    """A file that takes all the room of a file system."""
    file = folder / "fill"
    with ExitStack() as stack, file.open("ab", buffering=0) as content:
        stack.enter_context(pytest.raises(OSError, match="No space left"))
        while True:
            content.write(bytes(4096))
    return file


def create(running: Gateway) -> None:
    assert running.ask("POST", JOBS, body=CREATE)[0] == 200


def readiness(running: Gateway) -> tuple[int, str, str]:
    status, _, body = running.ask("GET", "/readyz")
    answer: dict[str, Any] = json.loads(body)
    return status, answer["status"], answer["checks"]["audit"]


def test_a_full_file_system_for_memory_ends_no_worker_and_costs_no_metric(
    tmp_path: Path, mistral: Upstream
) -> None:
    within = small("/dev/shm", "size=512k")
    with gateway(tmp_path, mistral.url, within=within, WEB_CONCURRENCY="2") as running:
        eventually(lambda: len(running.workers()) == 2)
        workers = running.workers()
        fill(seen_by(running, "/dev/shm"))
        for _ in range(20):
            create(running)
        eventually(lambda: running.metrics()[CREATED] == 20)
        assert running.workers() == workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        eventually(lambda: len(now := running.workers()) == 2 and not set(now) & set(workers))
        eventually(lambda: running.ask("GET", "/livez")[0] == 200)
        create(running)
        eventually(lambda: running.metrics()[CREATED] == 21)
        assert running.metrics()["gateway_metrics_incomplete"] == 0


def test_workers_killed_again_and_again_leave_nothing_and_no_count_is_lost_or_goes_back(
    tmp_path: Path, mistral: Upstream
) -> None:
    within = small("/dev/shm", "size=4m")
    with gateway(tmp_path, mistral.url, within=within, WEB_CONCURRENCY="5") as running:
        left, memory = what_is_there(running)
        counts = [0.0]

        def counted() -> float:
            counts.append(running.metrics().get(CREATED, 0))
            return counts[-1]

        for created in range(1, 4):
            create(running)
            eventually(lambda: counted() == created)  # noqa: B023
            for worker in (before := running.workers()):
                os.kill(worker, signal.SIGKILL)
            eventually(counted)
            eventually(lambda: len(set(running.workers()) - set(before)) == 5)
        assert counts == sorted(counts)
        assert (left, memory) == what_is_there(running)


def what_is_there(running: Gateway) -> tuple[list[Path], int]:
    """The files in the file system for memory, and how many mappings the master shares with its workers."""
    maps = Path(f"/proc/{running.process.pid}/maps").read_text().splitlines()
    files = sorted(seen_by(running, "/dev/shm").rglob("*"))
    return files, sum(line.split()[1].endswith("s") for line in maps)


def test_workers_are_replaced_although_there_is_no_room_for_a_temporary_file(
    tmp_path: Path, mistral: Upstream
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    within = small(temporary, "size=64k,nr_inodes=16")
    with gateway(tmp_path, mistral.url, within=within, TMPDIR=str(temporary)) as running:
        (before,) = running.workers()
        with pytest.raises(OSError, match="No space left"):
            for number in range(17):
                (seen_by(running, temporary) / str(number)).touch()
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: running.workers() and before not in running.workers())
        eventually(lambda: running.ask("GET", JOBS)[0] == 200)


def test_audit_lines_that_a_full_disk_loses_are_told_of_at_once_and_by_every_worker(
    tmp_path: Path, mistral: Upstream
) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    audited = folder / "log"
    with gateway(
        tmp_path, mistral.url, within=small(folder, "size=16k"), WEB_CONCURRENCY="2",
        GATEWAY_AUDIT_LOG=str(audited),
    ) as running:  # fmt: skip
        assert readiness(running) == (200, "ok", "ok")
        assert running.metrics()[LOST] == 0
        create(running)
        eventually(lambda: seen_by(running, audited).read_bytes().endswith(b"\n"))
        room = fill(seen_by(running, folder))
        sent = 1
        while not running.metrics()[LOST]:  # what is left of the page that the first line began
            create(running)
            sent += 1
        answers = [readiness(running) for _ in range(20)]
        assert answers == [(200, "degraded", "lines are lost")] * 20
        told = eventually(
            lambda: [line for line in running.log if line["logger"] == "telemetry.audit"]
        )
        assert len(told) <= 2  # one a worker and minute
        room.unlink()
        create(running)
        sent += 1
        eventually(lambda: readiness(running) == (200, "ok", "ok"))
        eventually(lambda: len(whole(seen_by(running, audited))) + running.metrics()[LOST] == sent)


def whole(file: Path) -> list[dict[str, Any]]:
    """The lines about calls; the one that was cut is on a line of its own."""
    lines = file.read_bytes().splitlines()
    found = [json.loads(line) for line in lines if line.endswith(b"}")]
    assert len(lines) - len(found) <= 1
    return [line for line in found if "operation" in line]
