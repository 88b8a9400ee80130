"""Log lines: one record, one bounded line, no secret, and nobody waits for whoever reads them."""

from __future__ import annotations

import base64
import json
import logging
import os
import pty
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import pytest

from service.edge import open_context
from telemetry import logs
from tests.support.processes import environment, run, wait_until

log = logging.getLogger("gateway.test")
SECRET = 'sk-CANARY-"quoted"\\+/=&'


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Puts the logging of the test session back."""
    root, audit = logging.getLogger(), logs.audit_log
    kept = root.handlers[:], root.level, logs._secrets, audit.handlers[:], audit.propagate
    levels = {name: logging.getLogger(name).level for name in ("gateway", "gateway.audit")}
    with_fields = logs.correlation.set({})
    yield
    logs.correlation.reset(with_fields)
    logging.captureWarnings(False)
    root.handlers[:], root.level, logs._secrets, audit.handlers[:], audit.propagate = kept
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Written:
    """What was logged to a file."""

    def __init__(self, file: Path, form: str = "json", level: str = "debug", **shared: str) -> None:
        self.file = file
        self.stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        logs.start(["gateway"], level, form, self.stream)
        logs.correlation.set(shared)

    def bytes(self) -> bytes:
        logging.getLogger().handlers[0].flush(5)  # type: ignore[call-arg]
        return self.file.read_bytes()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bytes().splitlines()]


def test_a_line_is_json_with_time_level_logger_message_and_the_requests_fields(
    tmp_path: Path,
) -> None:
    written = Written(tmp_path / "log", request_id="r1")
    log.info("told", extra={"fields": {"status": 200}})
    (line,) = written.json()
    assert line.pop("time")[10] == "T"
    assert line == {
        "level": "info",
        "logger": "gateway.test",
        "message": "told",
        "request_id": "r1",
        "status": 200,
    }


def test_a_line_that_is_logged_for_a_request_has_its_ids(tmp_path: Path) -> None:
    written = Written(tmp_path / "log")

    def work() -> None:
        ctx = open_context([(b"x-request-id", b"mine")])
        log.warning("told")
        (line,) = written.json()
        assert (line["request_id"], line["trace_id"]) == ("mine", ctx.trace.trace_id)

    copy_context().run(work)


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
    log.info(character * 100_000, extra={"fields": {"other": character * 100_000, "n": 1}})
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
        "Authorization: bEaRer someone-elses-CANARY",
        "x" * 9000 + SECRET,
        SECRET + "x" * 4080,
    ],
    ids=range(11),
)
def test_a_hidden_secret_is_in_no_line(seen: str, form: str, tmp_path: Path) -> None:
    logs.add_secrets(SECRET)
    written = Written(tmp_path / "log", form)
    log.debug("%s", seen)
    log.info("event", extra={"fields": {"field": seen}})
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
    log.info("told", extra={"fields": {"status": 200, "empty": ""}})
    text = os.read(master, 4096).decode()
    assert text.rstrip().endswith("INFO    told  status=200")
    written = Written(tmp_path / "log", "auto")
    log.info("told")
    assert written.json()[0]["message"] == "told"
    os.close(master), os.close(terminal)


def test_a_request_s_line_fits_a_terminal_and_its_json_has_all(tmp_path: Path) -> None:
    fields = {
        "request_id": "08ec7e42-d894-48d2-a224-a4701da5ab22",
        "trace_id": "1d2edc36203fec4f19e3fa54672201b6",
        "span_id": "7e0810c331bd2046",
        "caller": "nightly",
        "method": "POST",
        "route": "/v1/batch/jobs",
        "operation": "createbatchjob",
        "status": 200,
        "outcome": "done",
        "bytes": 491,
        "seconds": 0.0196,
        "upstream_status": 200,
        "upstream_seconds": 0.005,
        "idempotency": "first",
    }
    json_lines = Written(tmp_path / "json")
    log.info("POST /v1/batch/jobs 200", extra={"fields": fields})
    assert fields.items() <= json_lines.json()[0].items()
    texts = Written(tmp_path / "text", "text")
    log.info("POST /v1/batch/jobs 200", extra={"fields": fields})
    line = texts.bytes().decode().rstrip()
    assert line.partition("INFO    ")[2] == (
        "POST /v1/batch/jobs 200  caller=nightly  seconds=0.0196  idempotency=first"
        "  request_id=08ec7e42-d894-48d2-a224-a4701da5ab22"
    )


def test_a_line_of_text_has_what_others_chose_though_it_be_a_word_of_the_message(
    tmp_path: Path,
) -> None:
    texts = Written(tmp_path / "text", "text")
    log.info(
        "POST /v1 200", extra={"fields": {"caller": "POST", "id": "None", "request_id": "200"}}
    )
    log.info("POST /v1 200", extra={"fields": {"caller": "", "id": "", "method": "POST"}})
    first, second = texts.bytes().decode().splitlines()
    assert first.endswith("POST /v1 200  caller=POST  id=None  request_id=200")
    assert second.endswith("POST /v1 200")


class Notice(logs.LineFormatter):
    """Makes the line that tells of lost ones short."""

    def __init__(self) -> None:
        super().__init__(str)

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.getMessage().split()[0]} lost"


def handler_of(
    target: int | Path, on_lost: Callable[[int], object] = lambda _: None
) -> logs.LineHandler:
    return logs.LineHandler(target, Notice(), on_lost)


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_it_missed_is_counted() -> None:
    reading, writing = os.pipe()
    told: list[int] = []
    queue = handler_of(writing, told.append)
    sent = 3 * logs.MAX_QUEUED
    for number in range(sent):
        queue.enqueue(f"{number:08} {'x' * 500}")
    assert sum(told) > 0
    read = b""
    known = 0
    while known < sent:
        read += os.read(reading, 1 << 20)
        whole = read.split(b"\n")[:-1]
        lost = sum(int(line.split()[0]) for line in whole if line.endswith(b"lost"))
        known = lost + sum(line.endswith(b"x") for line in whole)
    assert (known, lost) == (sent, sum(told))
    os.close(reading), os.close(writing)


def test_a_closed_pipe_costs_lines_not_callers() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    queue = handler_of(writing)
    queue.enqueue("a")
    queue.flush(5)
    queue.enqueue("b")
    queue.flush(5)
    assert queue.lost == 2
    os.close(writing)


def test_many_threads_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    queue = handler_of(file)
    threads = [
        threading.Thread(
            target=lambda name=name: [queue.enqueue(f"{name} {n}") for n in range(300)]
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
    written = handler_of(folder / "audit")
    written.enqueue("one")
    written.flush(5)
    folder.rename(tmp_path / "away")
    written.enqueue("two")
    written.flush(5)
    with (tmp_path / "other").open("wb") as other:  # takes the first free number
        written.enqueue("three")
        written.flush(5)
        os.fstat(other.fileno())
    assert (tmp_path / "other").read_bytes() == b""
    folder.mkdir()
    written.enqueue("four")
    written.flush(5)
    assert (folder / "audit").read_bytes() == b"four\n2 lost\n"


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit"
    queue = handler_of(file)
    queue.enqueue("before")
    queue.flush(5)
    file.rename(tmp_path / "audit.1")
    queue.enqueue("after")
    queue.flush(5)
    assert (file.read_bytes(), (tmp_path / "audit.1").read_bytes()) == (b"after\n", b"before\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_lost_lines_are_told_of_at_once(tmp_path: Path) -> None:
    told: list[int] = []
    queue = handler_of(tmp_path / "log", told.append)
    queue.enqueue("one")
    queue.flush(5)
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to("/dev/full")
    for _ in range(3):
        queue.enqueue("lost")
    queue.flush(5)
    assert told == [1, 1, 1]


def test_a_destination_that_takes_lines_again_is_noticed_although_no_line_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRY_AGAIN", 0.01)
    (file := tmp_path / "log").symlink_to("/dev/full")
    queue = handler_of(file)
    queue.enqueue("one")
    queue.flush(5)
    (tmp_path / "new").touch()
    (tmp_path / "new").rename(file)
    assert wait_until(lambda: file.read_bytes() == b"1 lost\n")
    assert wait_until(lambda: not queue.losing.value)


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
    queue = handler_of(file, told.append)

    def write(*content: str) -> None:
        for line in content:
            queue.enqueue(line)
        queue.flush(5)

    def cut() -> None:
        limited(20)
        write("1 whole line", "2 whole lines, of which one is not", "3")
        assert (sum(told), queue.lost) == (2, 2)
        limited(resource.RLIM_INFINITY)
        write("4")

    def cut_and_end() -> None:
        limited(40)
        write("5, which is cut")
        assert sum(told) == 1

    in_child(cut)
    in_child(cut_and_end)
    in_child(lambda: write("6"))
    assert file.read_bytes() == b"1 whole line\n2 whole\n4\n2 lost\n5, which i\n6\n"


def test_a_line_that_was_cut_before_a_start_is_not_joined_with_the_first(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for before, after in ((b"cu", b"cu\nnext\n"), (b"whole\n", b"whole\nnext\n"), (b"", b"next\n")):
        file.write_bytes(before)
        queue = handler_of(file)
        queue.enqueue("next")
        queue.flush(5)
        assert file.read_bytes() == after


def test_audit_lines_that_are_lost_are_counted_and_a_reason_until_lines_are_written_and_one_line_in_the_log(
    tmp_path: Path,
) -> None:
    written = Written(tmp_path / "log")
    counted: list[int] = []
    (file := tmp_path / "audit").symlink_to("/dev/full")
    logs.start_audit(str(file), counted.append)
    assert not logs.loses_audit_lines()
    queue = logs.audit_log.handlers[0]
    for _ in range(3):
        logs.audit_log.info("told")
        queue.flush(5)
    assert (logs.loses_audit_lines(), sum(counted)) == (True, 3)
    assert [line["logger"] for line in written.json()] == ["telemetry.audit"]
    file.unlink()
    logs.audit_log.info("told")
    queue.flush(5)
    assert not logs.loses_audit_lines()


def test_a_child_process_writes_its_own_lines_and_not_its_parents(tmp_path: Path) -> None:
    file = tmp_path / "log"
    queue = handler_of(file)
    queue.enqueue("parent")
    queue.flush(5)
    queue.queue = SimpleQueue()  # nobody takes what waits
    queue.enqueue("parent's, waiting")

    def write() -> None:
        queue.enqueue("child")
        queue.flush(5)

    in_child(write)
    assert queue.queue.qsize() == 1
    assert file.read_bytes() == b"parent\nchild\n"


def test_an_answers_id_is_found_only_in_a_small_object() -> None:
    assert logs.answer_id(b'{"object": "batch", "id": "a"}') == "a"
    for body in (
        b"",
        b"[1]",
        b'{"id": null}',
        b'{"id": {}}',
        b"{",
        b'{"x": "%s", "id": "a"}' % (b"y" * logs.MAX_PARSED),
    ):
        assert logs.answer_id(body) == ""


@pytest.mark.parametrize("later", ["", "two"], ids=["the end", "another line"])
def test_a_line_that_no_thread_can_write_waits_for_one(
    later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written = handler_of(tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        written.enqueue("one")
    written.enqueue(later) if later else written.flush(10)  # as the end of a process does
    assert wait_until(
        lambda: (tmp_path / "log").read_bytes().decode().split() == ["one", *later.split()]
    )


def test_a_line_that_is_logged_while_the_interpreter_ends_does_not_hold_it_up() -> None:
    program = """
import gc, logging
from telemetry import logs

class Late:
    def __init__(self):
        self.itself = self  # which the collector finds when the interpreter ends

    def __del__(self, log=logging.getLogger("gateway")):
        log.warning("too late")

logs.start(["gateway"], "info", "json")
gc.disable()
Late()
"""
    assert (
        run([sys.executable, "-c", program], environment(), timeout=20, anew=True).returncode == 0
    )
