"""The document as it is served while callers need tokens; the file says nothing of them, since they are a setting."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from openapi.contract import Contract

SCHEME = "bearer"


def with_tokens(document: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """A copy of `document` that declares bearer tokens, and for each operation the scope that it needs."""
    secured = deepcopy(document)
    secured.setdefault("components", {}).setdefault("securitySchemes", {})[SCHEME] = {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of this gateway, made by its operator.",
    }
    problem = {"$ref": "#/components/schemas/Problem"} if _describes_problems(document) else {}
    for operation in contract.operations.values():
        declared = secured["paths"][operation.path][operation.method.lower()]
        scope = contract.scopes[operation.access]
        # OpenAPI 3.0.3, Security Requirement Object: the list is empty for the type http.
        declared["security"] = [{SCHEME: []}]
        declared["responses"].setdefault("401", _refusal("No token, or a bad one.", problem))
        lacking = f"The token lacks the scope `{scope}`."
        declared["responses"].setdefault("403", _refusal(lacking, problem))
    return secured


def _describes_problems(document: dict[str, Any]) -> bool:
    return "Problem" in document.get("components", {}).get("schemas", {})


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
