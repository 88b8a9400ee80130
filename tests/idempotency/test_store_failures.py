"""A store that fails refuses calls with a key, before anything is sent, and nothing else; a known outcome is never lost to it."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from service.sqlite_store import SQLiteStore
from service.store import BUSY, Record, StoreUnavailable
from tests.idempotency.conftest import Clock, MakeGateway
from tests.idempotency.redis_server import redis_server
from tests.support.api import CREATE, JOBS, creates, jobs, keyed, without_recovery
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import Sandbox, wait_until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process holds is given up soon."""
    monkeypatch.setattr("service.sqlite_store.BUSY", 0.2)


def garbage(store: Path) -> None:
    store.parent.mkdir()
    store.write_bytes(b"not a database at all, but a text." * 400)


def folder(store: Path) -> None:
    store.mkdir(parents=True)


def file_for_folder(store: Path) -> None:
    store.parent.write_text("a file where the folder should be")


def newer_schema(store: Path) -> None:
    store.parent.mkdir()
    with sqlite3.connect(store) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def other_tables(store: Path) -> None:
    store.parent.mkdir()
    with sqlite3.connect(store) as db:
        db.execute("CREATE TABLE record (something TEXT)")
    db.close()


def dangling_link(store: Path) -> None:
    store.parent.mkdir()
    store.symlink_to("/nowhere/at/all")


BROKEN: list[Callable[[Path], None]] = [
    garbage,
    file_for_folder,
    newer_schema,
    other_tables,
    dangling_link,
]


def refused(answer: Any) -> bool:
    return (answer.status_code, answer.json().get("type"), answer.headers.get("Retry-After")) == (
        503,
        "/problems#idempotency-store-unavailable",
        "5",
    )


def created(answer: Any) -> Any:
    return answer if answer.is_success else None


