"""The public surface as one committed snapshot: routes, operations, tools and their arguments.

Whoever changes it changes `surface.yaml` knowingly, in the same commit. It is computed from the
contract, so an operation added to the capability appears in it without any change here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from openapi.contract import Contract, Operation, load
from openapi.derive import OWN_CAPABILITIES, OWN_CAPABILITY, OWN_OVERLAYS, main
from tests.support.addition import Addition, with_an_addition

SNAPSHOT = Path(__file__).with_name("surface.yaml")
UPDATE = "UPDATE_SURFACE"
HEADER = "# The public surface. Written by: UPDATE_SURFACE=1 python -m pytest tests/openapi\n"


def surface(contract: Contract) -> str:
    """The snapshot of a contract: every operation under its route, in the document's order."""
    routes = {f"{each.method} {each.path}": _row(each) for each in contract.operations.values()}
    return HEADER + yaml.safe_dump(routes, sort_keys=False, width=100, allow_unicode=True)


def _row(operation: Operation) -> dict[str, Any]:
    row = {"operation": operation.id, "arguments": _rest_arguments(operation)}
    if operation.tool:
        hints = ("read_only", "destructive", "idempotent", "open_world")
        row["tool"] = operation.tool.name
        row["hints"] = [hint for hint in hints if getattr(operation.tool, hint)]
        row["tool arguments"] = _tool_arguments(operation)
    return row


def _rest_arguments(operation: Operation) -> dict[str, list[str]]:
    inputs = {f"{each.location} {each.name}": each.required for each in operation.parameters}
    if operation.body:
        inputs["body"] = operation.body.required
    return _by_need(inputs)


def _tool_arguments(operation: Operation) -> dict[str, list[str]]:
    """Flat, as the bridge offers them: the members of the body beside the parameters."""
    assert operation.tool
    renamed = {rest: argument for argument, rest in operation.tool.arguments.items()}
    inputs = {renamed.get(each.name, each.name): each.required for each in operation.parameters}
    if operation.body:
        schema = operation.body.schema
        members = schema.get("properties") or {"body": {}}
        needed = schema.get("required", []) if "properties" in schema else ["body"]
        inputs |= {name: operation.body.required and name in needed for name in members}
    return _by_need(inputs)


def _by_need(inputs: dict[str, bool]) -> dict[str, list[str]]:
    return {
        "required": [name for name, required in inputs.items() if required],
        "optional": [name for name, required in inputs.items() if not required],
    }


def test_the_surface_is_the_committed_one():
    current = surface(load())
    if os.environ.get(UPDATE):
        SNAPSHOT.write_text(current, encoding="utf-8")

    assert current == SNAPSHOT.read_text(encoding="utf-8"), (
        "the public surface has changed; if that is intended, run"
        f" `{UPDATE}=1 python -m pytest tests/openapi/test_surface.py` and commit surface.yaml"
    )


def test_the_capability_of_jobs_alone_has_its_operations_as_they_are_in_the_whole(tmp_path):
    output = tmp_path / "openapi.yaml"
    arguments = [f"--overlay={OWN_OVERLAYS[0]}", f"--output={output}"]
    assert main([str(OWN_CAPABILITY), *arguments]) == 0

    alone = yaml.safe_load(surface(load(output)))
    whole = yaml.safe_load(surface(load()))
    assert alone == {route: whole[route] for route in alone}
    assert {"createbatchjob", "listbatchjobs", "getbatchjob", "cancelbatchjob"} <= {
        row["operation"] for row in alone.values()
    }


def test_an_operation_added_to_the_capability_appears_without_any_code(tmp_path):
    addition = with_an_addition(tmp_path)
    row = yaml.safe_load(surface(load(extended(addition))))[f"DELETE {addition.path}"]
    assert row == {
        "operation": addition.operation,
        "arguments": {"required": ["path job-id"], "optional": []},
        "tool": addition.tool,
        "hints": ["destructive", "idempotent", "open_world"],
        "tool arguments": {"required": ["job_id"], "optional": []},
    }


def test_an_added_operation_leaves_the_others_as_they_were(tmp_path):
    addition = with_an_addition(tmp_path)
    before = yaml.safe_load(surface(load()))
    after = yaml.safe_load(surface(load(extended(addition))))

    after.pop(f"DELETE {addition.path}")
    assert after == before


def extended(addition: Addition) -> Path:
    """The project's document with the addition."""
    output = addition.capability.with_name("openapi.yaml")
    capabilities = map(str, [addition.capability, *OWN_CAPABILITIES[1:]])
    overlays = [f"--overlay={overlay}" for overlay in OWN_OVERLAYS]
    assert main([*capabilities, *overlays, f"--output={output}"]) == 0
    return output
