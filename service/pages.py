"""Pages for people and machines: Swagger UI, the document, problems, probes, metrics. Answered on the event loop.

Swagger UI 5 comes from the files of the `flask-swagger-ui` package; Connexion's own bundle is version 4, whose inline
script a strict Content-Security-Policy forbids.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from base64 import b64encode
from copy import deepcopy
from hashlib import sha256
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.contract import OWN_PAGES, Contract
from serving.problems import DOCUMENTATION
from telemetry import logs, metrics

from .idempotency import Idempotency
from .problems import PROBLEMS
from .threads import NoThread
from .upstream import Upstreams

PROBE_PERIOD = 2.0
"""Seconds between two probes, by one worker, of a store that has failed."""

_NOT_STORED = {"cache-control": "no-store"}

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="icon" href="docs/assets/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_STYLE = """
:root { color-scheme: light dark }
body { max-width: 44rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h2 { margin: 2rem 0 .5rem; font-size: 1.15rem }
h2 a { color: inherit; text-decoration: none }
h2:target { padding-left: .6rem; border-left: .3rem solid LinkText }
ul { padding: 0; columns: 15rem; list-style: none }
"""
_PROBLEMS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Problems</title>
<style>{style}</style>
</head>
<body>
<h1>Problems</h1>
<p>What a failure's <code>type</code> means, and what can be done. Its <code>detail</code> and <code>errors</code> say more.</p>
<ul>{contents}</ul>
{rows}
</body>
</html>
"""
_PROBLEMS_CSP = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


class Readiness:
    """Whether requests can succeed now, by what the last ones met in any worker: asked often, so it waits for nobody."""

    def __init__(self, upstreams: Upstreams, idempotency: Idempotency) -> None:
        self.upstreams = upstreams
        self.idempotency = idempotency
        self.next_probe = -math.inf  # monotonic seconds

    async def page(self, _: Request) -> Response:
        """503 while the upstream refuses the key; 200, but degraded, while creates with a key are refused or audit lines lost."""
        checks = {
            "key": "refused by the upstream" if self.upstreams.key_refused else "ok",
            "store": "unavailable" if self.idempotency.store_failed else "ok",
            "audit": "lines are lost" if logs.loses_audit_lines() else "ok",
        }
        if checks["store"] != "ok" and time.monotonic() > self.next_probe:
            # Never two at once: what a thread finds out, in seconds perhaps, is for the next who asks.
            self.next_probe = math.inf
            try:
                asyncio.get_running_loop().run_in_executor(None, self._probe_store)
            except RuntimeError:  # there are too many threads
                self.next_probe = time.monotonic() + PROBE_PERIOD
        unavailable = checks["key"] != "ok"
        degraded = set(checks.values()) != {"ok"}
        return JSONResponse(
            {
                "status": "unavailable" if unavailable else "degraded" if degraded else "ok",
                "checks": checks,
            },
            503 if unavailable else 200,
            _NOT_STORED,
        )

    def _probe_store(self) -> None:
        try:
            self.idempotency.probe_store()
        finally:
            self.next_probe = time.monotonic() + PROBE_PERIOD


class Pages:
    """ASGI: answers the paths of pages, and passes everything else on."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        contract: Contract,
        readiness: Readiness,
        tokens: bool = False,
        root: str = "",
    ) -> None:
        """`tokens`: callers need some, and the document says so; `root`: the path before all of ours, as callers see them."""
        self.app = app
        self.router = Router(_routes(contract, readiness, tokens, root), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")  # none in lifespan
        if path not in OWN_PAGES and not path.startswith("/docs/"):
            await self.app(scope, receive, send)
            return
        try:
            await self.router(scope, receive, send)
        except RuntimeError as error:
            # Of anyio, whose threads read files and make the page of metrics.
            if "start new thread" in str(error):
                raise NoThread from error
            raise


def _routes(
    contract: Contract, readiness: Readiness, tokens: bool, root: str
) -> list[Route | Mount]:
    source = Path(contract.source)
    document = source.read_text(encoding="utf-8")
    served = contract.published
    if tokens:
        served = with_tokens(served, contract)
    if root:
        first = {**served.get("servers", [{}])[0], "url": root}
        served = {**served, "servers": [first]}
    if served is not contract.published:
        document = yaml.safe_dump(served, sort_keys=False, allow_unicode=True)
    published = json.dumps(served, default=str)  # YAML dates as text
    html = _HTML.format(title=contract.title)
    policy = {"content-security-policy": _CSP}

    def metrics_page(_: Request) -> Response:
        # Not async, so that a thread of Starlette's own runs it: adding all workers' figures takes a while.
        return Response(metrics.page(contract.version), media_type=metrics.CONTENT_TYPE)

    fixed = {
        "/": RedirectResponse(f"{root}/docs"),
        "/docs": _page(html, "text/html", {**policy, "referrer-policy": "no-referrer"}),
        "/docs/start.js": _page(_START, "text/javascript"),
        "/openapi.json": _page(published, "application/json"),
        "/openapi.yaml": _page(document, "application/yaml"),
        DOCUMENTATION: _page(
            _problems_page(), "text/html", {"content-security-policy": _PROBLEMS_CSP}
        ),
        "/livez": JSONResponse({"status": "ok"}, headers=_NOT_STORED),
    }
    return [
        *(Route(path, response, methods=["GET"]) for path, response in fixed.items()),
        Mount("/docs/assets", StaticFiles(directory=_assets())),
        Route("/readyz", readiness.page),
        Route("/metrics", metrics_page),
    ]


def _page(content: str, media_type: str, headers: dict[str, str] | None = None) -> Response:
    return Response(content, media_type=media_type, headers=headers)


def with_tokens(document: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """A copy of `document` that declares bearer tokens, and for each operation the scope that it needs.

    The file says nothing of them, since whether callers need some is a setting.
    """
    secured = deepcopy(document)
    secured.setdefault("components", {}).setdefault("securitySchemes", {})["bearer"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of this gateway, made by its operator.",
    }
    described = "Problem" in document.get("components", {}).get("schemas", {})
    problem = {"$ref": "#/components/schemas/Problem"} if described else {}
    for operation in contract.operations.values():
        declared = secured["paths"][operation.path][operation.method.lower()]
        scope = operation.scope
        # OpenAPI 3.0.3, Security Requirement Object: the list is empty for the type http.
        declared["security"] = [{"bearer": []}]
        declared["responses"].setdefault("401", _refusal("No token, or a bad one.", problem))
        lacking = f"The token lacks the scope `{scope}`."
        declared["responses"].setdefault("403", _refusal(lacking, problem))
    return secured


def _refusal(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {
            "WWW-Authenticate": {
                "description": "What is wrong with the token (RFC 6750).",
                "schema": {"type": "string"},
            }
        },
        "content": {"application/problem+json": {"schema": dict(schema)}},
    }


def _problems_page() -> str:
    """The page that a problem's `type` leads to: an anchor a kind."""
    contents = "".join(f'<li><a href="#{slug}">{slug}</a></li>' for slug in PROBLEMS)
    rows = (
        f'<h2 id="{slug}"><a href="#{slug}">{slug}</a></h2><p><strong>{escape(kind.title)}.</strong> '
        f"Status {kind.status_shown}, source {kind.source}. {escape(kind.advice)}</p>"
        for slug, kind in PROBLEMS.items()
    )
    return _PROBLEMS.format(style=_STYLE, contents=contents, rows="\n".join(rows))


def _assets() -> Path:
    package = find_spec("flask_swagger_ui")
    if package is None or package.origin is None:
        raise RuntimeError("the package flask-swagger-ui is not installed")
    return Path(package.origin).with_name("dist")
