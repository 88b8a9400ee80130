"""The processes of the Procfile, started and stopped as one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from honcho.environ import parse_procfile  # type: ignore[import-untyped]
from honcho.manager import Manager  # type: ignore[import-untyped]
from honcho.process import Popen, Process  # type: ignore[import-untyped]

from stack import ports, rest
from stack.config import PROJECT, Door, Settings
from stack.parent import end_with_parent
from stack.screen import Screen

_START_SECONDS = 60.0


class _Tied(Process):  # type: ignore[misc]
    """A process of the Procfile that ends with the stack, also with one that is killed.

    Between both is a process of honcho's, which reads its output: it is killed with the stack, and
    the signal to stop then goes to this one, whose group is another.
    """

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Runs in honcho's process, until its own one has ended."""
        end_with_parent(signal.SIGKILL)
        stack = multiprocessing.parent_process()
        if stack and stack.is_alive():  # it may have ended before
            tie = partial(end_with_parent, signal.SIGTERM, os.getpid())
            self._child_ctor = partial(Popen, preexec_fn=tie)
            super().run(events, ignore_signals)


class Processes(Manager):  # type: ignore[misc]  # honcho has no types
    """Runs until one process dies or a signal asks to stop, then stops all with their children.

    `folder` may be used while they run. `fault` says in one line what went wrong; empty after a stop
    that was asked for.
    """

    def __init__(self, settings: Settings, screen: Screen, folder: str) -> None:
        super().__init__(printer=screen)
        self._process_ctor = _Tied
        environment = dict(settings.environment)
        environment["PATH"] = os.pathsep.join(
            (str(Path(sys.executable).parent), environment.get("PATH", ""))
        )
        environment["PYTHONUNBUFFERED"] = "1"  # log lines appear when they are written
        if settings.sandboxed and not environment.get("GATEWAY_STORE"):
            # The sandbox's jobs end with it, and so must what the service remembers of them.
            environment["GATEWAY_STORE"] = f"{folder}/store.sqlite3"
        procfile = PROJECT / "Procfile"
        for name, command in parse_procfile(procfile.read_text(encoding="utf-8")).processes.items():
            if name != settings.sandbox.name or settings.sandboxed:
                self.add_process(name, command, env=environment, cwd=str(PROJECT))
        self.fault = ""
        self._screen = screen
        self._stopping = threading.Lock()

    def run(self) -> None:
        """Starts all; returns when all have ended, which nothing outlives. In the main thread."""
        # A closed terminal (unless under nohup) and an output that nobody reads stop all as well.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _stop_as_if_terminated)
        signal.signal(signal.SIGPIPE, _stop_as_if_terminated)
        try:
            self.loop()
        finally:
            self._kill_leftovers()

    def fail(self, fault: str) -> None:
        """Stops all because of `fault`, one line; the first one stands. For any thread."""
        self.fault = self.fault or fault
        self.terminate()

    def terminate(self) -> None:
        """Stops all, soon. honcho calls this in its signal handler and when a process has ended."""
        # A thread, since a signal handler must not print: it may have interrupted a print.
        threading.Thread(target=self._stop, daemon=True).start()

    def _stop(self) -> None:
        while not self._all_started():
            time.sleep(0.02)  # honcho 2.0 cannot stop a process that has not reported its pid yet
        with self._stopping:
            if self._terminating:
                return
            self.fault = self.fault or self._first_death()
            self._screen.end_progress()
            self._screen.release(show=bool(self.fault))
            self._screen.say("\n  Stopping ...")
            super().terminate()

    def _first_death(self) -> str:
        for name, process in self._processes.items():
            if "returncode" in process:
                return f"{name} ended ({_ending(process['returncode'])}); the others were stopped"
        return ""

    def _kill_leftovers(self) -> None:
        for process in self._processes.values():
            if "pid" in process and "returncode" not in process:
                self._procmgr.kill(process["pid"])


def serve(settings: Settings, screen: Screen, follow: Callable[[Processes], None]) -> str:
    """Runs the stack until it is stopped; returns what went wrong, or an empty string.

    Once all processes are ready, `follow` runs in a thread beside them.
    """
    complaints = ports.complaints(settings.doors)
    if complaints:
        return "\n  ".join(complaints)
    with TemporaryDirectory(prefix="gateway-") as folder:
        processes = Processes(settings, screen, folder)

        def lead() -> None:
            if _all_ready(settings.doors, screen, processes):
                follow(processes)

        threading.Thread(target=lead, daemon=True).start()
        processes.run()
    return processes.fault


def _all_ready(doors: Sequence[Door], screen: Screen, processes: Processes) -> bool:
    start = time.monotonic()
    pending = list(doors)
    while pending:
        for door in [door for door in pending if rest.answers(door)]:
            pending.remove(door)
            screen.say(
                f"  {door.name:<10} ready after {time.monotonic() - start:4.1f} s   {door.url}"
            )
        if pending and time.monotonic() - start > _START_SECONDS:
            names = ", ".join(door.name for door in pending)
            processes.fail(f"{names}: not ready after {_START_SECONDS:.0f} s; all were stopped")
            return False
        time.sleep(0.05)
    return True


def _stop_as_if_terminated(_signal: int, _frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
