"""Whether the stack's ports can be had, found out before anything starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from stack.config import Door


def complaints(doors: Sequence[Door]) -> list[str]:
    """One line for each door whose port cannot be had, naming the setting that moves it."""
    lines = []
    first: dict[int, Door] = {}
    for door in doors:
        other = first.setdefault(door.port, door)
        reason = _refusal(door) if other is door else f"is also {other.setting}"
        if reason:
            free = f"{door.setting}={_free_port()}"
            lines.append(f"port {door.port} ({door.name}) {reason}; to use another: {free}")
    return lines


def _refusal(door: Door) -> str:
    """Why a server could not listen at `door`; empty when it could."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            door.host, door.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # As servers do: a port that only waits out an earlier run's connections is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return (
            "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        )
    return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
