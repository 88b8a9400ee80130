"""Both stores keep the same promises; SQLite's file keeps some of its own."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from service.idempotency import RETRY, UNCONFIRMED
from service.sqlite_store import SCHEMA_VERSION
from service.store import BUSY, Record, Store, StoreUnavailable, open_store
from tests.idempotency.redis_server import redis_server

Open = Callable[[], Store]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty store is."""
    if request.param == "sqlite":
        return str(tmp_path / "new folder" / "keys.sqlite3")
    url: str = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def store(location: str) -> Store:
    return open_store(location)


def record(store: Store, id: str = "a", owner: str = "one", **members: float) -> Record:
    now = store.now()
    times: dict[str, Any] = {
        "claimed_at": now,
        "lease_until": now + 50,
        "expires": now + 3600,
        **members,
    }
    return Record(id=id, owner=owner, fingerprint="f", tag="t", state="claimed", **times)


def changed(record: Record, **members: object) -> Record:
    return msgspec.structs.replace(record, **members)


def test_the_first_claim_is_stored_and_the_second_gets_the_first(store: Store) -> None:
    first = record(store)
    assert store.insert(first) is None
    assert store.insert(record(store, owner="two")) == first


def test_an_answer_is_stored_byte_for_byte(store: Store) -> None:
    first = record(store)
    store.insert(first)
    done = changed(
        first, state="done", status=200, content_type="a/b", body=bytes(range(256)) * 9000
    )
    assert store.replace(done, "one") is True
    assert store.insert(record(store, owner="two")) == done


def test_only_the_owner_replaces_a_record(store: Store) -> None:
    first = record(store)
    store.insert(first)
    taken = changed(first, owner="two")
    assert store.replace(taken, "one") is True
    assert store.replace(changed(first, owner="three"), "one") is False
    assert store.insert(record(store, owner="four")) == taken


def test_a_record_that_does_not_exist_cannot_be_replaced(store: Store) -> None:
    assert store.replace(record(store), "one") is False
    assert store.insert(record(store, owner="two")) is None


def test_only_the_owner_deletes_a_record(store: Store) -> None:
    first = record(store)
    store.insert(first)
    store.delete(changed(first, owner="two"))
    assert store.insert(record(store, owner="two")) == first
    store.delete(first)
    assert store.insert(record(store, owner="two")) is None


def test_an_expired_record_is_gone(store: Store) -> None:
    first = record(store)
    store.insert(changed(first, expires=store.now() + 0.05))
    time.sleep(0.1)
    assert store.insert(record(store, owner="two")) is None


