"""A file on its way upstream: its form and its lines are checked while it passes, and the upstream has all of it only when they are good.

The last piece is held back until everything was read: a form that does not end creates nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain

from starlette.types import Receive

from openapi.validation import Violation

from .batch_file import MAX_COUNTED, MAX_FAULTS, BatchFile, Fault
from .problems import Problem
from .request_context import current
from .streams import IncomingBody, paced
from .upload_form import UploadForm

CHECKED_PURPOSE = "batch"
"""The purpose of files that are lines of batch requests."""


class Upload:
    """A `ByteStream` of `body`, which is a form with a file; `check_lines`: whether a batch file must be one that can be run."""

    def __init__(
        self,
        body: IncomingBody,
        *,
        purposes: frozenset[str],
        check_lines: bool,
    ) -> None:
        self.content_type = body.content_type
        self.length = body.length
        self.complete = False
        self._body = body
        self._file = BatchFile() if check_lines else None
        take = self._file.feed if self._file else lambda _piece: None
        self._form = UploadForm(body.content_type, purposes, take)
        self._pieces = self._checked()
        self._first = b""

    @property
    def received(self) -> int:
        """Bytes that came so far."""
        return self._body.received

    async def fill(self, receive: Receive) -> None:
        """Receives it, in the event loop."""
        await self._body.fill(receive)

    def begin(self) -> None:
        """Takes the first piece, so that nothing is asked upstream for a small file that is refused. Raises as iterating does."""
        self._first = next(self._pieces, b"")

    def let_go(self) -> None:
        """Ends the use of it, wherever that was; its memory can go."""
        self._pieces.close()

    def __iter__(self) -> Iterator[bytes]:
        """The pieces, the last one when all is found good. Raises Problem when it is not, and as the body does."""
        first, self._first = self._first, b""
        return paced(chain([first] if first else [], self._pieces))

    def _checked(self) -> Generator[bytes]:
        held = b""
        try:
            for piece in self._body.received_pieces():
                self._form.feed(piece)
                if self._file and self._file.hopeless and self._form.purpose == CHECKED_PURPOSE:
                    raise _refusal(self._file.end(), self._file.count)
                if held and not self._form.closed:
                    yield held
                    held = b""
                held += piece
            self._form.end()
            if self._file and self._form.purpose == CHECKED_PURPOSE:
                faults = self._file.end()
                if faults:
                    raise _refusal(faults, self._file.count)
                _warn(self._file.doubts)
        finally:
            # Parser and form refer to each other, and a refusal's traceback to this frame: the check's memory would stay.
            self._form.let_go()
            if self._file:
                self._file.let_go()
                self._file = None
        self.complete = True
        if held:
            yield held


def _warn(doubts: set[str]) -> None:
    """Adds a warning about what nobody knows whether Mistral takes it."""
    if doubts:
        ctx = current()
        said = f"the file {', '.join(sorted(doubts))}: Mistral may not take that"
        ctx.warning = f"{ctx.warning}; {said}" if ctx.warning else said


def _refusal(faults: list[Fault], count: int) -> Problem:
    listed = "" if count == len(faults) else f"; the first {len(faults)} are in errors"
    named = "1 fault" if count == 1 else f"{count} faults"
    if count >= MAX_COUNTED:
        named = f"{MAX_COUNTED} faults or more"
    return Problem(
        "validation-failed",
        f"{named} in the file, by its lines{listed}. Nothing was created.",
        violations=[Violation(f"/file/line/{fault.line}", fault.reason) for fault in faults],
        listed=MAX_FAULTS,
    )
