"""Log lines: one record, one bounded line, no secret, and nobody waits for whoever reads them."""

from __future__ import annotations

import base64
import json
import logging
import os
import pty
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from telemetry import audit, lines, logs
from tests.processes import wait_until

log = logging.getLogger("gateway.test")
SECRET = 'sk-CANARY-"quoted"\\+/=&'


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Puts the logging of the test session back."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level, logs._hidden, audit.log.handlers[:], audit.log.propagate
    levels = {name: logging.getLogger(name).level for name in ("gateway", "gateway.audit")}
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level, logs._hidden, audit.log.handlers[:], audit.log.propagate = kept
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Written:
    """What was logged to a file."""

    def __init__(self, file: Path, form: str = "json", level: str = "debug", **shared: str) -> None:
        self.file = file
        self.stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        logs.start(["gateway"], level, form, self.stream, lambda: shared)

    def bytes(self) -> bytes:
        logging.getLogger().handlers[0].lines.flush(5)  # type: ignore[attr-defined]
        return self.file.read_bytes()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bytes().splitlines()]


def test_a_line_is_json_with_time_level_logger_message_and_the_requests_fields(
    tmp_path: Path,
) -> None:
    written = Written(tmp_path / "log", request_id="r1")
    logs.event(log, logging.INFO, "told", {"status": 200})
    (line,) = written.json()
    assert line.pop("time")[10] == "T"
    assert line == {
        "level": "info",
        "logger": "gateway.test",
        "message": "told",
        "request_id": "r1",
        "status": 200,
    }


def test_a_traceback_is_in_its_records_line(tmp_path: Path) -> None:
    written = Written(tmp_path / "log")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("broke")
    (line,) = written.json()
    assert line["exception"].endswith("ValueError: why\n")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "message",
    ["\x1b[2J", "a\nb", "a\rb", "\x00", "\x7f", "\x85", "\u2028", "\u202e", "\ud800", "\x9b31m"],
    ids=ascii,
)
def test_no_character_of_a_message_can_move_a_cursor_or_start_a_line(
    message: str, form: str, tmp_path: Path
) -> None:
    written = Written(tmp_path / "log", form)
    log.error("<%s>", message)
    text = written.bytes().decode()
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("character", ["a", "\x00", "\\", "é", "\U0001f600"], ids=ascii)
def test_a_line_is_bounded_and_whole(character: str, form: str, tmp_path: Path) -> None:
    written = Written(tmp_path / "log", form)
    logs.event(log, logging.INFO, character * 100_000, {"other": character * 100_000, "n": 1})
    (line,) = written.bytes().splitlines(keepends=True)
    assert len(line) <= logs.MAX_LINE
    if form == "json":
        assert json.loads(line)["n"] == 1


def test_a_cut_traceback_keeps_its_end(tmp_path: Path) -> None:
    written = Written(tmp_path / "log")
    try:
        raise ValueError("x" * 20_000 + " the end")
    except ValueError:
        log.exception("broke")
    assert written.json()[0]["exception"].endswith("the end\n")


def test_a_record_that_cannot_be_rendered_is_told_about(tmp_path: Path) -> None:
    written = Written(tmp_path / "log")
    log.info("%d", "no number")
    assert "unloggable" in written.json()[0]["message"]


