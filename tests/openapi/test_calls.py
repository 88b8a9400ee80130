"""The table of example calls agrees with the contracts of its capabilities, and covers them.

Whether the running service makes these calls is tested with the service.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CAPABILITIES = Path(__file__).with_name("capabilities")
CALLS = yaml.safe_load((CAPABILITIES / "calls.yaml").read_text(encoding="utf-8"))


def matches(template: str, path: str) -> bool:
    pattern = re.sub(r"\\\{[^{}]+?\\\}", "[^/]+", re.escape(template))
    return re.fullmatch(pattern, path) is not None


@pytest.mark.parametrize(
    "call", CALLS, ids=lambda call: f"{call['capability']}-{call['operation']}"
)
def test_a_call_is_one_of_its_contract(running, call: dict[str, Any]):
    contract = running(CAPABILITIES / f"{call['capability']}.yaml")
    operation = contract.operations[call["operation"]]
    request, upstream = call["request"], call["upstream"]

    assert (operation.method, operation.upstream_method) == (request["method"], upstream["method"])
    assert matches(operation.path, request["path"])
    assert matches(operation.upstream_path, upstream["path"].partition("?")[0])
    given = {name for name, _ in request.get("query", [])} | set(request.get("headers", {}))
    declared = {each.name for each in operation.parameters}
    assert given <= declared or any(p.takes_unknown for p in operation.parameters)
    needed = {
        each.name for each in operation.parameters if each.required and each.location != "path"
    }
    assert needed <= given
    assert {source for each in contract.environment.values() for source in each} == set(
        call["environment"]
    )


def test_every_operation_has_a_call(running, family):
    called = {call["operation"] for call in CALLS if call["capability"] == family.stem}

    assert called == set(running(family).operations)
