"""Results of jobs that are made to cost much: whatever an upstream or a caller writes into them, little is built and kept of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from msgspec import Raw

from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results import places, rows
from mcp_bridge.job_results.error_groups import without_ids
from mcp_bridge.job_results.files import FileRows, InputIds, texts_in
from mcp_bridge.job_results.order import HeldRows, natural
from mcp_bridge.job_results.places import levelled
from mcp_bridge.job_results.rows import Over, ResultRows
from mcp_bridge.job_results.view import read_job
from mcp_bridge.rest_client import AnswerTooLarge
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import load
from tests.mcp_bridge.job import chat, embedding, failed, job, result, shown

TOOL = build_tools(load())["get-batch-job"]
MUCH = 4 * LARGE


@pytest.fixture
def tool() -> CallableTool:
    return TOOL


def reader() -> ResultRows:
    hint = TOOL.operation.hints.results
    assert hint
    return ResultRows(hint)


def steps(call: Callable[[], object]) -> int:
    """How many lines of Python a call goes through."""
    seen = 0

    def count(_: FrameType, event: str, __: Any) -> Any:
        nonlocal seen
        seen += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        call()
    finally:
        sys.settrace(before)
    return seen


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the JSON texts that are built as objects, where rows are read."""
    sizes: list[int] = []

    def seen(content: Any, **options: Any) -> Any:
        sizes.append(len(content))
        return json.JSONDecoder(**options).decode(content) if options else loads(content)

    loads = json.loads
    for module in (places, rows):
        monkeypatch.setattr(module, "json", type("json", (), {"loads": staticmethod(seen)}))
    return sizes


def test_a_message_of_one_long_word_is_gone_through_once() -> None:
    """A form that goes through it once for each of its letters takes hours for this one."""
    for letter in "x_-":
        word = letter * 3_000_000
        assert without_ids(word) == word
        assert without_ids(f"{word}1 of {word} é1") == f"# of {word} é#"


@pytest.mark.parametrize("text", ["run-7 of 12ab took 0.5", "a1b2 c-d_3-e", "x  9é", "-1_ -a"])
def test_words_with_a_digit_are_masked_whole(text: str) -> None:
    words = without_ids(text).split()
    assert not any(character.isdigit() for word in words for character in word)


def test_many_errors_of_several_statuses_are_not_counted_as_one(tool: CallableTool) -> None:
    kinds = [failed(f"k{n}", f"{chr(97 + n) * 9} k{n}", {"status_code": 400}) for n in range(16)]
    spelt = [failed(f"q{n}", f"q{n}: HTTP 429") for n in range(5)]
    spelt += [failed(f"q{n}", f"q{n}: HTTP 500") for n in range(5, 8)]
    known = [failed(f"s{n}", f"s{n} is bad", {"status_code": n}) for n in (404, 404, 503)]
    found = shown(tool, job([*kinds, *spelt, *known]), count=1)["summary"]["errors"]
    counts = {each["error"]: each["count"] for each in found}
    assert (counts["q0: HTTP 429"], counts["q5: HTTP 500"]) == (5, 3)
    assert {(each["count"], each["status"]) for each in found if each["error"].startswith("s")} == {(2, 404), (1, 503)}  # fmt: skip
    assert found[0]["others_differ_in"] == "ids and numbers" and "others_differ_in" not in found[-1]


def test_of_an_input_no_more_ids_are_kept_than_there_are_results() -> None:
    ids = InputIds(reader(), frozenset(["r2"]))
    lines = b"".join(b'{"custom_id":"r%d%b"}\n' % (n, b"x" * 1000 * (n != 2)) for n in range(100))
    assert ids.take(lines) and ids.positions == {"r2": 2}


def test_ids_are_counted_in_the_memory_that_is_held() -> None:
    held = HeldRows(reader())
    text = Raw(b'{"custom_id":"%b"}' % (b"x" * 1000))
    held.add(text)
    assert held.size == len(text) + 1000


def test_lines_without_anything_cost_nothing() -> None:
    assert steps(lambda: [*texts_in(b"\n" * 200_000 + b" \r\n" * 200_000)]) < 100
    assert [bytes(text) for text in texts_in(b"\n\n 1 \r\n\n2\n \n[3]")] == [b"1", b"2", b"[3]"]


def test_an_id_of_very_many_numbers_costs_no_step_for_each() -> None:
    name = "a1" * 200_000
    assert steps(lambda: natural(name)) < 1000 and len(natural(name)) < len(name) + 1000


