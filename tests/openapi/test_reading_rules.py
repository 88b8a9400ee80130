"""How a capability is read: each rule on an operation of an invented API.

The rules are those of docs/capability.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, validate

from openapi.contract import path_variables

CAPABILITIES = Path(__file__).with_name("capabilities")


def only_upstream(document):
    (upstream,) = document["x-naftiko"]["upstreams"].values()
    return upstream


def operation_of(document: dict[str, Any], operation_id: str) -> dict[str, Any]:
    return next(
        operation
        for item in document["paths"].values()
        for operation in item.values()
        if operation["operationId"] == operation_id
    )


def parameters_of(document: dict[str, Any], operation_id: str) -> list[str]:
    """Each parameter as `in name type`, with ` !` when required."""
    return [
        f"{each['in']} {each['name']} {each['schema']['type']}{' !' * each.get('required', False)}"
        for each in operation_of(document, operation_id).get("parameters", [])
    ]


# --- the whole document ---------------------------------------------------------------------------


def test_every_derived_document_is_valid_openapi_3_0(every_capability, running):
    validate(running(every_capability).document, cls=OpenAPIV30SpecValidator)


def test_every_derived_document_can_be_run(every_capability, running):
    contract = running(every_capability)

    for operation in contract.operations.values():
        upstream = {each.upstream_name for each in operation.parameters}
        assert set(path_variables(operation.upstream_path)) <= upstream
        assert set(path_variables(operation.path)) == {
            each.name for each in operation.parameters if each.location == "path"
        }


def test_every_tool_argument_has_a_name_that_model_providers_accept(every_capability, running):
    for operation in running(every_capability).operations.values():
        renamed = dict(operation.tool.arguments) if operation.tool else {}
        arguments = [
            each.name for each in operation.parameters if each.name not in renamed.values()
        ]
        for argument in [*renamed, *arguments] if operation.tool else []:
            # Anthropic and OpenAI both refuse a whole tool list over one other character.
            assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", argument)


def test_the_info_block_becomes_the_documents(derived):
    assert derived("library")["info"] == {
        "title": "Library — Loans",
        "description": "Loans of an invented library.",
        "version": "2.1.0",
    }


def test_a_capability_without_version_and_description_has_defaults(derived):
    assert derived("kiosk")["info"] == {
        "title": "Kiosk",
        "description": "Kiosk",
        "version": "1.0.0",
    }


def test_each_resource_becomes_one_tag_with_its_description(derived):
    assert derived("library")["tags"][0] == {"name": "loans", "description": "Loans."}
    assert derived("kiosk")["tags"] == [{"name": "orders"}, {"name": "lines"}]


def test_the_mcp_adapter_names_and_instructs_the_server(derived):
    assert derived("notebook")["x-mcp-server"] == {
        "name": "notebook-mcp",
        "instructions": "Tools for a notebook.\n\nPages live in spaces.\n",
    }


def test_a_capability_without_mcp_has_no_server_and_no_tool(derived):
    document = derived("kiosk")

    assert "x-mcp-server" not in document
    assert "x-mcp-tool" not in operation_of(document, "getorder")


def test_the_ports_are_the_capabilitys_and_a_stdio_bridge_has_the_usual_one(derived):
    assert derived("notebook")["x-naftiko"]["ports"] == {"rest": 8080, "mcp": 9091}
    assert derived("barometer")["x-naftiko"]["ports"] == {"rest": 8085, "mcp": 9090}


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("library", "https://api.library.example/v2"),
        ("barometer", "https://{region}.barometer.example/api"),
        ("kiosk", ""),
    ],
)
def test_the_base_uri_is_kept_as_it_stands(derived, name, base):
    assert only_upstream(derived(name))["baseUri"] == base


def test_fixed_paths_stand_before_mixed_and_variable_ones(derived):
    assert list(derived("kiosk")["paths"]) == [
        "/orders/latest",
        "/orders/{order-id}.pdf",
        "/orders/{order-id}",
        "/lines/{line-id}/of/{order-id}",
    ]


@pytest.mark.parametrize(
    ("name", "operation", "text"),
    [
        ("switchboard", "resetpassword", "Reset"),  # the exposed side's own words
        ("kiosk", "latestorder", "The order that came last"),  # the consumed side's
        ("kiosk", "getorder", "getorder"),  # neither has any
    ],
)
def test_an_operation_is_described_by_the_nearest_words(derived, name, operation, text):
    told = operation_of(derived(name), operation)

    assert (told["summary"], told["description"]) == (text, text)


def test_the_answer_is_any_json_since_the_mapping_is_the_identity(derived):
    assert operation_of(derived("library"), "getloan")["responses"]["200"]["content"] == {
        "application/json": {"schema": {}}
    }


# --- authentication -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "authentication", "environment"),
    [
        (
            "library",
            {"type": "bearer", "token": "{{env.LIBRARY_TOKEN}}"},
            {"env.LIBRARY_TOKEN": ["LIBRARY_ACCESS_TOKEN"]},
        ),
        (  # a bare variable is qualified by the bind that has it
            "orchard",
            {
                "type": "apikey",
                "key": "X-Orchard-Key",
                "value": "{{env.ORCHARD_API_KEY}}",
                "placement": "header",
            },
            {"env.ORCHARD_API_KEY": ["ORCHARD_API_KEY"]},
        ),
        (  # no bind lists these two
            "switchboard",
            {
                "type": "basic",
                "username": "{{env.SWITCHBOARD_USER}}",
                "password": "{{env.SWITCHBOARD_PASS}}",
            },
            {
                "env.SWITCHBOARD_USER": ["SWITCHBOARD_USER"],
                "env.SWITCHBOARD_PASS": ["SWITCHBOARD_PASS"],
            },
        ),
        (  # another namespace than env, a renamed key
            "barometer",
            {
                "type": "apikey",
                "key": "appid",
                "value": "{{weather.KEY}}",
                "placement": "query",
            },
            {"weather.KEY": ["BAROMETER_KEY"]},
        ),
        (  # a bare variable of another namespace than env, text around it
            "notebook",
            {
                "type": "apikey",
                "key": "Authorization",
                "value": "Token {{secrets.NOTEBOOK_KEY}}",
                "placement": "header",
            },
            {"secrets.NOTEBOOK_KEY": ["NOTEBOOK_SECRET"]},
        ),
        ("kiosk", {"type": "none"}, {}),
    ],
)
def test_authentication_names_its_variables_and_where_they_come_from(
    derived, name, authentication, environment
):
    document = derived(name)

    assert only_upstream(document)["authentication"] == authentication
    assert document["x-naftiko"]["environment"] == environment


def test_what_authentication_fills_is_not_asked_from_callers(derived):
    assert parameters_of(derived("barometer"), "getreading") == [
        "path place string !",
        "path date string !",
        "query units string",
    ]


# --- path variables -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "operation", "path", "upstream", "names"),
    [
        ("library", "getloan", "/v1/loans/{loan-id}", "/loans/{loan_id}", {"loan-id": "loan_id"}),
        ("orchard", "changetree", "/v1/trees/{treeid}", "/trees/{treeId}", {"treeid": "treeId"}),
        (  # names pair them although the order differs
            "kiosk",
            "deleteline",
            "/lines/{line-id}/of/{order-id}",
            "/orders/{orderId}/lines/{line_id}",
            {"line-id": "line_id", "order-id": "orderId"},
        ),
        (  # no names in common: position pairs them
            "barometer",
            "getreading",
            "/v1/places/{place}/on/{date}",
            "/stations/{station}/readings/{day}",
            {"place": "station", "date": "day"},
        ),
        (  # double braces on both sides
            "notebook",
            "import-pages",
            "/spaces/{space-id}/pages",
            "/spaces/{space_id}/pages",
            {"space-id": "space_id"},
        ),
    ],
)
def test_path_variables_are_paired(derived, name, operation, path, upstream, names):
    document = derived(name)

    assert operation_of(document, operation) in document["paths"][path].values()
    assert operation_of(document, operation)["x-naftiko"]["path"] == upstream
    assert operation_of(document, operation)["x-naftiko"]["names"] == names


def test_an_undeclared_path_variable_is_a_required_string(derived):
    assert parameters_of(derived("library"), "getnote") == [
        "path loan-id string !",
        "path note-id string !",
    ]


def test_a_declared_path_variable_keeps_its_type_and_description(derived):
    (parameter,) = operation_of(derived("library"), "getloan")["parameters"]

    assert parameter["schema"] == {"type": "integer"}
    assert parameter["description"] == "The loan's number."


def test_a_variable_that_the_exposed_path_lost_becomes_a_required_query_parameter(derived):
    document = derived("switchboard")

    assert parameters_of(document, "fetchline") == ["query LineSid string !"]
    assert operation_of(document, "fetchline")["x-naftiko"]["path"] == "/Lines/{LineSid}.json"
    assert parameters_of(document, "fetchcall") == [
        "path linesid string !",
        "query CallSid string !",
    ]


def test_paths_that_differ_only_in_their_variables_names_are_one(derived):
    """OpenAPI 3.0.3, Paths Object: such paths are identical, and two of them are invalid."""
    path = derived("kiosk")["paths"]["/orders/{order-id}"]

    assert [path[each]["operationId"] for each in path] == ["getorder", "deleteorder"]
    assert parameters_of(derived("kiosk"), "deleteorder") == ["path order-id string !"]
    assert path["delete"]["x-naftiko"]["names"] == {"order-id": "number"}


def test_a_query_string_in_a_consumed_path_becomes_constants(derived):
    upstream = operation_of(derived("switchboard"), "resetpassword")["x-naftiko"]

    assert upstream["path"] == "/Passwords"
    assert upstream["constants"] == [
        {"in": "query", "name": "temporary", "value": "false"},
        {"in": "query", "name": "via", "value": "voice mail"},
        {"in": "query", "name": "force", "value": ""},
    ]


# --- other inputs ---------------------------------------------------------------------------------


def test_query_and_header_inputs_keep_name_type_and_requirement(derived):
    assert parameters_of(derived("library"), "listloans") == [
        "query branch_id string !",
        "query page_size integer",
        "query overdue boolean",
        "query status array",
        "query years array",
        "header X-Trace-Id string",
    ]  # and no Accept: the gateway sets that itself


def test_an_arrays_items_are_strings_unless_declared(derived):
    parameters = operation_of(derived("library"), "listloans")["parameters"]

    items = {each["name"]: each["schema"].get("items") for each in parameters}
    assert (items["status"], items["years"]) == ({"type": "string"}, {"type": "integer"})


def test_names_with_brackets_are_kept_here_and_upstream(derived):
    assert parameters_of(derived("orchard"), "listtrees") == [
        "query page[limit] integer",
        "query page[cursor] string",
        "query filter[tags] array",
        "query planted object",
    ]
    assert "names" not in operation_of(derived("orchard"), "listtrees")["x-naftiko"]


def test_an_object_in_the_query_spreads_into_parameters_of_its_own(running):
    """OpenAPI 3.0.3: `form` with `explode` is the default where nothing else is said."""
    operation = running(CAPABILITIES / "orchard.yaml").operations["listtrees"]
    assert any(parameter.takes_unknown for parameter in operation.parameters)


@pytest.mark.parametrize(
    ("name", "operation", "required", "schema"),
    [
        ("library", "createloan", True, {"type": "object"}),
        ("library", "deleteloan", False, {"type": "object"}),
        ("barometer", "query", True, {"type": "object"}),
        ("notebook", "import-pages", True, {"type": "array", "items": {"type": "object"}}),
    ],
)
def test_an_input_in_the_body_is_the_whole_json_body(derived, name, operation, required, schema):
    body = operation_of(derived(name), operation)["requestBody"]

    assert body["required"] is required
    assert body["content"] == {"application/json": {"schema": schema}}


def test_with_renames_and_fixes_inputs(derived):
    document = derived("notebook")

    assert parameters_of(document, "list-pages") == [
        "path space-id string !",
        "query dry_run boolean",
        "query text string !",
        "header client string",
    ]
    assert operation_of(document, "list-pages")["x-naftiko"]["names"] == {
        "space-id": "space_id",
        "text": "q",
        "client": "X-Client",
    }
    assert operation_of(document, "list-pages")["x-naftiko"]["constants"] == [
        {"in": "header", "name": "Notebook-Version", "value": "2026-01-01"},
        {"in": "query", "name": "limit", "value": "50"},
        {"in": "query", "name": "archived", "value": "false"},
        {"in": "query", "name": "sort", "value": "-created"},
        {"in": "query", "name": "ratio", "value": "1.5"},
    ]


def test_a_constant_for_a_path_variable_is_encoded_into_the_upstream_path(derived):
    document = derived("notebook")

    upstream = operation_of(document, "list-template-versions")["x-naftiko"]
    assert upstream["path"] == "/spaces/{space_id}/templates%20%2F%20old/versions"
    assert parameters_of(document, "list-template-versions") == ["path space string !"]


def test_exposed_declarations_refine_what_is_consumed(derived):
    space, dry_run, text, client = operation_of(derived("notebook"), "list-pages")["parameters"]

    assert space["schema"] == {"type": "string", "pattern": "^[a-z0-9]+$"}  # the resource's
    assert dry_run["description"] == "Change nothing."  # the surface's
    assert text["required"] is True  # the operation's
    assert client["description"] == "Who asks."  # the tool's


# --- tools ----------------------------------------------------------------------------------------


def test_a_tools_arguments_have_the_names_that_its_with_gives(derived):
    assert operation_of(derived("notebook"), "list-pages")["x-mcp-tool"]["arguments"] == {
        "space": "space-id",
        "words": "text",
    }


def test_an_implied_path_variable_is_an_argument_under_the_upstreams_name(derived):
    assert operation_of(derived("library"), "getnote")["x-mcp-tool"]["arguments"] == {
        "loan_id": "loan-id",
        "note_id": "note-id",
    }


def test_an_argument_with_brackets_is_offered_under_a_plain_name(derived):
    assert operation_of(derived("orchard"), "listtrees")["x-mcp-tool"]["arguments"] == {
        "page_limit": "page[limit]",
        "page_cursor": "page[cursor]",
        "filter_tags": "filter[tags]",
    }


def test_a_tool_is_titled_by_its_label_else_by_its_description(derived):
    document = derived("library")

    assert operation_of(document, "createloan")["x-mcp-tool"]["title"] == "Lend a book"
    assert operation_of(document, "getloan")["x-mcp-tool"]["title"] == "Get loan"


@pytest.mark.parametrize(
    ("name", "operation", "hints"),
    [
        ("orchard", "gettree", (True, False, True, True)),  # GET
        ("library", "deleteloan", (False, True, True, True)),  # DELETE
        ("orchard", "replacetree", (False, False, True, True)),  # PUT
        ("orchard", "changetree", (False, False, True, True)),  # PATCH
        ("switchboard", "updateline", (False, False, False, True)),  # POST
        ("orchard", "searchtrees", (True, False, False, True)),  # POST that says it only reads
        ("notebook", "import-pages", (False, False, True, False)),  # POST with two hints of its own
    ],
)
def test_hints_are_the_tools_own_else_those_of_the_method(derived, name, operation, hints):
    told = operation_of(derived(name), operation)["x-mcp-tool"]["hints"]

    assert (
        tuple(told[key] for key in ("readOnly", "destructive", "idempotent", "openWorld")) == hints
    )


def test_a_tool_runs_through_the_first_operation_that_makes_its_call(derived):
    assert operation_of(derived("orchard"), "listtrees")["x-mcp-tool"]["name"] == "list-trees"
    assert "x-mcp-tool" not in operation_of(derived("orchard"), "listforest")


def test_an_operation_without_tool_has_none(derived):
    assert "x-mcp-tool" not in operation_of(derived("orchard"), "recentsearches")
