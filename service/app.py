"""The map of the service: the layers in the order of a request, and every part that they share, made once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from connexion import FlaskApp
from connexion.middleware.routing import RoutingMiddleware
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from access import listen
from access.admission import Admission, Needs, make_admission
from access.origins import LOOPBACK
from openapi.contract import METHODS, OWN_PAGES

from .config import Settings
from .edge import Edge
from .file_access import FileAccess
from .flask_dispatch import FlaskDispatch, forwarding_handler
from .idempotency import Idempotency
from .job_recovery import recoveries
from .pages import Pages, Readiness
from .request_context import current
from .request_reader import RequestReader
from .store import is_redis, open_store
from .upstream import Upstreams

log = logging.getLogger("gateway.upstream")


def create_app(settings: Settings | None = None) -> FlaskApp:
    """The gateway as a Connexion application, itself an ASGI application; `settings` None: the environment's.

    Raises SettingsError when the settings, or a file that they name, cannot be used.
    """
    settings = settings or Settings.from_env()
    contract = settings.contract
    for url, doubt in settings.base_url_doubts.items():
        log.warning("%s: %s", doubt, url)
    upstream = Upstreams(settings)
    idempotency = Idempotency(
        upstream,
        open_store(settings.store),
        recoveries(contract, upstream, settings.settle),
        timeout=settings.timeout,
        expiry=settings.key_expiry,
    )
    readiness = Readiness(upstream, idempotency)
    # A request passes them in this order. Connexion makes them for the first one; what is to fail at start is made here.
    layers = [
        # 1. gives it its context, makes problem documents of failures, logs what became of it
        partial(Edge, contract=contract, tracing=settings.tracing, root=settings.root_path),
        # 2. decides whether it may come in
        admission(settings),
        # 3. answers what is not the API
        partial(
            Pages,
            contract=contract,
            readiness=readiness,
            tokens=settings.protected,
            root=settings.root_path,
        ),
        # 4. finds its operation
        RoutingMiddleware,
        # 5. checks it against the operation, and makes the upstream request of it
        partial(RequestReader, settings=settings),
    ]
    app = FlaskApp(__name__, middlewares=layers)
    # 6. hands it to a thread, where Flask calls the handler
    dispatch = FlaskDispatch(
        app.app.wsgi_app,
        threads=settings.threads,
        transfers=settings.transfers,
        waiters=settings.waiters,
        queue=settings.queue,
        timeout=settings.timeout,
    )
    # The attribute that Connexion's own add_wsgi_middleware edits.
    app.middleware.app.asgi_app = dispatch
    # 7. sends what may be sent only once through `idempotency`, what concerns files through `file_access`, and all by 8. `upstream`
    handler = forwarding_handler(upstream, FileAccess(settings, upstream), idempotency)
    # Whatever reaches Flask was routed and checked before. Answering here spares each request Connexion's decoration of
    # the view that it would call, which is this same handler (a tenth of a request's processor time).
    app.app.before_request(handler)
    app.add_api(_routes(contract.document), resolver=Resolver(lambda _operation_id: handler))
    return app


def admission(settings: Settings) -> Callable[[ASGIApp], Admission]:
    """The layer that decides who may come in; SettingsError when what it needs cannot be used."""
    docs = Needs.NOTHING if settings.docs_open else Needs.TOKEN if settings.protected else None
    return make_admission(
        settings,
        prefix="GATEWAY_",
        hosts=(*LOOPBACK, *listen.names(settings.host), *settings.allowed_hosts),
        scopes=settings.contract.scopes,
        shared_store=settings.store if is_redis(settings.store) else "",
        context=current,
        pages={**dict.fromkeys(OWN_PAGES, docs), "/docs/": docs, "/metrics": Needs.METRICS},
        refuse_slash=True,
        allowed_methods=settings.contract.allowed_methods,
        media_type=settings.contract.body_media_type,
        call_headers=[(b"cache-control", b"no-store")],
    )


def _routes(document: dict[str, Any]) -> dict[str, Any]:
    """What Connexion needs of `document` to route.

    Given all of it, it checks it against OpenAPI's schema in pure Python, at each start: a quarter of a second. The
    document is derived, and checked when it is.
    """
    paths = {
        path: {
            method: {
                "operationId": item[method]["operationId"],
                "parameters": [
                    declared
                    for declared in item.get("parameters", []) + item[method].get("parameters", [])
                    if declared["in"] == "path"
                ],
                "responses": {"200": {"description": ""}},
            }
            for method in METHODS
            if method in item
        }
        for path, item in document["paths"].items()
    }
    return {"openapi": document["openapi"], "info": document["info"], "paths": paths}
