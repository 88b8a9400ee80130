"""Servers under measurement: started on free ports, pinned, watched through /proc, ended."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp

from bench import work
from bench.machine import CPUS, ROOT, SERVED_BY

Command = tuple[str | Path, ...]

START_SECONDS = 180.0
"""How long a server may take to start; LiteLLM takes half a minute and more."""

QUIET = 0.35
"""Seconds without CPU time after which a server is idle: more than the slowest fake upstream takes for an answer."""

REST_SECONDS = 60.0
"""How long a server may work on after a load."""

_SETTINGS = (
    "GATEWAY_",
    "BRIDGE_",
    "MISTRAL_",
    "OTEL_",
    "PROMETHEUS_",
    "WEB_CONCURRENCY",
    "GUNICORN_",
)


class ServerFailed(RuntimeError):
    """A server did not come up, or does not come to rest; the message has the end of its log."""


@dataclass(frozen=True)
class Target:
    """A server that can be measured, and how it is started.

    `command`, `environ` and `files`, which are written into its folder first, may have {port}, {upstream} (a base URL),
    {authority} (its host and port) and {folder} in their texts. `cpu` is the one that it has; None: all. `request` gets
    the job from it. `probe` is a path that it answers once it is ready.
    """

    name: str
    command: Command
    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    cpu: int | None = SERVED_BY
    request: work.Request = work.GET_JOB
    probe: str = work.JOB_PATH

    def with_settings(self, name: str = "", **environ: object) -> Target:
        """The same with other environment variables."""
        changed = {**self.environ, **{key: str(value) for key, value in environ.items()}}
        return replace(self, name=name or self.name, environ=changed)

    @contextmanager
    def started(self, upstream: str, folder: Path) -> Iterator[Server]:
        """The running server, before `upstream`, a base URL; its log and files are below `folder`.

        ServerFailed when it does not become ready.
        """
        port = free_port()
        name = self.name.replace(" ", "-").replace("/", "-")
        files = Path(
            mkdtemp(prefix=f"{name}-", dir=folder)
        )  # of its own, since a port may come again

        def filled(text: str) -> str:
            text = text.replace("{port}", str(port)).replace("{folder}", str(files))
            text = text.replace("{authority}", upstream.partition("//")[2])
            return text.replace("{upstream}", upstream)

        for file, content in self.files.items():
            (files / file).write_text(filled(content), encoding="utf-8")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)
        }
        environ = {name: filled(value) for name, value in self.environ.items()}
        begun = time.perf_counter()
        with (files / "log").open("ab") as log:
            process = subprocess.Popen(
                [filled(str(word)) for word in self.command],
                cwd=ROOT,
                env={**inherited, "PYTHONPATH": str(ROOT), **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.sched_setaffinity(process.pid, CPUS if self.cpu is None else {self.cpu})
        server = Server(self, process, port, files / "log")
        try:
            server.wait_until_ready(begun)
            yield server
        finally:
            server.stop()


@dataclass
class Server:
    """A running target, possibly of several processes, listening at `port`; its output goes to the file `log`.

    `ready_after` is how many seconds it took from the start of the process until the probe was answered.
    """

    target: Target
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_after: float = 0.0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self, begun: float) -> None:
        """Returns when the probe is answered, with whatever; ServerFailed when it ends before, or is too slow."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                with closing(connection):
                    connection.request("GET", self.target.probe)
                    connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                if self.process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                    raise self._failed("did not come up") from None
                time.sleep(0.01)
            else:
                break
        self.ready_after = time.perf_counter() - begun

    def wait_until_idle(self) -> None:
        """Returns when it has used no CPU time for a while; ServerFailed when it works on and on."""
        end = time.monotonic() + REST_SECONDS
        before, now = -1.0, self.cpu_seconds()
        while now != before:
            if time.monotonic() > end:
                raise self._failed("does not come to rest")
            time.sleep(QUIET)
            before, now = now, self.cpu_seconds()

    def _failed(self, what: str) -> ServerFailed:
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return ServerFailed(f"{self.target.name} {what}: {self.process.args!r}\n{tail}")

    def pids(self) -> list[int]:
        """Its processes, the first one first."""
        found = [self.process.pid]
        for pid in found:  # grows while it is walked
            children = _proc(pid, f"task/{pid}/children")
            found += [int(child) for child in children.split()]
        return found

    def workers(self) -> list[int]:
        """The processes that answer: all but the one that only starts them."""
        return self.pids()[1:] or self.pids()

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far, in user and kernel (proc(5), stat)."""
        stats = [_proc(pid, "stat").rpartition(")")[2].split()[11:13] for pid in self.pids()]
        return sum(int(ticks) for each in stats for ticks in each) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of its largest worker in memory."""
        return self._memory("VmRSS")

    def forget_peak(self) -> None:
        """Starts the peak of resident memory anew (proc(5), clear_refs)."""
        for pid in self.workers():
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> float:
        """MiB of its largest worker in memory at most, since `forget_peak`."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        """A figure of /proc/PID/status, which has KiB."""
        found = [_proc(pid, "status").partition(f"{name}:")[2].split()[0] for pid in self.workers()]
        return max(int(kib) for kib in found) / 1024

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


def _proc(pid: int, name: str) -> str:
    """A file of a process; empty when that has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
