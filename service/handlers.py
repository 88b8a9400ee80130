"""The handler: one for every operation of every contract."""

from __future__ import annotations

from collections.abc import Callable

import flask

from .flask_dispatch import EXCHANGE, REQUEST
from .idempotency import Idempotency
from .upstream import Upstream


def forwarding_handler(
    upstream: Upstream, idempotency: Idempotency
) -> Callable[..., flask.Response]:
    """A Flask function that sends the checked request upstream and passes the answer on, byte for byte."""

    def forward() -> flask.Response:
        environ = flask.request.environ
        request, exchange = environ[REQUEST], environ[EXCHANGE]
        if request.operation.idempotent:
            answer = upstream.send(request, exchange)
        else:
            answer = idempotency.send(request, exchange)
        response = flask.Response(
            answer.body, answer.status, content_type=answer.content_type or None
        )
        response.headers.extend(answer.headers)
        return response

    return forward
