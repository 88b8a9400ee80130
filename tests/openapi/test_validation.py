"""Large values: their violations are those of small ones, and listing them costs neither time nor memory worth speaking of."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from openapi.validation import MAX_VIOLATIONS, Validator

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["name", "items"],
    "properties": {
        "name": {"type": "string"},
        "hours": {"type": "integer"},
        "tags": {
            "type": "object",
            "x-propertyNames": {"pattern": "^(?!own_)"},
            "additionalProperties": {"type": "string"},
        },
        "items": {
            "type": "array",
            "maxItems": 5000,
            "items": {
                "type": "object",
                "required": ["id"],
                "properties": {
                    "id": {"type": "string"},
                    "parts": {"type": "array", "items": {"type": "integer"}},
                },
            },
        },
    },
}
CHECK = Validator(SCHEMA)
MANY = [{"id": "x"}] * 4000
TAGS = {f"t{number}": "x" for number in range(4000)}


def found(**changes: Any) -> list[tuple[str, str]]:
    value = {"name": "n", "items": MANY, "tags": TAGS, **changes}
    value = {name: member for name, member in value.items() if member is not None}
    return [(violation.pointer, violation.detail) for violation in CHECK.violations(value, "/body")]


@pytest.mark.parametrize(
    ("changes", "pointer", "detail"),
    [
        ({"items": [*MANY, {}]}, "/body/items/4000/id", "is required"),
        ({"items": [*MANY, {"id": 1}]}, "/body/items/4000/id", "must be text"),
        ({"items": [*MANY, 7]}, "/body/items/4000", "must be an object"),
        ({"items": [*MANY, *MANY]}, "/body/items", "must have at most 5000 items"),
        ({"items": TAGS}, "/body/items", "must be an array"),
        ({"items": None}, "/body/items", "is required"),
        ({"items": [{"id": "x", "parts": [*range(4000), "y"]}]}, "/body/items/0/parts/4000", "must be a whole number"),
        ({"name": 1}, "/body/name", "must be text"),
        ({"name": None}, "/body/name", "is required"),
        ({"hours": MANY}, "/body/hours", "must be a whole number"),
        ({"tags": {**TAGS, "last": 1}}, "/body/tags/last", "must be text"),
        ({"tags": {**TAGS, "own_x": "x"}}, "/body/tags", "has a member whose name must match ^(?!own_)"),
    ],
)  # fmt: skip
def test_the_one_fault_in_a_large_value_is_found_with_its_place(
    changes: dict[str, Any], pointer: str, detail: str
) -> None:
    assert found(**changes) == [(pointer, detail)]


def test_all_faults_of_a_large_flat_object_are_listed() -> None:
    strangers = {f"x{number}": 1 for number in range(300)}
    assert sorted(found(items=1.5, tags=None, name=None, hours="x", **strangers)) == [
        ("/body/hours", "must be a whole number"),
        ("/body/items", "must be an array"),
        ("/body/name", "is required"),
    ]


def test_too_many_items_are_told_beside_a_fault_in_one_of_them() -> None:
    assert found(items=[*MANY, *MANY, 7]) == [
        ("/body/items", "must have at most 5000 items"),
        ("/body/items/8000", "must be an object"),
    ]


def test_what_is_said_of_an_object_as_a_whole_is_not_said_of_its_parts() -> None:
    schema = {
        "type": "object", "minProperties": 1, "anyOf": [{"required": ["r"]}, {"required": ["q"]}],
        "additionalProperties": {"type": "string"}, "properties": {"r": {"type": "string"}},
    }  # fmt: skip
    violations = Validator(schema).violations({**TAGS, "r": "x", "last": 1})
    assert [(violation.pointer, violation.detail) for violation in violations] == [
        ("/last", "must be text")
    ]


def test_a_large_value_that_is_no_object_is_told_so() -> None:
    assert [violation.detail for violation in CHECK.violations(MANY)] == ["must be an object"]


def test_a_large_value_without_a_fault_has_none() -> None:
    assert found() == []


@pytest.mark.parametrize(
    "changes", [{"items": [{}] * 4000}, {"tags": dict.fromkeys(TAGS, 1)}, {"items": [1] * 4000}]
)
def test_of_many_faults_one_more_than_the_limit_is_listed(changes: dict[str, Any]) -> None:
    assert len(found(**changes)) == MAX_VIOLATIONS + 1


LITTLE_MEMORY = """
import resource
from openapi.validation import Validator
from openapi.contract import load
check = Validator(load().operations["createbatchjob"].body.schema)
body = {"endpoint": "/v1/chat/completions", "model": "m"}
bodies = [
    {**body, "requests": [{} for _ in range(1_000_000)]},
    {**body, "input_files": [1] * 1_000_000},
    {**body, "timeout_hours": [[] for _ in range(1_000_000)]},
    {**body, "metadata": {f"gw_{number}": "x" for number in range(1_000_000)}},
]
used = 1024 * int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
print([bool(check.violations(body)) for body in bodies])
"""


def test_a_million_faults_take_little_memory() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "[True, True, True, True]\n", ended.stderr[-500:]


def test_names_of_members_are_refused_in_the_schema_s_own_words_where_it_has_some() -> None:
    rule = {"pattern": "^(?!own_)", "maxLength": 9, "description": "must not begin with own_"}
    check = Validator({"properties": {"tags": {"x-propertyNames": rule}}})
    for name, said in (("own_x", "must not begin with own_"), ("x" * 10, "must have at most 9")):
        (violation,) = check.violations({"tags": {name: "x"}})
        assert violation.detail.startswith(f"has a member whose name {said}")
