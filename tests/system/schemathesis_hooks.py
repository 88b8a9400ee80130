"""What schemathesis is told besides the document: loaded by its command line, see test_schemathesis. Not a test module."""

from __future__ import annotations

from collections.abc import Mapping

import schemathesis
from requests import Request
from schemathesis import Case, CheckContext, HookContext, Response

LONGEST_URL = 8000
"""Bytes; a little below what gunicorn reads of a request line."""

KEY_IN_USE = ("/problems#idempotency-key-reused", "/problems#idempotency-in-progress")
"""What comes of an Idempotency-Key that an earlier call had."""


OF_FILES = tuple(
    f"/problems#{kind}" for kind in ("not-found", "validation-failed", "malformed-request")
)


@schemathesis.hook
def filter_case(_context: HookContext, case: Case) -> bool:
    """Leaves out what OpenAPI 3.0 has no words for, so that the document cannot say that it is refused."""
    return _is_readable(case) and _is_well_named(case)


def _is_readable(case: Case) -> bool:
    """A longer address gets 414 from gunicorn, before there is an application: see test_hostile_input."""
    url = Request(**case.as_transport_kwargs()).prepare().url
    return url is not None and len(url) < LONGEST_URL


def _is_well_named(case: Case) -> bool:
    """The names of free members have limits, which JSON Schema calls propertyNames and OpenAPI 3.0 lacks."""
    metadata = case.body.get("metadata") if isinstance(case.body, Mapping) else None
    names = metadata if isinstance(metadata, Mapping) else {}
    return "" not in (case.query or {}) and all(1 <= len(name) <= 32 for name in names)


@schemathesis.check
def a_valid_request_is_refused_by_the_upstream_alone(
    _context: CheckContext, response: Response, case: Case
) -> None:
    """Takes the place of positive_data_acceptance, but the upstream may refuse, and an earlier call may be in the way.

    The upstream does for reasons that Mistral's schemas do not state either, such as neither files nor requests. Of files the
    gateway refuses what no schema can say: those that are none of its callers', bad lines, odd fields of a form.
    """
    mode = case.meta.generation.mode if case.meta else None
    if mode and mode.is_positive and 400 <= response.status_code < 500:
        problem = response.json()
        own = OF_FILES if case.path.startswith("/v1/files") else KEY_IN_USE
        assert problem["source"] == "upstream" or problem["type"] in own, response.text