def test_other_libraries_are_heard_from_warning_on(tmp_path: Path) -> None:
    written = Written(tmp_path / "log", level="debug")
    logging.getLogger("urllib3.connectionpool").debug("GET /?key=...")
    logging.getLogger("urllib3.connectionpool").warning("pool full")
    assert [line["message"] for line in written.json()] == ["pool full"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "seen",
    [
        SECRET,
        quote(SECRET, safe=""),
        repr(SECRET),
        json.dumps(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        SECRET.encode().hex(),
        "Authorization: Bearer someone-elses-CANARY",
        "authorization=bearer%20someone-elses-CANARY",
        "x" * 9000 + SECRET,
        SECRET + "x" * 4080,
    ],
    ids=range(10),
)
def test_a_hidden_secret_is_in_no_line(seen: str, form: str, tmp_path: Path) -> None:
    logs.hide(SECRET)
    written = Written(tmp_path / "log", form)
    log.debug("%s", seen)
    logs.event(log, logging.INFO, "event", {"field": seen})
    try:
        raise ValueError(seen)
    except ValueError:
        log.exception("broke")
    content = written.bytes()
    assert content.count(b"***") >= 3
    for trace in (
        b"CANARY",
        b"quoted",
        base64.b64encode(SECRET.encode())[:20],
        SECRET.encode().hex()[:20].encode(),
    ):
        assert trace not in content


def test_on_a_terminal_lines_are_text_and_elsewhere_json(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    logs.start(["gateway"], "info", "auto", terminal)
    logs.event(log, logging.INFO, "told", {"status": 200, "empty": ""})
    text = os.read(master, 4096).decode()
    assert text.rstrip().endswith("INFO    told  status=200")
    written = Written(tmp_path / "log", "auto")
    log.info("told")
    assert written.json()[0]["message"] == "told"
    os.close(master), os.close(terminal)


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_it_missed_is_counted() -> None:
    reading, writing = os.pipe()
    told: list[int] = []
    queue = lines.Lines(writing, lambda count: b"lost %d\n" % count, told.append)
    sent = 3 * lines.MAX_WAITING
    for number in range(sent):
        queue.put(b"%08d %s\n" % (number, b"x" * 500))
    assert queue.dropped == sum(told) > 0
    read = b""
    known = 0
    while known < sent:
        read += os.read(reading, 1 << 20)
        whole = read.split(b"\n")[:-1]
        lost = sum(int(line.split()[1]) for line in whole if line.startswith(b"lost"))
        known = lost + sum(line.endswith(b"x") for line in whole)
    assert (known, lost > 0) == (sent, True)
    os.close(reading), os.close(writing)


def test_a_closed_pipe_costs_lines_not_callers() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    queue = lines.Lines(writing, lambda count: b"lost\n")
    queue.put(b"a\n")
    queue.flush(5)
    queue.put(b"b\n")
    queue.flush(5)
    assert queue.dropped == 2
    os.close(writing)


def test_many_threads_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    queue = lines.Lines(file, lambda count: b"lost\n")
    threads = [
        threading.Thread(
            target=lambda name=name: [queue.put(b"%d %d\n" % (name, n)) for n in range(300)]
        )
        for name in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.flush(5)
    assert sorted(file.read_bytes().splitlines()) == sorted(
        b"%d %d" % (name, n) for name in range(10) for n in range(300)
    )


def test_a_file_that_cannot_be_made_anew_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    written = lines.Lines(folder / "audit", lambda count: b"%d lost\n" % count)
    written.put(b"one\n")
    written.flush(5)
    folder.rename(tmp_path / "away")
    written.put(b"two\n")
    written.flush(5)
    with (tmp_path / "other").open("wb") as other:  # takes the first free number
        written.put(b"three\n")
        written.flush(5)
        os.fstat(other.fileno())
    assert (tmp_path / "other").read_bytes() == b""
    folder.mkdir()
    written.put(b"four\n")
    written.flush(5)
    assert (folder / "audit").read_bytes() == b"four\n2 lost\n"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit"
    queue = lines.Lines(file, lambda count: b"")
    queue.put(b"before\n")
    queue.flush(5)
    file.rename(tmp_path / "audit.1")
    queue.put(b"after\n")
    queue.flush(5)
    assert (file.read_bytes(), (tmp_path / "audit.1").read_bytes()) == (b"after\n", b"before\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_lost_lines_are_told_of_at_once_and_that_there_are_none_when_lines_are_written(
    tmp_path: Path,
) -> None:
    told: list[int] = []
    queue = lines.Lines(tmp_path / "log", lambda count: b"", told.append)
    queue.put(b"one\n")
    queue.flush(5)
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to("/dev/full")
    for _ in range(3):
        queue.put(b"lost\n")
    queue.flush(5)
    assert (told[0], sum(told)) == (0, 3)


def test_a_destination_that_takes_lines_again_is_noticed_although_no_line_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "TRY_AGAIN", 0.01)
    written = threading.Event()
    (file := tmp_path / "log").symlink_to("/dev/full")
    queue = lines.Lines(
        file, lambda count: b"%d lost\n" % count, lambda lost: None if lost else written.set()
    )
    queue.put(b"one\n")
    queue.flush(5)
    (tmp_path / "new").touch()
    (tmp_path / "new").rename(file)
    assert written.wait(10)
    assert file.read_bytes() == b"1 lost\n"


def limited(size: int) -> None:
    """Lets this process write no further than `size` bytes into a file, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def in_child(work: Callable[[], None]) -> None:
    """Does `work` in a process forked from this one."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_line_that_a_full_disk_cut_is_not_joined_with_the_next_whichever_process_writes_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "log"
    told: list[int] = []
    queue = lines.Lines(file, lambda count: b"%d lost\n" % count, told.append)

    def write(*content: bytes) -> None:
        for line in content:
            queue.put(line)
        queue.flush(5)

    def cut() -> None:
        limited(20)
        write(b"1 whole line\n", b"2 whole lines, of which one is not\n", b"3\n")
        assert (sum(told), queue.dropped) == (2, 2)
        limited(resource.RLIM_INFINITY)
        write(b"4\n")

    def cut_and_end() -> None:
        limited(40)
        write(b"5, which is cut\n")
        assert sum(told) == 1

    in_child(cut)
    in_child(cut_and_end)
    in_child(lambda: write(b"6\n"))
    assert file.read_bytes() == b"1 whole line\n2 whole\n4\n2 lost\n5, which i\n6\n"


def test_a_line_that_was_cut_before_a_start_is_not_joined_with_the_first(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for before, after in ((b"cu", b"cu\nnext\n"), (b"whole\n", b"whole\nnext\n"), (b"", b"next\n")):
        file.write_bytes(before)
        queue = lines.Lines(file, lambda count: b"")
        queue.put(b"next\n")
        queue.flush(5)
        assert file.read_bytes() == after


def test_audit_lines_that_are_lost_are_counted_and_a_reason_until_lines_are_written_and_one_line_in_the_log(
    tmp_path: Path,
) -> None:
    written = Written(tmp_path / "log")
    counted: list[int] = []
    (file := tmp_path / "audit").symlink_to("/dev/full")
    audit.start(str(file), counted.append)
    assert not audit.losing()
    queue = audit.log.handlers[0].lines  # type: ignore[attr-defined]
    for _ in range(3):
        audit.entry("told", {})
        queue.flush(5)
    assert (audit.losing(), sum(counted)) == (True, 3)
    assert [line["logger"] for line in written.json()] == ["telemetry.audit"]
    file.unlink()
    audit.entry("told", {})
    queue.flush(5)
    assert not audit.losing()


def test_a_child_process_writes_its_own_lines_and_not_its_parents(tmp_path: Path) -> None:
    file = tmp_path / "log"
    queue = lines.Lines(file, lambda count: b"")
    queue.put(b"parent\n")
    queue.flush(5)
    queue._waiting.append(b"parent's, waiting\n")
    if (child := os.fork()) == 0:
        queue.put(b"child\n")
        queue.flush(5)
        os._exit(0)
    queue._waiting.clear()
    assert os.waitpid(child, 0)[1] == 0
    assert file.read_bytes() == b"parent\nchild\n"


def test_an_answers_id_is_found_only_in_a_small_object() -> None:
    assert audit.subject(b'{"object": "batch", "id": "a"}') == "a"
    for body in (
        b"",
        b"[1]",
        b'{"id": null}',
        b'{"id": {}}',
        b"{",
        b'{"x": "%s", "id": "a"}' % (b"y" * audit.MAX_PARSED),
    ):
        assert audit.subject(body) == ""


@pytest.mark.parametrize("later", [b"", b"two\n"], ids=["the end", "another line"])
def test_a_line_that_no_thread_can_write_waits_for_one(
    later: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written = lines.Lines(tmp_path / "log", lambda count: b"%d lost\n" % count)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        written.put(b"one\n")
    written.put(later) if later else written.flush(10)  # as the end of a process does
    assert wait_until(lambda: (tmp_path / "log").read_bytes() == b"one\n" + later)
