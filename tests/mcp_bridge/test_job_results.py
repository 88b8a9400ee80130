"""Results of jobs as a model sees them: all of them in pages, in brief, in one order, with a summary."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_bridge.job_results.order import natural
from mcp_bridge.job_results.view import read_job
from mcp_bridge.tools import CallableTool, build_tools
from openapi.contract import load
from tests.mcp_bridge.job import (
    LIMIT,
    SECRET,
    chat,
    embedding,
    failed,
    job,
    pages,
    rest_of,
    result,
    shown,
)

TOOL = build_tools(load())["get-batch-job"]
FIELD_REQUIRED = {
    "object": "error",
    "message": {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "field required"}]},
    "type": "invalid_request_error",
}  # fmt: skip


@pytest.fixture
def tool() -> CallableTool:
    return TOOL


def thousand(kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """1,000 results of which 38 failed, in an order drawn by chance; and what stands in the place of each answer."""
    drawn = random.Random(kind)
    rows: list[dict[str, Any]] = []
    for number in range(962):
        name = f"review-{number:04}"
        if kind == "chat":
            rows.append(chat(name, f"Positive: number {number} likes it."))
        elif kind == "large":
            size = 50_000 if number in (0, 500) else 9
            rows.append(
                chat(name, "".join(drawn.choices(string.ascii_letters + ' "\n\\é😀', k=size)))
            )
        else:
            rows.append(embedding(name, [round(drawn.uniform(-1, 1), 6) for _ in range(12)]))
    rows += [failed(f"review-{number:04}", "rate limited") for number in range(962, 986)]
    rows += [
        failed(f"review-{number:04}", {"message": "rate limited"}, {"status_code": 429, "body": {}})
        for number in range(986, 990)
    ]
    rows += [
        failed(f"review-{number:04}", FIELD_REQUIRED, {"status_code": 422, "body": {"detail": "x"}})
        for number in range(990, 997)
    ]
    rows += [
        failed(f"review-{number:04}", None, {"status_code": 500, "body": {"message": "Overloaded"}})
        for number in range(997, 1000)
    ]
    places = {"chat": lambda body: body["choices"][0]["message"]["content"]}
    place = places.get(kind) or places["chat"]
    if kind == "embeddings":
        place = lambda body: body["data"][0]["embedding"]  # noqa: E731
    answers = {row["custom_id"]: place(row["response"]["body"]) for row in rows[:962]}
    drawn.shuffle(rows)
    return rows, answers


SUMMARY = {
    "succeeded": 962,
    "failed": 38,
    "errors": [
        {"error": "rate limited", "count": 28, "example": "review-0962", "status": 429},
        {"error": "messages: field required", "count": 7, "example": "review-0990", "status": 422},
        {"error": "Overloaded", "count": 3, "example": "review-0997", "status": 500},
    ],
}


class TestAThousandResults:
    @pytest.mark.parametrize("kind", ["chat", "embeddings", "large"])
    @pytest.mark.parametrize("only", ["", "failed", "succeeded"])
    def test_are_each_on_one_page_and_the_summary_counts_all(
        self, tool: CallableTool, kind: str, only: str
    ) -> None:
        rows, answers = thousand(kind)
        arguments = {"only": only} if only else {}
        found: list[dict[str, Any]] = []
        for page in pages(tool, job(rows), **arguments):
            assert page["summary"] == SUMMARY
            found += page["outputs"]
        wanted = {"": range(1000), "failed": range(962, 1000), "succeeded": range(962)}[only]
        assert [row["custom_id"] for row in found] == [f"review-{n:04}" for n in wanted]
        for index, row in enumerate(found):
            if "answer" not in row:
                assert row["error"] in {each["error"] for each in SUMMARY["errors"]}  # type: ignore[attr-defined]
            elif row["answer"] != answers[row["custom_id"]]:
                place = f"outputs.{index}.answer"
                assert rest_of(tool, job(rows), place, **arguments) == answers[row["custom_id"]]

    def test_come_in_pages_of_a_size_that_is_asked_for(self, tool: CallableTool) -> None:
        rows, _ = thousand("chat")
        failures = [*pages(tool, job(rows), only="failed", count=20)]
        assert [len(page["outputs"]) for page in failures] == [20, 18]
        assert "Shows 1 to 20 of 38 failed results" in failures[0]["_note"]
        assert "go on with from 20." in failures[0]["_note"]
        assert failures[1]["next_from"] is None and "go on" not in failures[1]["_note"]

    def test_are_the_same_whatever_order_they_come_in(self, tool: CallableTool) -> None:
        rows, _ = thousand("chat")
        first = shown(tool, job(rows), **{"from": 100})
        random.Random(2).shuffle(rows)
        assert shown(tool, job(rows), **{"from": 100}) == first


def test_three_hundred_short_answers_are_one_call(tool: CallableTool) -> None:
    for length in (30, 60):
        text = ("Positive. The parcel came early, and the seller was kind: great!")[:length]
        rows = [chat(f"review-{number:04}", text) for number in range(300)]
        page = shown(tool, job(rows, metadata={"project": "reviews", "run": "2026-11-30"}))
        assert len(page["outputs"]) == 300 and page["next_from"] is None and "_note" not in page


def test_of_forty_embeddings_the_first_numbers_are_one_call(tool: CallableTool) -> None:
    drawn = random.Random(1)
    vectors = [[round(drawn.uniform(-1, 1), 8) for _ in range(1024)] for _ in range(40)]
    rows = [embedding(f"text-{number}", vector) for number, vector in enumerate(vectors)]
    page = shown(tool, job(rows), numbers=3)
    assert [row["answer"] for row in page["outputs"]] == [vector[:3] for vector in vectors]
    assert "cut to their first 3, of 1024." in page["_note"]
    full = shown(tool, job(rows), numbers=2, full=True, count=1)["outputs"][0]
    assert full["response"]["body"]["data"][0]["embedding"] == vectors[0][:2]


def test_lists_with_numbers_beyond_all_are_cut_too(tool: CallableTool) -> None:
    text = json.dumps(job([embedding("a", [0.1, 0.2, 0.3])])).replace("0.2", "-1E999")
    assert shown(tool, text.encode(), numbers=2)["outputs"][0]["answer"] == [0.1, "-1E999"]


def test_of_a_giant_error_the_beginning_is_told(tool: CallableTool) -> None:
    rows = [failed("x", "word " * 60_000), failed("y", {"message": "word " * 60_000})]
    for row in shown(tool, job(rows))["outputs"]:
        assert row["error"].startswith("word word") and row["error"].endswith("…")


def test_only_lists_of_numbers_are_cut(tool: CallableTool) -> None:
    rows = [chat("a", [{"type": "text", "text": "1, 2, 3"}, [1, "2", 3], [True, False, True]])]
    page = shown(tool, job(rows), numbers=1)
    assert page["outputs"][0]["answer"] == rows[0]["response"]["body"]["choices"][0]["message"]["content"]  # fmt: skip


@pytest.mark.parametrize("state", [None, 5, True, ["SUCCESS"], {"SUCCESS": 1}, "x" * 100_000])
def test_a_state_that_is_no_name_is_not_final(tool: CallableTool, state: Any) -> None:
    found = read_job(tool.operation.hints, json.dumps(job(None, status=state)).encode())
    assert found and not found.final


class TestOrder:
    def test_is_by_the_numbers_in_ids(self, tool: CallableTool) -> None:
        names = ["r1", "r2", "r10", "r10a", "r10b", "r0011", "r100", "s", "s1-2", "s1-10", "é"]
        rows = [chat(name) for name in names]
        random.Random(1).shuffle(rows)
        assert [row["custom_id"] for row in shown(tool, job(rows))["outputs"]] == names

    def test_puts_those_without_an_id_last_and_equal_ones_by_content(
        self, tool: CallableTool
    ) -> None:
        rows = [chat(None, "b"), chat(None, "c"), chat("x", "1"), chat("x", "2"), chat("a")]
        rows[1] = {key: value for key, value in rows[1].items() if key != "custom_id"}
        orders = set()
        for seed in range(9):
            drawn = random.Random(seed)
            drawn.shuffle(rows)
            written = json.dumps(job(rows), indent=seed % 3, sort_keys=bool(seed % 2))
            found = shown(tool, written.encode())["outputs"]
            orders.add(json.dumps(found))
        assert len(orders) == 1
        assert [row["custom_id"] for row in found] == ["a", "x", "x", None, None]

    def test_takes_ids_that_are_no_texts(self, tool: CallableTool) -> None:
        rows = [{**chat("x"), "custom_id": each} for each in (10, 9, True, {"a": 1}, ["b"], 1.5)]
        found = [row["custom_id"] for row in shown(tool, job(rows))["outputs"]]
        assert sorted(map(str, found)) == sorted(map(str, (10, 9, True, {"a": 1}, ["b"], 1.5)))
        for wanted in ("9", 9):
            assert shown(tool, job(rows), custom_ids=[wanted])["outputs"][0]["custom_id"] == 9

    @given(st.lists(st.integers(0, 10**12), min_size=2, max_size=2))
    def test_of_numbers_is_their_own(self, numbers: list[int]) -> None:
        first, second = (natural(f"x-{number:0{number % 7}}-y") for number in numbers)
        assert (first < second) == (numbers[0] < numbers[1])

    def test_takes_numbers_of_any_length(self, tool: CallableTool) -> None:
        names = ["r" + "9" * 5000, "r1" + "0" * 5000]
        rows = [chat(name, "x") for name in reversed(names)]
        assert [row["custom_id"] for row in shown(tool, job(rows))["outputs"]] == names


class TestRows:
    @pytest.mark.parametrize(
        ("error", "response", "said", "status"),
        [
            ("rate limited", None, "rate limited", None),
            ("two\nlines\t of it ", None, "two lines of it", None),
            ({"message": "No."}, None, "No.", None),
            ({"message": "No.", "code": "3000"}, {"status_code": 422, "body": {}}, "No.", 422),
            ({"detail": "No."}, {"status_code": 200, "body": None}, "No.", None),
            ({"msg": "No."}, None, "No.", None),
            ({"error": {"message": "No.", "type": "x"}}, None, "No.", None),
            ({"message": {"detail": [{"loc": ["body", "a", 0], "msg": "bad"}]}}, None, "a.0: bad", None),
            ({"detail": [{"loc": ["body", "a"], "msg": "bad"}, {"loc": [], "msg": "worse"}]}, None, "a: bad; worse", None),
            (["one", {"message": "two"}, "one"], None, "one; two", None),
            ('{"message": "No."}', None, "No.", None),
            ({"x": 1}, None, '{"x":1}', None),
            (5, None, "5", None),
            (True, None, "True", None),
            (None, None, "no answer", None),
            ("", None, "no answer", None),
            ({}, {"status_code": 200, "body": None}, "HTTP status 200", None),
            (None, {"status_code": 503}, "HTTP status 503", 503),
            (None, {"status_code": 404, "body": {"message": "No model."}}, "No model.", 404),
            (None, {"status_code": 500, "body": "gone"}, "gone", 500),
            (None, {"status_code": "500", "body": ["gone"]}, "gone", 500),
            ({"message": "", "detail": "No."}, None, "No.", None),
            ([{"loc": ["body"] * 3, "msg": "bad"}] * 30, None, "body.body: bad; and 20 more", None),
        ],
    )  # fmt: skip
    def test_that_failed_say_of_what_in_one_form(
        self, tool: CallableTool, error: Any, response: Any, said: str, status: int | None
    ) -> None:
        rows = [failed("x", error, response)]
        page = shown(tool, job(rows))
        known = {} if status is None else {"status": status}
        assert page["outputs"] == [{"custom_id": "x", "error": said, **known}]
        assert page["summary"]["errors"] == [{"error": said, "count": 1, "example": "x", **known}]
        assert shown(tool, job(rows), full=True)["outputs"] == rows

    @pytest.mark.parametrize(
        ("choice", "answer", "ended"),
        [
            ({"finish_reason": "length"}, "text", "length"),
            ({"finish_reason": None}, "text", None),
            ({"finish_reason": "tool_calls", "message": {"content": "", "tool_calls": [{"id": 1}]}}, {"content": "", "tool_calls": [{"id": 1}]}, "tool_calls"),
            ({"message": {"content": None, "tool_calls": [1]}}, {"content": None, "tool_calls": [1]}, None),
            ({"message": {"content": [{"type": "text", "text": "a"}]}}, [{"type": "text", "text": "a"}], None),
        ],
    )  # fmt: skip
    def test_that_were_answered_have_the_answer_and_how_it_ended_when_that_is_not_usual(
        self, tool: CallableTool, choice: Any, answer: Any, ended: str | None
    ) -> None:
        (row,) = shown(tool, job([chat("x", "text", **choice)]))["outputs"]
        assert row == {"custom_id": "x", "answer": answer} | ({"ended": ended} if ended else {})

    def test_of_several_choices_have_them_all(self, tool: CallableTool) -> None:
        row = chat("x")
        choices = row["response"]["body"]["choices"]
        choices[:] = [{"message": {"content": each}, "finish_reason": "stop"} for each in "ab"]
        assert shown(tool, job([row]))["outputs"] == [{"custom_id": "x", "answer": ["a", "b"]}]
        choices[1]["finish_reason"] = "length"
        assert shown(tool, job([row]))["outputs"][0]["ended"] == ["stop", "length"]

    @pytest.mark.parametrize(
        "messages",
        [
            [{"content": "A"}, {"content": None, "tool_calls": [{"id": 1}]}],
            [{"content": "A"}, {"content": None, "refusal": "no"}],
            [{"content": "A", "tool_calls": [{"id": 1}]}],
            [{"content": "A", "tool_calls": None}, {"content": "B", "tool_calls": [{"id": 1}]}],
        ],
    )
    def test_of_which_one_is_not_text_alone_leave_nothing_out(
        self, tool: CallableTool, messages: list[dict[str, Any]]
    ) -> None:
        row = chat("x")
        row["response"]["body"]["choices"] = [{"message": each} for each in messages]
        (found,) = shown(tool, job([row]))["outputs"]
        said = json.dumps(found["answer"])
        assert all(json.dumps(value) in said for each in messages for value in each.values())

    def test_of_other_endpoints_have_the_whole_body(self, tool: CallableTool) -> None:
        body = {"results": [{"categories": {"pii": False}}]}
        row = {**chat("x"), "response": {"status_code": 200, "body": body}}
        assert shown(tool, job([row]))["outputs"][0]["answer"] == body

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize(
        "row", [None, 5, "text", [], [1], {}, {"response": 5}, {"response": []}]
    )
    def test_of_no_known_shape_are_failed_and_break_nothing(
        self, tool: CallableTool, row: Any, full: bool
    ) -> None:
        page = shown(tool, job([chat("a"), row, chat("b")]), full=full)
        assert len(page["outputs"]) == 3
        assert (page["summary"]["succeeded"], page["summary"]["failed"]) == (2, 1)

    @pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 5000, "1" + "0" * 400, r'"\ud83d"', r'"\udc00x"', "[" * 400 + "]" * 400, "1.5E+400", r'"\u0000"'])  # fmt: skip
    @pytest.mark.parametrize("full", [False, True])
    def test_with_what_python_or_utf_8_cannot_have_are_shown_as_far_as_they_can(
        self, tool: CallableTool, value: str, full: bool
    ) -> None:
        text = json.dumps(job([chat("a", "VALUE"), chat("b")])).replace('"VALUE"', value)
        made = result(tool, text.encode(), full=full)
        found = made["structuredContent"]["outputs"]
        assert len(found) == 2 and '"b"' in json.dumps(found[1])

    def test_with_bytes_that_are_no_utf_8_are_shown(self, tool: CallableTool) -> None:
        text = json.dumps(job([chat("a", "VALUE")])).encode().replace(b"VALUE", b"\xff\xfe")
        assert shown(tool, text)["outputs"][0]["answer"] == "\ufffd\ufffd"

    def test_have_nothing_of_the_bridge_s_own_token(self, tool: CallableTool) -> None:
        rows = [chat("a", f"it is {SECRET}"), failed("b", f"{SECRET} is wrong"), chat(SECRET)]
        rows.append(chat("c", SECRET * 20_000))
        for arguments in ({}, {"full": True}, {"only": "failed"}, {"custom_ids": [f"{SECRET}1"]}):
            for page in pages(tool, job(rows), **arguments):
                assert SECRET not in json.dumps(page)

    @pytest.mark.parametrize("numbers", [0, 2, None])
    def test_of_very_many_values_leave_the_others_within_reach(
        self, tool: CallableTool, numbers: int | None
    ) -> None:
        arguments = {} if numbers is None else {"numbers": numbers}
        rows = [chat("a"), embedding("b", *[[0.5] * 3000] * 110), embedding("c", [1] * 310_000), chat("d")]  # fmt: skip
        found = [row["custom_id"] for page in pages(tool, job(rows), **arguments) for row in page["outputs"]]  # fmt: skip
        assert found == list("abcd")


class TestSummary:
    def errors(self, tool: CallableTool, messages: list[str]) -> Any:
        rows = [failed(f"r{number}", message) for number, message in enumerate(messages)]
        return shown(tool, job(rows), count=1)["summary"]

    def test_keeps_few_messages_apart_however_alike(self, tool: CallableTool) -> None:
        summary = self.errors(tool, ["status 429"] * 2 + ["status 500"] * 3)
        assert [each["error"] for each in summary["errors"]] == ["status 500", "status 429"]

    def test_takes_many_that_differ_in_numbers_and_ids_for_one(self, tool: CallableTool) -> None:
        messages = [f"request {n} of {n:032x} took {n}.{n} s" for n in range(500)]
        summary = self.errors(tool, [*messages, "rate limited", "rate limited"])
        assert [(each["error"], each["count"]) for each in summary["errors"]] == [(messages[0], 500), ("rate limited", 2)]  # fmt: skip
        assert "more_errors" not in summary

    def test_takes_many_that_differ_in_the_row_s_own_id_for_one(self, tool: CallableTool) -> None:
        names = ["".join(random.Random(n).choices(string.ascii_lowercase, k=9)) for n in range(50)]
        rows = [failed(name, f"request {name} is too long") for name in names]
        (group,) = shown(tool, job(rows), count=1)["summary"]["errors"]
        assert group["count"] == 50

    def test_of_many_has_no_status_for_those_that_had_several_when_they_were_few(
        self, tool: CallableTool
    ) -> None:
        rows = [failed(f"a{n}", "no", {"status_code": n}) for n in (400, 500)]
        rows += [failed(f"b{n}", f"{chr(97 + n) * 9}") for n in range(25)]
        (first, *_) = shown(tool, job(rows), count=1)["summary"]["errors"]
        assert first == {"error": "no", "count": 2, "example": "a400"}

    def test_says_how_many_kinds_more_there_are(self, tool: CallableTool) -> None:
        kinds = ["".join(random.Random(n).choices(string.ascii_lowercase, k=12)) for n in range(70)]
        summary = self.errors(tool, [*kinds, kinds[5]])
        assert len(summary["errors"]) == 20 and summary["errors"][0]["error"] == kinds[5]
        assert summary["more_errors"] == {"kinds": 50, "count": 50}
        assert summary["failed"] == 71

    def test_stays_small_however_long_the_errors_are(self, tool: CallableTool) -> None:
        kinds = [f"{chr(97 + n)} " * 50_000 for n in range(25)]
        summary = self.errors(tool, kinds)
        assert len(json.dumps(summary)) < 12_000
        assert summary["errors"][0]["error"].endswith("…")
        shown_kinds = len(summary["errors"])
        assert summary["more_errors"] == {"kinds": 25 - shown_kinds, "count": 25 - shown_kinds}

    def test_has_no_status_when_several_are_known(self, tool: CallableTool) -> None:
        rows = [failed(str(n), "no", {"status_code": n, "body": {}}) for n in (429, 500)]
        rows.append(failed("x", "no"))
        assert shown(tool, job(rows))["summary"]["errors"] == [{"error": "no", "count": 3, "example": "429"}]  # fmt: skip

    def test_is_of_all_results_whichever_are_shown(self, tool: CallableTool) -> None:
        rows = [chat("a"), failed("b", "no"), chat("c")]
        for arguments in ({"custom_ids": ["a"]}, {"only": "failed"}, {"from": 9}, {"count": 1}):
            assert shown(tool, job(rows), **arguments)["summary"]["succeeded"] == 2


class TestPages:
    def test_by_ids_have_those_and_name_the_ones_that_are_not_there(
        self, tool: CallableTool
    ) -> None:
        rows = [chat(f"r{number}") for number in range(30)] + [failed("bad", "no")]
        page = shown(tool, job(rows), custom_ids=["r7", "nobody", "r3", "bad", "r7"])
        assert [row["custom_id"] for row in page["outputs"]] == ["bad", "r3", "r7"]
        assert "No result has custom_id nobody." in page["_note"]
        page = shown(tool, job(rows), custom_ids=["r7", "bad"], only="failed")
        assert [row["custom_id"] for row in page["outputs"]] == ["bad"] and "_note" not in page
        many = [f"x{number}" for number in range(100)]
        note = shown(tool, job(rows), custom_ids=many)["_note"]
        assert "x11 and 88 more" in note

    def test_beyond_the_end_are_empty_and_say_how_many_there_are(self, tool: CallableTool) -> None:
        page = shown(tool, job([chat("a"), failed("b", "no")]), only="failed", **{"from": 1})
        assert (page["outputs"], page["next_from"]) == ([], None)
        assert "There are 1 failed results, none from 1 on." in page["_note"]

    def test_of_none_say_so(self, tool: CallableTool) -> None:
        assert shown(tool, job([chat("a")]), only="failed")["_note"] == "None of them failed."

    def test_leave_room_for_results_beside_a_large_job(self, tool: CallableTool) -> None:
        errors = [{"message": f"Line {n} is wrong", "count": n} for n in range(5000)]
        page = shown(tool, job([chat(f"r{n}") for n in range(500)], errors=errors))
        assert len(page["outputs"]) > 200 and 50 < len(page["errors"]) < 5000
        assert f"errors has the first {len(page['errors'])} of 5000 items" in page["_note"]
        whole = rest_of(tool, job([chat("a")], errors=errors), "errors")
        assert whole == errors

    def test_of_an_item_that_is_too_large_say_how_to_get_the_rest_and_go_on_after_it(
        self, tool: CallableTool
    ) -> None:
        text = "word " * 50_000
        rows = [chat("a"), chat("b", text), chat("c")]
        first, second, third = pages(tool, job(rows))
        assert [len(page["outputs"]) for page in (first, second, third)] == [1, 1, 1]
        kept = len(second["outputs"][0]["answer"])
        assert f'call with part "outputs.1.answer" and from {kept}' in second["_note"]
        assert second["next_from"] == 2 and "go on with from 2" in second["_note"]
        assert rest_of(tool, job(rows), "outputs.1.answer") == text
        place = "outputs.1.response.body.choices.0.message.content"
        assert rest_of(tool, job(rows), place, full=True) == text
        assert rest_of(tool, job(rows), "outputs.0.answer", custom_ids=["b"]) == text

    def test_of_an_item_with_many_long_parts_say_how_many_there_are_and_how_each_is_read(
        self, tool: CallableTool
    ) -> None:
        vectors = [[round(n + k / 1024, 4) for k in range(1024)] for n in range(40)]
        page = shown(tool, job([embedding("a", *vectors)]))
        assert "; and 19 places more." in page["_note"]
        assert 'part "outputs.0.answer" and from 30' in page["_note"]
        assert "30 other places have each a rest of its own" in page["_note"]
        (kept, *_) = page["outputs"][0]["answer"]
        assert f'had with part "outputs.0.answer.0" and from {len(kept)}.' in page["_note"]
        assert "with numbers 3 only the first 3 of each" in page["_note"]

    @pytest.mark.parametrize("size", [60, 1024])
    def test_that_lists_of_numbers_fill_say_how_to_see_more(
        self, tool: CallableTool, size: int
    ) -> None:
        rows = [embedding(f"t{n}", [0.123456] * size) for n in range(200)]
        page = shown(tool, job(rows))
        assert "with numbers 3 only the first 3 of each" in page["_note"]
        assert len(shown(tool, job(rows), numbers=3)["outputs"]) == 200
        for arguments in ({"numbers": 40}, {"count": 2}):
            assert "with numbers" not in shown(tool, job(rows), **arguments)["_note"]
        chats = [chat(f"t{n}", "word " * 100) for n in range(200)]
        assert "with numbers" not in shown(tool, job(chats))["_note"]

    def test_have_a_remark_on_those_that_belong_to_nobody_knows_what(
        self, tool: CallableTool
    ) -> None:
        rows = [chat("a"), chat(None), failed(None, "no"), None]
        assert "3 results have no custom_id here" in shown(tool, job(rows))["_note"]
        assert "1 result has no custom_id here" in shown(tool, job(rows), only="succeeded")["_note"]
        assert "custom_id" not in shown(tool, job(rows), count=1)["_note"].partition("ordered")[0]

    @pytest.mark.parametrize("given", ["r1,r3", " r1 , r3 ", ["r1,r3"]])
    def test_by_ids_in_one_text_have_these_where_that_is_certain(
        self, tool: CallableTool, given: Any
    ) -> None:
        rows = [chat(f"r{number}") for number in range(5)]
        page = shown(tool, job(rows), custom_ids=given)
        assert [row["custom_id"] for row in page["outputs"]] == ["r1", "r3"]
        assert "_note" not in page
        whole = shown(tool, job([*rows, chat("r1,r3")]), custom_ids="r1,r3")
        assert [row["custom_id"] for row in whole["outputs"]] == ["r1,r3"]
        note = shown(tool, job(rows), custom_ids="r1,nobody")["_note"]
        assert note == "No result has custom_id r1,nobody. Give several ids as a list."

    def test_of_all_results_as_a_part_do_not_say_that_there_are_none(
        self, tool: CallableTool
    ) -> None:
        rows = [chat(f"r{number}") for number in range(5)]
        made = shown(tool, job(rows), part="outputs", count=2)
        assert made["_note"].startswith("Shows 1 to 2 of 5 results")
        assert "_note" not in shown(tool, job(rows), part="outputs")

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            ("outputs[1]", {"custom_id": "b", "answer": ["x", "y"]}),
            ("outputs[1].answer", ["x", "y"]),
            ("outputs[1].answer[1]", "y"),
            ("outputs.1.answer[0]", "x"),
            ("errors[0].message", "late"),
        ],
    )
    def test_of_a_part_take_the_brackets_of_programming_languages(
        self, tool: CallableTool, place: str, value: Any
    ) -> None:
        rows = [chat("a"), chat("b", ["x", "y"])]
        errors = [{"message": "late", "count": 1}]
        assert shown(tool, job(rows, errors=errors), part=place)["_part"]["value"] == value

    def test_of_a_part_that_is_not_there_say_what_is(self, tool: CallableTool) -> None:
        made = result(tool, job([chat("a")]), part="nothing")
        said = made["content"][0]["text"]
        assert "the result has outputs, id, object," in said and " more. A part is names" in said

    def test_of_parts_are_of_the_rows_in_their_order(self, tool: CallableTool) -> None:
        rows = [chat("c"), failed("b", "no"), chat("a", "A")]
        assert shown(tool, job(rows), part="outputs.0")["_part"]["value"] == {"custom_id": "a", "answer": "A"}  # fmt: skip
        assert shown(tool, job(rows), part="outputs.0.error", only="failed")["_part"]["value"] == "no"  # fmt: skip
        assert rest_of(tool, job(rows), "outputs") == shown(tool, job(rows))["outputs"]
        for part, sentence in (
            ("outputs.3", "outputs has 3 items, counted from 0"),
            ("outputs.x", "outputs has 3 items, counted from 0"),
            ("outputs.0.nothing", "outputs.0 has custom_id, answer"),
        ):
            made = result(tool, job(rows), part=part)
            assert made["isError"] and sentence in made["content"][0]["text"]

    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_leave_nothing_out_and_show_nothing_twice(self, data: st.DataObject) -> None:
        """Whatever the rows, the limit and the arguments are."""
        text = st.text(st.characters(codec="utf-8"), max_size=40) | st.integers(1, 60).map(
            lambda n: "é \\word" * n**2
        )
        name = st.none() | st.sampled_from(["a", "r1", "r02", "r2"]) | st.text(max_size=9)
        row = (
            st.builds(chat, name, text)
            | st.builds(failed, name, text | st.dictionaries(st.sampled_from(["message", "x"]), text))
            | st.builds(lambda name, size: embedding(name or "e", [0.125] * size), name, st.integers(0, 3000))
            | st.sampled_from([None, 7, "odd", {}])
        )  # fmt: skip
        rows = data.draw(st.lists(row, max_size=40))
        limit = data.draw(st.sampled_from([4000, 9000, 30_000, LIMIT]))
        arguments: dict[str, Any] = {"full": data.draw(st.booleans())}
        if only := data.draw(st.sampled_from(["", "failed", "succeeded"])):
            arguments["only"] = only
        if count := data.draw(st.integers(0, 5)):
            arguments["count"] = count
        found: list[Any] = []
        for page in pages(TOOL, job(rows), limit, **arguments):
            assert page["summary"]["succeeded"] + page["summary"]["failed"] == len(rows)
            found += page["outputs"]
        summary = page["summary"]
        wanted = {"": len(rows), "failed": summary["failed"], "succeeded": summary["succeeded"]}
        assert len(found) == wanted[only]
        assert (
            found[:1] == [] or shown(TOOL, job(rows), limit, **arguments)["outputs"][0] == found[0]
        )
        ids = [row.get("custom_id") if isinstance(row, dict) else None for row in rows]
        if not only:
            assert sorted(map(str, (row.get("custom_id") for row in found))) == sorted(
                map(str, ids)
            )
