"""What the bridge offers: the quality of the tools' definitions, and what every client needs of them.

The measures of quality are the deterministic ones of the tool definition quality score (TDQS).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcp_bridge.shortening import compact
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import Contract, ContractError, load
from tests.mcp_bridge.conftest import DOCUMENTS
from tests.support.processes import ROOT

TOOLS = [operation.tool.name for operation in load().operations.values() if operation.tool]
JOB_TOOLS_LIMIT, LIST_LIMIT = 16_000, 24_000
"""Characters of the tools of jobs, and of all tools, as they are listed."""

INSTRUCTIONS_LIMIT = 1_500
"""Characters that tell a model the whole way."""

LOOKS = {"get-batch-job": ["create-batch-job", "cancel-batch-job"], "get-file": ["upload-file"]}
"""Tools that show one thing by its id, and others whose answer is such a thing."""


@pytest.fixture(params=TOOLS)
def tool(request: Any, tools: dict[str, CallableTool]) -> CallableTool:
    return tools[request.param]


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a schema, itself first."""
    if isinstance(node, dict):
        yield node
        for key in ("items", "additionalProperties", "not"):
            yield from schemas(node.get(key))
        for key in ("anyOf", "oneOf", "allOf"):
            for child in node.get(key, []):
                yield from schemas(child)
        for child in node.get("properties", {}).values():
            yield from schemas(child)


def depth(node: Any) -> int:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return 1 + max(map(depth, children), default=0)


def test_every_operation_of_the_contract_with_a_tool_is_offered(
    tools: dict[str, CallableTool], contract: Contract
) -> None:
    assert list(tools) == TOOLS
    assert contract.operations.keys() - {tool.operation.id for tool in tools.values()} == {
        "getfilesignedurl"  # a secret
    }


def test_the_description_says_more_than_name_and_title(tool: CallableTool) -> None:
    said = tool.declared.description.strip().lower()
    assert len(said) > 200, "the overlay's description of the tool is all that a model knows of it"
    assert said not in (tool.declared.name.lower(), tool.declared.title.lower())


def test_the_title_says_more_than_the_name(tool: CallableTool) -> None:
    assert len(tool.declared.title) > len(tool.declared.name)


def test_all_four_hints_are_explicit(tool: CallableTool) -> None:
    hints = {key: value for key, value in tool.listing()["annotations"].items() if key != "title"}
    assert sorted(hints) == ["destructiveHint", "idempotentHint", "openWorldHint", "readOnlyHint"]
    assert all(isinstance(value, bool) for value in hints.values())


def test_every_input_at_any_depth_has_a_description(tool: CallableTool) -> None:
    for schema in schemas(tool.input_schema):
        for name, child in schema.get("properties", {}).items():
            assert child.get("description"), name


def test_every_output_at_any_depth_has_a_description(tool: CallableTool) -> None:
    for schema in schemas(tool.output_schema):
        for name, child in schema.get("properties", {}).items():
            assert child.get("description"), name


def test_the_schemas_are_valid_json_schema_2020_12(tool: CallableTool) -> None:
    Draft202012Validator.check_schema(tool.input_schema)
    Draft202012Validator.check_schema(tool.output_schema)


def test_unknown_arguments_are_closed_out(tool: CallableTool) -> None:
    assert tool.input_schema["type"] == "object"
    assert tool.input_schema["additionalProperties"] is False


def test_no_schema_has_what_clients_refuse(tool: CallableTool) -> None:
    """Type arrays and formats break Gemini, unions at the root Claude and OpenAI, $ref several."""
    for schema in [*schemas(tool.input_schema), *schemas(tool.output_schema)]:
        assert "$ref" not in schema
        assert isinstance(schema.get("type", ""), str)
        assert schema.get("format", "date-time") == "date-time"
        assert not isinstance(schema.get("exclusiveMinimum"), bool)
    for schema in (tool.input_schema, tool.output_schema):
        assert not {"anyOf", "oneOf", "allOf", "not", "enum"} & schema.keys()


def test_array_inputs_say_what_they_hold_and_enums_are_texts(tool: CallableTool) -> None:
    for schema in schemas(tool.input_schema):
        assert schema.get("type") != "array" or schema["items"].get("type")
        assert all(isinstance(value, str) for value in schema.get("enum", []))


