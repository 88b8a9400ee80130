"""A pytest plugin: no module of tests leaves a thread, a process, a listening socket or a log handler behind, and no run a process.

After a module's last test, what it made and did not end is an error of that test. What fixtures of the whole session made
may stay until the session's end. Threads that are daemons, as all of the product's, are not looked at: they end
with the process. Processes that were left are killed, and a thread that was left cannot keep the run from ending. Processes and sockets are seen where there is /proc.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Hashable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from telemetry import logs
from tests.support.fork_server import running as fork_servers

_PROC = Path("/proc")
_MARK = f"TESTS_RUN={os.getpid()}-{time.time_ns()}"
"""What all that is started here has in its environment, also when its parent has ended."""
_PATIENCE = 5.0
"""Seconds for what is just about to end."""

Things = dict[Hashable, str]
"""Threads, the numbers of processes, and sockets, each with its description."""

_session: pytest.Session | None = None
_watchdog: subprocess.Popen[bytes] | None = None
"""Ends all that has the mark once this process has ended, however that was."""
_known: Things = {}
"""What there was at the start, and what was reported."""
_lasting: Things = {}
"""What fixtures of the session made."""


@pytest.hookimpl(tryfirst=True)  # before workers of xdist are started, which have the mark too
def pytest_sessionstart(session: pytest.Session) -> None:
    global _session, _watchdog
    _session = session
    name, _, value = _MARK.partition("=")
    os.environ[name] = value
    _watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), _MARK],
        cwd="/",
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _known.update(_things())


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    if fixturedef.scope not in ("session", "package"):
        return (yield)
    before = _things()
    try:
        return (yield)
    finally:
        _lasting.update((key, what) for key, what in _things().items() if key not in before)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            _check(item, _known if nextitem is None else _known | _lasting)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _watchdog:
        _watchdog.communicate()
    if _session and any(_threads()):  # Python would wait for it
        config.get_terminal_writer().flush()
        sys.stderr.flush()
        os._exit(_session.exitstatus)


def _check(last: pytest.Item, allowed: Things) -> None:
    """Fails when the module of the test `last` left something that is not allowed; kills it where it is a process."""
    if left := _left(allowed):
        _known.update(left)
        for key in left:
            if isinstance(key, int):
                with suppress(ProcessLookupError):
                    os.kill(key, signal.SIGKILL)
        things = "\n  ".join(sorted(left.values()))
        pytest.fail(f"left behind by {last.nodeid.partition('::')[0]}:\n  {things}", pytrace=False)


def _left(allowed: Things) -> Things:
    """What there is and should not be, once nothing more of it ends."""
    end = time.monotonic() + _PATIENCE
    while (left := _things(allowed)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _things(allowed: Things | None = None) -> Things:
    """All that could be left behind, without what is allowed and what allowed processes started."""
    allowed = allowed or {}
    things: Things = {}
    things.update(_threads())
    things.update(_listening())
    things.update(_log_handlers())
    things.update(_processes(allowed))
    return {key: what for key, what in things.items() if key not in allowed}


def _threads() -> Iterator[tuple[threading.Thread, str]]:
    gc.collect()  # an executor's threads end with it
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            yield thread, f"thread {thread.name}"


def _log_handlers() -> Iterator[tuple[str, str]]:
    """Those of the product that still write somewhere: what other tests log would be among pytest's own lines."""
    for logger in (logging.getLogger(), logs.audit_log):
        for handler in logger.handlers:
            if isinstance(handler, logs.LineHandler):
                yield f"handler {id(handler)}", f"log handler of {logger.name} to {handler.target}"


def _listening() -> Iterator[tuple[str, str]]:
    """Listening sockets of this process; told by the kernel's number and their address."""
    held = set()
    for entry in _PROC.glob("self/fd/*"):
        with suppress(OSError):
            held.add(str(entry.readlink()))
    for table, listens, address, number in (
        ("tcp", (3, "0A"), 1, 9),
        ("tcp6", (3, "0A"), 1, 9),
        ("unix", (3, "00010000"), -1, 6),
    ):
        with suppress(OSError):
            for line in (_PROC / "self/net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[listens[0]] == listens[1] and f"socket:[{words[number]}]" in held:
                    yield f"socket {words[number]}", f"listening socket {table} {words[address]}"


def _processes(allowed: Things) -> Iterator[tuple[int, str]]:
    """Processes that this one started, or that have its mark, and no ancestor that is allowed."""
    parents: dict[int, int] = {}
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = re.split(r"\) ", (entry / "stat").read_text())[-1].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    for pid, parent in parents.items():
        ancestor = pid
        while ancestor in parents and (ancestor not in allowed or ancestor in fork_servers):
            ancestor = parents[ancestor]
        with suppress(OSError):
            ours = (
                parent == os.getpid() or _MARK.encode() in (_PROC / f"{pid}/environ").read_bytes()
            )
            if ours and ancestor not in allowed and pid not in {os.getpid(), *fork_servers}:
                words = (_PROC / f"{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                yield pid, f"process {pid}: {words.decode(errors='replace').strip()}"
