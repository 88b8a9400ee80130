"""What the overlay says holds: Mistral's shapes, valid examples, a word on everything, failures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml
from openapi_spec_validator import OpenAPIV30SpecValidator

from openapi import contract
from openapi.json_schema import to_json_schema
from openapi.validation import Validator

Node = dict[str, Any]

# Mistral's OpenAPI document of 2026-08-13, schema ApiEndpoint.
ENDPOINTS = [
    "/v1/audio/transcriptions",
    "/v1/chat/classifications",
    "/v1/chat/completions",
    "/v1/chat/moderations",
    "/v1/classifications",
    "/v1/conversations",
    "/v1/embeddings",
    "/v1/fim/completions",
    "/v1/moderations",
    "/v1/ocr",
]
# Mistral's OpenAPI document of 2026-08-13, schema BatchJobStatus.
STATUSES = [
    "CANCELLATION_REQUESTED",
    "CANCELLED",
    "FAILED",
    "QUEUED",
    "RUNNING",
    "SUCCESS",
    "TIMEOUT_EXCEEDED",
]

PROBLEMS = "/problems#"
# Each kind of problem that an operation can answer with, and the statuses it may carry.
PROBLEM_STATUSES = {
    "malformed-request": {400},
    "validation-failed": {422},
    "request-timeout": {408},
    "content-too-large": {413},
    "unsupported-media-type": {415},
    "overloaded": {503},
    "internal-error": {500},
    "create-outcome-unknown": {504},
    "outcome-still-unknown": {409},
    "idempotency-in-progress": {409},
    "idempotency-key-reused": {422},
    "idempotency-store-unavailable": {503},
    "rate-limited": {429},
    "too-many-requests": {429},
    "upstream-rejected": {status for status in range(400, 500) if status not in (401, 403, 429)},
    "upstream-failed": set(range(500, 600)),
    "upstream-refused-key": {502},
    "upstream-bad-response": {502},
    "upstream-unreachable": {502},
    "upstream-redirected": {502},
    "upstream-answer-too-large": {502},
    "upstream-timeout": {504},
}
JSON = {"Content-Type": "application/json"}
FAILURES = {"400", "402", "422", "429", "500", "502", "503", "504"}

OPERATIONS = contract.load().operations.values()
operations = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)


def test_the_ten_endpoints_of_mistral_can_be_asked_for(document: Node) -> None:
    assert sorted(document["components"]["schemas"]["ApiEndpoint"]["enum"]) == ENDPOINTS


def test_the_seven_statuses_of_mistral_can_be_filtered_for_and_are_known_in_answers(
    document: Node,
) -> None:
    schemas = document["components"]["schemas"]
    assert sorted(schemas["BatchJobStatus"]["enum"]) == STATUSES
    assert sorted(schemas["BatchJob"]["properties"]["status"]["x-extensible-enum"]) == STATUSES


def test_a_status_and_a_member_that_mistral_adds_are_valid_in_an_answer(document: Node) -> None:
    (job,) = [
        example["value"]
        for example in _response(document, "getbatchjob", "200")["examples"].values()
        if example["value"]["status"] == "RUNNING"
    ]
    schema = _response(document, "getbatchjob", "200")["schema"]
    assert _faults(schema, {**job, "status": "PAUSED", "priority": "low"}) == []


# Mistral's OpenAPI document of 2026-08-13, schemas CreateBatchJobRequest and BatchRequest.
@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({}, []),
        ({"surprise": 1}, []),
        ({"model": None, "agent_id": None, "metadata": None, "input_files": None}, []),
        ({"requests": [{"body": {}}] * 10_000}, []),
        ({"requests": [{"body": {}}] * 10_001}, ["/requests"]),
        ({"requests": [{"custom_id": "1"}]}, ["/requests/0"]),
        ({"requests": [{"custom_id": None, "body": {}, "method": "POST"}]}, []),
        ({"endpoint": "/v1/models"}, ["/endpoint"]),
        ({"timeout_hours": 1}, []),
        ({"timeout_hours": 168}, []),
        ({"timeout_hours": 0}, ["/timeout_hours"]),
        ({"timeout_hours": 169}, ["/timeout_hours"]),
        ({"timeout_hours": None}, ["/timeout_hours"]),
        ({"input_files": ["nine"]}, ["/input_files/0"]),
        ({"metadata": {"team": "x" * 512}}, []),
        ({"metadata": {"team": "x" * 513}}, ["/metadata/team"]),
        ({"metadata": {"team": ""}}, ["/metadata/team"]),
        ({"metadata": {"team": 7}}, ["/metadata/team"]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_creation_is_held_to_the_limits_that_mistral_states(
    document: Node, change: Node, pointers: list[str]
) -> None:
    schema = document["components"]["schemas"]["CreateBatchJobRequest"]
    assert _faults(schema, {"endpoint": "/v1/embeddings", **change}) == pointers


def test_names_of_metadata_have_1_to_32_characters(document: Node) -> None:
    creation = document["components"]["schemas"]["CreateBatchJobRequest"]
    limits = creation["properties"]["metadata"]["x-propertyNames"]
    assert (limits["minLength"], limits["maxLength"]) == (1, 32)


# The first three are what the official SDKs send; an unescaped plus sign arrives as a space.
@pytest.mark.parametrize(
    ("moment", "accepted"),
    [
        ("2026-01-02T03:04:05Z", True),
        ("2026-01-02T03:04:05.678000", True),
        ("2026-01-02T03:04:05.000Z", True),
        ("2026-01-02T03:04:05+01:00", True),
        ("2026-01-02", True),
        ("2026-01-02T03:04:05 01:00", False),
        ("yesterday", False),
    ],
)
def test_created_after_takes_dates_with_and_without_an_offset(
    document: Node, moment: str, accepted: bool
) -> None:
    (schema,) = [
        parameter["schema"]
        for parameter in document["paths"]["/v1/batch/jobs"]["get"]["parameters"]
        if parameter["name"] == "created_after"
    ]
    assert (_faults(schema, moment) == []) is accepted


def test_undeclared_query_parameters_of_the_list_are_metadata_filters() -> None:
    takers = {o.id for o in OPERATIONS if any(p.takes_unknown for p in o.parameters)}
    assert takers == {"listbatchjobs"}


def test_every_example_is_valid_under_the_schema_beside_it(document: Node) -> None:
    examples = list(_examples(document, "#"))
    assert len(examples) > 50
    found = {place: _faults(schema, value) for place, schema, value in examples}
    assert {place: faults for place, faults in found.items() if faults} == {}


@operations
def test_every_request_and_every_answer_has_an_example(
    document: Node, operation: contract.Operation
) -> None:
    declared = document["paths"][operation.path][operation.method.lower()]
    bodies = [
        *declared["responses"].values(),
        *([declared["requestBody"]] if operation.body else []),
    ]
    assert all(_media(body)["examples"] for body in bodies)


@operations
def test_every_operation_parameter_and_member_has_a_description(
    document: Node, operation: contract.Operation
) -> None:
    declared = document["paths"][operation.path][operation.method.lower()]
    assert list(_undescribed(declared, operation.id)) == []


@pytest.mark.parametrize(
    "tool", [each.tool for each in OPERATIONS if each.tool], ids=lambda tool: tool.name
)
def test_a_tool_says_more_than_its_name_and_title(tool: contract.Tool) -> None:
    assert len(tool.title) > len(tool.name)
    assert tool.title.lower().replace(" ", "-") != tool.name
    assert len(tool.description) > 3 * len(tool.title)


def test_the_signed_url_alone_has_no_tool_since_it_is_a_secret() -> None:
    assert [each.id for each in OPERATIONS if not each.tool] == ["getfilesignedurl"]


def test_a_wrong_name_leads_to_one_right_name(document: Node) -> None:
    for schema in document["components"]["schemas"].values():
        members = schema.get("properties", {})
        wrong = [alias for member in members.values() for alias in member.get("x-aliases", [])]
        assert len(wrong) == len({*wrong})
        assert not {*wrong} & {*members}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("input_file_id", "input_files"),  # OpenAI's name
        ("completion_window", "timeout_hours"),  # OpenAI's name
        ("timeoutHours", "timeout_hours"),  # Pipedream's component sends it
        ("url", "endpoint"),  # OpenAI's name, in a line of a file
        ("output_expires_after", None),  # OpenAI's, without a counterpart here
        ("priority", None),
    ],
)
def test_names_that_are_seen_in_the_wild_are_known_as_wrong(wrong: str, right: str | None) -> None:
    body = contract.load().operations["createbatchjob"].body
    assert body
    typos, _ = Validator(body.schema).unknown_members({wrong: 1})
    meant = [f"is not a known member; did you mean {right}?"] if right else []
    assert [violation.detail for violation in typos] == meant


@operations
def test_every_operation_documents_the_failures_it_can_have(
    document: Node, operation: contract.Operation
) -> None:
    responses = document["paths"][operation.path][operation.method.lower()]["responses"]
    expected = {"200", *FAILURES}
    expected |= {"404", "408", "413", "415"} if operation.body else set()
    expected |= {"404"} if contract.path_variables(operation.path) else set()
    expected |= {"409"} if operation.takes_key else set()
    assert {*responses} == expected


@operations
def test_every_answer_names_the_request_and_a_wait_where_one_helps(
    document: Node, operation: contract.Operation
) -> None:
    responses = document["paths"][operation.path][operation.method.lower()]["responses"]
    assert all("X-Request-ID" in response["headers"] for response in responses.values())
    waits = {
        status for status, response in responses.items() if "Retry-After" in response["headers"]
    }
    assert waits - {"409"} == {"429", "503"}
    assert ("409" in waits) is operation.takes_key


@operations
def test_what_may_not_be_done_twice_takes_an_idempotency_key_that_ends_at_the_gateway(
    document: Node, operation: contract.Operation
) -> None:
    declared = document["paths"][operation.path][operation.method.lower()]
    keys = [each for each in declared.get("parameters", []) if each["name"] == "Idempotency-Key"]
    assert [key["x-gateway"] for key in keys] == ([True] if operation.takes_key else [])


@operations
def test_no_input_of_an_operation_is_for_the_gateway_alone(operation: contract.Operation) -> None:
    assert "Idempotency-Key" not in {parameter.name for parameter in operation.parameters}


@operations
def test_every_documented_failure_is_a_known_problem_with_its_status(
    document: Node, operation: contract.Operation
) -> None:
    responses = document["paths"][operation.path][operation.method.lower()]["responses"]
    for status, response in responses.items():
        if status == "200":
            continue
        assert {*response["content"]} == {"application/problem+json"}
        for example in _media(response)["examples"].values():
            problem = example["value"]
            assert problem["status"] == int(status)
            assert int(status) in PROBLEM_STATUSES[problem["type"].removeprefix(PROBLEMS)]


def test_every_kind_of_problem_has_one_title_and_an_example(document: Node) -> None:
    titles = {
        (problem["type"].removeprefix(PROBLEMS), problem["title"])
        for response in document["components"]["responses"].values()
        for problem in (example["value"] for example in _media(response)["examples"].values())
    }
    assert sorted(kind for kind, _ in titles) == sorted(PROBLEM_STATUSES)


def test_no_construct_of_openapi_3_1_is_used(document: Node) -> None:
    schemas = [node for _, node in _nodes(document["components"]["schemas"], "")]
    assert not [node for node in schemas if isinstance(node.get("type"), list)]
    assert not [node for node in schemas if {"const", "propertyNames", "$defs"} & {*node}]


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV30SpecValidator(_raw()).validate()


# Connexion 3.3 imports two names that jsonschema 4 keeps only with a warning.
def _raw() -> Node:
    raw: Node = yaml.load(contract.DEFAULT_DOCUMENT.read_bytes(), yaml.CSafeLoader)
    return raw


def _response(document: Node, operation_id: str, status: str) -> Node:
    (declared,) = [
        operation
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and operation.get("operationId") == operation_id
    ]
    return _media(declared["responses"][status])


def _media(body: Node) -> Node:
    media: Node
    (media,) = body["content"].values()
    return media


def _faults(schema: Node, value: Any) -> list[str]:
    """JSON pointers to the parts of `value` that break `schema`, formats included."""
    validator = jsonschema_rs.Draft202012Validator(
        to_json_schema(schema, null="type"), validate_formats=True
    )
    return sorted(
        {
            "".join(f"/{token}" for token in error.instance_path)
            for error in validator.iter_errors(value)
        }
    )


def _examples(node: Any, place: str) -> Iterator[tuple[str, Node, Any]]:
    """(place, schema, value) of each example, whether it stands beside its schema or within it."""
    for inner, found in _nodes(node, place):
        if isinstance(found.get("schema"), dict):
            for name, example in found.get("examples", {}).items():
                yield f"{inner}/examples/{name}", found["schema"], example["value"]
            if "example" in found:
                yield f"{inner}/example", found["schema"], found["example"]
        elif "example" in found and "type" in found:
            yield f"{inner}/example", found, found["example"]


def _undescribed(node: Any, place: str) -> Iterator[str]:
    for inner, found in _nodes(node, place):
        named = {"operationId", "in"} & {*found}
        if named and not found.get("description"):
            yield inner
        for name, member in found.get("properties", {}).items():
            if not member.get("description"):
                yield f"{inner}/properties/{name}"


def _nodes(node: Any, place: str) -> Iterator[tuple[str, Node]]:
    """Every object with its place; what an example holds is data and not looked into."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _nodes(item, f"{place}/{index}")
    if not isinstance(node, dict):
        return
    yield place, node
    for key, child in node.items():
        if key not in ("example", "examples", "value", "default", "enum"):
            yield from _nodes(child, f"{place}/{key}")
