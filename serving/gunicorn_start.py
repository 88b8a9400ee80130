"""What a start under gunicorn says, of REST service and bridge alike: why the address cannot be had, and that it serves.

gunicorn itself tries an address five times in ten lines, and is silent when all is well.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from access.listen import check_free, check_sockets, in_brackets
from environment import dotenv_note, variables


def check_addresses(server: Any, prefix: str) -> None:
    """For `on_starting`: SettingsError when an address cannot be had. Sockets that were handed over are had already, and ports may be shared."""
    environ = variables()
    from_systemd = environ.get("LISTEN_PID") == str(os.getpid()) and "LISTEN_FDS" in environ
    if from_systemd or "GUNICORN_FD" in environ or server.cfg.reuse_port:
        return
    for address in server.cfg.address:
        if isinstance(address, tuple):  # others are paths of Unix sockets, and descriptors
            check_free(*address[:2], prefix=prefix)


def check_listeners(server: Any, *, protected: bool, prefix: str) -> None:
    """For `when_ready`: SettingsError for an address of --bind or of a socket that was handed over, as for the settings' own."""
    sockets = [listener.sock for listener in server.LISTENERS]
    check_sockets(sockets, protected=protected, prefix=prefix)


def choose_speaker(server: Any, worker: Any) -> None:
    """For `pre_fork`: the first worker of a start or reload is the one that says that it serves."""
    worker.speaks = server.cfg is not getattr(server, "spoken_of", None)
    server.spoken_of = server.cfg  # another one after a reload


def announce(worker: Any, log: logging.Logger, what: str, path: str = "") -> None:
    """For `post_worker_init`: one line, with the addresses."""
    if worker.speaks:
        addresses = [_url(each.getsockname(), path) for each in worker.sockets]
        workers = f"{worker.cfg.workers} worker{'s' * (worker.cfg.workers > 1)}"
        log.info("serving %s at %s, %s", what, ", ".join(addresses), workers)
        if note := dotenv_note():
            log.warning(note)


def _url(name: Any, path: str) -> str:
    if isinstance(name, tuple):
        return f"http://{in_brackets(name[0])}:{name[1]}{path}"
    return f"unix:{os.fsdecode(name)}"