def test_names_fit_the_limits_of_every_client(tool: CallableTool) -> None:
    """Cursor: 60 characters with the server's name; Anthropic: arguments of [A-Za-z0-9_.-]{1,64}."""
    assert len(tool.declared.name) <= 40
    for name in tool.arguments:
        assert name.replace("_", "").replace("-", "").isalnum() and len(name) <= 64


def test_the_schemas_are_neither_deep_nor_large(tool: CallableTool) -> None:
    assert depth(tool.input_schema) <= 12
    assert depth(tool.output_schema) <= 20
    assert len(json.dumps(tool.listing())) < 15_000


def test_a_word_for_an_argument_leads_to_one_argument_and_is_not_listed(tool: CallableTool) -> None:
    words = [
        alias for each in tool.arguments.values() for alias in each.schema.get("x-aliases", [])
    ]
    assert len(words) == len({*words}) and not {*words} & {*tool.arguments}
    assert "x-" not in json.dumps(tool.listing()["inputSchema"])


def test_the_list_is_of_a_bounded_size(tools: dict[str, CallableTool]) -> None:
    sizes = {name: len(compact(tool.listing())) for name, tool in tools.items()}
    print(f"tools/list: {sum(sizes.values())} characters, {sizes}")
    assert sum(size for name, size in sizes.items() if "job" in name) < JOB_TOOLS_LIMIT
    assert sum(sizes.values()) < LIST_LIMIT


def test_the_instructions_tell_the_whole_way_in_few_words(contract: Contract) -> None:
    said = contract.mcp_instructions
    assert len(said) < INSTRUCTIONS_LIMIT
    way = (
        "create-batch-job",
        "custom_id",
        "wait",
        "summary",
        "only failed",
        "new job",
        "custom_id",
    )
    at = 0
    for step in way:
        at = said.index(step, at) + 1
    assert {"upload-file", "list-batch-jobs", "idempotency_key", "costs money"} <= {
        word for word in (*TOOLS, "idempotency_key", "costs money") if word in said
    }


def test_results_are_described_as_they_are_shown(tools: dict[str, CallableTool]) -> None:
    shown = tools["get-batch-job"].output_schema["properties"]
    assert shown["outputs"]["items"] == {"type": "object"}  # which may be in brief, or in full
    assert "custom_id" in shown["outputs"]["description"]
    assert shown["summary"]["description"] and shown["next_from"]["description"]


def test_a_thing_is_described_by_the_tool_that_shows_it_alone(
    tools: dict[str, CallableTool],
) -> None:
    for look, others in LOOKS.items():
        assert len(tools[look].output_schema["properties"]) > 10
        assert tools[look].output_schema["properties"]["id"]["description"]
        for name in others:
            schema = tools[name].output_schema
            assert schema["type"] == "object" and list(schema["properties"]) == ["_note"]
            assert schema["description"] == f"As {look} has it."
        listed = tools[look.replace("get-", "list-") + "s"].output_schema["properties"]["data"]
        assert listed["description"]
        assert listed["items"]["description"] == f"As {look} has it."


def test_an_example_is_left_out_that_the_description_names(tools: dict[str, CallableTool]) -> None:
    made = tools["create-batch-job"].input_schema["properties"]
    assert (
        "examples" not in made["model"] and "mistral-small-latest" in made["model"]["description"]
    )
    assert made["metadata"]["examples"]


def test_an_unforeseen_field_status_or_null_fits_the_output_schema(tool: CallableTool) -> None:
    validator = Draft202012Validator(tool.output_schema)
    properties = tool.output_schema["properties"]
    for odd in (
        {},
        dict.fromkeys(properties),
        {"new_field": [1]},
        {"status": "NEW", "object": "x"},
    ):
        validator.validate({**odd, "_note": "A note."})


def test_nobody_is_sent_to_an_api_whose_key_they_do_not_have(
    tools: dict[str, CallableTool], contract: Contract
) -> None:
    said = json.dumps([contract.mcp_instructions, *[tool.listing() for tool in tools.values()]])
    said += "".join(tool.declared.shortened for tool in tools.values())
    for words in ("Files API", "cannot upload", "no tool"):
        assert words not in said
    assert {"upload-file", "read-file"} <= {name for name in tools if name in said}


def test_nothing_that_a_model_reads_of_a_tool_is_of_another_interface(
    tools: dict[str, CallableTool], contract: Contract
) -> None:
    said = json.dumps([contract.mcp_instructions, *[tool.listing() for tool in tools.values()]])
    said += "".join(tool.declared.shortened for tool in tools.values())
    for word in ("pstream", "REST", "GATEWAY_", "GET ", "POST ", "/v1/batch", "/v1/files", "eader"):
        assert word not in said


