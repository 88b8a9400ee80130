"""Servers under measurement: started on free ports, pinned, watched through /proc, ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import CPUS, ROOT

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OWN = ("GATEWAY_", "BRIDGE_", "MISTRAL_", "OTEL_", "PROMETHEUS_", "WEB_CONCURRENCY", "GUNICORN_")


class NotReady(RuntimeError):
    """A server did not come up; the message has the end of its log."""


class Server:
    """One server, possibly of several processes, listening at `port`; its output goes to the file `log`.

    `cpus` are those that it may use; None: all. Raises NotReady when `probe`, a path, is not answered within `patience`
    seconds. `ready_after` is how many seconds that took from the start of the process.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        environ: Mapping[str, str],
        port: int,
        log: Path,
        *,
        cpus: set[int] | None = None,
        probe: str = "/",
        patience: float = 60.0,
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        begun = time.perf_counter()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, "PYTHONPATH": str(ROOT), **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.sched_setaffinity(self.process.pid, cpus or set(CPUS))
        try:
            self._wait(probe, begun + patience)
        except NotReady:
            self.stop()
            raise
        self.ready_after = time.perf_counter() - begun

    def _wait(self, probe: str, end: float) -> None:
        while not answers(self.port, probe):
            if self.process.poll() is not None or time.perf_counter() > end:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise NotReady(f"{self.process.args!r}\n{tail}")
            time.sleep(0.01)

    def move(self, cpu: int) -> None:
        """Has all its threads run on this CPU from now on."""
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {cpu})

    def pids(self) -> list[int]:
        """Its processes, the first one first."""
        found = [self.process.pid]
        for pid in found:  # grows while it is walked
            found += _children(pid)
        return found

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far, in user and kernel."""
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def workers(self) -> list[int]:
        """The processes that answer: all but the one that only starts them."""
        return self.pids()[1:] or self.pids()

    def resident(self) -> int:
        """Bytes of its largest worker in memory."""
        return max(_resident(pid) for pid in self.workers())

    def forget_peak(self) -> None:
        """Starts the peak of resident memory anew (proc(5), clear_refs)."""
        for pid in self.workers():
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> int:
        """Bytes of its largest worker in memory at most, since `forget_peak`."""
        return max(_peak(pid) for pid in self.workers())

    def stop(self) -> None:
        """Ends it: SIGTERM, after five seconds SIGKILL for its group."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int, path: str) -> bool:
    """True when something at `port` answers a GET, with whatever."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in text.split()]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    user, kernel = fields.rpartition(")")[2].split()[11:13]
    return (int(user) + int(kernel)) * _TICK


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