def everything_else_goes_on(client: TestClient) -> bool:
    made = client.post(JOBS, json=CREATE)
    answers = [
        made,
        client.get(JOBS),
        client.get(f"{JOBS}/{made.json()['id']}", headers=keyed()),
        client.post(f"{JOBS}/{made.json()['id']}/cancel"),
    ]
    return [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_store_that_cannot_be_opened_refuses_calls_with_a_key_and_nothing_else(
    gateway: MakeGateway, sandbox: Sandbox, store: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(store)
    client = gateway()
    assert refused(client.post(JOBS, json=CREATE, headers=keyed()))
    assert creates(sandbox) == []
    assert everything_else_goes_on(client)


@pytest.mark.parametrize("make", [garbage, folder], ids=lambda make: make.__name__)
def test_what_is_no_store_keeps_its_mode(make: Callable[[Path], None], tmp_path: Path) -> None:
    store = tmp_path / "folder" / "keys.sqlite3"
    make(store)
    before = store.stat().st_mode
    with pytest.raises(StoreUnavailable):
        SQLiteStore(store).check()
    assert store.stat().st_mode == before


def test_a_redis_that_is_not_there_refuses_calls_with_a_key_and_nothing_else(
    gateway: MakeGateway, sandbox: Sandbox, closed_port: int
) -> None:
    client = gateway(GATEWAY_STORE=f"redis://127.0.0.1:{closed_port}/0")
    assert refused(client.post(JOBS, json=CREATE, headers=keyed()))
    assert creates(sandbox) == []
    assert everything_else_goes_on(client)


def test_a_store_that_was_damaged_while_it_was_used_refuses_and_recovers_with_a_new_file(
    gateway: MakeGateway, sandbox: Sandbox, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    for file in store.parent.iterdir():
        file.write_bytes(b"\xff" * 8192)
    assert refused(client.post(JOBS, json=CREATE, headers=keyed("key-2")))
    for file in store.parent.iterdir():
        file.unlink()
    assert client.post(JOBS, json=CREATE, headers=keyed("key-3")).status_code == 200
    assert len(creates(sandbox)) == 2


def test_a_record_that_cannot_be_read_refuses_its_key_and_no_other(
    gateway: MakeGateway, sandbox: Sandbox, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    with sqlite3.connect(store) as db:
        db.execute("UPDATE record SET data = x'81a16101'")
    db.close()
    assert refused(client.post(JOBS, json=CREATE, headers=keyed()))
    assert client.post(JOBS, json=CREATE, headers=keyed("key-2")).status_code == 200
    assert len(creates(sandbox)) == 2


@contextmanager
def locked(store: Path) -> Iterator[None]:
    db = sqlite3.connect(store, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.rollback()
        db.close()


def test_a_store_that_another_process_keeps_locked_refuses_until_it_is_free(
    gateway: MakeGateway, sandbox: Sandbox, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    with locked(store):
        assert refused(client.post(JOBS, json=CREATE, headers=keyed("key-2")))
        assert refused(client.post(JOBS, json=CREATE, headers=keyed()))
        assert everything_else_goes_on(client)
    assert len(creates(sandbox)) == 2
    assert client.post(JOBS, json=CREATE, headers=keyed("key-2")).status_code == 200


def test_readiness_says_that_the_store_fails_and_that_it_works_again(
    gateway: MakeGateway, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    with locked(store):
        client.post(JOBS, json=CREATE, headers=keyed())
        assert client.get("/readyz").json()["checks"]["store"] == "unavailable"
    client.post(JOBS, json=CREATE, headers=keyed())
    assert client.get("/readyz").json()["checks"]["store"] == "ok"


def test_an_answer_that_cannot_be_recorded_is_given_all_the_same_and_found_by_its_tag_later(
    gateway: MakeGateway, sandbox: Sandbox, store: Path, clock: Clock
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed("another"))
    sandbox.faults({"fault": "latency", "match": {"method": "POST"}, "seconds": 2.0})
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, JOBS, json=CREATE, headers=keyed())
        wait_until(lambda: creates(sandbox)[1:])
        with locked(store):
            made = first.result()
        assert client.get("/readyz").json()["checks"]["store"] == "unavailable"
    assert made.status_code == 200
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 409
    clock.advance(50)
    again = client.post(JOBS, json=CREATE, headers=keyed())
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert len(creates(sandbox)) == 2


def test_a_claim_that_took_all_the_time_is_the_stores_failure_and_leaves_the_key_free(
    gateway: MakeGateway, sandbox: Sandbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(store: SQLiteStore, record: Record) -> Record | None:
        clock.advance(44)
        return insert(store, record)

    client, insert = gateway(), SQLiteStore.insert
    with monkeypatch.context() as patch:
        patch.setattr(SQLiteStore, "insert", late)
        answer = client.post(JOBS, json=CREATE, headers=keyed())
    assert answer.json()["type"] == "/problems#idempotency-store-unavailable"
    assert creates(sandbox) == []
    assert client.post(JOBS, json=CREATE, headers=keyed()).status_code == 200


def test_an_answer_is_recorded_although_the_store_was_locked_just_then(
    gateway: MakeGateway, sandbox: Sandbox, store: Path, tmp_path: Path
) -> None:
    # So that nothing but the record knows the job.
    client = gateway(GATEWAY_OPENAPI=without_recovery(tmp_path))
    client.post(JOBS, json=CREATE, headers=keyed("another"))
    sandbox.faults({"fault": "latency", "match": {"method": "POST"}, "seconds": 0.5})
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, JOBS, json=CREATE, headers=keyed())
        wait_until(lambda: creates(sandbox)[1:])
        with locked(store):
            wait([first], timeout=0.5 + BUSY + 0.5)  # its first try has failed by then
    again = client.post(JOBS, json=CREATE, headers=keyed())
    assert (again.status_code, again.json()) == (200, first.result().json())
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_refusal_is_told_although_its_key_cannot_be_freed(
    gateway: MakeGateway, sandbox: Sandbox, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed("another"))
    fault = {"fault": "latency", "match": {"method": "POST"}, "seconds": 0.5}
    sandbox.faults(fault)
    with ThreadPoolExecutor() as pool:
        body = {
            **CREATE,
            "model": "unknown-model",
            "input_files": ["00000000-0000-4000-8000-000000000000"],
        }
        body.pop("requests")
        first = pool.submit(client.post, JOBS, json=body, headers=keyed())
        wait_until(lambda: creates(sandbox)[1:])
        with locked(store):
            assert first.result().status_code == 404
    assert len(jobs(sandbox)) == 1
    corrected = wait_until(lambda: created(client.post(JOBS, json=CREATE, headers=keyed())))
    assert "Idempotency-Replayed" not in corrected.headers


def test_a_full_disk_refuses_calls_with_a_key_until_there_is_room(
    sandbox: Sandbox, store: Path
) -> None:
    with gateway_process(f"{sandbox.url}/v1", GATEWAY_STORE=store, WEB_CONCURRENCY=1) as gateway:
        assert gateway.post(JOBS, CREATE, headers=keyed()).status_code == 200
        (worker,) = gateway.workers
        # No file may grow beyond a hundred bytes: to the worker that is a disk without room.
        unlimited = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (100, unlimited[1]))
        answers = [gateway.post(JOBS, CREATE, headers=keyed(f"full-{n}")) for n in range(3)]
        assert all(map(refused, answers))
        assert gateway.post(JOBS, CREATE).status_code == 200
        assert len(creates(sandbox)) == 2
        resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
        assert gateway.post(JOBS, CREATE, headers=keyed("full-0")).status_code == 200
    assert len(creates(sandbox)) == 3


# Readiness


@contextmanager
def damaged_file(gateway: Gateway, folder: Path) -> Iterator[None]:
    for file in folder.iterdir():
        file.write_bytes(b"\xff" * 8192)
    yield
    for file in folder.iterdir():
        file.unlink()


@contextmanager
def full_disk(gateway: Gateway, folder: Path) -> Iterator[None]:
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in gateway.workers}
    for pid, (_, most) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, most))
    yield
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("trouble", [damaged_file, full_disk], ids=lambda trouble: trouble.__name__)
def test_all_workers_say_that_the_store_fails_and_when_it_works_again(
    sandbox: Sandbox, store: Path, trouble: Any
) -> None:
    with gateway_process(f"{sandbox.url}/v1", GATEWAY_STORE=store, WEB_CONCURRENCY=3) as gateway:
        assert all(gateway.post(JOBS, CREATE, headers=keyed(f"{n}")).ok for n in range(12))
        with trouble(gateway, store.parent):
            assert refused(gateway.post(JOBS, CREATE, headers=keyed("another")))
            assert words(gateway) == {"unavailable"}
        wait_until(lambda: words(gateway) == {"ok"})


def test_all_workers_say_that_redis_is_gone_and_when_it_is_back(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with ExitStack() as running:
        with redis_server(tmp_path) as url:
            gateway = running.enter_context(
                gateway_process(f"{sandbox.url}/v1", GATEWAY_STORE=url, WEB_CONCURRENCY=3)
            )
            assert gateway.post(JOBS, CREATE, headers=keyed()).ok
        assert refused(gateway.post(JOBS, CREATE, headers=keyed("another")))
        assert words(gateway) == {"unavailable"}
        with redis_server(tmp_path, urlsplit(url).port or 0):
            wait_until(lambda: words(gateway) == {"ok"})


def words(gateway: Gateway) -> set[str]:
    """What the workers say of their store; any of them is asked."""
    pages = [gateway.get("/readyz") for _ in range(20)]
    assert {page.status_code for page in pages} == {200}
    said = {(page.json()["status"], page.json()["checks"]["store"]) for page in pages}
    assert said <= {("ok", "ok"), ("degraded", "unavailable")}
    return {word for _, word in said}


def word(client: TestClient) -> str:
    """What readiness says after it has looked again."""
    for _ in range(2):
        said = client.get("/readyz").json()["checks"]["store"]
    return str(said)


@pytest.mark.usefixtures("always_looking")
def test_readiness_finds_out_by_itself_and_not_before_it_is_true(
    gateway: MakeGateway, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    with locked(store):
        client.post(JOBS, json=CREATE, headers=keyed("another"))
        assert word(client) == "unavailable"
    # A look that began before may end first.
    wait_until(lambda: word(client) == "ok")


@pytest.mark.usefixtures("always_looking")
def test_readiness_believes_no_store_that_can_be_read_and_not_claimed_in(
    gateway: MakeGateway, store: Path
) -> None:
    client = gateway()
    client.post(JOBS, json=CREATE, headers=keyed())
    with sqlite3.connect(store) as db:
        db.execute(
            "CREATE TRIGGER no_more BEFORE INSERT ON record BEGIN SELECT RAISE(FAIL, 'no'); END"
        )
    db.close()
    assert refused(client.post(JOBS, json=CREATE, headers=keyed("another")))
    assert client.post(JOBS, json=CREATE, headers=keyed()).is_success  # a replay
    assert word(client) == "unavailable"


@pytest.fixture
def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness looks again whenever it is asked."""
    monkeypatch.setattr("service.pages.PROBE_PERIOD", -1.0)