def test_no_wording_of_the_bridge_names_its_contract() -> None:
    """A tool of another document must read as well: what is specific comes from the document."""
    for source in (ROOT / "mcp_bridge").glob("*.py"):
        text = source.read_text().lower()
        assert "mistral" not in text and "batch" not in text, source.name


class TestAnotherDocument:
    def test_a_default_of_the_tool_is_advertised(self, odd_tools: Any) -> None:
        assert odd_tools["list-things"].input_schema["properties"]["limit"]["default"] == 5

    def test_a_default_for_no_argument_is_refused(self) -> None:
        contract = load(DOCUMENTS / "odd.yaml")
        (listing,) = [o for o in contract.operations.values() if o.id == "listthings"]
        assert listing.tool
        bad = replace(listing, tool=replace(listing.tool, defaults={"limits": 5}))
        with pytest.raises(ContractError, match="limits"):
            build_tools(replace(contract, operations={bad.id: bad}))

    def test_an_argument_has_the_name_that_the_tool_gives_it(self, odd_tools: Any) -> None:
        assert odd_tools["list-things"].arguments["level"].target == "X-Level"

    def test_what_the_service_alone_writes_is_no_input(self, odd_tools: Any) -> None:
        assert "id" not in odd_tools["make-thing"].input_schema["properties"]
        assert odd_tools["make-thing"].input_schema["required"] == ["name"]

    def test_a_body_whose_member_is_named_like_a_parameter_stays_whole(
        self, odd_tools: Any
    ) -> None:
        assert list(odd_tools["replace-thing"].arguments) == ["name", "body"]

    def test_an_input_without_description_gets_one(self, odd_tools: Any) -> None:
        assert odd_tools["replace-thing"].input_schema["properties"]["name"]["description"]

    def test_only_tools_that_act_again_when_repeated_take_a_key(self, odd_tools: Any) -> None:
        takes = {name: "idempotency_key" in tool.arguments for name, tool in odd_tools.items()}
        assert [name for name, took in takes.items() if took] == ["make-thing"]

    def test_a_file_of_a_form_is_given_as_objects_or_as_text(self, odd_tools: Any) -> None:
        tool = odd_tools["add-pictures"]
        places = {each.name: (each.location, each.target) for each in tool.arguments.values()}
        assert places == {
            "name": ("path", "name"),
            "front_lines": ("file-lines", "front"),
            "front_text": ("file-text", "front"),
            "front_name": ("file-name", "front"),
            "back_lines": ("file-lines", "back"),
            "back_text": ("file-text", "back"),
            "back_name": ("file-name", "back"),
            "tags": ("field", "tags"),
            "form_name": ("field", "name"),
            "size": ("field", "size"),
        }
        assert tool.input_schema["required"] == ["name", "tags", "form_name"]
        assert tool.input_schema["properties"]["front_name"]["default"] == "front.svg"

    def test_an_answer_that_is_no_json_is_read_by_lines(self, odd_tools: Any) -> None:
        tool = odd_tools["read-log"]
        places = {each.name: each.location for each in tool.arguments.values()}
        assert places == {"name": "path", "count": "query", "from": "from", "line_count": "count"}
        assert list(tool.output_schema["properties"]) == ["_note", "from", "lines", "next_from"]

    def test_an_outcome_is_looked_for_with_tools_that_read_the_same_upstream(
        self, odd_tools: Any, tools: Any
    ) -> None:
        assert odd_tools["make-thing"].checks == "list-things"
        of_jobs, of_files = (
            set(tools[name].checks.split(" or ")) for name in ("create-batch-job", "upload-file")
        )
        assert {"list-batch-jobs", "get-batch-job"} <= of_jobs
        assert {"list-files", "get-file"} <= of_files
        assert of_jobs.isdisjoint(of_files)

    def test_an_answer_that_is_no_object_is_described_as_a_member(self, odd_tools: Any) -> None:
        result = odd_tools["list-things"].output_schema["properties"]["result"]
        assert "items" in result and "type" not in result  # which null fits as well

    def test_limits_of_an_answer_are_not_advertised(self, odd_tools: Any) -> None:
        text = json.dumps(odd_tools["make-thing"].output_schema)
        assert not any(word in text for word in ("minimum", "maxItems", "enum", "required"))
