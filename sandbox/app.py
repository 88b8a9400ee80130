"""The sandbox as a WSGI application: middleware, Mistral's API, the admin API, and who may call.

A request passes `middleware` (ledger, faults), then `_admit` (key, rate limit), then a route of
`mistral_api`; requests for the admin API are neither recorded nor admitted.
"""

from __future__ import annotations

from flask import Flask, abort, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from sandbox.admin import admin
from sandbox.answers import RATE_LIMITED, HTTPError, json_answer, page, quota_headers
from sandbox.config import Settings
from sandbox.middleware import Middleware
from sandbox.mistral_api import blobs, v1
from sandbox.state import State, state


def create_app(settings: Settings | None = None) -> Flask:
    """The application; `app.extensions["sandbox"]` is its State."""
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # Mistral's API does not redirect
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    sandbox = app.extensions["sandbox"] = State(settings or Settings())
    app.register_blueprint(v1)
    app.register_blueprint(blobs)
    app.register_blueprint(admin)
    app.register_error_handler(HTTPError, lambda e: json_answer(e.body, e.status, e.headers))
    app.register_error_handler(HTTPException, _http_exception)
    app.before_request(_admit)
    app.after_request(_add_quota)
    app.wsgi_app = Middleware(app.wsgi_app, sandbox)  # type: ignore[method-assign,assignment]
    return app


def _admit() -> None:
    """Refuses a caller without a usable key, with too many requests, or with too long a body."""
    if "sandbox.entry" not in request.environ or request.path.startswith("/blob/"):
        return  # for the admin API, or with a signed address
    g.caller = state.api_keys.identify(request.headers.get("Authorization"))
    if g.caller is None:
        raise HTTPError(401, {"detail": "Unauthorized"})
    request.environ["sandbox.entry"].update(workspace=g.caller.workspace, user=g.caller.user)
    g.remaining = state.api_keys.remaining(g.caller)
    if g.remaining is not None and g.remaining < 0:
        raise HTTPError(429, RATE_LIMITED, {"Retry-After": "60"})
    if request.environ["sandbox.body"].too_long:
        abort(page(413))


def _add_quota(response: Response) -> Response:
    if (remaining := g.get("remaining")) is not None:
        response.headers.update(quota_headers(state.settings.rate_limit, max(remaining, 0)))
    return response


def _http_exception(error: HTTPException) -> Response:
    """404, 405 and the like in Mistral's form; `Allow` is kept."""
    kept = {name: value for name, value in error.get_headers() if name == "Allow"}
    return json_answer({"detail": error.name}, error.code or 500, kept)
