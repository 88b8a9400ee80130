"""The body of a request while it arrives: counted and hashed for the ledger, within a limit, and held up or cut by a fault."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, NoReturn

from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]

from sandbox.answers import HTTPError
from sandbox.content import PIECE, Content, Spool
from sandbox.ledger import Entry, Ledger

IN_MEMORY = 1 << 26
"""Bytes of a body that are kept in memory while it waits for its reader; more go to the disk."""


class BodyCut(HTTPError):
    """The body will never be whole; there is nobody to answer."""

    def __init__(self) -> None:
        super().__init__(400, {"detail": "The request ended before its body"})


class Incoming:
    """A WSGI input. `content` is that of the file that was found in it.

    `outcome` says how it ended early: `cut` by a fault, or `client left`; empty when it did not.
    """

    def __init__(self, environ: dict[str, Any], *, limit: int, kept: int) -> None:
        self.outcome = ""
        self.limit = limit
        self.content: Content | None = None
        self.received = 0
        self._spool: Spool | None = None
        self._taken = 0  # of the spool
        self._source = environ["wsgi.input"]
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        self._announced = None if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        self._ended = self._announced == 0
        self._entry: Entry = environ["sandbox.entry"]
        self._hash = hashlib.sha256()
        self._kept, self._keep = bytearray(), kept
        self._after = 0
        self._act: Callable[[], int | None] | None = None
        environ["wsgi.input"], environ["wsgi.input_terminated"] = self, True
        self.note()

    @property
    def whole(self) -> bool:
        """Whether all of it has been read."""
        return not self.outcome and (self._ended or self.received == self._announced)

    @property
    def rest(self) -> float:
        """Bytes that are still to come; infinite when nobody knows."""
        return math.inf if self._announced is None else self._announced - self.received

    @property
    def too_long(self) -> bool:
        """Whether it is beyond the limit, as it says itself or as was found."""
        return max(self._announced or 0, self.received) > self.limit

    def hold(self, after: int, act: Callable[[], int | None]) -> None:
        """Calls `act` before each further read once `after` bytes have been read, or all: it returns how many may be, None for any number."""
        self._after, self._act = after, act

    def cut(self, outcome: str = "cut") -> NoReturn:
        """Ends it here: raises BodyCut."""
        self.outcome = outcome
        self.note()
        raise BodyCut

    def note(self) -> None:
        """Enters into the ledger what has arrived so far."""
        kept = bytes(self._kept) if self._keep else None
        Ledger.fill(self._entry, kept, self.received, self._hash.hexdigest())

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all when that is negative, none at the end. Raises BodyCut."""
        if size < 0:
            return b"".join(iter(lambda: self.read(PIECE), b""))
        if self._spool:
            piece = self._spool.read(self._taken, size)
            self._taken += len(piece)
            return piece
        if self.outcome:
            raise BodyCut
        if self.received < self._after and not self.whole:
            size = min(size, self._after - self.received)
        elif self._act:
            size = min(size, self._act() or size)
        piece = b"" if self.whole else self._fetch(size)
        if piece:
            self.received += len(piece)
            self._hash.update(piece)
            self._kept += piece[: self._keep - len(self._kept)]
            self._entry["body_bytes"] = self.received
        elif not self._ended:
            self._ended = True
            self.note()
            if self._act and self._announced is None and self.received < self._after:
                self._act()
        return piece

    def discard(self, size: int) -> None:
        """Reads up to `size` bytes for nothing. Raises BodyCut."""
        end = self.received + size
        while self.received < end and self.read(min(PIECE, end - self.received)):
            pass

    def receive(self) -> None:
        """Reads all of it, unless it is beyond the limit, so that it can be read again from the start. Raises BodyCut."""
        spool = Spool(IN_MEMORY)
        while not self.too_long and (piece := self.read(PIECE)):
            spool.write(piece)
        if not self.too_long:
            self._spool = spool

    def _fetch(self, size: int) -> bytes:
        if self._announced is not None:
            size = min(size, self._announced - self.received)
        try:
            piece: bytes = self._source.read(size)
        except (OSError, ParseException):
            self._leave()
        if not piece and self._announced is not None:
            self._leave()
        return piece

    def _leave(self) -> NoReturn:
        self._entry["client_closed_at"] = time.time()
        self.cut("client left")
