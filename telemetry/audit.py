"""The audit log: a line of JSON for every call that changes something, wherever it ended. No bodies, no secrets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from . import logs
from .shared import SharedNumber

MAX_PARSED = 64 * 1024
"""Bytes of an answer that is looked into for the id of what it is about."""

_STREAMS = {"stdout": 1, "stderr": 2}

COMPLAINT_PERIOD = 60.0
"""Seconds between lines in the log about lines that this one lost."""

log = logging.getLogger("gateway.audit")
trouble = logging.getLogger("telemetry.audit")


def start(destination: str, count: Callable[[int], object] = lambda _: None) -> None:
    """Sends the audit log to `destination`: stdout, stderr, off, or the path of a file, which is made with mode 0600.

    `count` is told of lines that are lost, as they are. Raises OSError when the file cannot be opened.
    """
    log.propagate = False
    _losing.value = 0.0
    if destination == "off":
        log.handlers = [logging.NullHandler()]
        return
    complained = float("-inf")

    def watch(lost: int) -> None:
        nonlocal complained
        if lost:
            count(lost)
        if bool(lost) != losing():
            _losing.value = float(bool(lost))
        if lost and time.monotonic() - complained > COMPLAINT_PERIOD:
            complained = time.monotonic()
            trouble.error("audit lines are lost: %s takes none", destination)

    log.handlers = [logs.LineHandler(_STREAMS.get(destination) or Path(destination), watch=watch)]
    log.setLevel(logging.INFO)


def losing() -> bool:
    """Whether audit lines are lost: true from a lost one, of any worker, until lines are written again."""
    return bool(_losing.value)


def entry(message: str, fields: logs.Fields) -> None:
    """Writes one line."""
    logs.event(log, logging.INFO, message, fields)


def subject(body: bytes | bytearray) -> str:
    """The `id` member of a small JSON answer; empty for every other answer."""
    if len(body) > MAX_PARSED:
        return ""
    try:
        return str(_answer.decode(body).id)[:128]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


_losing = SharedNumber()


class _Answer(msgspec.Struct):
    id: str | int = ""


_answer = msgspec.json.Decoder(_Answer)
