"""The pool of threads that serve requests: what a call gives back, to whom, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message

import service.flask_dispatch
from openapi.contract import load
from service.app import create_app
from service.config import Settings
from service.edge import open_context
from service.flask_dispatch import FlaskDispatch
from service.problems import Problem
from service.request_reader import LARGE
from service.threads import CompletionQueue, NoThread, ThreadPool, WorkItem
from service.translation import UpstreamRequest
from service.upstream_connection import CancellableRequest, Deadline, DeadlineWatchdog

pytestmark = pytest.mark.anyio


def test_calls_run_at_once_up_to_the_limit_and_the_rest_waits_its_turn() -> None:
    pool, together = ThreadPool(3), threading.Barrier(3)

    def wait() -> str:
        together.wait(10)
        return name_of_thread()

    async def six() -> list[str]:
        return await asyncio.gather(*(pool.submit(wait) for _ in range(6)))

    assert len(set(asyncio.run(six()))) == 3


class System:
    """Has threads to give, or none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads = True
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", lambda thread: self.start(thread))

    def start(self, thread: threading.Thread) -> None:
        if not self.threads:
            raise RuntimeError("can't start new thread")
        self._start(thread)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


def test_a_pool_grows_again_after_the_system_had_no_threads(system: System) -> None:
    pool, together = ThreadPool(3), threading.Barrier(3)

    async def few_and_many() -> list[int]:
        await pool.submit(name_of_thread)
        system.threads = False
        await asyncio.gather(*(pool.submit(name_of_thread) for _ in range(9)))
        system.threads = True
        return await asyncio.gather(*(pool.submit(lambda: together.wait(10)) for _ in range(3)))

    assert sorted(asyncio.run(few_and_many())) == [0, 1, 2]


def test_nothing_is_begun_when_there_is_no_thread_at_all(system: System) -> None:
    pool = ThreadPool(3)
    begun: list[str] = []

    async def never_and_then() -> str:
        system.threads = False
        with pytest.raises(NoThread) as caught:
            pool.submit(lambda: begun.append("never"))
        assert (caught.value.slug, caught.value.headers) == ("overloaded", (("Retry-After", "1"),))
        system.threads = True
        return await pool.submit(name_of_thread)

    assert (asyncio.run(never_and_then()), begun) == ("request-0", [])


def test_an_exception_reaches_whoever_awaits_the_call_and_spares_the_thread() -> None:
    pool = ThreadPool(1)

    async def failing_then_fine() -> str:
        with pytest.raises(LookupError, match="lost"):
            await pool.submit(lost)
        return await pool.submit(name_of_thread)

    assert asyncio.run(failing_then_fine()) == "request-0"


