"""Which files callers may touch: those of the purposes that are allowed, since one workspace also holds other programs' files.

A file's purpose never changes, so it is asked once and remembered. A file of another purpose is told to be none, in the words of a
file that is none.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

import msgspec

from openapi.json_text import UNREADABLE, read_json
from openapi.validation import Violation

from .problems import Problem
from .request_context import current
from .translation import Answer, Inputs, UpstreamRequest, build_request
from .uploads import Upload
from .upstream import Upstreams
from .upstream_connection import CancellableRequest

if TYPE_CHECKING:
    from .config import Settings

REMEMBERED = 10_000
"""Files of allowed purposes that are remembered, those of the latest calls."""


class _File(msgspec.Struct):
    purpose: str
    id: str = ""


def _none() -> Problem:
    return Problem("not-found", "There is no file of this id.")


class FileAccess:
    """Sends requests for files: lists of allowed purposes, and files of these alone. Thread-safe."""

    def __init__(self, settings: Settings, upstreams: Upstreams) -> None:
        self.upstreams = upstreams
        self.operations = settings.contract.operations
        self.purposes = frozenset(settings.file_purposes)
        self.signed_urls = settings.signed_urls == "on"
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def send(self, request: UpstreamRequest, cancellable: CancellableRequest) -> Answer:
        """The upstream's answer; Problem also for what callers may not touch."""
        files = request.operation.files
        assert files is not None
        if files.kind == "upload":
            return self._upload(request, cancellable)
        if files.kind == "list":
            return self.upstreams.send(self._of_allowed_purposes(request), cancellable)
        if files.kind == "signed-url" and not self.signed_urls:
            raise Problem(
                "not-found",
                "Signed URLs are off, since no revoked token ends them (GATEWAY_SIGNED_URLS). Download the file's content.",
            )
        lookup, file_id = self.operations[files.lookup], current().path_values
        if request.operation is lookup:
            return self._look_up(request, file_id, cancellable)
        if not self._is_known(file_id):
            inputs = Inputs(path={lookup.path_variables[0]: file_id})
            self._look_up(build_request(lookup, inputs), file_id, cancellable)
        try:
            return self.upstreams.send(request, cancellable)
        except Problem as problem:
            if problem.upstream_status == 404:  # it was deleted meanwhile
                raise _none() from problem
            raise

    def _upload(self, request: UpstreamRequest, cancellable: CancellableRequest) -> Answer:
        upload = request.stream
        assert isinstance(upload, Upload)
        try:
            upload.begin()
            answer = self.upstreams.send(request, cancellable)
        finally:
            upload.let_go()
        with suppress(*UNREADABLE):
            file = read_json(answer.body, _File)
            if file.purpose in self.purposes:
                self._remember(file.id)
        return answer

    def _look_up(
        self, request: UpstreamRequest, file_id: str, cancellable: CancellableRequest
    ) -> Answer:
        """What the upstream knows of a file; Problem for one that there is not, or that callers may not touch."""
        try:
            answer = self.upstreams.send(request, cancellable)
        except Problem as problem:
            if problem.upstream_status == 404:
                raise _none() from problem
            raise
        try:
            purpose = read_json(answer.body, _File).purpose
        except UNREADABLE as error:
            detail = "The upstream does not say what the file is for."
            raise Problem("upstream-bad-response", detail, retryable=True) from error
        if purpose not in self.purposes:
            raise _none()
        self._remember(file_id)
        return answer

    def _is_known(self, file_id: str) -> bool:
        with self._lock:
            known = file_id in self._known
            if known:
                self._known.move_to_end(file_id)
            return known

    def _remember(self, file_id: str) -> None:
        """Remembers that callers may touch it. Not that they may not: that answer must take as long as that there is no file."""
        with self._lock:
            self._known[file_id] = None
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    def _of_allowed_purposes(self, request: UpstreamRequest) -> UpstreamRequest:
        path, _, query = request.target.partition("?")
        given = parse_qs(query, keep_blank_values=True).get("purpose", [])
        if not given and len(self.purposes) == 1:
            (purpose,) = self.purposes
            added = urlencode({"purpose": purpose})
            return replace(
                request, target=f"{path}?{query}&{added}" if query else f"{path}?{added}"
            )
        if not given or not self.purposes.issuperset(given):
            allowed = " or ".join(sorted(self.purposes))
            detail = f"must be {allowed} (GATEWAY_FILE_PURPOSES)"
            raise Problem("validation-failed", violations=[Violation("/query/purpose", detail)])
        return request
