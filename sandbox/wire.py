"""The outermost WSGI layer: enters each request in the ledger and lets faults strike."""

from __future__ import annotations

import errno
import io
import json
import random
import time
import uuid
from collections.abc import Iterable
from typing import Any

from werkzeug.wrappers import Response

from sandbox.faults import BadFault, Exchange, Fault, Faults
from sandbox.ledger import Entry, Ledger

MARK = ("X-Sandbox", "mistral-batch-gateway-sandbox")
Start = Any  # a `start_response`, as PEP 3333 has it


class Wire:
    """Wraps the application. Requests to the side door pass untouched."""

    def __init__(self, app: Any, ledger: Ledger, faults: Faults, max_body_bytes: int) -> None:
        self.app, self.ledger, self.faults = app, ledger, faults
        self.max_body_bytes = max_body_bytes

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        headers = environ["sandbox.headers"] = _trace_headers()
        path = environ["PATH_INFO"]
        if path == "/" or path.startswith("/sandbox/"):
            return self.app(environ, _with(start, headers, {}))  # type: ignore[no-any-return]
        entry = environ["sandbox.entry"] = self.ledger.open(environ)
        self.ledger.fill(entry, self._read_body(environ))
        start = _with(start, headers, entry)
        try:
            fault = self.faults.pick(environ)
            if fault is None:
                return self.app(environ, start)  # type: ignore[no-any-return]
            answer = _struck(fault, Exchange(self.app, environ, entry))
        except BadFault as error:
            answer = Response(json.dumps({"detail": str(error)}), 400, mimetype="application/json")
        return answer(environ, start)

    def _read_body(self, environ: dict[str, Any]) -> bytes:
        """The body, read so that it can be both kept and given on; empty if it is too long."""
        if int(environ.get("CONTENT_LENGTH") or 0) > self.max_body_bytes:
            environ["sandbox.too_long"] = True
            return b""
        if "HTTP_TRANSFER_ENCODING" in environ:
            body = environ["wsgi.input"].read(self.max_body_bytes + 1)
            environ["sandbox.too_long"] = len(body) > self.max_body_bytes
        else:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        return body  # type: ignore[no-any-return]


def _struck(fault: Fault, exchange: Exchange) -> Response:
    """The answer under a fault; when there is none to send, ends the connection."""
    exchange.entry["fault"] = fault.name
    answer = fault.strike(exchange)
    if answer is None:
        closed = exchange.entry["client_closed_at"]
        exchange.entry.update(outcome="client left" if closed else "cut", answered_at=time.time())
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


def _trace_headers() -> list[tuple[str, str]]:
    """The mark of the sandbox, and trace ids as Mistral's live API sends them."""
    bits = random.getrandbits(128)
    correlation = str(uuid.UUID(int=bits, version=4))
    return [MARK, ("mistral-correlation-id", correlation), ("x-kong-request-id", f"{bits:032x}")]
