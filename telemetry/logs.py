"""Log and audit log of a process: one record, one bounded line; JSON for machines, text for a terminal; no secrets.

A record becomes a line where it is logged, and waits in a bounded queue (the standard library's QueueHandler) for a thread to
write it. So nothing that is logged waits for the reader of a pipe or for a disk. Lines that find the queue full, or cannot be
written, are dropped and counted; the next line that can be written is followed by the count.

`start` is called once, by whatever starts the process. Before that, and in tests, the standard library's defaults hold.
"""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import re
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

import msgspec

from .shared_number import shared_number

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "json", "text")

MAX_LINE = 8192
"""Bytes of one line, its line feed included."""

MAX_QUEUED = 4096
"""Lines that may wait to be written."""

GATHER = 0.02
"""Seconds for which lines gather before they are written: a thread that is woken for each takes twice the processor time."""

LAST_WORDS = 1.0
"""Seconds that a process which ends waits for its lines to be taken."""

TRY_AGAIN = 5.0
"""Seconds after which a destination that took nothing is tried again, though no new line came."""

MAX_PARSED = 64 * 1024
"""Bytes of an answer that is looked into for the id of what it is about."""

COMPLAINT_PERIOD = 60.0
"""Seconds between lines in the log about lines that the audit log lost."""

Fields = Mapping[str, Any]

correlation: ContextVar[Fields] = ContextVar("correlation", default={})  # noqa: B039 - never changed
"""The fields of all lines that a task or thread logs, such as the id of the request that it works for."""

audit_log = logging.getLogger("gateway.audit")
"""A line of JSON for every call that changes something, wherever it ended. No bodies, no secrets."""

trouble = logging.getLogger("telemetry.audit")


def start(
    loggers: Iterable[str],
    level: str,
    form: str,
    stream: int = 2,
    on_lost: Callable[[int], object] = lambda _: None,
) -> None:
    """Logs to the file descriptor `stream`: the named loggers from `level` on, all others from warning on.

    A record's own fields are the mapping `fields` in the logging call's `extra`. `on_lost` is told how many lines were lost,
    as they are, by any thread. Calling again replaces what was started before.
    """
    text = form == "text" or (form == "auto" and os.isatty(stream))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(LineHandler(stream, LineFormatter(_text if text else _json), on_lost))
    root.setLevel(logging.WARNING)
    for name in loggers:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)
    # What no line shows need not be found out for each (docs.python.org/3/howto/logging.html, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def start_audit(target: str, on_lost: Callable[[int], object] = lambda _: None) -> None:
    """Sends the audit log to `target`: stdout, stderr, off, or the path of a file, which is made with mode 0600.

    Losses are told to `on_lost`, and to the log. Raises OSError when the file cannot be opened.
    """
    audit_log.propagate = False
    audit_log.setLevel(logging.INFO)
    if target == "off":
        audit_log.handlers = [logging.NullHandler()]
        return
    complained = float("-inf")

    def complain(lost: int) -> None:
        nonlocal complained
        on_lost(lost)
        if time.monotonic() - complained > COMPLAINT_PERIOD:
            complained = time.monotonic()
            trouble.error("audit lines are lost: %s takes none", target)

    stream = {"stdout": 1, "stderr": 2}.get(target) or Path(target)
    audit_log.handlers = [LineHandler(stream, LineFormatter(_json), complain)]


def loses_audit_lines() -> bool:
    """True from a lost audit line, of any worker, until lines are written again."""
    handlers = [handler for handler in audit_log.handlers if isinstance(handler, LineHandler)]
    return any(handler.losing.value for handler in handlers)


def answer_id(body: bytes | bytearray) -> str:
    """What an audit line says that a call was about: the `id` member of a small JSON answer; empty for every other."""
    if len(body) > MAX_PARSED:
        return ""
    try:
        return str(_answer.decode(body).id)[:128]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


class _Answer(msgspec.Struct):
    id: str | int = ""


_answer = msgspec.json.Decoder(_Answer)


