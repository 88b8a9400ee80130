"""What tests ask of the API, and what they read of it at the sandbox. Not a test module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import yaml

from openapi.contract import DEFAULT_DOCUMENT
from service.config import Settings
from tests.support.processes import Sandbox

JOBS = "/v1/batch/jobs"
CREATE = {
    "endpoint": "/v1/ocr",
    "requests": [{"body": {"a": 1}}],
    "metadata": {"made": "by a test"},
}
JOB_ID = "7c3e1f0a-52d4-4b7e-9a61-0f2c8d5b9e14"
"""A job's, which nobody has made."""

LOST = {"fault": "drop-after", "match": {"method": "POST"}}
"""The job is created, and its answer never comes."""

LOST_BEFORE = {"fault": "drop-before", "match": {"method": "POST"}}
"""The create arrives, is not carried out, and gets no answer."""

BLIND = {"fault": "html-503", "match": {"method": "GET"}, "times": None}
"""No job can be looked at."""


def job(text: str = "Hello") -> dict[str, Any]:
    """The body of a create for chat completions."""
    messages = {"messages": [{"role": "user", "content": text}]}
    return {
        "endpoint": "/v1/chat/completions",
        "model": "mistral-small-latest",
        "requests": [{"custom_id": "1", "body": messages}],
    }


def credentials(settings: Settings) -> dict[str, str]:
    """The fields of the jobs' upstream's authentication, as they are now."""
    return dict(
        settings.read_credentials(settings.contract.upstreams["batch-batch-jobs"].authentication)
    )


def changed_document(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A document of the gateway's with something changed, for GATEWAY_OPENAPI."""
    document = yaml.load(DEFAULT_DOCUMENT.read_bytes(), yaml.CSafeLoader)
    change(document)
    path = folder / "openapi.yaml"
    path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
    return path


def without_recovery(folder: Path) -> Path:
    """A document by which a lost create cannot be found."""
    return changed_document(
        folder, lambda document: document["paths"][JOBS]["post"].pop("x-recovery")
    )


def keyed_cancel(folder: Path) -> Path:
    """A document by which cancelling twice could do more than once, so that it takes a key."""

    def change(document: dict[str, Any]) -> None:
        tool = document["paths"][f"{JOBS}/{{job-id}}/cancel"]["post"]["x-mcp-tool"]
        tool["hints"]["idempotent"] = False

    return changed_document(folder, change)


def keyed(key: str = "key-1") -> dict[str, str]:
    """Request headers with an Idempotency-Key."""
    return {"Idempotency-Key": key}


def creates(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The creates that arrived, oldest first."""
    return sandbox.ledger(method="POST", path=JOBS)


def jobs(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The jobs that exist, as the list shows them."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": "Bearer any"}
        page = session.get(f"{sandbox.url}{JOBS}?page_size=1000", headers=headers, timeout=10)
    found: list[dict[str, Any]] = page.json()["data"]
    return found


def tag(create: dict[str, Any]) -> str | None:
    """The tag that a create carried."""
    metadata = json.loads(create["body"]).get("metadata") or {}
    found: str | None = metadata.get("gw_op")
    return found
