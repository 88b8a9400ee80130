"""Threads for calls that an event loop awaits, in fewer steps than concurrent.futures takes.

A call there has a future with a lock in each world, and the loop is woken for every one that ends. Here it has one future,
and one waking hands over all calls that have ended: a tenth of a request's processor time under load.
"""

from __future__ import annotations

import asyncio
import atexit
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from .problems import Problem

_Call = tuple["_Ended", asyncio.Future[Any], "Turn"]


class NoThread(Problem):
    """The system has no thread to give now; nothing was begun."""

    def __init__(self) -> None:
        super().__init__(
            "overloaded", "The system gives this process no thread.", headers=[("Retry-After", "1")]
        )


def start_thread(name: str, run: Callable[[], object]) -> Thread:
    """A daemon thread that has begun to `run`. Raises NoThread."""
    thread = Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThread from error
    return thread


class Turn:
    """A call that waits: taken once, by the thread that comes to it or by whoever wants it no more."""

    __slots__ = ("_calls",)

    def __init__(self, call: Callable[[], Any]) -> None:
        self._calls = [call]

    def take(self) -> Callable[[], Any] | None:
        """The call, for the first that takes it, which is all that keeps it alive; from any thread."""
        try:
            return self._calls.pop()
        except IndexError:
            return None


class Pool:
    """At most so many threads, each started by the first call that finds no other free: so after any fork.

    Where the system gives fewer, calls wait for those that there are. They are daemons, which asyncio and the interpreter do
    not wait for; the interpreter's exit waits until each has finished the calls that it was given.
    """

    def __init__(self, threads: int, name: str = "request") -> None:
        self.limit = threads
        self.name = name
        self._threads: list[Thread] = []
        self._spare = 0  # threads that have no call; negative: calls that have no thread
        self._counting = Lock()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended: _Ended | None = None

    @property
    def waits(self) -> bool:
        """Whether a call waits for a thread: the last one that was submitted, or more."""
        return self._spare < 0

    def submit(self, call: Callable[[], Any] | Turn) -> asyncio.Future[Any]:
        """Has a thread call it; the future of the running loop gets the result, or the exception.

        Whoever takes a turn before a thread does keeps it from being called, and settles the future. Raises NoThread when there
        is none and none to be had.
        """
        loop = asyncio.get_running_loop()
        ended = self._ended
        if ended is None or ended.loop is not loop:
            ended = self._ended = _Ended(loop)
        with self._counting:
            if not self._spare > 0 and len(self._threads) < self.limit:
                self._start()
            self._spare -= 1
        future = loop.create_future()
        self._calls.put((ended, future, call if isinstance(call, Turn) else Turn(call)))
        return future

    def _start(self) -> None:
        try:
            thread = start_thread(f"{self.name}-{len(self._threads)}", self._serve)
        except NoThread:
            if self._threads:
                return
            raise
        if not self._threads:
            atexit.register(self._finish)
        self._threads.append(thread)
        self._spare += 1

    def _serve(self) -> None:
        while work := self._calls.get():
            self._carry_out(*work)
            del work  # a waiting thread keeps nothing alive

    def _carry_out(self, ended: _Ended, future: asyncio.Future[Any], turn: Turn) -> None:
        result = error = None
        call = None if future.cancelled() else turn.take()
        try:
            result = call() if call else None
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits the call
            error = raised
        with self._counting:
            self._spare += 1
        if call:
            ended.add(future, result, error)
        # The error's traceback keeps this frame: with them in it, a large body would stay until the garbage collector comes.
        del call, turn, future, result, error

    def _finish(self) -> None:
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()


class _Ended:
    """The calls of one loop that have ended and whose futures do not know it yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False  # that there are some

    def add(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Called by any thread. What is added before the loop has set `_told` back is seen by it after that."""
        self._calls.append((future, result, error))
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody awaits the call any more
                self.loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        while self._calls:
            future, result, error = self._calls.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, result, error  # as in `_carry_out`
