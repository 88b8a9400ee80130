"""The WSGI middleware: records each request in the ledger, lets its body in, injects faults, counts its answer.

Requests for the admin API pass untouched. An upload is read by who wants it, while it comes; of other requests the body is
there before anybody looks at them.
"""

from __future__ import annotations

import errno
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from werkzeug.wrappers import Response

from sandbox.answers import json_answer
from sandbox.connection import Connection
from sandbox.faults import BadFault, Fault, FaultedRequest
from sandbox.incoming import BodyCut, Incoming
from sandbox.ledger import KEPT_BODY_BYTES, Entry
from sandbox.state import State

MARK = ("X-Sandbox", "mistral-batch-gateway-sandbox")
FORM_BYTES = 1 << 16
"""What the form of an upload may have beside its file."""
SMALL_REST = 1 << 16
"""A rest of a body that is read before the answer is sent, so that the connection can be kept."""
UPLOAD = ("file_id", "filename", "purpose", "bytes", "sha256")
"""What the ledger says of an upload, beside its outcome; None until it is known."""
Start = Any  # a `start_response`, as PEP 3333 has it


class Middleware:
    """Wraps the WSGI application `app` of the sandbox whose state is `state`."""

    def __init__(self, app: Any, state: State) -> None:
        self.app, self.state = app, state

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        # The mark of the sandbox, and trace ids as Mistral's live API sends them.
        bits = random.getrandbits(128)
        correlation = str(uuid.UUID(int=bits, version=4))
        ids = [("mistral-correlation-id", correlation), ("x-kong-request-id", f"{bits:032x}")]
        headers = environ["sandbox.headers"] = [MARK, *ids]
        path = environ["PATH_INFO"]
        if path == "/" or path.startswith("/sandbox/"):
            return self.app(environ, _with(start, headers, {}))  # type: ignore[no-any-return]
        entry = environ["sandbox.entry"] = self.state.ledger.open(environ)
        upload = (environ["REQUEST_METHOD"], path) == ("POST", "/v1/files")
        body = environ["sandbox.body"] = self._incoming(environ, upload=upload)
        connection = environ["sandbox.connection"] = Connection(environ)
        answer = None
        with suppress(BodyCut):
            answer = self._answer(environ, body, upload=upload)
        if upload:
            answered = answer is not None or entry["status"] is not None
            _note_upload(entry["upload"], body, answered=answered)
        if answer is None:
            raise _ended(entry, connection)
        if isinstance(answer, Response) and not body.whole:
            with suppress(BodyCut):
                body.discard(SMALL_REST if body.rest <= SMALL_REST else 0)
            body.note()
            if connection and not body.whole:
                if connection.answer(answer):
                    connection.linger()
                raise _ended(entry, connection)
        return _Outgoing(answer(environ, _with(start, headers, entry)), entry)

    def _incoming(self, environ: dict[str, Any], *, upload: bool) -> Incoming:
        settings = self.state.settings
        if not upload:
            return Incoming(environ, limit=settings.max_body_bytes, kept=KEPT_BODY_BYTES)
        environ["sandbox.entry"]["upload"] = {"outcome": "open", **dict.fromkeys(UPLOAD)}
        return Incoming(environ, limit=settings.max_file_bytes + FORM_BYTES, kept=0)

    def _answer(self, environ: dict[str, Any], body: Incoming, *, upload: bool) -> Any:
        """What answers, as a WSGI application; None when nothing is to be sent any more. Raises BodyCut."""
        try:
            fault = self.state.faults.pick(environ)
            if fault is not None:
                return _inject(fault, FaultedRequest(self.app, environ, body))
        except BadFault as error:
            return json_answer({"detail": str(error)}, 400)
        if not upload:
            body.receive()
            if body.whole:
                return self.app
        answer = Response.from_app(self.app, environ)
        if body.outcome:
            raise BodyCut
        return answer


def _inject(fault: Fault, request: FaultedRequest) -> Response | None:
    request.entry["fault"] = fault.name
    answer = fault.inject(request)
    if answer is not None:
        answer.headers["X-Sandbox-Fault"] = fault.name
    return answer


def _note_upload(upload: Entry, body: Incoming, *, answered: bool) -> None:
    """Enters what became of an upload; whoever kept the file has said so already."""
    if body.content is not None:
        upload.update(bytes=body.content.size, sha256=body.content.sha256)
    if upload["outcome"] == "open":
        upload["outcome"] = "refused" if answered or body.whole else "incomplete"


def _ended(entry: Entry, connection: Connection) -> ConnectionResetError:
    """Ends a connection on which nothing more is to be sent, and enters that; to be raised."""
    if entry["outcome"] == "open":
        closed = entry["client_closed_at"]
        entry.update(outcome="client left" if closed else "cut", answered_at=time.time())
    if connection:
        connection.close()
    # The one exception that gunicorn takes to mean: write nothing, just close.
    return ConnectionResetError(errno.ECONNRESET, "the connection has been dealt with")


class _Outgoing:
    """The body of an answer on its way: its bytes are counted in the ledger, which notes a client that leaves before its end."""

    def __init__(self, pieces: Any, entry: Entry) -> None:
        self._pieces, self._entry, self._whole = pieces, entry, False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield piece
            self._entry["answer_bytes"] += len(piece)
        self._whole = True

    def close(self) -> None:
        """Called by the server, whether or not everything was sent."""
        if not self._whole:
            self._entry.update(outcome="client left", client_closed_at=time.time())
        if hasattr(self._pieces, "close"):
            self._pieces.close()


def _with(start: Start, headers: list[tuple[str, str]], entry: Entry) -> Start:
    """`start_response` that adds headers and notes the answer in the ledger."""

    def start_response(status: str, given: list[tuple[str, str]], *rest: Any) -> Any:
        entry.update(status=int(status[:3]), outcome="answered", answered_at=time.time())
        return start(status, [*given, *headers], *rest)

    return start_response
