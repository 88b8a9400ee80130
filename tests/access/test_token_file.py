"""The life of a token: made, used, revoked, expired; and what a token file must not be."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from responses import RequestsMock

from access import AccessDenied, files
from access import token_file as reading
from access.authentication import Authentication
from access.token_file import TokenFile
from environment import SettingsError
from service.__main__ import moment
from service.app import create_app
from service.config import Settings
from tests.access.conftest import Gateway as Make
from tests.access.conftest import Tokens, bearing
from tests.conftest import KEY, UPSTREAM
from tests.support.api import JOBS
from tests.support.processes import run

pytestmark = pytest.mark.anyio

GOOD = {"name": "a", "sha256": "0" * 64, "scopes": ["jobs:read"]}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "service", "token", *arguments])


def find(found: TokenFile, secret: str) -> reading.Grant | None:
    """The grant of a token, as a request gets it."""
    asyncio.run(found.refresh())
    return found.find(secret)


class TestTheCommand:
    def test_prints_the_token_alone_and_keeps_its_hash(self, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        done = command("ci", "--scope", "jobs:read", "--scope", "jobs:write", "--file", str(file))
        assert done.returncode == 0, done.stderr
        secret = done.stdout.strip()
        assert re.fullmatch(r"mbg_[A-Za-z0-9_-]{43}", secret)  # 256 bits
        assert secret not in done.stderr + file.read_text()
        assert json.loads(file.read_text()) == {
            "name": "ci",
            "sha256": hashlib.sha256(secret.encode()).hexdigest(),
            "scopes": ["jobs:read", "jobs:write"],
        }

    def test_makes_a_file_that_is_its_owners_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        command("ci", "--scope", "jobs:read", "--file", str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_shows_the_line_where_there_is_no_file(self) -> None:
        done = command("ci", "--scope", "jobs:read", "--expires", "90d")
        assert '"expires": "20' in done.stderr and done.stdout.startswith("mbg_")

    def test_refuses_a_name_that_is_taken(self, tmp_path: Path) -> None:
        file = tmp_path / "tokens"
        command("ci", "--scope", "jobs:read", "--file", str(file))
        again = command("ci", "--scope", "jobs:read", "--file", str(file))
        assert (again.returncode, again.stdout) == (2, "")
        assert len(file.read_text().splitlines()) == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ci"],
            ["ci", "--scope", "a b"],
            ["c i", "--scope", "metrics"],
            ["ci", "--scope", "metrics", "--expires", "soon"],
            ["ci", "--scope", "metrics", "--expires", "0d"],
            ["ci", "--scope", "metrics", "--expires", "2020-01-01"],
            ["ci", "--scope", "metrics", "--file", "/nonexistent/tokens"],
        ],
    )
    def test_refuses_what_makes_no_token(self, arguments: list[str]) -> None:
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr

    def test_refuses_a_scope_that_no_operation_needs_and_names_those_there_are(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "tokens"
        done = command("ci", "--scope", "job:read", "--file", str(file))
        assert (done.returncode, done.stdout, file.exists()) == (2, "", False)
        assert "jobs:read, jobs:write, metrics" in done.stderr


def test_a_line_is_added_after_a_last_line_without_an_end(token_file: Tokens) -> None:
    token_file.path.write_text("# kept by hand")
    token_file.add("a", "jobs:read")
    assert token_file.path.read_text().splitlines()[0] == "# kept by hand"
    assert [entry.grant.name for entry in reading.read_entries(token_file.path)] == ["a"]


def test_a_time_to_live_is_counted_from_now() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert moment("90d", now) == datetime(2027, 4, 1, tzinfo=UTC)
    assert moment("12h", now) == datetime(2027, 1, 1, 12, tzinfo=UTC)
    assert moment("2027-02-22", now) == datetime(2027, 2, 22, tzinfo=UTC)


class TestCalling:
    def test_needs_a_token(self, gateway: Make, token_file: Tokens, mistral: RequestsMock) -> None:
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        answer = client.get(JOBS)
        assert answer.status_code == 401
        # RFC 6750 section 3.1: no error code where no token was given.
        assert answer.headers["www-authenticate"] == 'Bearer realm="gateway"'
        assert len(mistral.calls) == 0

    def test_works_with_one(self, gateway: Make, token_file: Tokens, mistral: RequestsMock) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        secret = token_file.add("a", "jobs:read")
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {secret}"}
            assert client.get(JOBS, headers=headers).status_code == 200
        sent = mistral.calls[0].request.headers["Authorization"]
        assert sent == f"Bearer {KEY}"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "Bearer",
            "Bearer ",
            "Basic dTpw",
            "{token}",
            "Bearer {token}x",
            "Bearer x{token}",
            "Bearer {hash}",
            "Bearer {upper}",
            "Bearer {token}, Bearer {token}",
            'Bearer "{token}"',
            "Bearer " + "x" * 7000,
        ],
    )
    def test_does_not_work_with_anything_else(
        self, value: str, gateway: Make, token_file: Tokens, mistral: RequestsMock
    ) -> None:
        secret = token_file.add("a", "jobs:read")
        digest = hashlib.sha256(secret.encode()).hexdigest()
        shown = value.format(token=secret, hash=digest, upper=secret.upper())
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        answer = client.get(JOBS, headers={"Authorization": shown})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="gateway"')
        assert secret not in answer.text and digest not in answer.text

    def test_is_refused_when_two_tokens_are_shown(self, gateway: Make, token_file: Tokens) -> None:
        secret = token_file.add("a", "jobs:read")
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        twice = [("Authorization", f"Bearer {secret}")] * 2
        assert client.get(JOBS, headers=twice).status_code == 401

    def test_tells_an_unknown_token_from_none(self, gateway: Make, token_file: Tokens) -> None:
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        answer = client.get(JOBS, headers=bearing("mbg_unknown"))
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    def test_ends_when_the_token_expires(
        self, gateway: Make, token_file: Tokens, monkeypatch: pytest.MonkeyPatch, mistral: Any
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        secret = token_file.add("a", "jobs:read", days=1)
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        assert client.get(JOBS, headers=bearing(secret)).status_code == 200
        tomorrow = datetime.now(UTC).timestamp() + 86400
        monkeypatch.setattr(reading.time, "time", lambda: tomorrow)
        assert client.get(JOBS, headers=bearing(secret)).status_code == 401

    @pytest.mark.usefixtures("no_wait")
    def test_ends_when_the_token_s_line_is_deleted(
        self, gateway: Make, token_file: Tokens, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        gone, kept = (token_file.add(name, "jobs:read") for name in ("gone", "kept"))
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        assert client.get(JOBS, headers=bearing(gone)).status_code == 200
        token_file.remove("gone")
        assert client.get(JOBS, headers=bearing(gone)).status_code == 401
        assert client.get(JOBS, headers=bearing(kept)).status_code == 200

    @pytest.mark.usefixtures("no_wait")
    def test_begins_when_a_line_is_added(
        self, gateway: Make, token_file: Tokens, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        secret = token_file.add("new", "jobs:read")
        assert client.get(JOBS, headers=bearing(secret)).status_code == 200

    @pytest.mark.usefixtures("no_wait")
    def test_goes_on_as_before_while_the_file_is_gone(
        self, gateway: Make, token_file: Tokens, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        secret = token_file.add("a", "jobs:read")
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        token_file.path.unlink()
        assert client.get(JOBS, headers=bearing(secret)).status_code == 200
        token_file.path.write_bytes(b"")
        assert client.get(JOBS, headers=bearing(secret)).status_code == 401

    @pytest.mark.usefixtures("no_wait")
    @pytest.mark.parametrize("harm", [b"{", b"\xff", b'{"name": "b", "scopes": ["job:read"]}'])
    def test_ends_when_a_line_is_deleted_beside_one_that_cannot_be_used(
        self, harm: bytes, gateway: Make, token_file: Tokens, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        gone, kept = (token_file.add(name, "jobs:read") for name in ("gone", "kept"))
        client = gateway(GATEWAY_TOKENS_FILE=token_file.path)
        token_file.path.write_bytes(harm + b"\n" + token_file.path.read_bytes())
        assert client.get(JOBS, headers=bearing(gone)).status_code == 200
        token_file.path.write_bytes(harm + b"\n" + token_file.path.read_bytes().splitlines()[2])
        assert client.get(JOBS, headers=bearing(gone)).status_code == 401
        assert client.get(JOBS, headers=bearing(kept)).status_code == 200


def test_a_file_is_looked_at_once_a_second_at_most(token_file: Tokens) -> None:
    now = 0.0
    secret = token_file.add("a", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    token_file.path.write_text("")
    now = 0.9
    assert find(found, secret)
    now = 1.0
    assert not find(found, secret)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_file_with_a_fault_is_complained_of_once_a_minute_until_it_is_corrected(
    content: str | None, token_file: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    found = TokenFile(token_file.path, clock=lambda: now)
    if content is None:
        token_file.path.unlink()
    else:
        token_file.path.write_text(content)
    complaints = []
    for seconds in (1.0, 2.0, 60.0, 61.0, 62.0, 121.0):
        now = seconds
        find(found, "mbg_unknown")
        complaints.append(sum(record.levelname == "ERROR" for record in caplog.records))
    assert complaints == [1, 1, 1, 2, 2, 3]
    assert all(str(token_file.path) in record.getMessage() for record in caplog.records)
    token_file.path.write_text("# corrected")
    caplog.clear()
    now = 300.0
    find(found, "mbg_unknown")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_change_that_keeps_size_and_time_is_seen(token_file: Tokens) -> None:
    now = 0.0
    secret = token_file.add("a", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    before = token_file.path.stat()
    token_file.path.write_text("#" + token_file.path.read_text()[1:])
    os.utime(token_file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = 1.0
    assert not find(found, secret)


def many(number: int) -> bytes:
    """The lines of so many tokens."""
    entries = [
        {"name": f"n{n}", "sha256": hashlib.sha256(b"%d" % n).hexdigest(), "scopes": ["jobs:read"]}
        for n in range(number)
    ]
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def work(action: Callable[[], object]) -> int:
    """How many functions are called and generators resumed by `action`: what it costs, on any machine."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    gc.collect()
    gc.disable()  # finalizers of what others left are no work of its own
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_twice_as_many_lines_cost_twice_as_much(tmp_path: Path) -> None:
    file = tmp_path / "tokens"

    def cost(lines: int) -> int:
        file.write_bytes(many(lines))
        return work(lambda: reading.read_entries(file))

    assert cost(400) < 2.5 * cost(200)


