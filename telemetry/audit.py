"""The audit log: a line of JSON for every call that changes something, wherever it ended. No bodies, no secrets."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from . import logs

MAX_PARSED = 64 * 1024
"""Bytes of an answer that is looked into for the id of what it is about."""

_STREAMS = {"stdout": 1, "stderr": 2}

log = logging.getLogger("gateway.audit")


def start(destination: str) -> None:
    """Sends the audit log to `destination`: stdout, stderr, off, or the path of a file, which is made with mode 0600.

    Raises OSError when the file cannot be opened.
    """
    log.propagate = False
    if destination == "off":
        log.handlers = [logging.NullHandler()]
        return
    log.handlers = [logs.LineHandler(_STREAMS.get(destination) or Path(destination))]
    log.setLevel(logging.INFO)


def entry(message: str, fields: logs.Fields) -> None:
    """Writes one line."""
    logs.event(log, logging.INFO, message, fields)


def subject(body: bytes) -> str:
    """The `id` member of a small JSON answer; empty for every other answer."""
    if len(body) > MAX_PARSED:
        return ""
    try:
        return str(_answer.decode(body).id)[:128]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


class _Answer(msgspec.Struct):
    id: str | int = ""


_answer = msgspec.json.Decoder(_Answer)
