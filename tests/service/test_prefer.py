"""What of `Prefer` (RFC 7240) is heeded, and what an answer that was waited for says; Mistral is a table of answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import responses
from starlette.testclient import TestClient

from access.token_file import make_token
from service.app import create_app
from service.config import Settings
from service.flask_dispatch import PIECE
from serving import STOPPING
from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID, JOBS
from tests.support.upstreams import Received, echo_upstream

PATH = f"{JOBS}/{JOB_ID}"
JOB = UPSTREAM + PATH
DONE = b'{ "status":"SUCCESS",  "outputs":[{"x":1e400}], "new":"member" }'
RUNNING = b'{"status": "RUNNING"}'


@pytest.fixture
def upstream(mistral: responses.RequestsMock) -> responses.RequestsMock:
    """Mistral, where the job is over."""
    mistral.get(JOB, body=DONE, content_type="application/json")
    return mistral


def get(client: TestClient, *preferences: str, path: str = PATH) -> httpx.Response:
    return client.get(path, headers=[("Prefer", each) for each in preferences])


@pytest.mark.parametrize(
    ("preferences", "applied"),
    [
        (["wait=10"], "wait=10"),
        (["WAIT=10"], "wait=10"),
        (["wait = 10"], "wait=10"),
        (['wait="10"'], "wait=10"),
        (["wait=010"], "wait=10"),
        (["wait=00000000000000010"], "wait=10"),
        (["respond-async, wait=10"], "wait=10"),
        (["respond-async", "wait=10"], "wait=10"),
        (["wait=10, handling=lenient; strict"], "wait=10"),
        (['wait=10; why="a, b"'], "wait=10"),
        (["return=minimal; wait=3, wait=10"], "wait=10"),
        (['note="a, wait=3", wait=10'], "wait=10"),
        (['note="a \\", wait=3", wait=10'], "wait=10"),
        (["wait=10, wait=20"], "wait=10"),  # section 2: the first one counts
        (["wait=10", "wait=20"], "wait=10"),
        (["wait=45"], "wait=45"),
        (["wait=46"], "wait=45"),
        (["wait=" + "9" * 400], "wait=45"),
        ([",,wait=10,"], "wait=10"),
    ],
)
def test_a_wait_is_heeded_however_it_is_written(
    client: TestClient,
    upstream: responses.RequestsMock,
    preferences: list[str],
    applied: str,
) -> None:
    answer = get(client, *preferences)
    assert (answer.status_code, answer.content) == (200, DONE)
    assert answer.headers["preference-applied"] == applied
    assert answer.headers["age"] == "0"
    assert "gateway-warning" not in answer.headers


@pytest.mark.parametrize(
    "preference",
    [
        "wait=-1",
        "wait=+1",
        "wait=1.5",
        "wait=1e3",
        "wait=ten",
        "wait=",
        "wait",
        "wait; x=1",
        "wait=٣".encode().decode("latin-1"),
        "wait=ten, wait=10",
    ],
)
def test_a_wait_that_cannot_be_read_is_ignored_and_the_caller_told(
    client: TestClient, upstream: responses.RequestsMock, preference: str
) -> None:
    answer = client.get(PATH, headers=[(b"prefer", preference.encode("latin-1"))])
    assert (answer.status_code, answer.content) == (200, DONE)
    assert "preference-applied" not in answer.headers
    assert answer.headers["gateway-warning"].startswith("Prefer: wait")


def test_what_is_too_long_to_be_read_is_ignored_and_the_caller_told(
    client: TestClient, upstream: responses.RequestsMock
) -> None:
    answer = get(client, "wait=10", *["x=1, " * 100] * 60)
    assert (answer.status_code, answer.content) == (200, DONE)
    assert "preference-applied" not in answer.headers
    assert answer.headers["gateway-warning"].startswith("Prefer has more than")


@pytest.mark.parametrize(
    "preference",
    ["", ",", "respond-async", "waiting=10", "wait-for=10", 'note="wait=10"', "wait=0", '"', 'x="'],
)
def test_what_asks_for_no_wait_is_answered_as_without_it(
    client: TestClient, upstream: responses.RequestsMock, preference: str
) -> None:
    answer = get(client, preference)
    assert (answer.status_code, answer.content) == (200, DONE)
    assert not {"preference-applied", "age", "gateway-warning"} & {*answer.headers}


def test_an_operation_that_shows_nothing_that_changes_has_no_waits(
    client: TestClient, mistral: responses.RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={"data": [], "total": 0})
    answer = get(client, "wait=10", path=JOBS)
    assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)


def test_the_header_does_not_go_upstream(
    client: TestClient, upstream: responses.RequestsMock
) -> None:
    get(client, "wait=10")
    (call,) = upstream.calls
    assert "Prefer" not in call.request.headers


def test_a_head_waits_and_is_answered_without_the_job(
    client: TestClient, upstream: responses.RequestsMock
) -> None:
    answer = client.head(PATH, headers={"Prefer": "wait=10"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(DONE))
    assert answer.headers["preference-applied"] == "wait=10"


def test_who_waits_by_head_takes_the_job_from_nobody(
    app: Any, mistral: responses.RequestsMock
) -> None:
    mistral.get(JOB, body=RUNNING, content_type="application/json")
    mistral.get(JOB, body=DONE, content_type="application/json")

    async def both() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as one:
            methods = ("HEAD", "GET")
            asking = (one.request(each, PATH, headers={"Prefer": "wait=40"}) for each in methods)
            return await asyncio.gather(*asking)

    head, got = asyncio.run(both())
    assert (head.content, got.content) == (b"", DONE)
    assert len(mistral.calls) == 2


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_large_answer_that_was_waited_for_comes_whole(
    client: TestClient, mistral: responses.RequestsMock, length: int
) -> None:
    body = b'{"status": "SUCCESS", "outputs": "%s"}' % (b"x" * length)
    mistral.get(JOB, body=body, content_type="application/json")
    assert get(client, "wait=10").content == body


def test_a_stop_turns_nobody_away_who_asks_for_a_wait(
    app: Any, mistral: responses.RequestsMock
) -> None:
    mistral.get(JOB, body=RUNNING, content_type="application/json")

    async def stopping(scope: Any, receive: Any, send: Any) -> None:
        stop = asyncio.get_running_loop().create_future()
        stop.set_result(None)
        await app({**scope, "extensions": {STOPPING: stop}}, receive, send)

    answer = get(TestClient(stopping, base_url="http://127.0.0.1:8080"), "wait=40")
    assert (answer.status_code, answer.content) == (200, RUNNING)
    assert "preference-applied" not in answer.headers


def test_an_upstream_that_says_nothing_holds_no_wait_as_long_as_a_call_may_take(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.flask_dispatch.SILENCE", 0.2)
    over = threading.Event()

    def first_nothing(_: Received) -> tuple[int, str, bytes]:
        if len(echo.received) == 1:
            over.wait(30)
        return 200, "application/json", DONE

    with echo_upstream() as echo:
        echo.answer = first_nothing
        app = create_app(replace(settings, upstream_url=f"http://127.0.0.1:{echo.port}/v1"))
        answer = get(TestClient(app, base_url="http://127.0.0.1:8080"), "wait=20")
        assert (answer.status_code, answer.content) == (200, DONE)
        assert len(echo.received) == 2
        over.set()


def test_a_caller_with_a_token_has_half_of_the_places(
    settings: Settings, mistral: responses.RequestsMock, tmp_path: Path
) -> None:
    mistral.get(JOB, body=RUNNING, content_type="application/json")
    file = tmp_path / "tokens"
    file.touch()
    one, other = (make_token(name, ["jobs:read"], None, file)[0] for name in ("one", "other"))
    app = create_app(replace(settings, tokens_file=str(file), waiters=2))

    async def waiting() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:

            def asking(token: str) -> Coroutine[Any, Any, httpx.Response]:
                headers = {"Prefer": "wait=1", "Authorization": f"Bearer {token}"}
                return http.get(PATH, headers=headers)

            answers = await asyncio.gather(asking(one), asking(one), asking(other))
            return [answer.status_code for answer in answers]

    assert asyncio.run(waiting()) == [200, 503, 200]


def test_an_operator_can_have_no_waits(
    settings: Settings, upstream: responses.RequestsMock
) -> None:
    app = create_app(replace(settings, wait_limit=0.0))
    answer = get(TestClient(app, base_url="http://127.0.0.1:8080"), "wait=10")
    assert (answer.status_code, "preference-applied" in answer.headers) == (200, False)