def test_others_are_served_while_a_file_is_read(token_file: Tokens) -> None:
    now = 0.0
    found = TokenFile(token_file.path, clock=lambda: now)
    token_file.path.write_bytes(many(2000))
    now = reading.CHECK_INTERVAL
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def renew() -> int:
        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        before = turns
        await found.refresh()
        turning.cancel()
        return turns - before

    assert asyncio.run(renew()) > 10
    assert len(found.entries) == 2000


def test_a_revoked_token_is_refused_to_all_who_come_while_the_file_is_read(
    token_file: Tokens,
) -> None:
    now = 0.0
    secret = token_file.add("gone", "jobs:read")
    authentication = Authentication(TokenFile(token_file.path, clock=lambda: now), None)
    token_file.path.write_bytes(many(200))
    now = reading.CHECK_INTERVAL

    async def calls() -> list[Any]:
        headers = [(b"authorization", f"Bearer {secret}".encode())]
        return await asyncio.gather(
            *(authentication.grant(headers) for _ in range(5)), return_exceptions=True
        )

    assert [type(end) for end in asyncio.run(calls())] == [AccessDenied] * 5


async def test_a_reading_that_lasts_holds_nobody_beyond_a_limit(
    token_file: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network's file system that has gone away."""
    now = 0.0
    secret = token_file.add("gone", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    token_file.path.write_bytes(b"")
    back = threading.Event()
    whole, threads = files.content, []

    def late(file: Any) -> bytes:
        threads.append(threading.current_thread())
        back.wait(60)
        return whole(file)

    monkeypatch.setattr(reading, "content", late)
    monkeypatch.setattr(reading, "MAX_WAIT", 0.05)
    now = reading.CHECK_INTERVAL
    try:
        await found.refresh()
        assert found.find(secret)
        for _ in range(3):
            now += reading.CHECK_INTERVAL
            later = asyncio.create_task(found.refresh())
            await asyncio.sleep(0)
            assert later.done()  # without any waiting
            assert found.find(secret)
        assert found.reading and not found.reading.done()
    finally:
        back.set()
    await found.reading
    assert not found.find(secret)
    assert len(threads) == 1


async def test_the_tokens_stay_while_no_thread_can_be_had_and_the_file_is_read_as_soon_as_one_can(
    token_file: Tokens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    secret = token_file.add("gone", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    token_file.path.write_bytes(b"")

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", none)
        for _ in range(3):
            now += reading.CHECK_INTERVAL
            await found.refresh()
            assert found.find(secret)
    now += reading.CHECK_INTERVAL
    await found.refresh()
    assert not found.find(secret)
    levels = [record.levelno for record in caplog.records if record.name == "access.token_file"]
    assert levels.count(logging.ERROR) == 1


def test_a_file_that_could_not_be_read_is_read_later_although_it_did_not_change_again(
    token_file: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    secret = token_file.add("gone", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    token_file.path.write_bytes(b"")

    def none(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    now = reading.CHECK_INTERVAL
    with monkeypatch.context() as without:
        without.setattr(reading, "open_plain", none)
        assert find(found, secret)
    now += reading.CHECK_INTERVAL
    assert not find(found, secret)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_large(path: Path) -> None:
    """A terabyte, of which the disk holds nothing."""
    path.touch()
    os.truncate(path, 1 << 40)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES = [make_pipe, Path.mkdir, make_device, make_large]


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_plain_file_stops_the_start(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "tokens")
    with pytest.raises(SettingsError, match=r"no plain file|larger than 16 MiB"):
        TokenFile(tmp_path / "tokens")


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_plain_file_takes_no_token_along_that_was_there_before(
    make: Callable[[Path], None], token_file: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    secret = token_file.add("a", "jobs:read")
    found = TokenFile(token_file.path, clock=lambda: now)
    before = token_file.path.read_bytes()
    token_file.path.unlink()
    make(token_file.path)
    for _ in range(2):
        now += reading.CHECK_INTERVAL
        assert find(found, secret)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    token_file.path.rename(token_file.path.with_name("old"))
    token_file.path.write_bytes(before.replace(b'"a"', b'"b"'))
    now += reading.CHECK_INTERVAL
    assert (grant := find(found, secret)) and grant.name == "b"


@pytest.mark.parametrize("make", NO_FILES)
def test_no_token_can_be_made_for_what_is_no_plain_file(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "tokens")
    with pytest.raises(SettingsError, match="cannot be written"):
        reading.make_token("a", ["jobs:read"], file=tmp_path / "tokens")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (json.dumps({**GOOD, "scope": "x"}), "scope is unknown"),
        (json.dumps({"name": "a", "scopes": ["jobs:read"]}), "sha256 is missing"),
        (json.dumps({**GOOD, "name": "a b"}), "name must be"),
        (json.dumps({**GOOD, "name": ""}), "name must be"),
        (json.dumps({**GOOD, "sha256": "mbg_SECRET"}), "sha256 must be"),
        (json.dumps({**GOOD, "scopes": []}), "at least one scope"),
        (json.dumps({**GOOD, "scopes": "jobs:read"}), "a list"),
        (json.dumps({**GOOD, "scopes": ["job:read"]}), "there is no scope job:read"),
        (json.dumps({**GOOD, "expires": "soon"}), "expires must be"),
        (json.dumps({**GOOD, "expires": None}), "expires must be"),
        (json.dumps({**GOOD, "name": "b"}), "is that of a line above"),
        (json.dumps({**GOOD, "sha256": "1" * 64}), "the name a is taken"),
    ],
)
def test_a_bad_line_stops_the_start_and_is_named_with_its_reason(
    line: str, said: str, token_file: Tokens
) -> None:
    token_file.path.write_text(f"# tokens\n\n{json.dumps(GOOD)}\n{line}\n")
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_TOKENS_FILE": str(token_file.path)}
    with pytest.raises(SettingsError) as caught:
        create_app(Settings.from_env(environ))
    assert "line 4: " in str(caught.value) and said in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    environ = {"MISTRAL_AI_API_KEY": KEY, "GATEWAY_TOKENS_FILE": str(tmp_path / "none")}
    with pytest.raises(SettingsError, match="cannot be read"):
        create_app(Settings.from_env(environ))


def test_every_entry_is_compared_whichever_matches(
    token_file: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [token_file.add(name, "jobs:read") for name in "abc"]
    compared: list[int] = []
    whole = reading.hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared[-1] += 1
        return whole(one, other)

    found = TokenFile(token_file.path)
    monkeypatch.setattr(reading.hmac, "compare_digest", counted)
    for secret in [*secrets, "mbg_unknown"]:
        compared.append(0)
        found.find(secret)
    assert compared == [3, 3, 3, 3]


def test_no_token_can_be_made_for_a_file_that_is_unusable(token_file: Tokens) -> None:
    token_file.path.write_text("{\n")
    with pytest.raises(SettingsError, match="line 1"):
        token_file.add("a", "jobs:read")
    assert token_file.path.read_text() == "{\n"


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    _, line = reading.make_token("nightly", ["jobs:read"])
    file.write_bytes(f"\ufeff{line}\r\n".encode())
    assert [entry.grant.name for entry in reading.read_entries(file)] == ["nightly"]