class LineHandler(QueueHandler):
    """Queues each record as a finished line for a thread, which writes it to `target`.

    That is a file descriptor, or a file that is opened anew after logrotate moved it away; OSError when it cannot be opened.
    `on_lost` is told how many lines were lost, as they are, by any thread. Safe to make before a fork: each child begins with
    an empty queue and a thread of its own.

    The thread writes to the descriptor itself: a buffered stream, such as WatchedFileHandler has, would write the rest of a line
    that a full disk cut when there is room again, into the lines that other processes wrote meanwhile. QueueListener, the
    standard library's thread for such a queue, knows no time limit and no second process.
    """

    queue: SimpleQueue[str | threading.Event]

    def __init__(
        self,
        target: int | Path,
        formatter: LineFormatter,
        on_lost: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(SimpleQueue())
        self.setFormatter(formatter)
        self.target = target
        self.on_lost = on_lost
        self.descriptor = target if isinstance(target, int) else open_file(target)
        self.cut = shared_number()  # 1 while the target ends within a line that a full disk cut
        self.cut.value = _ends_within_line(target)
        self.losing = shared_number()  # 1 from a lost line, of any process, until one is written
        self._begin()

    def _begin(self) -> None:
        """Begins anew in each process: what waits at a fork is the parent's, as is the thread."""
        self.queue = SimpleQueue()
        self.process = os.getpid()
        self.started = False
        self.lost = 0  # lines, until a notice of them is written
        self.notice_due = 0.0  # monotonic seconds
        self.counting = threading.Lock()

    def prepare(self, record: logging.LogRecord) -> str:
        """The line. The record may hold a traceback, and so all that its frames hold, which is not to wait for a stuck pipe."""
        return self.format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Logs that `record` cannot be rendered. The standard library would print it, secrets and all."""
        self.enqueue(self._notice(record.name, f"unloggable: {sys.exc_info()[1]!r}"))

    def _notice(self, logger: str, message: str) -> str:
        notice = {"name": logger, "levelname": "ERROR", "msg": message}
        return self.format(logging.makeLogRecord(notice))

    def enqueue(self, line: str | threading.Event) -> None:  # type: ignore[override]
        """Has `line` written soon, or drops it when too many wait. An event is set when all before it is written or lost."""
        if self.process != os.getpid():
            self._begin()
        if self.queue.qsize() < MAX_QUEUED or not isinstance(line, str):
            self.queue.put(line)
        else:
            self._lose(1)
        # A thread that is started while the interpreter ends never runs, and its starter waits for it.
        if not self.started and not sys.is_finalizing():
            with self.counting, suppress(RuntimeError):  # no thread to be had: the next tries again
                if not self.started:
                    threading.Thread(target=self._run, name="log", daemon=True).start()
                    self.started = True

    def flush(self, seconds: float = LAST_WORDS) -> None:
        """Waits until all lines are written or lost, `seconds` at most. `logging.shutdown` does, when the process ends."""
        if self.started or not self.queue.empty():
            written = threading.Event()
            self.enqueue(written)
            written.wait(seconds)

    def _run(self) -> None:
        while True:
            line = self._next()
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                self._write(line)
            except OSError:
                self._lose(1)
            else:
                # Not after each line while lines are lost all the time: that would take the room of others.
                if self.lost and (self.queue.empty() or time.monotonic() > self.notice_due):
                    self._write_notice()

    def _next(self) -> str | threading.Event:
        """What is queued next, however long it takes; meanwhile tries to tell of lost lines."""
        while self.queue.empty():
            try:
                line = self.queue.get(timeout=TRY_AGAIN if self.lost else None)
            except Empty:
                self._write_notice()
            else:
                time.sleep(GATHER)
                return line
        return self.queue.get()

    def _lose(self, count: int) -> None:
        with self.counting:
            self.lost += count
        self.losing.value = 1.0
        self.on_lost(count)

    def _write_notice(self) -> None:
        lost = self.lost
        with suppress(OSError):
            self._write(
                self._notice(__name__, f"{lost} lines were dropped: their destination took none")
            )
            self.notice_due = time.monotonic() + 1
            with self.counting:
                self.lost -= lost

    def _write(self, line: str) -> None:
        """Writes `line` and a line feed; OSError when they cannot be written whole."""
        if isinstance(self.target, Path) and not _is_open(self.target, self.descriptor):
            moved, self.descriptor = self.descriptor, open_file(self.target)
            os.close(moved)
            self.cut.value = 0.0
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        if self.cut.value:
            content = b"\n" + content
        written = 0
        try:
            while written < len(content):
                try:
                    written += os.write(self.descriptor, content[written:])
                except BlockingIOError:  # another process made the shared pipe non-blocking
                    time.sleep(0.05)
        finally:
            if written:
                self.cut.value = not content[:written].endswith(b"\n")
        self.losing.value = 0.0


def open_file(path: Path) -> int:
    """A descriptor for appending to the file at `path`, which is made with mode 0600; OSError, also for a pipe without a reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)  # else a pipe's would wait
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a pipe or socket that nobody reads") from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _is_open(path: Path, descriptor: int) -> bool:
    """Whether the file at `path` is the one that is open as `descriptor`."""
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _ends_within_line(target: int | Path) -> bool:
    """Whether a full disk has cut what was written to a file last, as far as can be told."""
    with suppress(OSError):
        if isinstance(target, Path) and stat.S_ISREG(target.stat().st_mode):
            with target.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() != b"\n"
    return False


