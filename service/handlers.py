"""The handler: one for every operation of every contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import flask

from .idempotency import Idempotency
from .threads import CONTEXT, EXCHANGE
from .upstream import Upstream
from .validation import REQUEST


def forwarding_handler(
    upstream: Upstream, idempotency: Idempotency
) -> Callable[..., flask.Response]:
    """A Flask view that sends the checked request upstream and passes the answer on, byte for byte."""

    def forward(**_path_values: str) -> flask.Response:
        environ = flask.request.environ
        request, exchange = environ[REQUEST], environ[EXCHANGE]
        if request.operation.idempotent:
            answer = upstream.send(request, exchange)
        else:
            answer = idempotency.send(request, exchange, environ[CONTEXT])
        response = flask.Response(
            answer.body, answer.status, content_type=answer.content_type or None
        )
        response.headers.extend(answer.headers)
        return response

    # Connexion hands over what the signature names, and the whole body to `**kwargs`. The request is already
    # read, so the signature names nothing; path values come in any case.
    forward.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    return forward
