"""Logging for a whole process: one record, one bounded line; JSON for machines, text for a terminal; no secrets.

`start` is called once, by whatever starts the process. Before that, and in tests, the standard library's defaults hold.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from .lines import Lines, Stream

MAX_LINE = 8192
"""Bytes of one line, its line feed included."""

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "json", "text")

Fields = Mapping[str, Any]
Render = Callable[[Fields], bytes]

_SHORTEST_SECRET = 6
_BEARER = re.compile(rb"(bearer(?:\s|%20|\+)+)[^\s\"'\\,;<>]+", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode


def start(
    names: Iterable[str],
    level: str,
    form: str,
    stream: int = 2,
    shared: Callable[[], Fields] = dict,
    watch: Callable[[int], None] = lambda _: None,
) -> None:
    """Logs to the file descriptor `stream`: the loggers `names` from `level` on, all others from warning on.

    `shared` gives fields for every line of the thread or task that calls it, such as the request's id. `watch` is told what
    is lost, as `Lines` says. Calling again replaces what was started before.
    """
    text = form == "text" or (form == "auto" and os.isatty(stream))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(LineHandler(stream, text_line if text else json_line, shared, watch))
    root.setLevel(logging.WARNING)
    for name in names:
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)
    # What no line shows need not be found out for each (docs.python.org/3/howto/logging.html, Optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def event(logger: logging.Logger, level: int, message: str, fields: Fields) -> None:
    """Logs `message` with `fields`. Cheaper than the logger's own methods: nobody asks where it was called."""
    if logger.isEnabledFor(level):
        record = logging.LogRecord(logger.name, level, "", 0, message, None, None)
        record.fields = fields
        logger.handle(record)


def hide(*secrets: str) -> None:
    """Keeps `secrets` out of every line from now on, also as URLs, JSON and base64 write them."""
    global _hidden
    forms = {
        form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)
    }
    known = {*_hidden, *forms}
    _hidden = tuple(form for form in known if not any(o in form for o in known if o != form))


def hidden(line: bytes) -> bytes:
    """`line` with every hidden secret, and whatever follows the word Bearer, as ***."""
    for secret in _hidden:
        if secret in line:
            line = line.replace(secret, b"***")
    if b"earer" in line or b"EARER" in line:
        line = _BEARER.sub(rb"\1***", line)
    return line


_hidden: tuple[bytes, ...] = ()


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode()
    plain = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    plain |= {json.dumps(text)[1:-1] for text in plain}  # a line of JSON that has it in a text
    packed = {raw.hex(), base64.b64encode(raw).decode().rstrip("="), quote(secret, safe="")}
    return {text.encode() for text in plain | packed}


def _event(created: float, level: str, logger: str, message: str) -> dict[str, Any]:
    return {"time": timestamp(created), "level": level, "logger": logger, "message": message}


def _lost(count: int) -> dict[str, Any]:
    text = f"{count} lines were dropped: their destination took none"
    return _event(time.time(), "error", "telemetry.lines", text)


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 writes them, in UTC, with milliseconds."""
    global _second
    whole = int(seconds)
    second = _second  # another thread may change it meanwhile
    if second[0] != whole:
        text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        second = _second = (whole, text)
    return f"{second[1]}.{int(seconds % 1 * 1000):03}Z"


_second = (0, "")


def json_line(fields: Fields) -> bytes:
    """`fields` as one line of JSON in ASCII, of at most MAX_LINE bytes, without secrets."""
    return _bounded(_json, fields)


def text_line(fields: Fields) -> bytes:
    """`fields` as text for people: time, level, message, the other fields; a traceback on lines of its own."""
    return _bounded(_text, fields)


def _bounded(render: Render, fields: Fields) -> bytes:
    line = hidden(render(fields))
    longest = MAX_LINE
    while len(line) >= MAX_LINE:
        longest //= 2  # an escape takes up to six bytes, and there are several fields
        line = hidden(render({name: _cut(value, longest) for name, value in fields.items()}))
    return line + b"\n"


def _cut(value: Any, longest: int) -> Any:
    """A text's end is kept rather than its start: that is where a traceback says what happened."""
    if isinstance(value, (int, float)) or value is None:
        return value
    text = hidden(str(value).encode("utf-8", "backslashreplace")).decode()  # before a cut halves it
    return text if len(text) <= longest else f"... {text[-longest:]}"


def _json(fields: Fields) -> bytes:
    try:
        line = _encode(fields)
    except (TypeError, ValueError, OverflowError):  # an object, or a lone surrogate
        line = b"\xff"
    if not line.isascii():
        line = json.dumps(fields, default=str, separators=(",", ":")).encode()
    return line.replace(b"\x7f", b"\\u007f")


def _text(fields: Fields) -> bytes:
    rest = dict(fields)
    moment, level, _logger, message = (
        str(rest.pop(name, "")) for name in ("time", "level", "logger", "message")
    )
    trace = str(rest.pop("exception", "")).splitlines()
    values = (
        f"{name}={_plain(str(value))}" for name, value in rest.items() if value not in ("", None)
    )
    head = f"{moment[11:23]} {level.upper():<7} {_plain(message)}"
    lines = ["  ".join((head, *values)), *(f"    | {_plain(line)}" for line in trace)]
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _plain(text: str) -> str:
    """`text` with everything escaped that could move a cursor, start a line or hide."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LineHandler(logging.Handler):
    """Queues a line for each record."""

    def __init__(
        self,
        stream: Stream,
        render: Render = json_line,
        shared: Callable[[], Fields] = dict,
        watch: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.lines = Lines(stream, lambda count: render(_lost(count)), watch)
        self.render = render
        self.shared = shared

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record's line; what cannot change meanwhile is rendered by the thread that writes, in passing."""
        line = partial(self._line, record, self.shared())
        self.lines.put(line() if record.args or record.exc_info else line)

    def _line(self, record: logging.LogRecord, shared: Fields) -> bytes:
        try:
            return self.render(_record_fields(record, shared))
        except Exception as error:  # a record that cannot be rendered becomes a line that says so
            text = f"unloggable: {error!r}"
            return self.render(_event(record.created, "error", record.name, text))


def _record_fields(record: logging.LogRecord, shared: Fields) -> dict[str, Any]:
    fields = _event(record.created, record.levelname.lower(), record.name, record.getMessage())
    fields.update(shared)
    fields.update(getattr(record, "fields", ()))
    if record.exc_info and record.exc_info[1]:
        fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
    return fields