class LineFormatter(logging.Formatter):
    """Renders a record as a line of at most MAX_LINE bytes, its line feed included, without secrets.

    It has the fields of `correlation`, and the record's own.
    """

    # RFC 3339
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, render: Callable[[Fields], str]) -> None:
        super().__init__()
        self.render = render

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **correlation.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        line = redact(self.render(fields))
        longest = MAX_LINE
        while len(line.encode("utf-8", "backslashreplace")) >= MAX_LINE:
            longest //= 2  # an escape takes up to six bytes, and there are several fields
            line = redact(self.render({n: _shorten(v, longest) for n, v in fields.items()}))
        return line


def _shorten(value: Any, longest: int) -> Any:
    """A text's end is kept rather than its start: that is where a traceback says what happened."""
    if isinstance(value, (int, float)) or value is None:
        return value
    text = redact(str(value))  # before a cut halves a secret
    return text if len(text) <= longest else f"... {text[-longest:]}"


_encode = msgspec.json.Encoder().encode


def _json(fields: Fields) -> str:
    """`fields` as JSON in ASCII. msgspec writes a request's line in a seventh of the time of the standard library's encoder
    (timeit: 4 us for 28), which is for what msgspec cannot write or does not escape."""
    try:
        line = _encode(fields).decode("ascii")
    except (TypeError, ValueError, OverflowError):  # an object, a lone surrogate, or not ASCII
        line = json.dumps(fields, default=str, separators=(",", ":"))
    return line.replace("\x7f", "\\u007f")


_FOR_MACHINES = {"trace_id", "span_id", "operation", "outcome", "bytes"}
_FOR_MACHINES |= {"upstream_status", "upstream_seconds"}
"""What a line of text leaves out, as it leaves out what its message says, so that it is one line on a terminal."""

_GIVEN = {"caller", "id", "request_id"}
"""What others chose: equal to a word of the message by chance alone, and shown whatever it is."""


def _text(fields: Fields) -> str:
    """`fields` as text for people: time, level, message, fields that say more; a traceback on lines of its own."""
    rest = dict(fields)
    if "request_id" in rest:
        rest["request_id"] = rest.pop("request_id")  # at the end, as it is long
    moment, level, _logger, message = (
        str(rest.pop(name, "")) for name in ("time", "level", "logger", "message")
    )
    trace = str(rest.pop("exception", "")).splitlines()
    told = {"", "None", *message.split()}
    values = (
        f"{name}={_printable(text)}"
        for name, text in zip(rest, map(str, rest.values()), strict=True)
        if name not in _FOR_MACHINES and (text not in told or (text and name in _GIVEN))
    )
    head = f"{moment[11:23]} {level.upper():<7} {_printable(message)}"
    return "\n".join(["  ".join((head, *values)), *(f"    | {_printable(line)}" for line in trace)])


def _printable(text: str) -> str:
    """`text` with everything escaped that could move a cursor, start a line or hide."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_SHORTEST_SECRET = 6
_BEARER = re.compile(r"(bearer(?:\s|%20|\+)+)[^\s\"'\\,;<>]+", re.IGNORECASE | re.ASCII)
_secrets: tuple[str, ...] = ()


def add_secrets(*secrets: str) -> None:
    """Has `redact` know `secrets` from now on, also as URLs, JSON, hexadecimal and base64 write them."""
    global _secrets
    forms = {
        form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)
    }
    known = {*_secrets, *forms}
    _secrets = tuple(form for form in known if not any(o in form for o in known if o != form))


def redact(line: str) -> str:
    """`line` with every known secret, and whatever follows the word Bearer, as ***."""
    for secret in _secrets:
        if secret in line:
            line = line.replace(secret, "***")
    if "bearer" in line.lower():
        line = _BEARER.sub(r"\1***", line)
    return line


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    plain = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    plain |= {json.dumps(text)[1:-1] for text in plain}  # a line of JSON that has it in a text
    return plain | {raw.hex(), base64.b64encode(raw).decode().rstrip("="), quote(secret, safe="")}
