"""The WSGI middleware: records each request in the ledger and injects faults.

Requests for the admin API pass untouched.
"""

from __future__ import annotations

import errno
import io
import random
import time
import uuid
from collections.abc import Iterable
from typing import Any

from werkzeug.wrappers import Response

from sandbox.answers import json_answer
from sandbox.faults import BadFault, Fault, FaultedRequest
from sandbox.ledger import Entry
from sandbox.state import State

MARK = ("X-Sandbox", "mistral-batch-gateway-sandbox")
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
        self.state.ledger.fill(entry, self._read_body(environ))
        start = _with(start, headers, entry)
        try:
            fault = self.state.faults.pick(environ)
            if fault is None:
                return self.app(environ, start)  # type: ignore[no-any-return]
            answer = _inject(fault, FaultedRequest(self.app, environ))
        except BadFault as error:
            answer = json_answer({"detail": str(error)}, 400)
        return answer(environ, start)

    def _read_body(self, environ: dict[str, Any]) -> bytes:
        """The body, read so that it can be both kept and given on; empty if it is too long."""
        limit, length = self.state.settings.max_body_bytes, int(environ.get("CONTENT_LENGTH") or 0)
        if length > limit:
            environ["sandbox.too_long"] = True
            return b""
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        body: bytes = environ["wsgi.input"].read(limit + 1 if chunked else length)
        environ["sandbox.too_long"] = len(body) > limit
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        return body


def _inject(fault: Fault, request: FaultedRequest) -> Response:
    """The answer under a fault; when there is none to send, ends the connection."""
    request.entry["fault"] = fault.name
    answer = fault.inject(request)
    if answer is None:
        closed = request.entry["client_closed_at"]
        request.entry.update(outcome="client left" if closed else "cut", answered_at=time.time())
        # The one exception that gunicorn takes to mean: write nothing, just close.
        raise ConnectionResetError(errno.ECONNRESET, "the fault has dealt with the connection")
    answer.headers["X-Sandbox-Fault"] = fault.name
    return answer


def _with(start: Start, headers: list[tuple[str, str]], entry: Entry) -> Start:
    """`start_response` that adds headers and notes the answer in the ledger."""

    def start_response(status: str, given: list[tuple[str, str]], *rest: Any) -> Any:
        entry.update(status=int(status[:3]), outcome="answered", answered_at=time.time())
        return start(status, [*given, *headers], *rest)

    return start_response