def test_what_is_stored_outlives_the_process_that_stored_it(location: str, store: Store) -> None:
    first = record(store)
    store.insert(first)
    assert open_store(location).insert(record(store, owner="two")) == first


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives up on a slow disk, or with many at the same file; `fork` passes it on."""
    monkeypatch.setattr("service.sqlite_store.BUSY", 60.0)


@pytest.mark.usefixtures("patient")
def test_of_many_threads_one_gets_the_claim(store: Store) -> None:
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda n: store.insert(record(store, owner=str(n))), range(200)))
    assert found.count(None) == 1


def _claims(location: str, name: str, go: object, won: object) -> None:
    store = open_store(location)
    go.wait()  # type: ignore[attr-defined]
    for number in range(40):
        if store.insert(record(store, id=str(number), owner=name)) is None:
            won.put(number)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("patient")
def test_of_many_processes_that_open_a_new_store_at_once_one_gets_each_claim(location: str) -> None:
    forking = multiprocessing.get_context("fork")
    go, won = forking.Barrier(6), forking.Queue()
    processes = [
        forking.Process(target=_claims, args=(location, str(n), go, won)) for n in range(6)
    ]
    for process in processes:
        process.start()
    numbers = sorted(won.get(timeout=30) for _ in range(40))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert (numbers, won.empty()) == (list(range(40)), True)


def test_a_change_that_was_made_once_is_not_made_again_after_others(store: Store) -> None:
    first = record(store)
    taken = changed(first, owner="two")
    done = changed(first, owner="three", state="done")
    store.insert(first)
    assert [store.replace(taken, "one"), store.replace(done, "two")] == [True, True]
    assert store.replace(taken, "one") is False
    store.delete(taken)
    assert store.insert(record(store, owner="four")) == done


def test_a_store_that_works_passes_its_check_and_keeps_nothing_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted: list[Record] = []
    insert = store.insert
    monkeypatch.setattr(store, "insert", lambda trial: insert(trial) or inserted.append(trial))
    store.check()
    (trial,) = inserted
    assert insert(changed(trial, owner="another")) is None


# SQLite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite3"


def test_the_file_and_its_side_files_are_for_the_owner_only(path: Path) -> None:
    store = open_store(str(path))
    store.insert(record(store))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(modes, 384)
    assert len(modes) == 3


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.touch(0o644)
    open_store(str(path)).check()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_folder_is_for_the_owner_only(tmp_path: Path) -> None:
    open_store(str(tmp_path / "new" / "keys.sqlite3")).check()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_the_file_says_its_schema_version_and_a_newer_one_is_not_touched(path: Path) -> None:
    open_store(str(path)).check()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    store = open_store(str(path))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="newer"):
            store.insert(record(store))


def test_a_claim_is_on_disk_before_it_is_reported(path: Path) -> None:
    store = open_store(str(path))
    store.check()
    assert store._db is not None  # type: ignore[attr-defined]
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # type: ignore[attr-defined]
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)  # type: ignore[attr-defined]


def _opens(paths: list[str], go: object) -> None:
    for path in paths:
        go.wait()  # type: ignore[attr-defined]
        open_store(path).check()


@pytest.mark.usefixtures("patient")
def test_workers_that_start_together_all_open_their_new_store(tmp_path: Path) -> None:
    forking = multiprocessing.get_context("fork")
    go, paths = forking.Barrier(4), [str(tmp_path / f"{n}.sqlite3") for n in range(25)]
    processes = [forking.Process(target=_opens, args=(paths, go)) for _ in range(4)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        time.sleep(0.05)
        if any(process.exitcode for process in processes):
            go.abort()
    assert [process.exitcode for process in processes] == [0] * 4


def test_expired_records_are_removed_by_any_claim(path: Path) -> None:
    store = open_store(str(path))
    for number in range(20):
        store.insert(record(store, id=str(number), expires=store.now() + 0.2))
    time.sleep(0.25)
    store.insert(record(store, id="another"))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM record").fetchone() == (1,)
    db.close()


def test_processes_agree_on_the_file_after_it_was_removed_under_them(path: Path) -> None:
    one, two = open_store(str(path)), open_store(str(path))
    one.insert(record(one, id="old"))
    two.insert(record(two, id="old", owner="two"))
    for file in path.parent.iterdir():
        file.unlink()
    first = record(one)
    assert one.insert(first) is None
    assert two.insert(record(two, owner="two")) == first


def test_a_connection_does_not_cross_a_fork(path: Path) -> None:
    store = open_store(str(path))
    store.insert(record(store, id="before"))
    child = multiprocessing.get_context("fork").Process(
        target=lambda: store.insert(record(store, id="child"))
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert store.insert(record(store, id="child", owner="two")) is not None


# Redis


def test_an_operation_whose_answer_was_lost_may_be_repeated(redis_url: str) -> None:
    store = open_store(redis_url)
    first = record(store, id="repeated")
    taken = changed(first, owner="two")
    assert [store.insert(first) for _ in range(2)] == [None, None]
    assert [store.replace(taken, "one") for _ in range(2)] == [True, True]
    assert store.insert(first) == taken


def test_a_claim_that_comes_once_more_changes_nothing(redis_url: str) -> None:
    store = open_store(redis_url)
    brief = record(store, id="once more", expires=store.now() + 3)
    confirmed = changed(brief, owner="two", expires=store.now() + 3600)
    store.insert(brief)
    store.replace(confirmed, "one")
    store.insert(brief)
    assert store.insert(record(store, id="once more", owner="three")) == confirmed


def test_a_claim_that_comes_when_it_has_expired_is_not_kept(redis_url: str) -> None:
    store = open_store(redis_url)
    late = record(store, id="late", expires=store.now() - 0.001)
    store.insert(late)
    assert store.replace(changed(late, owner="two", expires=store.now() + 3600), "one") is False
    assert store.insert(record(store, id="late", owner="three")) is None


def test_a_claim_that_nobody_confirmed_is_forgotten_when_its_caller_is_back() -> None:
    assert BUSY < UNCONFIRMED < RETRY


def test_a_redis_that_was_restarted_is_used_again_at_once(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        store = open_store(url)
        store.check()
        store.client.connection_pool.disconnect()  # type: ignore[attr-defined]
        store.check()


def test_a_password_in_the_url_is_not_in_the_failure(closed_port: int) -> None:
    store = open_store(f"redis://:hunter2@127.0.0.1:{closed_port}/0")
    with pytest.raises(StoreUnavailable) as failure:
        store.check()
    assert "hunter2" not in str(failure.value)


def test_all_hosts_go_by_the_clock_of_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(redis_url)
    before = store.now()
    monkeypatch.setattr("service.sqlite_store.time.time", lambda: 0.0)
    assert 0 <= store.now() - before < 5