@pytest.mark.parametrize(
    "row",
    [
        failed("x", {"message": "[" + "[]," * MUCH + "[]]"}),
        failed("x", "[" + "[]," * MUCH + "[]]"),
        failed("x", {"detail": [{"msg": {"error": "word " * MUCH}}]}),
        failed("x", {"odd": "word " * MUCH, "x": 1}),
        failed("x", {"loc": ["body", "a" * MUCH], "msg": "No."}),
        {**chat("x"), "custom_id": ["a"] * LARGE},
        {**chat("x"), "custom_id": "a1" * MUCH},
        chat("x", [["a"]] * LARGE),
        embedding("x", *[[0.5] * 1000] * 250),
    ],
    ids=["json in message", "json in text", "words", "odd", "place", "list id", "long id", "answer", "numbers"],
)  # fmt: skip
@pytest.mark.parametrize("arguments", [{}, {"numbers": 2}, {"custom_ids": ["x"]}])
def test_nothing_large_is_built_of_a_row(
    tool: CallableTool, largest: list[int], row: Any, arguments: Any
) -> None:
    page = shown(tool, job([row, chat("other"), row]), **arguments)
    assert page["summary"]["succeeded"] + page["summary"]["failed"] == 3
    assert max(largest) <= LARGE


def test_a_row_s_error_that_is_large_still_says_what_it_is(tool: CallableTool) -> None:
    rows = [failed("a", {"padding": "x" * LARGE, "message": [{"loc": ["body", "model"], "msg": "bad"}]})]  # fmt: skip
    rows.append(failed("b", {"odd": "word " * LARGE, "kind": 7}))
    page = shown(tool, job(rows))
    assert page["outputs"][0]["error"] == "model: bad…"
    assert shown(tool, job(rows), **{"from": 1})["outputs"][0]["error"].startswith('{"odd":"word word')  # fmt: skip


@pytest.mark.parametrize("member", ["total_requests", "completed_requests", "output_file", "error_file", "input_files"])  # fmt: skip
def test_nothing_large_is_built_of_a_member_that_counts_or_names_files(
    tool: CallableTool, largest: list[int], member: str
) -> None:
    content = json.dumps(job([chat("a")], **{member: ["a"] * LARGE})).encode()
    found = read_job(tool.operation.hints, content)
    assert found and (found.number(member), found.ids(member)) == (None, [])
    assert max(largest) < LARGE


def test_an_id_that_is_large_is_shown_in_part_and_told_from_others(tool: CallableTool) -> None:
    names = ["x" * LARGE + end for end in "ab"]
    first = shown(tool, job([chat(names[1]), chat(names[0])]))
    assert first["outputs"][0]["custom_id"].startswith("xxx") and first["next_from"] == 1
    assert first["summary"]["succeeded"] == 2


@pytest.mark.parametrize("digits", ["9" * 5000, "1" + "0" * 4400])
def test_a_member_that_is_a_number_beyond_all_leaves_the_results(
    tool: CallableTool, digits: str
) -> None:
    text = json.dumps(job([chat("a")], created_at="MANY")).replace('"MANY"', digits)
    page = shown(tool, text.encode())
    assert page["outputs"] == [{"custom_id": "a", "answer": "It is a good one."}]
    assert result(tool, text.encode(), part="status")["structuredContent"]["_part"]["value"] == "SUCCESS"  # fmt: skip


@pytest.mark.parametrize("depth", [975, 985, 995, 1005, 20_000])
@pytest.mark.parametrize("arguments", [{}, {"full": True}, {"numbers": 2}])
def test_a_row_that_is_nested_too_deeply_leaves_the_others(
    tool: CallableTool, depth: int, arguments: Any
) -> None:
    deep = b'{"custom_id":"a\\"[","response":{"body":%b},"error":null}' % (
        b"[" * depth + b"]" * depth
    )
    text = json.dumps(job(["DEEP", chat("b")])).encode().replace(b'"DEEP"', deep)
    first, second = shown(tool, text, **arguments)["outputs"]
    assert first["custom_id"] == 'a"[' and second["custom_id"] == "b"
    assert [len(each) > 100 for each in texts_in(deep + b"\n" + deep)] == [True, True]


def test_what_is_nested_too_deeply_and_has_very_much_in_it_is_not_gone_through() -> None:
    with pytest.raises(AnswerTooLarge):
        levelled(b"[" * 400_000)


def test_rows_are_read_no_more_when_the_call_has_ended(tool: CallableTool) -> None:
    """Whoever reads them: from an answer, from a file, in an input, in their order."""
    known = reader()
    held = HeldRows(known)
    text = Raw(json.dumps(chat("a")).encode())
    held.add_all([text] * 3)
    known.over = True
    readers: list[Callable[[], object]] = [
        lambda: held.add_all([text]),
        lambda: [*held],
        lambda: InputIds(known, frozenset("a")).take(bytes(text)),
    ]
    for read in readers:
        with pytest.raises(Over):
            read()
    assert FileRows  # its rows come by the same reader
