"""Threads, of which a system may have no more to give: one by itself, and a pool of them whose results go to an event loop.

For speed, the pool is no ThreadPoolExecutor: a call there has a future with a lock in each world, and the loop is woken for
every one that ends. Here it has one future, and one waking delivers all results that are there. With 32 calls at a time a
hand-over takes 19 to 23 us of processor time, there 42 to 56 (timed in a loop): a tenth of a request's under load.
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

from .problems import Overloaded


class NoThread(Overloaded):
    """The system has no thread to give now; nothing was begun."""

    def __init__(self) -> None:
        super().__init__("The system gives this process no thread.")


def start_thread(name: str, run: Callable[[], object]) -> Thread:
    """A daemon thread that has begun to `run`. Raises NoThread."""
    thread = Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThread from error
    return thread


class WorkItem:
    """What a thread is to call, and the future of the result. Exactly one side may claim it: the thread that comes to it, or
    whoever wants it no more.
    """

    __slots__ = ("_parts",)

    def __init__(self, call: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self._parts = [(call, future)]

    def claim(self) -> tuple[Callable[[], Any], asyncio.Future[Any]] | None:
        """Both, for the first that claims them, which is to settle the future; nothing else keeps them alive. From any thread."""
        try:
            return self._parts.pop()
        except IndexError:
            return None


class ThreadPool:
    """At most so many threads, each started by the first item that finds no other free: so after any fork.

    Where the system gives fewer, items wait for those that there are. They are daemons, which asyncio and the interpreter do
    not wait for; the interpreter's exit waits until each has finished the items that it was given.
    """

    def __init__(self, threads: int, name: str = "request") -> None:
        self.limit = threads
        self.name = name
        self._threads: list[Thread] = []
        self._free = 0  # threads that have nothing to do; negative: items that have no thread
        self._counting = Lock()
        self._items: SimpleQueue[tuple[CompletionQueue, WorkItem] | None] = SimpleQueue()
        self._completions: CompletionQueue | None = None

    @property
    def exhausted(self) -> bool:
        """Whether an item waits for a thread: the last one that was put, or more."""
        return self._free < 0

    def submit(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Has a thread call it; the future, of the running loop, gets the result or the exception. Raises NoThread."""
        future = asyncio.get_running_loop().create_future()
        self.put(WorkItem(call, future))
        return future

    def put(self, item: WorkItem) -> None:
        """Has a thread claim `item`, whose future is of the running loop, and call it unless the future is cancelled before.

        Raises NoThread when there is none and none to be had.
        """
        loop = asyncio.get_running_loop()
        completions = self._completions
        if completions is None or completions.loop is not loop:
            completions = self._completions = CompletionQueue(loop)
        with self._counting:
            if not self._free > 0 and len(self._threads) < self.limit:
                self._start()
            self._free -= 1
        self._items.put((completions, item))

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
        self._free += 1

    def _serve(self) -> None:
        while waiting := self._items.get():
            self._run(*waiting)
            del waiting  # a waiting thread keeps nothing alive

    def _run(self, completions: CompletionQueue, item: WorkItem) -> None:
        result = error = call = future = None
        claimed = item.claim()
        if claimed and not claimed[1].cancelled():
            call, future = claimed
        try:
            result = call() if call else None
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits the future
            error = raised
        with self._counting:
            self._free += 1
        if future:
            completions.add(future, result, error)
        # The error's traceback keeps this frame: with them in it, a large body would stay until the garbage collector comes.
        del claimed, call, future, result, error

    def _finish(self) -> None:
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join()


class CompletionQueue:
    """Results that are not yet delivered to the futures of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._completions: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._scheduled = False

    def add(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """Has the loop deliver a result; from any thread."""
        self._completions.append((future, result, error))
        if not self._scheduled:  # else the delivery that is to come sees this one too
            self._scheduled = True
            with suppress(RuntimeError):  # the loop is closed: nobody awaits the future any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        while self._completions:
            future, result, error = self._completions.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, result, error  # as in `ThreadPool._run`
