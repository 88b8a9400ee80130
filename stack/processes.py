"""The stack's processes, started and stopped as one: the ports first, then readiness, then until the first of them ends.

Each runs in a process group of its own, so that Ctrl-C reaches this one alone, which then stops them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from tempfile import TemporaryDirectory

from stack import rest
from stack.config import Endpoint, Settings, free_ports
from stack.screen import Screen

COMMANDS = {
    "sandbox": ("-m", "sandbox"),
    "rest": ("-m", "service", "serve"),
    "mcp": ("-m", "mcp_bridge"),
}
"""What Python is given, by the name of the endpoint."""

END_WITH_PARENT = "--end-with-parent"
"""The argument by which `make` has the stack end with it."""

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1  # prctl(2), <linux/prctl.h>
_libc = ctypes.CDLL(None)


def end_with_parent(by: signal.Signals, parent: int | None = None) -> None:
    """Has this process get the signal `by` when its parent ends, also by SIGKILL, or at once when `parent` no longer is it.

    The parent is the thread that started it. What this process starts does not inherit it; what it executes does. Linux
    sees to it; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, by)
        if parent not in (None, os.getppid()):
            os.kill(os.getpid(), by)


def serve(settings: Settings, screen: Screen, when_ready: Callable[[], str | None]) -> str | None:
    """Runs the stack until it is to stop; returns what went wrong, or None when a signal asked for the stop.

    Once all processes are ready, `when_ready` runs in a thread beside them. They go on when it returns None; otherwise they
    are stopped, and what it returns is the outcome. In the main thread.
    """
    with ExitStack() as claims:
        if complaints := settings.missing_keys() or port_complaints(settings, claims):
            return "\n  ".join(complaints)
        return _serve(settings, screen, claims, when_ready)


def _serve(
    settings: Settings, screen: Screen, claims: ExitStack, when_ready: Callable[[], str | None]
) -> str | None:
    # Signals are waited for instead of handled, so that they interrupt nothing; threads that start from here on block them.
    signals = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signals.add(signal.SIGHUP)  # a terminal that closes stops all as well
    signal.signal(signal.SIGCHLD, lambda *_: None)  # what is ignored may not be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    outcome: list[str | None] = [None]

    def begin() -> None:
        result: str | None = "an error of the stack itself stopped it"
        try:
            result = _await_ready(settings.endpoints, screen)
            claims.close()  # now they listen themselves
            result = result or when_ready()
        finally:
            outcome[0] = result
            if result is not None:
                os.kill(os.getpid(), signal.SIGTERM)

    with TemporaryDirectory(prefix="gateway-") as folder, Processes(screen, signals) as processes:
        processes.start(settings, folder)
        threading.Thread(target=begin, daemon=True).start()
        death = ""
        while not death and signal.sigwait(signals) == signal.SIGCHLD:
            death = processes.first_death()
        ended = death or outcome[0]  # not what comes of the stop itself
        screen.end_progress()
        if death:
            screen.release(show=True)
        screen.say("\n  Stopping ...")
    return ended


class Processes:
    """A context at whose end they all have ended. They get none of the signals that are `blocked` here blocked."""

    def __init__(self, screen: Screen, blocked: set[signal.Signals]) -> None:
        self._screen, self._blocked = screen, blocked
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []

    def start(self, settings: Settings, folder: str) -> None:
        """Starts all. `folder` may be used while they run. No other thread may run yet, and this one must outlive them."""
        environment = {**settings.environment, "PYTHONUNBUFFERED": "1"}  # log lines come at once
        if settings.sandboxed and not settings.given.get("GATEWAY_STORE"):
            # The sandbox's jobs end with it, and so must what the service remembers of them.
            environment["GATEWAY_STORE"] = f"{folder}/store.sqlite3"
        parent = os.getpid()

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._blocked)
            end_with_parent(signal.SIGTERM, parent)

        for endpoint in settings.endpoints:
            self._running[endpoint.name] = subprocess.Popen(
                [sys.executable, "-P", *COMMANDS[endpoint.name]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )
        for name, process in self._running.items():
            reader = threading.Thread(target=self._read, args=(name, process), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        with process.stdout as output:
            for line in output:
                self._screen.log(name, line.decode("utf-8", "replace").rstrip())

    def first_death(self) -> str:
        """What to say of a process that has ended; empty while all run."""
        for name, process in self._running.items():
            if (code := process.poll()) is not None:
                how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
                return f"{name} ended ({how}); the others were stopped"
        return ""

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """Stops all with what they started: politely at first, after _STOP_SECONDS for certain."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + _STOP_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(end - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for reader in self._readers:
            reader.join(1)  # so that its last lines come before what is said next


def _await_ready(endpoints: Sequence[Endpoint], screen: Screen) -> str:
    """Says of each process when it is ready; returns what went wrong, or an empty string."""
    start, pending = time.monotonic(), list(endpoints)
    while pending:
        for endpoint in [each for each in pending if rest.answers(each)]:
            pending.remove(endpoint)
            took = time.monotonic() - start
            screen.say(f"  {endpoint.name:<10} ready after {took:4.1f} s   {endpoint.url}")
        if pending and time.monotonic() - start > _START_SECONDS:
            screen.release(show=True)
            names = ", ".join(endpoint.name for endpoint in pending)
            return f"{names}: not ready after {_START_SECONDS:.0f} s; all were stopped"
        time.sleep(0.05)
    return ""


def port_complaints(settings: Settings, claims: ExitStack) -> list[str]:
    """A line for each endpoint whose port cannot be had, and a last one with the settings that move them.

    What can be had is kept from other stacks that start until `claims` ends.
    """
    lines, moved = [], []
    first: dict[int, Endpoint] = {}
    for endpoint in settings.endpoints:
        other = first.setdefault(endpoint.port, endpoint)
        if other is not endpoint:
            reason = f"is also {other.setting}"
        elif not (reason := _bind_error(endpoint)) and not _claimed(endpoint.port, claims):
            reason = "is in use by another stack that starts"
        if reason:
            lines.append(f"port {endpoint.port} ({endpoint.name}) {reason}")
            moved.append(endpoint.setting)
    if moved:
        words = [f"{name}={port}" for name, port in zip(moved, free_ports(len(moved)), strict=True)]
        lines.append(f"to use others: {' '.join(words)} {settings.command}")
    return lines


def _claimed(port: int, claims: ExitStack) -> bool:
    """Whether no other stack that starts on this machine has claimed the port; a listening process comes a second later."""
    if sys.platform != "linux":  # elsewhere no socket has a name without a file
        return True
    claim = claims.enter_context(socket.socket(socket.AF_UNIX))
    try:
        claim.bind(f"\0batch-gateway-stack-{port}")
    except OSError:
        return False
    return True


def _bind_error(endpoint: Endpoint) -> str:
    """Why a server could not listen at `endpoint`; empty when it could."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do: a port that only waits out an earlier run's connections is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"cannot be had: {error.strerror}"
        if endpoint.prefix != "GATEWAY" or (who := rest.stranger(endpoint)) is None:
            return "is in use"
        return f"is in use by {who or 'a gateway, which runs already'}"
    return ""
