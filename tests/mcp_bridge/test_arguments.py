"""Arguments as a request of the REST service."""

from __future__ import annotations

import io
import json
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from msgspec import Raw
from werkzeug.formparser import parse_form_data

from mcp_bridge.arguments import MAX_UNKNOWN, BadArguments, read_call
from mcp_bridge.canonical import LARGE
from mcp_bridge.rest_client import RestRequest
from mcp_bridge.tools import MAX_LINES, CallableTool
from openapi.contract import Contract
from service.request_reader import OperationReader
from tests.support.api import JOB_ID

Tools = dict[str, CallableTool]
CREATE: dict[str, Any] = {"endpoint": "/v1/embeddings", "requests": [{"body": {"input": "x"}}]}


def rest_request(tool: CallableTool, given: dict[str, Any] | Raw, caller: str) -> RestRequest:
    return read_call(tool, given, caller).request


def query(call: RestRequest) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(call.target).query, keep_blank_values=True)


def faults(tool: CallableTool, arguments: dict[str, Any] | Raw) -> list[str]:
    with pytest.raises(BadArguments) as caught:
        rest_request(tool, arguments, "test")
    return caught.value.violations


def nested(levels: int) -> Any:
    """A list in a list in a list, so many levels deep."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def test_a_path_argument_is_put_into_the_path(tools: Tools) -> None:
    call = rest_request(tools["get-batch-job"], {"job_id": JOB_ID}, "test")
    assert (call.method, call.target, call.body) == ("GET", f"/v1/batch/jobs/{JOB_ID}", None)


@pytest.mark.parametrize(
    ("name", "given", "ids"),
    [
        ("get-batch-job", {"job_id": JOB_ID, "custom_ids": ["a"]}, (("job_id", JOB_ID),)),
        ("read-file", {"file_id": JOB_ID}, (("file_id", JOB_ID),)),
        ("list-batch-jobs", {"model": "m"}, ()),
        ("create-batch-job", {"endpoint": "/v1/ocr", "model": "m"}, ()),
        ("create-batch-job", {"endpoint": "/v1/ocr", "input_files": [JOB_ID] * 9}, (("input_files", JOB_ID),) * 5),
    ],
)  # fmt: skip
def test_what_a_call_means_that_is_there_is_known_by_its_arguments(
    tools: Tools, name: str, given: dict[str, Any], ids: tuple[tuple[str, str], ...]
) -> None:
    assert read_call(tools[name], given, "test").ids == ids


def test_a_path_argument_cannot_leave_its_place(odd_tools: Tools) -> None:
    call = rest_request(odd_tools["replace-thing"], {"name": "a/../b?c#%", "body": {}}, "test")
    assert call.target == "/v1/things/a%2F..%2Fb%3Fc%23%25"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_path_argument_of_dots_is_refused(odd_tools: Tools, name: str) -> None:
    assert len(faults(odd_tools["replace-thing"], {"name": name, "body": {}})) == 1


def test_query_arguments_are_written_as_the_contract_says(odd_tools: Tools) -> None:
    given = {"ids": [1, 2], "tags": ["a", "b c"], "limit": 3, "level": "debug"}
    call = rest_request(odd_tools["list-things"], given, "test")
    assert query(call) == [("ids", "1,2"), ("tags", "a"), ("tags", "b c"), ("limit", "3")]
    assert call.headers["X-Level"] == "debug"


def test_true_and_numbers_are_written_as_json_writes_them(tools: Tools) -> None:
    call = rest_request(tools["list-batch-jobs"], {"created_by_me": True, "page": 2}, "test")
    assert {("created_by_me", "true"), ("page", "2")} <= set(query(call))


def test_members_of_a_free_query_object_are_parameters_of_their_own_in_brackets(
    tools: Tools,
) -> None:
    call = rest_request(
        tools["list-batch-jobs"], {"metadata": {"project": "x&y", "n": "1"}}, "test"
    )
    assert {("metadata[project]", "x&y"), ("metadata[n]", "1")} <= set(query(call))


def test_a_member_with_brackets_in_its_name_is_understood_by_the_service(
    tools: Tools, contract: Contract
) -> None:
    """Within other brackets the service does not take it, whatever it is called."""
    given = {"a[b]": "1", "status[]": "2", "c]": "3", "page_size[x]": "4", "d.e": "5"}
    call = rest_request(tools["list-batch-jobs"], {"metadata": given}, "test")
    target = urlsplit(call.target)
    reader = OperationReader(contract.operations["listbatchjobs"], contract, 0)
    request, _ = reader.read(
        {
            "type": "http", "method": "GET", "path": target.path, "path_params": {}, "headers": [],
            "query_string": target.query.encode(),
        }
    )  # fmt: skip
    assert set(request.filters) == given.keys()


def test_a_member_of_a_free_query_object_cannot_pass_for_an_argument(tools: Tools) -> None:
    (fault,) = faults(tools["list-batch-jobs"], {"metadata": {"page_size": "9"}})
    assert fault.startswith("metadata") and "page_size" in fault


def test_a_header_argument_cannot_carry_another_header(odd_tools: Tools) -> None:
    (fault,) = faults(odd_tools["list-things"], {"level": "a\r\nX-Evil: 1"})
    assert fault.startswith("level")


def test_defaults_of_the_tool_are_sent_unless_given(odd_tools: Tools) -> None:
    assert query(rest_request(odd_tools["list-things"], {}, "test")) == [("limit", "5")]
    assert query(rest_request(odd_tools["list-things"], {"limit": 9}, "test")) == [("limit", "9")]


def test_a_list_is_small_unless_more_is_asked_for(tools: Tools) -> None:
    assert ("page_size", "20") in query(rest_request(tools["list-batch-jobs"], {}, "test"))


def test_flat_members_become_the_json_body(tools: Tools) -> None:
    call = rest_request(tools["create-batch-job"], CREATE, "test")
    assert json.loads(call.body or b"") == {"timeout_hours": 24, **CREATE}  # as the tool advertises
    assert call.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "given",
    [
        {"body": CREATE},
        {"body": json.dumps(CREATE)},
        {**CREATE, "requests": json.dumps(CREATE["requests"])},
        {**CREATE, "requests": [json.dumps(CREATE["requests"][0])]},
        {**CREATE, "requests": [{"body": json.dumps({"input": "x"})}]},
        {"body": {"endpoint": CREATE["endpoint"]}, "requests": CREATE["requests"]},
        {**CREATE, "requests": CREATE["requests"][0]},
        {**CREATE, "idempotency_key": None},
        {"body": json.dumps({**CREATE, "requests": json.dumps(CREATE["requests"])})},
    ],
)
def test_other_ways_to_say_the_same_send_the_same(tools: Tools, given: dict[str, Any]) -> None:
    call = rest_request(tools["create-batch-job"], given, "test")
    assert call == rest_request(tools["create-batch-job"], CREATE, "test")


def test_a_number_or_flag_as_text_is_read(tools: Tools) -> None:
    given = {"page": "1", "created_by_me": "true", "status": "RUNNING"}
    read = {"page": 1, "created_by_me": True, "status": ["RUNNING"]}
    tool = tools["list-batch-jobs"]
    assert rest_request(tool, given, "test") == rest_request(tool, read, "test")


def test_text_that_looks_like_json_stays_text_where_text_is_meant(tools: Tools) -> None:
    call = rest_request(
        tools["create-batch-job"], {**CREATE, "model": "1", "timeout_hours": "5"}, "x"
    )
    assert json.loads(call.body or b"")["model"] == "1"
    assert json.loads(call.body or b"")["timeout_hours"] == 5


def test_null_for_what_may_be_left_out_is_left_out(tools: Tools) -> None:
    call = rest_request(tools["get-batch-job"], {"job_id": JOB_ID, "inline": None}, "test")
    assert query(call) == []


def test_null_is_left_out_also_where_the_service_takes_it(odd_tools: Tools) -> None:
    """No schema of a tool offers null, and a repeat that says one more must not act a second time."""
    given = {"name": "a", "size": 1}
    call = rest_request(odd_tools["make-thing"], {**given, "note": None}, "test")
    assert call == rest_request(odd_tools["make-thing"], given, "test")


def test_null_for_what_is_required_is_a_fault(tools: Tools) -> None:
    assert faults(tools["get-batch-job"], {"job_id": None})


def test_every_fault_is_named_at_once(tools: Tools) -> None:
    found = faults(
        tools["create-batch-job"],
        {"timeout_hours": 900, "requests": [{"custom_id": 1}], "modell": "x"},
    )
    for place in ("endpoint", "timeout_hours", "requests.0.custom_id", "requests.0.body"):
        assert any(fault.startswith(f"{place} ") for fault in found), place
    assert len(found) == 5


@pytest.mark.parametrize(
    ("tool", "wrong", "right"),
    [
        ("create-batch-job", "timeoutHours", "timeout_hours"),
        ("create-batch-job", "completion_window", "timeout_hours"),
        ("create-batch-job", "input_file_id", "input_files"),
        ("create-batch-job", "Model", "model"),
        ("get-batch-job", "jobid", "job_id"),
        ("list-batch-jobs", "pagesize", "page_size"),
        ("create-batch-job", "idempotencyKey", "idempotency_key"),
        *(
            ("create-batch-job", word, "idempotency_key")
            for word in ("key", "nonce", "client_request_id", "clientToken", "request_key")
        ),
        *(("create-batch-job", word, "agent_id") for word in ("agent", "agentId")),
        *(
            ("read-file", word, "from")
            for word in ("offset", "start", "skip", "start_line", "form")
        ),
        *(("read-file", word, "count") for word in ("limit", "lines", "max_lines", "n", "counts")),
        *(("read-file", word, "file_id") for word in ("id", "fileId", "output_file", "file")),
        *(
            (tool, word, "job_id")
            for tool in ("get-batch-job", "cancel-batch-job")
            for word in ("id", "batch_id", "batchId", "job")
        ),
        *(("get-batch-job", word, "inline") for word in ("include_results", "outputs", "in_line")),
        ("upload-file", "expires_in", "expiry"),
        ("list-batch-jobs", "metadata_filter", "metadata"),
        *(("delete-file", word, "file_id") for word in ("id", "file")),
        *(("upload-file", word, "file_text") for word in ("file", "content", "text", "contents")),
        *(("upload-file", word, "file_lines") for word in ("lines", "requests", "fileLines")),
        *(("upload-file", word, "file_name") for word in ("filename", "name")),
        *(("list-batch-jobs", word, "page") for word in ("offset", "cursor", "after_id")),
    ],
)
def test_a_misspelt_argument_is_answered_with_its_name(
    tools: Tools, tool: str, wrong: str, right: str
) -> None:
    (fault,) = [
        fault for fault in faults(tools[tool], {wrong: "x"}) if fault.startswith(f"{wrong} ")
    ]
    assert fault.endswith(f"{right}?")


# What clients add to the arguments of a call: n8n, Cursor, Letta, LangChain and agents that think aloud.
ADDED = {
    "toolCallId": "call_1", "sessionId": "s", "action": "sendMessage", "chatInput": "x", "tool": "t", "toolName": "t",
    "requestId": "r", "request_id": "r", "nodeId": "n", "model_node": "n", "message_id": "m", "traceId": "t", "runId": "r",
    "_meta": {"a": 1}, "explanation": "why", "thought": "hm", "thinking": [], "random_string": "x", "kwargs": {},
}  # fmt: skip


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("create-batch-job", CREATE),
        ("create-batch-job", {"body": CREATE}),
        ("list-batch-jobs", {"page": 1}),
        ("get-batch-job", {"job_id": JOB_ID}),
        ("cancel-batch-job", {"job_id": JOB_ID}),
        ("upload-file", {"file_lines": [{"a": 1}]}),
        ("read-file", {"file_id": JOB_ID}),
    ],
)
def test_what_a_client_adds_is_left_out_with_a_note_and_changes_nothing(
    tools: Tools, name: str, given: dict[str, Any], size: int
) -> None:
    """The model did not write it and cannot correct it; nor is a repeat with another toolCallId another call."""
    plain = read_call(tools[name], as_text(given, size), "me")
    added = read_call(tools[name], as_text({**ADDED, **given}, size), "me")
    left_out = added.note.partition(": ")[2].partition(".")[0]
    assert plain.note == "" and set(left_out.split(", ")) == ADDED.keys()
    if name == "upload-file":  # a form has a boundary of its own
        assert added.request.headers.keys() == plain.request.headers.keys()
    else:
        assert replace(added, note="") == plain


LESS = (
    "dry_run", "dryRun", "dryrun", "is_dry_run", "dry-run", "--dry-run", "DRY_RUN", "validate_only", "validateOnly", "validation_only",
    "validate", "check_only", "preview", "simulate", "simulation", "test_mode", "test", "what_if", "no_op", "plan_only", "draft",
    "confirm", "confirmed", "require_confirmation", "schedule", "scheduled_at", "schedule_time", "run_at", "start_at", "startTime",
    "execute_after", "not_before", "delay", "delay_seconds", "defer_until", "at", "if_match", "only_if_idle", "soft_delete", "max_cost",
)  # fmt: skip


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("create-batch-job", CREATE),
        ("cancel-batch-job", {"job_id": JOB_ID}),
        ("upload-file", {"file_lines": [{"a": 1}]}),
        ("delete-file", {"file_id": JOB_ID}),
    ],
)
def test_a_wish_for_less_than_the_deed_or_for_another_time_is_refused_by_what_changes_something(
    tools: Tools, name: str, given: dict[str, Any], size: int
) -> None:
    """Left out, it would turn a rehearsal into the deed."""
    for wish in LESS:
        (fault,) = faults(tools[name], as_text({**given, wish: True, "toolCallId": "1"}, size))
        assert fault.startswith(f"{wish} ") and f"{name} acts at once" in fault
    for wrapped in ("body", "options"):
        found = faults(tools[name], as_text({**given, wrapped: {"dry_run": "yes"}}, size))
        assert len(found) == 1 and "cannot only try" in found[0]
    for wish, value in {"execute": False, "mode": "dry-run"}.items():
        (fault,) = faults(tools[name], as_text({**given, wish: value}, size))
        assert fault.startswith(f"{wish} ")


@pytest.mark.parametrize(
    "added",
    [
        {"dry_run": False},
        {"dryRun": "false"},
        {"preview": None},
        {"confirm": ""},
        {"execute": True},
        {"plan": "First I ..."},
    ],
)
def test_what_wishes_for_all_of_the_deed_is_left_out(tools: Tools, added: dict[str, Any]) -> None:
    given = {"file_id": JOB_ID}
    plain, call = (
        read_call(tools["delete-file"], each, "me") for each in (given, {**given, **added})
    )
    assert replace(call, note="") == plain and call.note.endswith(f": {next(iter(added))}.")


def test_a_wish_for_less_means_nothing_where_nothing_is_changed(tools: Tools) -> None:
    call = read_call(tools["get-batch-job"], {"job_id": JOB_ID, "dry_run": True}, "me")
    assert call.note.endswith(": dry_run.")


def test_what_is_added_within_a_body_is_left_out_as_well(tools: Tools) -> None:
    tool = tools["create-batch-job"]
    for body in ({**CREATE, "toolCallId": "1"}, json.dumps({**CREATE, "toolCallId": "1"})):
        call = read_call(tool, {"body": body}, "me")
        assert "toolCallId" in call.note
        assert replace(call, note="") == read_call(tool, CREATE, "me")


def test_a_note_says_what_a_tool_takes_instead(tools: Tools) -> None:
    call = read_call(tools["get-batch-job"], {"job_id": JOB_ID, "colour": "red"}, "me")
    assert call.note == (
        "Left out of the call, since get-batch-job takes only job_id, inline, wait, only, from, count,"
        " custom_ids, full, numbers, part: colour."
    )
    assert "red" not in str(call)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("page", "from"), ("offset", "from"), ("status", "only"), ("limit", "count")],
)
def test_another_word_for_a_choice_of_results_is_refused_with_the_right_one(
    tools: Tools, given: str, meant: str
) -> None:
    """Left out, the same results would be shown again."""
    arguments = {"job_id": JOB_ID, "inline": True, given: 2}
    assert faults(tools["get-batch-job"], arguments) == [
        f"{given} is not a known member; did you mean {meant}?"
    ]


def test_a_filter_that_was_left_out_is_told_where_it_belongs(tools: Tools) -> None:
    """For one that was not heeded, everything is found."""
    call = read_call(tools["list-batch-jobs"], {"project": "nightly"}, "me")
    assert call.note.endswith(
        ": project. To find only what has such a member, give it within metadata."
    )


def test_what_was_left_out_is_named_beside_what_is_wrong(tools: Tools) -> None:
    with pytest.raises(BadArguments) as caught:
        rest_request(tools["get-batch-job"], {"colour": "red", "toolCallId": "1"}, "me")
    assert caught.value.violations == ["job_id is required"]
    assert caught.value.note.endswith(": colour, toolCallId.")


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    "name", ["[a" * 100_000, "[a" * 30_000 + "[page_siz", "[" * 250_000 + "page"]
)
def test_a_name_of_many_brackets_is_looked_at_once_in_a_few_parts_only(
    tools: Tools, name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr("openapi.names.letters", lambda name: looked_at.append(name) or name)
    rest_request(tools["list-batch-jobs"], as_text({name: 1}, size), "me")
    assert len(looked_at) <= 6 and max(map(len, looked_at)) <= 200


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
def test_more_arguments_that_a_tool_does_not_have_than_a_client_adds_are_refused(
    tools: Tools, size: int
) -> None:
    strange = {f"zzz{number}": 1 for number in range(MAX_UNKNOWN + 1)}
    with pytest.raises(BadArguments) as caught:
        rest_request(tools["create-batch-job"], as_text({**CREATE, **strange}, size), "me")
    (fault,) = caught.value.violations
    assert f"{MAX_UNKNOWN + 1} arguments" in fault and "timeout_hours" in fault


@pytest.mark.parametrize("wrong", ["completion_window", "timeoutHours", "input_file_id", "Modell"])
def test_a_misspelt_argument_is_found_after_any_number_of_unknown_members(
    tools: Tools, wrong: str
) -> None:
    """OpenAI's requests have three members each that Mistral's have not."""
    request = {"custom_id": "a", "method": "POST", "zone": "x", "body": {"input": "x"}}
    requests = [{**request, "custom_id": str(number)} for number in range(200)]
    found = faults(tools["create-batch-job"], {**CREATE, "requests": requests, wrong: "24h"})
    assert any(fault.startswith(f"{wrong} ") for fault in found)


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("empty", ["", "  ", None, [], {}])
def test_an_optional_argument_that_is_empty_is_one_left_out(
    tools: Tools, empty: Any, size: int
) -> None:
    create, jobs, files = (
        tools[name] for name in ("create-batch-job", "list-batch-jobs", "upload-file")
    )
    for tool, given, names in (
        (jobs, {"page": 1}, jobs.arguments.keys() - {"page"}),
        (create, CREATE, create.arguments.keys() - CREATE.keys()),
    ):
        plain = rest_request(tool, as_text(given, size), "me")
        for name in names:
            assert rest_request(tool, as_text({**given, name: empty}, size), "me") == plain, name
    if empty != "  ":  # which may be what is in a file
        sent = rest_request(files, as_text({"file_lines": [{}], "file_text": empty}, size), "me")
        assert b"{}" in (sent.body or b"")


@pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
def test_something_empty_is_given_where_the_contract_says_that_it_means_something(
    odd_tools: Tools, size: int
) -> None:
    call = rest_request(odd_tools["make-thing"], as_text({"name": "a", "parts": []}, size), "me")
    assert json.loads(call.body or b"") == {"name": "a", "parts": []}


def test_what_is_required_is_not_left_out_by_being_empty(tools: Tools) -> None:
    assert faults(tools["get-batch-job"], {"job_id": ""})
    assert faults(tools["create-batch-job"], {**CREATE, "endpoint": ""})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"created_by_me": "True"}, ("created_by_me", "true")),
        ({"created_by_me": "FALSE"}, ("created_by_me", "false")),
        ({"created_by_me": "1"}, ("created_by_me", "true")),
        ({"created_by_me": 1}, ("created_by_me", "true")),
        ({"created_by_me": 0.0}, ("created_by_me", "false")),
        ({"created_by_me": "yes"}, ("created_by_me", "true")),
        ({"created_by_me": " no "}, ("created_by_me", "false")),
        ({"order_by": " created"}, ("order_by", "created")),
        ({"page_size": " 7 "}, ("page_size", "7")),
        ({"page_size": "7.0"}, ("page_size", "7")),
        ({"page_size": 7e0}, ("page_size", "7")),
        ({"page_size": "1e1"}, ("page_size", "10")),
        ({"status": "running"}, ("status", "RUNNING")),
        ({"status": ["Running"]}, ("status", "RUNNING")),
        ({"status": '["RUNNING"]'}, ("status", "RUNNING")),
        ({"status": "SUCCESS, running"}, ("status", "RUNNING")),
        ({"order_by": "Created"}, ("order_by", "created")),
    ],
)
def test_a_value_is_understood_as_the_service_understands_its_text(
    tools: Tools, given: dict[str, Any], read: tuple[str, str]
) -> None:
    assert read in query(rest_request(tools["list-batch-jobs"], given, "me"))


@pytest.mark.parametrize(
    "given",
    [
        {"page_size": 7.5}, {"page_size": "7.5"}, {"page_size": True}, {"page_size": "7 jobs"}, {"page_size": 1e300},
        {"created_by_me": 2}, {"created_by_me": "maybe"}, {"created_by_me": ["true"]}, {"status": "DONE"},
    ],
)  # fmt: skip
def test_a_value_that_could_mean_several_things_is_refused(
    tools: Tools, given: dict[str, Any]
) -> None:
    assert len(faults(tools["list-batch-jobs"], given)) == 1


def test_the_same_member_with_two_values_is_a_fault(tools: Tools) -> None:
    (fault,) = faults(tools["create-batch-job"], {**CREATE, "body": {"endpoint": "/v1/ocr"}})
    assert fault.startswith("endpoint ")


def test_a_body_that_is_no_object_is_a_fault(tools: Tools) -> None:
    assert any(
        fault.startswith("body ") for fault in faults(tools["create-batch-job"], {"body": 1})
    )


def test_json_text_that_is_none_is_a_fault(tools: Tools) -> None:
    for text in ("[", "not json", "[" * 100_000):
        assert faults(tools["create-batch-job"], {**CREATE, "requests": text})


@pytest.mark.parametrize(
    "given",
    [
        {**CREATE, "model": "\ud800"},
        {**CREATE, "requests": [{"body": {"input": "\udfff"}}]},
        {**CREATE, "requests": [{"body": nested(300)}]},
        {**CREATE, "requests": [{"body": {"input": nested(5000)}}]},
    ],
    ids=["surrogate", "surrogate-inside", "nested-wrongly", "nested-too-deeply"],
)
def test_what_cannot_be_written_as_json_is_a_fault(tools: Tools, given: dict[str, Any]) -> None:
    assert len(faults(tools["create-batch-job"], given)) == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_has_none_for_is_a_fault(tools: Tools, number: float) -> None:
    """Python reads and writes it; as null, it would be another call."""
    given = {**CREATE, "requests": [{"body": {"input": number}}]}
    (fault,) = faults(tools["create-batch-job"], given)
    assert "a number in it that JSON does not have" in fault


def test_a_rule_for_the_whole_body_is_checked_though_not_advertised(odd_tools: Tools) -> None:
    assert len(faults(odd_tools["make-thing"], {"name": "a"})) == 1
    assert rest_request(odd_tools["make-thing"], {"name": "a", "parts": []}, "test")


def test_a_value_is_never_echoed(tools: Tools) -> None:
    found = faults(tools["create-batch-job"], {"endpoint": "SECRET", "model": ["SECRET"]})
    assert len(found) == 2 and "SECRET" not in " ".join(found)


class TestIdempotencyKey:
    def key(self, tool: CallableTool, given: dict[str, Any], caller: str = "test") -> str:
        return rest_request(tool, given, caller).headers["Idempotency-Key"]

    def test_is_sent_for_tools_that_act_again_when_repeated(self, tools: Tools) -> None:
        keyed = {name for name, tool in tools.items() if tool.keyed}
        files = {"upload-file", "list-files", "get-file", "delete-file", "read-file"}
        assert "create-batch-job" in keyed
        assert keyed.isdisjoint(files | {"list-batch-jobs", "get-batch-job", "cancel-batch-job"})
        for name, given in (("get-batch-job", {"job_id": JOB_ID}), ("list-batch-jobs", {})):
            assert "Idempotency-Key" not in rest_request(tools[name], given, "test").headers

    def test_follows_from_the_caller_s_own_when_given_and_from_nothing_else(
        self, tools: Tools
    ) -> None:
        tool = tools["create-batch-job"]
        keys = {
            self.key(tool, {**CREATE, **more, "idempotency_key": "mine-1"})
            for more in ({}, {"model": "m"})
        }
        assert len(keys) == 1
        assert keys != {self.key(tool, {**CREATE, "idempotency_key": "mine-2"})}

    def test_of_the_caller_s_own_is_not_shared_by_callers(self, tools: Tools) -> None:
        given = {**CREATE, "idempotency_key": "mine-1"}
        tool = tools["create-batch-job"]
        assert self.key(tool, given) != self.key(tool, given, caller="another")

    def test_that_is_none_is_refused_with_what_one_looks_like(self, tools: Tools) -> None:
        for bad, said in (
            ("a b", "must look like run-2"),
            ("k" * 256, "must have at most 255 characters"),
        ):
            given = {**CREATE, "idempotency_key": bad}
            assert faults(tools["create-batch-job"], given) == [f"idempotency_key {said}"]

    def test_of_the_caller_s_own_is_known_as_that(self, tools: Tools) -> None:
        tool = tools["create-batch-job"]
        for more, given in (
            ({}, False),
            ({"idempotency_key": "k"}, True),
            ({"idempotency_key": None}, False),
        ):
            assert read_call(tool, {**CREATE, **more}, "test").key_given is given

    def test_is_no_part_of_the_body(self, tools: Tools) -> None:
        call = rest_request(
            tools["create-batch-job"], {**CREATE, "idempotency_key": "mine-1"}, "test"
        )
        assert "idempotency_key" not in json.loads(call.body or b"")

    def test_is_the_same_when_a_default_is_spelt_out(self, tools: Tools) -> None:
        tool = tools["create-batch-job"]
        assert self.key(tool, CREATE) == self.key(tool, {**CREATE, "timeout_hours": 24})

    SAME = (
        {}, {"timeout_hours": 24}, {"timeout_hours": 24.0}, {"timeout_hours": "24"}, {"timeout_hours": "24.0"},
        {"timeout_hours": None}, {"metadata": {}}, {"metadata": None}, {"metadata": ""}, {"metadata": "{}"},
        {"input_files": []}, {"input_files": "[]"}, {"agent_id": ""}, {"agent_id": None}, {"model": " "}, {"toolCallId": "7"},
        {"idempotency_key": ""}, {"requests": [{"custom_id": None, "body": {"input": "x", "n": 1.0}}]},
        {"requests": [{"body": {"n": 1, "input": "\u0078"}}]}, {"requests": {"body": {"input": "x", "n": 1e0}}},
        {"requests": '[{"body": {"input": "x", "n": 1}}]'},
    )  # fmt: skip
    OTHER = (
        {"timeout_hours": 25}, {"metadata": {"a": "1"}}, {"metadata": {"a": "0"}}, {"model": "m"}, {"agent_id": "m"}, {"model": "m "},
        {"endpoint": "/v1/ocr"}, {"idempotency_key": "x"}, {"requests": [{"body": {"input": "x", "n": True}}]},
        {"requests": [{"body": {"input": "x", "n": None}}]}, {"requests": [{"body": {"input": "x", "n": "1"}}]},
        {"requests": [{"body": {"input": "x", "n": 1.5}}]}, {"requests": [{"body": {"input": "x", "n": []}}]},
        {"requests": [{"body": {"input": "x"}}]}, {"requests": [{"body": {"input": "", "n": 1}}]},
        {"requests": [{"custom_id": "", "body": {"input": "x", "n": 1}}]},
        {"requests": [{"custom_id": "1", "body": {"input": "x", "n": 1}}]},
        {"requests": [{"body": {"input": "x", "n": 1}}] * 2}, {"requests": [{"body": {"input": "x", "n": 9007199254740993}}]},
        {"requests": [{"body": {"input": "x", "n": 9007199254740992}}]},
    )  # fmt: skip

    @pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
    def test_and_the_request_are_the_same_for_all_ways_to_say_one_thing_and_for_nothing_else(
        self, tools: Tools, size: int
    ) -> None:
        """A second key for the same thing is a second job, which is paid for; a second thing under one key is not done."""
        tool = tools["create-batch-job"]
        plain = {**CREATE, "requests": [{"body": {"input": "x", "n": 1}}]}
        same, other = (
            [read_call(tool, as_text({**plain, **each}, size), "me") for each in several]
            for several in (self.SAME, self.OTHER)
        )
        for given, call in zip(self.SAME, same, strict=True):
            assert replace(call, note="") == same[0], given
        keys = [call.request.headers["Idempotency-Key"] for call in (same[0], *other)]
        assert len(set(keys)) == len(keys)

    def test_is_another_where_a_value_beside_the_body_differs_from_the_one_in_it(
        self, tools: Tools
    ) -> None:
        """In Python True equals 1."""
        one, other = ([{"body": {"input": "x", "n": n}}] for n in (1, True))
        given = {"endpoint": "/v1/ocr", "requests": one, "body": {"requests": other}}
        (fault,) = faults(tools["create-batch-job"], given)
        assert fault.startswith("requests is given twice")

    def test_cannot_carry_another_header(self, tools: Tools) -> None:
        assert faults(tools["create-batch-job"], {**CREATE, "idempotency_key": "a\r\nb: c"})

    @pytest.mark.parametrize("own", [{}, {"idempotency_key": "mine-1"}], ids=["made", "given"])
    def test_and_the_body_are_the_same_for_the_same_call_in_another_order(
        self, tools: Tools, own: dict[str, str]
    ) -> None:
        tool = tools["create-batch-job"]
        body = {"input": "x", "model": {"b": 1, "a": [{"d": 1, "c": 2}]}}
        given = {**CREATE, "requests": [{"custom_id": "1", "body": body}]}
        other = {"model": {"a": [{"c": 2, "d": 1}], "b": 1}, "input": "x"}
        turned = {**CREATE, "requests": [{"body": other, "custom_id": "1"}]}
        one, two = (
            rest_request(tool, {**each, **own}, "test")
            for each in (given, dict(reversed(turned.items())))
        )
        assert one == two

    def test_differs_for_other_arguments_callers_and_tools(self, tools: Tools) -> None:
        tool = tools["create-batch-job"]
        keys = {
            self.key(tool, CREATE),
            self.key(tool, {**CREATE, "model": "m"}),
            self.key(tool, CREATE, caller="another"),
            self.key(replace(tool, declared=replace(tool.declared, name="another")), CREATE),
        }
        assert len(keys) == 4

    @pytest.mark.parametrize("many", [1, 80_000], ids=["one giant", "a giant and as many numbers"])
    def test_and_the_body_are_the_same_for_ways_to_write_one_large_request(
        self, tools: Tools, many: int
    ) -> None:
        long, numbers = "x" * LARGE, [1] * many
        one, other = (
            Raw(
                b'{"endpoint":"/v1/ocr","requests":%b}'
                % text.replace("LONG", long).replace("NUMBERS", json.dumps(numbers)).encode()
            )
            for text in (
                """[{"custom_id":null,"body":{"n":1.0,"a":[{"content":"LONG","b":null}]}},
                {"body":{"input":NUMBERS}},{"body":{"input":NUMBERS}},{"body":{"input":NUMBERS}},{"body":{"input":NUMBERS}}]""",
                """[ { "body" : { "a" : [ {"b": null, "content": "LONG"}], "n": 1}},
                {"body":{"input":NUMBERS}},{"body":{"input":NUMBERS }},{"body":{"input":NUMBERS}}, {"body":{"input":NUMBERS}}]""",
            )
        )
        tool = tools["create-batch-job"]
        assert rest_request(tool, one, "me") == rest_request(tool, other, "me")
        assert self.key(tool, other) != self.key(tool, Raw(bytes(other).replace(b"null", b"1")))

    def test_and_the_body_are_the_same_for_ids_in_another_case(self, tools: Tools) -> None:
        tool = tools["create-batch-job"]
        one, other = (
            rest_request(tool, {"endpoint": "/v1/ocr", "input_files": [id]}, "me")
            for id in (JOB_ID.lower(), JOB_ID.upper())
        )
        assert one == other

    def test_fits_every_store_of_keys(self, tools: Tools) -> None:
        key = self.key(tools["create-batch-job"], CREATE)
        assert len(key) <= 64 and key.replace("-", "").isalnum()


SPELT = [
    {"endpoint": "/v1/ocr", "requests": [{"body": {"b": 1, "a": [1.5, None, 'é"\\']}}], "metadata": {"z": "1", "a": "2"}},
    {"endpoint": "/v1/ocr", "requests": [{"body": {}}], "model": None, "idempotency_key": "mine"},
    {"endpoint": "/v1/ocr", "requests": {"body": {}}},
    {"endpoint": "/v1/ocr", "requests": '[{"body": {"x": 1}}]'},
    {"body": {"endpoint": "/v1/ocr", "requests": [{"body": {}}], "model": None}, "metadata": None},
    {"body": {"endpoint": "/v1/ocr", "requests": [{"body": {}}], "model": "m"}, "model": None},
]  # fmt: skip


def as_text(given: Any, size: int = 0) -> Raw:
    """`given` as JSON text with members turned round, spaces, and at least `size` bytes."""
    text = json.dumps(turned(given), indent=2).encode()
    return Raw(text[:1] + b" " * size + text[1:])


def turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return [turned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("size", [0, LARGE])
@pytest.mark.parametrize("given", SPELT)
def test_arguments_as_text_make_the_request_that_they_make_as_objects(
    tools: Tools, given: Any, size: int
) -> None:
    """Byte for byte, with the same key: the service tells a repeat from another request by the bytes."""
    tool = tools["create-batch-job"]
    assert rest_request(tool, given, "me") == rest_request(tool, as_text(given, size), "me")


def test_a_body_has_one_spelling(tools: Tools) -> None:
    given = {**CREATE, "requests": [{"body": {"z": 1.50, "a": [1e2, True, "é"]}}]}  # 100 is 1e2
    call = rest_request(tools["create-batch-job"], given, "test")
    assert call.body == (
        '{"endpoint":"/v1/embeddings","requests":[{"body":{"a":[100,true,"é"],"z":1.5}}],'
        '"timeout_hours":24}'.encode()
    )


def test_arguments_as_text_go_where_those_of_other_tools_go(tools: Tools, odd_tools: Tools) -> None:
    for tool, given in [
        (tools["list-batch-jobs"], {"metadata": {"project": "x"}, "page": 2, "status": ["FAILED"]}),
        (odd_tools["replace-thing"], {"name": "a", "body": {"x": [1, {"y": None}]}}),
    ]:
        one, other = (rest_request(tool, each, "test") for each in (given, as_text(given, LARGE)))
        assert (one.target, one.headers) == (other.target, other.headers)
        assert one.body == other.body or json.loads(one.body or b"") == json.loads(
            other.body or b""
        )


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (b"[]", "what is given must be an object"),
        (b'{"endpoint": "/v1/ocr", "requests": [%b]}', "requests must have at most 10000 items"),
        (b'{"endpoint": "/v1/ocr", "requests": "[%b]"}', "requests must be null or an array"),
        (b'{"endpoint": "/v1/ocr", "body": {"requests": [%b]}}', "body"),
        (b'{"endpoint": "/v1/ocr", "requests": [{"body": {"x": "\\ud83d"}}]}', "what is given"),
    ],
)
def test_arguments_as_text_that_cannot_be_sent_are_refused(
    tools: Tools, given: bytes, fault: str
) -> None:
    text = given % b",".join([b"{}"] * 300_001) if b"%b" in given else given
    with pytest.raises(BadArguments) as caught:
        rest_request(tools["create-batch-job"], Raw(text), "test")
    assert any(each.startswith(fault) for each in caught.value.violations)


def test_json_in_texts_is_read_only_up_to_a_number_of_values_in_a_call(tools: Tools) -> None:
    """Each text by itself would be read; as objects all of them would take twenty times their size."""
    text = json.dumps([{"body": {}}] * 60_000)
    given = {"endpoint": "/v1/ocr", "requests": [text] * 5}
    with pytest.raises(BadArguments) as refused:
        rest_request(tools["create-batch-job"], given, "me")
    assert "requests.4 must be an object" in refused.value.violations


@pytest.mark.parametrize("size", [0, LARGE])
def test_a_whole_number_is_the_same_however_it_is_spelt(tools: Tools, size: int) -> None:
    """RFC 8259 section 6 knows one kind of number; a repeat that spells it 24.0 must not buy a second job."""
    tool = tools["create-batch-job"]
    plain, odd = (
        rest_request(tool, as_text({**CREATE, "timeout_hours": hours}, size), "me")
        for hours in (24, 24.0)
    )
    assert plain == odd and b"24.0" not in (odd.body or b"")
    assert rest_request(tool, {**CREATE, "timeout_hours": 24.0}, "me") == plain


def test_a_whole_number_is_written_into_the_query_as_one(tools: Tools, odd_tools: Tools) -> None:
    request = rest_request(tools["list-batch-jobs"], {"page_size": 10.0, "page": "1.0"}, "test")
    assert {("page_size", "10"), ("page", "1")} <= set(query(request))
    assert ("ids", "1,2") in query(rest_request(odd_tools["list-things"], {"ids": [1.0, 2]}, "x"))


def test_null_for_all_arguments_is_none_of_them(tools: Tools) -> None:
    tool = tools["list-batch-jobs"]
    assert rest_request(tool, Raw(b"null"), "test") == rest_request(tool, {}, "test")


SIZES = pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
OBJECTS = [{"custom_id": "a", "body": {"n": 1.50, "text": "line\nbreak é😀"}}, {"b": []}]


class TestAFormWithAFile:
    """Expectations: RFC 7578 for the form, https://jsonlines.org for lines of JSON."""

    def sent(
        self, tool: CallableTool, given: dict[str, Any], size: int = 0
    ) -> tuple[dict[str, list[str]], dict[str, tuple[str | None, str, bytes]]]:
        """Fields and files (name, media type, content) of the form, as a server reads it."""
        request = rest_request(tool, as_text(given, size), "me")
        assert request.method == "POST" and request.body is not None
        environ = {
            "REQUEST_METHOD": "POST",
            "CONTENT_TYPE": request.headers["Content-Type"],
            "CONTENT_LENGTH": str(len(request.body)),
            "wsgi.input": io.BytesIO(request.body),
        }
        _, fields, files = parse_form_data(environ, silent=False)
        read = {}
        for part, file in files.items():
            with closing(file):
                read[part] = (file.filename, file.mimetype, file.read())
        return fields.to_dict(flat=False), read

    @SIZES
    def test_has_objects_as_lines_of_json(self, tools: Tools, size: int) -> None:
        objects = OBJECTS * (1 + size // 100)
        fields, files = self.sent(tools["upload-file"], {"file_lines": objects}, size)
        name, media_type, content = files["file"]
        lines = content.decode().split("\n")
        assert lines.pop() == ""
        assert [json.loads(line) for line in lines] == objects
        assert list(json.loads(lines[0])) == ["body", "custom_id"]  # in the order that was given
        assert (name, media_type) == ("requests.jsonl", "application/jsonl")
        assert fields == {"purpose": ["batch"]}

    def test_has_an_object_on_one_line_that_was_written_on_several(self, tools: Tools) -> None:
        text = json.dumps({"file_lines": OBJECTS * 5000}, indent=2).replace("\n", "\r\n")
        request = rest_request(tools["upload-file"], Raw(text.encode()), "me")
        assert (request.body or b"").count(b'"custom_id"') == 5000
        assert sum(line.startswith(b"{") for line in (request.body or b"").split(b"\n")) == 10_000

    @SIZES
    def test_has_a_text_as_it_is(self, tools: Tools, size: int) -> None:
        text = '{"custom_id": "\\u00e9\\n\\"é😀\\ud83d"}\r\n \t\n' * (1 + size // 30)
        given = {"file_text": text, "file_name": "ä b.jsonl", "purpose": "other", "expiry": 24}
        fields, files = self.sent(tools["upload-file"], given, size)
        assert files["file"] == ("ä b.jsonl", "application/jsonl", text.encode())
        assert fields == {"purpose": ["other"], "expiry": ["24"]}

    @pytest.mark.parametrize("unit", ["é", "😀", '\\"', "\n", "\x01", "x", "😀,", "\\: "])
    def test_has_a_long_text_as_it_is_wherever_it_is_cut(self, tools: Tools, unit: str) -> None:
        for shift in range(6):
            text = "x" * shift + unit * (LARGE // len(json.dumps(unit)) + LARGE)
            for dumped in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
                given = Raw(b'{"file_text":%b}' % dumped.encode())
                body = rest_request(tools["upload-file"], given, "me").body or b""
                assert text.encode() in body

    @SIZES
    def test_has_its_text_also_when_another_argument_has_to_be_read_again(
        self, tools: Tools, size: int
    ) -> None:
        given = {"file_text": "x", "expiry": "24"}
        fields, files = self.sent(tools["upload-file"], given, size)
        assert files["file"][2] == b"x" and fields["expiry"] == ["24"]

    def test_has_each_part_under_its_own_name(self, odd_tools: Tools) -> None:
        given = {
            "name": "n", "form_name": "x", "tags": ["a", "b"], "size": 2,
            "front_text": "<svg/>", "back_lines": [{"a": 1}],
        }  # fmt: skip
        fields, files = self.sent(odd_tools["add-pictures"], given)
        assert fields == {"tags": ["a", "b"], "name": ["x"], "size": ["2"]}
        assert files == {
            "front": ("front.svg", "image/svg+xml", b"<svg/>"),
            "back": ("back", "application/octet-stream", b'{"a":1}\n'),
        }

    def test_carries_no_key(self, tools: Tools) -> None:
        call = rest_request(tools["upload-file"], {"file_text": "x"}, "me")
        assert "Idempotency-Key" not in call.headers

    @pytest.mark.parametrize(
        "given",
        [
            {"file_lines": json.dumps(OBJECTS)},
            {"file_lines": [json.dumps(each) for each in OBJECTS]},
            {"body": {"file_lines": OBJECTS}},
            {"body": json.dumps({"file_lines": OBJECTS})},
            {"file_lines": OBJECTS, "file_text": None},
        ],
    )
    @SIZES
    def test_is_understood_however_it_is_handed_over(
        self, tools: Tools, given: dict[str, Any], size: int
    ) -> None:
        _, files = self.sent(tools["upload-file"], given, size)
        assert [json.loads(line) for line in files["file"][2].splitlines()] == OBJECTS

    @pytest.mark.parametrize(
        ("given", "fault"),
        [
            ({}, "file_lines or file_text is required"),
            ({"file_text": "x", "file_lines": [{}]}, "file_lines and file_text are one content"),
            ({"file_text": ""}, "file_lines or file_text is required"),
            ({"file_text": {"a": 1}}, "file_text must be text"),
            ({"file_lines": [1]}, "file_lines.0 must be an object"),
            ({"file_lines": [{"a": float("nan")}]}, "what is given"),
            ({"file_text": "\ud83d"}, "what is given"),
            ({"file_text": "x", "file_name": "/etc/passwd"}, "file_name must look like data.jsonl"),
            ({"file_text": "x", "file_name": 'a";b'}, "file_name must look like data.jsonl"),
            ({"file_text": "x", "file_name": "a\r\nb"}, "file_name must look like data.jsonl"),
            ({"file": "x"}, "file_lines or file_text is required"),
        ],
    )
    @SIZES
    def test_that_cannot_be_meant_is_refused(
        self, tools: Tools, given: dict[str, Any], fault: str, size: int
    ) -> None:
        with pytest.raises(BadArguments) as caught:
            rest_request(tools["upload-file"], as_text(given, size), "me")
        assert any(each.startswith(fault) for each in caught.value.violations)

    def test_of_too_many_lines_is_refused_before_they_are_built(self, tools: Tools) -> None:
        given = Raw(b'{"file_lines":[%b{}]}' % (b"{}," * MAX_LINES))
        with pytest.raises(BadArguments, match="file_lines must have at most 100000 items"):
            rest_request(tools["upload-file"], given, "me")


def test_a_part_of_the_answer_is_the_bridge_s_own_affair(tools: Tools, odd_tools: Tools) -> None:
    given = {"job_id": JOB_ID, "part": "errors", "from": "5"}
    call = read_call(tools["get-batch-job"], given, "me")
    assert (call.part, call.first, call.selection) == ("errors", 5, None)
    assert call.request.target == f"/v1/batch/jobs/{JOB_ID}"
    plain = read_call(tools["get-batch-job"], {"job_id": JOB_ID, "part": ""}, "me")
    assert (plain.part, plain.first) == ("", 0)
    parts = {name for name, tool in tools.items() if "part" in tool.arguments}
    assert parts == {"list-batch-jobs", "get-batch-job", "list-files"}  # whose results have lists


class TestLines:
    def test_are_the_first_ones_unless_others_are_asked_for(self, tools: Tools) -> None:
        call = read_call(tools["read-file"], {"file_id": JOB_ID}, "me")
        request = call.request
        assert (request.target, call.lines) == (f"/v1/files/{JOB_ID}/content", range(20))
        assert request.headers["Accept"] == "application/octet-stream"
        given = {"file_id": JOB_ID, "from": "40", "count": 5.0}
        assert read_call(tools["read-file"], given, "me").lines == range(40, 45)

    def test_are_none_of_an_answer_that_is_json(self, tools: Tools) -> None:
        assert read_call(tools["get-file"], {"file_id": JOB_ID}, "me").lines is None

    def test_are_asked_for_beside_parameters_of_the_same_name(self, odd_tools: Tools) -> None:
        given = {"name": "n", "count": True, "line_count": 3, "from": 2}
        call = read_call(odd_tools["read-log"], given, "me")
        assert (call.request.target, call.lines) == ("/v1/things/n/log?count=true", range(2, 5))

    @pytest.mark.parametrize("given", [{"from": -1}, {"count": 0}, {"from": 1.5}, {"count": 10**6}])
    def test_that_there_cannot_be_are_refused(self, tools: Tools, given: dict[str, Any]) -> None:
        assert len(faults(tools["read-file"], {"file_id": JOB_ID, **given})) == 1
