"""Looking up a server's name within a time limit, which getaddrinfo does not have: it waits as long as the resolver does.

So it runs in a thread of its own, which whoever waits for it leaves behind when their time is over. Those who need a name
at the same time wait for the same answer; no answer is kept.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import Future
from functools import cache
from ipaddress import ip_address

MOST = 8
"""Threads that may wait for the resolver at a time, each for a question that it does not answer."""


class Unasked(OSError):
    """The system has no thread to give that would ask the resolver."""


class Name:
    """The name of a server. Thread-safe."""

    def __init__(self, host: str) -> None:
        self.host = host.strip("[]")
        self.numeric = False
        with contextlib.suppress(ValueError):
            self.numeric = bool(ip_address(self.host))
        self._lock = threading.Lock()
        self._latest: Future[list[str]] | None = None
        self._begun = 0.0
        self._waiting = 0

    def addresses(self, limit: float) -> list[str]:
        """Its addresses, best first; OSError when there are none, or (TimeoutError) none are found in `limit` seconds."""
        return [self.host] if self.numeric else self._lookup(limit).result(limit)

    def _lookup(self, limit: float) -> Future[list[str]]:
        """The lookup under way; a new one when there is none, or when it has lasted longer than `limit`."""
        with self._lock:
            now = time.monotonic()
            latest = self._latest
            over = latest is None or latest.done() or now - self._begun > limit
            if latest is None or (over and self._waiting < MOST):
                latest = Future()
                # A daemon: a resolver that does not answer does not keep the process from ending.
                asking = threading.Thread(
                    target=self._ask, args=(latest,), name="lookup", daemon=True
                )
                try:
                    asking.start()
                except RuntimeError as error:
                    raise Unasked(str(error)) from error
                self._latest = latest
                self._begun = now
                self._waiting += 1
            return latest

    def _ask(self, lookup: Future[list[str]]) -> None:
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            lookup.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
        else:
            lookup.set_result([str(address[0]) for *_, address in found])
        finally:
            with self._lock:
                self._waiting -= 1


@cache
def name(host: str) -> Name:
    """The one Name of `host`; a process has few."""
    return Name(host)