def test_calls_of_several_loops_return_to_their_own() -> None:
    pool, together = ThreadPool(2), threading.Barrier(2)

    async def awaiting() -> int:
        for _ in range(50):
            await pool.submit(lambda: together.wait(10))
        return await pool.submit(lambda: 1)

    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(asyncio.run(awaiting()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [1, 1]


def test_a_call_whose_loop_was_closed_leaves_its_thread_to_others() -> None:
    pool, go_on = ThreadPool(1), threading.Event()

    async def leave() -> None:
        pool.submit(lambda: go_on.wait(10))

    async def come() -> str:
        return await asyncio.wait_for(pool.submit(name_of_thread), 10)

    asyncio.run(leave())
    go_on.set()
    assert asyncio.run(come()) == "request-0"


def test_a_result_is_kept_by_nobody_but_its_future() -> None:
    class Result:
        pass

    pool = ThreadPool(1)

    async def forget() -> None:
        watched.append(weakref.ref(await pool.submit(Result), lambda _: gone.set()))

    watched: list[weakref.ref[Result]] = []
    gone = threading.Event()
    asyncio.run(forget())
    assert gone.wait(10)


async def test_a_call_that_is_not_wanted_any_more_is_kept_by_nobody() -> None:
    class Call:
        def __call__(self) -> None:
            raise AssertionError("it was begun")

    pool, go_on = ThreadPool(1), threading.Event()
    busy = pool.submit(lambda: go_on.wait(10))
    call = Call()
    kept = weakref.ref(call)
    item = WorkItem(call, asyncio.get_running_loop().create_future())
    pool.put(item)
    del call
    assert kept() is not None
    assert item.claim() is not None
    assert (kept(), item.claim()) == (None, None)
    go_on.set()
    await busy


def test_a_context_that_outlives_its_request_does_not_keep_the_body() -> None:
    def answering(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        start("200 OK", [])
        return [environ["gateway.dispatch"][0].body]

    async def call() -> None:
        await FlaskDispatch(answering, threads=1, transfers=1, waiters=1, queue=0, timeout=10)(
            scope, receive, send
        )

    async def receive() -> Message:
        raise AssertionError("the body was read before")

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope = create_scope("/")
    ctx = open_context()
    ctx.upstream_request = create()
    asyncio.run(call())
    assert (sent[1]["body"], ctx.upstream_request) == (b"{}", None)


class Body(bytearray):
    """One of which one can tell whether it is there."""


def test_the_body_of_a_call_that_failed_is_gone_with_its_answer() -> None:
    def failing(environ: dict[str, Any], _start: Callable[..., Any]) -> list[bytes]:
        request, _ = environ["gateway.dispatch"]
        raise Problem("upstream-timeout", request.target)

    async def call() -> None:
        body = Body(b"{}")
        kept = weakref.ref(body)
        ctx = open_context()
        ctx.upstream_request = replace(create(), body=body)
        del body
        dispatch = FlaskDispatch(failing, threads=1, transfers=1, waiters=1, queue=0, timeout=10)
        with suppress(Problem):
            await dispatch(create_scope("/"), nothing, nothing)
        ctx.handling = None  # as the edge forgets it
        await until(lambda: kept() is None)  # its thread may be about to forget it

    async def nothing(*_: Any) -> Any:
        raise AssertionError("it failed")

    gc.collect()
    gc.disable()
    try:
        asyncio.run(call())
    finally:
        gc.enable()


class Held:
    """A WSGI application whose calls wait; `begun` are the paths of those that were begun."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[str] = []
        self.error: Exception | None = None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        self.begun.append(environ["PATH_INFO"])
        assert self.go_on.wait(10)
        if self.error:
            raise self.error
        start("200 OK", [])
        return [b"{}"]


def asking(served: FlaskDispatch, path: str) -> asyncio.Task[list[Message]]:
    """A create under way; its result is what was sent to the client."""
    sent: list[Message] = []
    scope = create_scope(path)

    async def receive() -> Message:
        raise AssertionError("the body was read before")

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> list[Message]:
        open_context().upstream_request = create()
        await served(scope, receive, send)
        return sent

    return asyncio.create_task(ask())


def create_scope(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "http_version": "1.1", "headers": []}


def create() -> UpstreamRequest:
    return UpstreamRequest(load().operations["createbatchjob"], "/", {}, b"{}")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_nothing_is_begun_for_a_client_that_left_while_it_waited_for_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "PATIENCE", 30)
    app = Held()
    served = FlaskDispatch(app, threads=1, transfers=1, waiters=1, queue=5, timeout=10)
    first, second = asking(served, "/first"), asking(served, "/second")
    await until(lambda: len(served.under_way) == 2)
    second.cancel()
    await until(lambda: len(served.under_way) == 1)
    app.go_on.set()
    third = asking(served, "/third")
    assert [(await each)[0]["status"] for each in (first, third)] == [200, 200]
    assert app.begun == ["/first", "/third"]


async def test_a_fault_of_ours_after_a_caller_was_told_that_its_time_is_over_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "GRACE", 0)
    app = Held()
    served = FlaskDispatch(app, threads=1, transfers=1, waiters=1, queue=5, timeout=0.05)
    asked = asking(served, "/first")
    with pytest.raises(Problem, match="upstream-timeout"):
        await asked
    app.error = ZeroDivisionError("ours")
    app.go_on.set()
    await until(lambda: not served.under_way)
    assert "ZeroDivisionError: ours" in caplog.text


async def test_a_request_that_finds_no_free_thread_in_time_is_refused_and_never_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "PATIENCE", 0.05)
    app = Held()
    served = FlaskDispatch(app, threads=1, transfers=1, waiters=1, queue=5, timeout=10)
    first = asking(served, "/first")
    await until(lambda: app.begun)
    with pytest.raises(Problem) as caught:
        await asking(served, "/second")
    assert (caught.value.slug, caught.value.headers) == ("overloaded", (("Retry-After", "1"),))
    app.go_on.set()
    assert (await first)[0]["status"] == 200
    assert app.begun == ["/first"]


async def test_a_request_is_refused_too_when_the_system_gives_fewer_threads_than_it_may_have(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "PATIENCE", 0.05)
    app = Held()
    served = FlaskDispatch(app, threads=5, transfers=1, waiters=1, queue=5, timeout=10)
    first = asking(served, "/first")
    await until(lambda: app.begun)
    system.threads = False
    with pytest.raises(Problem) as caught:
        await asking(served, "/second")
    assert caught.value.slug == "overloaded"
    app.go_on.set()
    assert (await first)[0]["status"] == 200
    assert app.begun == ["/first"]


def test_the_body_of_a_refused_request_is_gone_before_a_thread_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "PATIENCE", 0.05)
    app = Held()

    async def wait() -> None:
        served = FlaskDispatch(app, threads=1, transfers=1, waiters=1, queue=5, timeout=10)
        first = asking(served, "/first")
        await until(lambda: app.begun)
        kept = await refused(served)
        await until(lambda: kept() is None)
        app.go_on.set()
        await first

    async def refused(served: FlaskDispatch) -> weakref.ref[Any]:
        """A weak reference to what only the request has, which its task's frames hold."""

        class Sender:
            async def __call__(self, message: Message) -> None:
                raise AssertionError("it was refused")

        async def nothing() -> Message:
            raise AssertionError("the body was read before")

        async def ask() -> weakref.ref[Any]:
            send, ctx = Sender(), open_context()
            ctx.upstream_request = create()
            with suppress(Problem):
                await served(create_scope("/second"), nothing, send)
            ctx.handling = None  # as the edge forgets it
            return weakref.ref(send)

        return await asyncio.create_task(ask())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(wait())
    finally:
        gc.enable()


async def test_a_result_that_comes_with_the_end_of_its_time_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.flask_dispatch, "GRACE", 0)
    app, errors, ended = Held(), list[dict[str, Any]](), threading.Event()
    add = CompletionQueue.add

    def add_and_tell(*arguments: Any) -> None:
        add(*arguments)
        ended.set()

    monkeypatch.setattr(CompletionQueue, "add", add_and_tell)

    def finish() -> None:
        app.go_on.set()
        assert ended.wait(10)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    served = FlaskDispatch(app, threads=1, transfers=1, waiters=1, queue=5, timeout=0)
    first = asking(served, "/first")
    # In the turn of the loop after that in which it was handed over: before its timer, whose time has come too.
    loop.call_soon(loop.call_soon, finish)
    with pytest.raises(Problem, match=r"create-outcome-unknown|upstream-timeout"):
        await first
    await until(lambda: not served.under_way)
    assert errors == []


async def test_no_request_is_begun_that_nobody_would_end_in_time(
    monkeypatch: pytest.MonkeyPatch, system: System
) -> None:
    watchdog, app = DeadlineWatchdog(), Held()
    app.go_on.set()
    monkeypatch.setattr(service.flask_dispatch, "WATCHDOG", watchdog)
    served = FlaskDispatch(app, threads=5, transfers=1, waiters=1, queue=5, timeout=10)
    system.threads = False
    with pytest.raises(NoThread):
        await asking(served, "/first")
    with pytest.raises(NoThread):
        watchdog.add(CancellableRequest(Deadline(60)))
    system.threads = True
    assert (await asking(served, "/second"))[0]["status"] == 200
    assert app.begun == ["/second"]


CREATE = {"endpoint": "/v1/ocr", "requests": [{"body": {"x": "y" * LARGE}}]}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/metrics"), ("GET", "/docs/assets/swagger-ui.css"), ("POST", "/v1/batch/jobs")],
    ids=["metrics", "a file", "a large body"],
)
def test_what_needs_another_thread_than_a_request_s_is_refused_too(
    method: str, path: str, settings: Settings, system: System
) -> None:
    app = create_app(settings)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.get("/livez")  # so that all of it is there
            system.threads = False
            try:
                return await client.request(method, path, json=CREATE if method == "POST" else None)
            finally:
                system.threads = True

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems#overloaded")
    assert answer.headers["retry-after"] == "1"


def test_the_process_ends_after_the_calls_that_it_was_given() -> None:
    script = """
import asyncio, time
from service.threads import ThreadPool
pool = ThreadPool(1)
async def leave():
    for text in ("one", "two"):
        pool.submit(lambda text=text: (time.sleep(0.2), print(text)))
asyncio.run(leave())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["one", "two"], "")


def name_of_thread() -> str:
    return threading.current_thread().name


def lost() -> None:
    raise LookupError("lost")
