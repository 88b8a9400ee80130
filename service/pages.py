"""Pages for people and machines: Swagger UI, the document, problems, probes, metrics. Answered on the event loop.

Swagger UI 5 comes from the files of the `flask-swagger-ui` package; Connexion's own bundle is version 4, whose inline
script a strict Content-Security-Policy forbids.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
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
from telemetry import logs, metrics

from .idempotency import Idempotency
from .problems import DOCUMENTATION, PROBLEMS
from .threads import NoThread
from .upstream_key import UpstreamKey

PROBE_PERIOD = 2.0
"""Seconds between two probes, by one worker, of what has failed."""

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
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" href="/docs/assets/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""


@dataclass
class Check:
    """One thing that readiness speaks of: `failed` says whether, `word` how. Without what is `vital` no request can succeed.

    `probe` finds out whether it works again, where nothing else does; it may take seconds.
    """

    failed: Callable[[], bool]
    word: str
    vital: bool = False
    probe: Callable[[], None] | None = None
    next_probe: float = -math.inf

    def probe_again(self) -> None:
        """Has a thread probe, once in a while and never two at once: what it finds is for the next who asks."""
        if self.probe is None or time.monotonic() <= self.next_probe:
            return
        self.next_probe = math.inf
        try:
            asyncio.get_running_loop().run_in_executor(None, self._run, self.probe)
        except RuntimeError:  # there are too many threads
            self.next_probe = time.monotonic() + PROBE_PERIOD

    def _run(self, probe: Callable[[], None]) -> None:
        try:
            probe()
        finally:
            self.next_probe = time.monotonic() + PROBE_PERIOD


class Readiness:
    """Whether requests can succeed now, by what the last ones met in any worker: asked often, so it waits for nobody."""

    def __init__(self, key: UpstreamKey, idempotency: Idempotency) -> None:
        self.checks = {
            "key": Check(lambda: key.refused, "refused by the upstream", vital=True),
            "store": Check(
                lambda: idempotency.store_failed, "unavailable", probe=idempotency.probe_store
            ),
            "audit": Check(logs.loses_audit_lines, "lines are lost"),
        }

    async def page(self, _: Request) -> Response:
        """503 while the upstream refuses the key; 200, but degraded, while creates with a key are refused or audit lines lost."""
        failed = {name: check for name, check in self.checks.items() if check.failed()}
        vital = any(check.vital for check in failed.values())
        for check in failed.values():
            check.probe_again()
        return JSONResponse(
            {
                "status": "unavailable" if vital else "degraded" if failed else "ok",
                "checks": {n: c.word if n in failed else "ok" for n, c in self.checks.items()},
            },
            503 if vital else 200,
            {"cache-control": "no-store"},
        )


class Pages:
    """ASGI: answers the paths of pages, and passes everything else on."""

    def __init__(
        self, app: ASGIApp, *, contract: Contract, readiness: Readiness, tokens: bool = False
    ) -> None:
        """`tokens`: callers need some, and the document says so."""
        self.app = app
        self.router = Router(_routes(contract, readiness, tokens), redirect_slashes=False)

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


def _routes(contract: Contract, readiness: Readiness, tokens: bool) -> list[Route | Mount]:
    source = Path(contract.source)
    document = source.read_text(encoding="utf-8")
    served = contract.published
    if tokens:
        served = with_tokens(served, contract)
        document = yaml.safe_dump(served, sort_keys=False, allow_unicode=True)
    published = json.dumps(served, default=str)  # YAML dates as text
    html = _HTML.format(title=contract.title)
    return [
        Route("/", _redirect),
        Route(
            "/docs",
            _fixed(
                html,
                "text/html",
                {"content-security-policy": _CSP, "referrer-policy": "no-referrer"},
            ),
        ),
        Route("/docs/start.js", _fixed(_START, "text/javascript")),
        Mount("/docs/assets", StaticFiles(directory=_assets())),
        Route("/openapi.json", _fixed(published, "application/json")),
        Route("/openapi.yaml", _fixed(document, "application/yaml")),
        Route(
            DOCUMENTATION, _fixed(_problems_page(), "text/html", {"content-security-policy": _CSP})
        ),
        Route("/livez", _alive),
        Route("/readyz", readiness.page),
        Route("/metrics", _metrics(contract.version)),
    ]


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
        scope = contract.scopes[operation.access]
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
    rows = (
        f'<h2 id="{slug}">{slug}</h2><p>{escape(kind.title)}. Status {kind.status_shown}, source {kind.source}. {escape(kind.advice)}</p>'
        for slug, kind in PROBLEMS.items()
    )
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Problems</title><h1>Problems</h1>{"".join(rows)}</html>'


def _assets() -> Path:
    package = find_spec("flask_swagger_ui")
    if package is None or package.origin is None:
        raise RuntimeError("the package flask-swagger-ui is not installed")
    return Path(package.origin).with_name("dist")


def _fixed(content: str, media_type: str, headers: dict[str, str] | None = None) -> Any:
    def page(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return page


def _metrics(version: str) -> Any:
    # Not async, so that a thread of Starlette's own runs it: adding all workers' figures takes a while.
    def page(_: Request) -> Response:
        return Response(metrics.page(version), media_type=metrics.CONTENT_TYPE)

    return page


async def _redirect(_: Request) -> Response:
    return RedirectResponse("/docs")


async def _alive(_: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})
