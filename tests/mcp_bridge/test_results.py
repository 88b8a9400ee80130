"""Answers of the REST service as a model sees them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcp_bridge.asked import Asked
from mcp_bridge.lines import Lines
from mcp_bridge.rest_client import Answer, AnswerTooLarge, RestRequest
from mcp_bridge.results import Results
from mcp_bridge.shortening import MOST, NoPart, Shortening, compact, weigh
from mcp_bridge.tools import CallableTool

Tools = dict[str, CallableTool]
CALL = Asked(RestRequest("GET", "/v1/batch/jobs/1?inline=true", {}, None))
LOG = Asked(RestRequest("GET", "/v1/files/1/content", {}, None), range(20))
CHECKS = "list-batch-jobs or get-batch-job"
LIMIT = 60_000
SECRET = "bridge/token+1"


def result(tool: CallableTool, answer: Any, limit: int = LIMIT, **headers: str) -> dict[str, Any]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    content = answer if isinstance(answer, bytes) else json.dumps(answer, indent=2).encode()
    made = Results(limit, SECRET).success(tool, CALL, Answer(200, names, content))
    Draft202012Validator(tool.output_schema).validate(made["structuredContent"])
    assert json.loads(made["content"][0]["text"]) == made["structuredContent"]
    assert made["isError"] is False
    return made


def shorten(value: Any, room: int, place: str, cuts: list[str]) -> Any:
    shortening = Shortening()
    made = shortening.shorten(value, room, place)
    cuts += shortening.cuts
    return made


class TestSuccess:
    def test_is_the_data_and_the_same_as_compact_text(self, tools: Tools) -> None:
        made = result(tools["get-batch-job"], {"id": "1", "new": [None, {"é": 1.50}]})
        assert made["structuredContent"] == {"id": "1", "new": [None, {"é": 1.5}]}
        assert made["content"][0]["text"] == '{"id":"1","new":[null,{"é":1.5}]}'

    @pytest.mark.parametrize("answer", [[1, 2], "text", 5, None])
    def test_that_is_no_object_is_the_member_result(self, odd_tools: Tools, answer: Any) -> None:
        made = result(odd_tools["replace-thing"], answer)
        assert made["structuredContent"] == {"result": answer}

    def test_without_content_is_null(self, odd_tools: Tools) -> None:
        assert result(odd_tools["replace-thing"], b"")["structuredContent"] == {"result": None}

    @pytest.mark.parametrize("answer", [b"<html>", b'{"a": NaN}', b'{"a":', b"\xff"])
    def test_that_is_not_json_is_none(self, tools: Tools, answer: bytes) -> None:
        with pytest.raises(ValueError):
            Results(LIMIT).success(tools["get-batch-job"], CALL, Answer(200, {}, answer))

    @pytest.mark.parametrize(
        ("age", "ago"),
        [
            ("0", "just now"), ("1", "1 second ago"), ("119", "1 minute ago"),
            ("7200", "2 hours ago"), ("", "before"), ("soon", "before"),
        ],
    )  # fmt: skip
    def test_of_a_repeat_says_whose_key_it_was_and_how_old_it_is(
        self, tools: Tools, age: str, ago: str
    ) -> None:
        for given, whose in ((False, "The same call"), (True, "A call with this idempotency_key")):
            answer = Answer(200, {"Idempotency-Replayed": "true", "Age": age}, b'{"id": "1"}')
            asked = replace(CALL, key_given=given)
            made = Results(LIMIT).success(tools["create-batch-job"], asked, answer)
            note = made["structuredContent"]["_note"]
            assert note.startswith(f"{whose} was made {ago}. This is the result of that earlier")
            assert "nothing was done again; get-batch-job shows how it is now." in note
            assert "call with an idempotency_key that was never used" in note
            assert next(iter(made["structuredContent"])) == "_note"

    def test_of_a_repeat_names_no_tool_where_none_shows_what_was_made(
        self, odd_tools: Tools
    ) -> None:
        made = result(odd_tools["make-thing"], {"id": 1}, Idempotency_Replayed="true")
        assert "nothing was done again. To do it" in made["structuredContent"]["_note"]

    def test_that_the_gateway_warns_about_has_the_warning_by_its_arguments(
        self, tools: Tools
    ) -> None:
        warned = "members not in the contract were passed on unchecked: /body/x, /body/requests/0/y"
        made = result(tools["create-batch-job"], {"id": "1"}, Gateway_Warning=warned)
        note = made["structuredContent"]["_note"]
        assert note == f"The gateway warns: {warned.partition(':')[0]}: x, requests.0.y."


class TestShortening:
    def job(self, outputs: int, size: int = 100) -> dict[str, Any]:
        answers = [
            {"custom_id": str(n), "response": {"body": {"x": "x" * size}}} for n in range(outputs)
        ]
        return {"id": "1", "status": "SUCCESS", "outputs": answers, "total_requests": outputs}

    def test_leaves_a_small_result_alone(self, tools: Tools) -> None:
        assert result(tools["get-batch-job"], self.job(3))["structuredContent"] == self.job(3)

    def test_keeps_the_first_items_of_a_long_list_and_all_small_members(self, tools: Tools) -> None:
        made = result(tools["get-batch-job"], self.job(10_000))["structuredContent"]
        kept = made["outputs"]
        assert 100 < len(kept) < 10_000
        assert kept == self.job(10_000)["outputs"][: len(kept)]
        assert (made["status"], made["total_requests"]) == ("SUCCESS", 10_000)

    def test_fits_the_limit_and_uses_most_of_it(self, tools: Tools) -> None:
        made = result(tools["get-batch-job"], self.job(10_000))
        assert LIMIT * 0.9 < weigh(made["content"][0]["text"]) < LIMIT

    def test_says_what_was_left_out_and_how_to_get_it(self, tools: Tools) -> None:
        made = result(tools["get-batch-job"], self.job(10_000))["structuredContent"]
        note = made["_note"]
        assert f"outputs has the first {len(made['outputs'])} of 10000 items" in note
        assert tools["get-batch-job"].declared.shortened in note
        assert CALL.request.target not in note  # nobody who calls tools can send it

    def test_of_a_call_that_changes_something_does_not_say_to_send_it_again(
        self, tools: Tools
    ) -> None:
        made = result(tools["create-batch-job"], self.job(10_000))["structuredContent"]
        assert "Shortened: " in made["_note"] and CALL.request.target not in made["_note"]

    def test_shares_the_room_between_long_lists(self) -> None:
        cuts: list[str] = []
        made = shorten({"a": ["x" * 10] * 500, "b": ["y" * 10] * 300, "c": [1]}, 1000, "", cuts)
        assert len(made["a"]) > 20 and len(made["b"]) > 20 and made["c"] == [1]
        assert len(cuts) == 2

    def test_cuts_within_an_item_that_is_too_large_by_itself(self) -> None:
        cuts: list[str] = []
        made = shorten({"data": [{"id": 1, "outputs": ["x" * 20] * 1000}]}, 1000, "", cuts)
        assert made["data"][0]["id"] == 1 and len(made["data"][0]["outputs"]) > 20
        assert cuts[0].startswith("data.0.outputs ")

    def test_cuts_a_text_that_is_too_large_by_itself(self) -> None:
        cuts: list[str] = []
        made = shorten({"result": "x" * 5000}, 1000, "", cuts)
        assert 900 < len(made["result"]) < 1000 and "of 5000 characters" in cuts[0]

    def test_leaves_out_what_is_too_large_many_levels_down(self) -> None:
        value: Any = ["x" * 5000]
        for _ in range(300):
            value = {"a": value}
        cuts: list[str] = []
        made = shorten({"id": 1, "b": value}, 1000, "", cuts)
        assert made["id"] == 1 and len(compact(made)) < 100
        assert cuts == [f"b{'.a' * 9} is left out"]

    def test_cuts_an_object_of_very_many_members(self) -> None:
        cuts: list[str] = []
        made = shorten({"data": {f"k{number}": 1 for number in range(5000)}}, 1000, "", cuts)
        assert 50 < len(made["data"]) < 500
        assert cuts == [f"data has the first {len(made['data'])} of 5000 members"]

    def test_leaves_nothing_of_lists_for_which_there_is_no_room(self) -> None:
        cuts: list[str] = []
        assert shorten({"a": ["x" * 50], "b": "x" * 50}, 20, "", cuts) == {"a": []}
        assert cuts == ["a has the first 0 of 1 items", "the result has the first 1 of 2 members"]

    @pytest.mark.parametrize("limit", [0, 10, 100, 500, 2000])
    def test_never_goes_far_over_any_limit(self, limit: int) -> None:
        made = shorten(self.job(50), limit, "", [])
        assert len(compact(made)) <= max(limit, 120)

    def test_keeps_all_entries_when_one_of_them_is_large(self, tools: Tools) -> None:
        """A page that ends at a job with many errors is taken for all that there is."""
        tool = tools["list-batch-jobs"]
        for at in (0, 3, 6):
            jobs = [self.job(0) | {"id": str(n), "errors": []} for n in range(7)]
            jobs[at]["errors"] = self.ERRORS
            made = result(tool, {"data": jobs, "total": 7})
            data = made["structuredContent"]
            assert [job["id"] for job in data["data"]] == list("0123456")
            kept = data["data"][at]["errors"]
            assert kept == list(self.ERRORS[: len(kept)]) and len(kept) > 400
            assert f"data.{at}.errors has the first {len(kept)} of 2000 items" in data["_note"]
            assert LIMIT * 0.9 < weigh(made["content"][0]["text"]) < LIMIT

    def test_keeps_something_of_thirty_entries_that_are_all_large(self, tools: Tools) -> None:
        jobs = [{"id": str(n), "errors": self.ERRORS, "status": "FAILED"} for n in range(100)]
        made = result(tools["list-batch-jobs"], {"data": jobs, "total": 100})
        data = made["structuredContent"]
        assert [job["id"] for job in data["data"]] == [str(n) for n in range(30)]
        assert all(len(job["errors"]) > 10 and job["status"] == "FAILED" for job in data["data"])
        assert (
            "data has the first 30 of 100 items" in data["_note"] or "places more" in data["_note"]
        )
        assert 'part "data" and from 30.' in data["_note"]

    def test_keeps_whole_entries_rather_than_the_beginnings_of_a_few_more(
        self, tools: Tools
    ) -> None:
        outputs = [{"custom_id": str(n), "text": "word " * 500} for n in range(100)]
        made = result(tools["get-batch-job"], {"id": "1", "outputs": outputs})["structuredContent"]
        assert len(made["outputs"]) > 20
        assert made["outputs"] == outputs[: len(made["outputs"])]

    @pytest.mark.parametrize(
        "answer",
        [
            {"data": {f"key{n}": n * 1_000_003 for n in range(5000)}},
            {f"k{n}": 10**400 for n in range(90)},
            {"data": [10**3000] * 200},
            {"data": [{f"k{n}": 1_234_567 for n in range(90)}] * 300},
            {"data": [{f"k{n}": "x" * 99 for n in range(90)}] * 300},
            {f"k{n}": "v" for n in range(100_000)},
            {f"k{n}": ["x" * 500] * 9 for n in range(300)},
            {"x" * 100_000: 1, "y" * 100_000: [2]},
            {"data": [["x" * 500] * 50] * 300},
            {"data": [True, None, "", [], {}] * 20_000},
            {"text": "é😀" * 100_000},
            [[0.123456789] * 1000] * 100,
        ],
    )
    def test_fits_whatever_is_too_large(self, tools: Tools, answer: Any) -> None:
        for limit in (5000, LIMIT):
            made = result(tools["get-batch-job"], answer, limit)
            assert weigh(made["content"][0]["text"]) < limit + 1000
            assert "Shortened: ." not in made["structuredContent"]["_note"]

    def test_builds_little_of_a_giant_text_and_counts_its_characters_as_they_are(
        self, tools: Tools
    ) -> None:
        """As a `str` this takes 32 MB, and as much again for each look at its size."""
        content = json.dumps({"a": "x" * 8_000_000 + "😀"}, ensure_ascii=False).encode()
        tracemalloc.start()
        made = result(tools["get-batch-job"], content)["structuredContent"]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2 << 20
        assert f"{len(made['a'])} characters, of {len(content) - 7} bytes in all" in made["_note"]
        last = self.part(tools["get-batch-job"], content, "a", 7_999_999)
        assert (last["value"], last["next_from"]) == ("x😀", None)

    ERRORS = tuple({"message": f"Error {n}: no such thing", "count": n} for n in range(2000))

    def part(
        self, tool: CallableTool, answer: Any, path: str, start: int = 0, limit: int = LIMIT
    ) -> dict[str, Any]:
        """What a call with these `part` and `from` shows."""
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        call = Asked(RestRequest("GET", "/v1/x", {}), part=path, first=start)
        made = Results(limit, SECRET).success(tool, call, Answer(200, {}, content))
        assert made["isError"] is False, made
        Draft202012Validator(tool.output_schema).validate(made["structuredContent"])
        assert weigh(made["content"][0]["text"]) < limit + 500
        part: dict[str, Any] = made["structuredContent"]["_part"]
        assert (part["of"], part["from"]) == (path, start)
        return part

    def all_of(self, answer: Any, path: str, limit: int = LIMIT) -> list[Any]:
        """All pieces of a part, each by a call that goes on where the last one ended."""
        pieces, start = [], 0
        while True:
            part = self.part(self.tool, answer, path, start, limit)
            pieces.append(part["value"])
            if part["next_from"] is None:
                return pieces
            assert part["next_from"] > start
            start = part["next_from"]

    @pytest.fixture(autouse=True)
    def _tool(self, tools: Tools) -> None:
        self.tool = tools["get-batch-job"]

    @pytest.mark.parametrize("count", [3, 400], ids=["small", "large"])
    def test_leaves_nothing_that_no_call_can_show(self, count: int) -> None:
        text = 'é😀"\n' * 20_000
        jobs = [{"id": str(n), "errors": self.ERRORS if n == 1 else [], "a.b": {"c": [text]}} for n in range(count)]  # fmt: skip
        answer = {"data": jobs[:3] if count == 3 else jobs[:2] * 4, "many": {f"k{n}": n for n in range(9000)}}  # fmt: skip
        errors = [each for piece in self.all_of(answer, "data.1.errors") for each in piece]
        assert errors == list(self.ERRORS)
        assert "".join(self.all_of(answer, "data.1.a.b.c.0")) == text
        members: dict[str, int] = {}
        for piece in self.all_of(answer, "many"):
            members |= piece
        assert members == answer["many"]
        assert self.part(self.tool, answer, "data.1.errors.1999.count")["value"] == 1999
        assert self.part(self.tool, answer, "", 1)["value"].keys() == {"many"}

    @pytest.mark.parametrize(
        ("path", "sentence"),
        [
            ("outputs.9", "outputs has 3 items, counted from 0"),
            ("output", "the result has id, status, outputs, total_requests"),
            ("outputs.-1", "outputs has 3 items, counted from 0"),
            ("status.x", "status has no parts"),
            ("outputs.0.response.nothing", "outputs.0.response has body"),
            ("outputs." + "9" * 900, "outputs has 3 items, counted from 0"),
            ("outputs.\u0661", "outputs has 3 items, counted from 0"),
        ],
    )
    def test_says_where_a_part_ends_that_is_not_there(self, path: str, sentence: str) -> None:
        call = Asked(RestRequest("GET", "/v1/x", {}), part=path)
        content = json.dumps(self.job(3)).encode()
        made = Results(LIMIT).success(self.tool, call, Answer(200, {}, content))
        assert made["isError"] is True and sentence in made["content"][0]["text"]

    def test_looks_for_a_part_without_a_copy_of_its_place_for_each_member(self) -> None:
        path = "x" * 1_000_000
        answer = {f"k{n}": 1 for n in range(1000)} | {"": 1, path[:-1]: 1}
        tracemalloc.start()
        with pytest.raises(NoPart):
            Shortening().part(answer, path, 0, 99)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 18

    @pytest.mark.parametrize(
        "answer",
        [
            {"a": {"b": "x" * 99_999}, "a.b": 1},
            {"": "x" * 99_999},
            {"m" * 2000: ["x" * 99_999]},
            {"x" * 100_000: 1},
        ],
        ids=[
            "a point in another name",
            "no name",
            "a very long name",
            "a name longer than a result",
        ],
    )
    def test_names_no_part_that_a_call_would_not_show(
        self, tools: Tools, answer: dict[str, Any]
    ) -> None:
        note = result(tools["get-batch-job"], answer)["structuredContent"]["_note"]
        assert "Shortened: " in note and "To go on" not in note

    def test_names_a_part_that_has_a_point_in_its_name(self, tools: Tools) -> None:
        answer = {"a.b": "x" * 99_999, "a": 1, "c": 2}
        note = result(tools["get-batch-job"], answer)["structuredContent"]["_note"]
        assert 'part "a.b" and from' in note
        assert self.part(self.tool, answer, "a.b", 50_000)["value"] == "x" * 49_999

    def test_hides_the_bridge_s_own_token_wherever_a_text_is_cut(self) -> None:
        text = "x" * 300_000 + SECRET + "y" * 300_000
        answer = json.dumps({"a": text}).encode()
        for start in range(300_000 - 3, 300_000 + len(SECRET) + 3):
            value = self.part(self.tool, answer, "a", start)["value"]
            assert set(value) <= set("xy*")
        assert "".join(self.all_of(answer, "a")) == text.replace(SECRET, "*" * len(SECRET))

    def dense(self, *members: str) -> bytes:
        """A job with three million values, of a million objects beside `members`."""
        many = '{"a":1,"b":2},' * 1_000_000
        return ('{"id":"1","outputs":[' + many + "{}]" + "".join(members) + "}").encode()

    def test_builds_of_a_large_list_no_more_than_it_keeps(self, tools: Tools) -> None:
        content = json.dumps(self.job(20_000)).encode()
        tracemalloc.start()
        made = result(tools["get-batch-job"], content)["structuredContent"]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert f"outputs has the first {len(made['outputs'])} of 20000 items" in made["_note"]
        assert peak < 2 * len(content)  # built, it is six times as large

    def test_ends_where_more_would_be_built_than_a_worker_has_memory_for(
        self, tools: Tools
    ) -> None:
        many = b"[" + b"1," * MOST + b"1]"
        for content in (self.dense(), many, b'{"a":[%b]}' % many, b'{"a":{"b":%b}}' % many):
            with pytest.raises(AnswerTooLarge):
                Results(LIMIT).success(tools["get-batch-job"], CALL, Answer(200, {}, content))


class TestWeight:
    """2.4 for each token at least, so that a result of 60,000 has less than 25,000, above which Claude Code refuses it."""

    # Tokens as Mistral's tokenizers count them (mistral-common 1.13.1: Tekken of September 2024, v3), the larger number.
    MEASURED = (
        ("The jobs of the workspace, newest first, a page at a time. ", 16),
        ('{"id":"0bd383e8-2853-4521-aa4c-1a119bb1993a","created_at":1795507200,"errors":[],"outputs":null},', 60),
        ("0.01234567,-0.0456789,", 22),
        ("1,2,3,4,5,6,7,8,9,", 18),
        ("批处理作业在后台运行许多独立的模型请求，", 21),
        ("😀🎉🚀🥲🪐🧿", 24),
        ("👩\u200d👩\u200d👧🏳️", 21),
        ("배치 작업은 많은 독립적인 모델 요청을 처리합니다. ", 34),
        ("Пакетное задание выполняет множество запросов. ", 22),
        ("የቡድን ሥራ ብዙ ገለልተኛ ጥያቄዎችን ያካሂዳል። ", 75),
        ("bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB1L9RIvNEVUxTveLruM0rfj0WAK1jHDhaXXzOI8d4VFmtvBtMkA/+SNV1tdpcY4BAEl9l2w/j4kSUt26phkV9mG", 99),
        ("9f86d081884c7d659a2feaa0c55ad015", 30),
        ("\\n\\t\\n\\t\\n", 10),
        ("\\u0001\\u001b", 12),
    )  # fmt: skip

    @pytest.mark.parametrize(("text", "tokens"), MEASURED)
    def test_is_no_less_than_the_tokens_that_a_text_has(self, text: str, tokens: int) -> None:
        assert weigh(text) >= 2.4 * tokens
        assert weigh(text.encode()) == weigh(text)

    def test_of_english_is_about_its_characters(self) -> None:
        text = self.MEASURED[0][0]
        assert len(text) <= weigh(text) < 1.25 * len(text)

    def test_of_what_is_certainly_too_large_is_not_counted(self) -> None:
        assert weigh("9" * 100, most=50) == 100 and weigh("9" * 100, most=100) == 300


class TestLines:
    """Of an answer that is no JSON."""

    def read(
        self, tool: CallableTool, content: bytes, wanted: range = range(20), limit: int = LIMIT
    ) -> dict[str, Any]:
        lines = Lines(wanted, limit)
        for piece in (content, b""):
            if piece and lines.take(piece):
                break
        else:
            lines.take(b"")
        made = Results(limit, SECRET).lines(tool, LOG, Answer(200, {}, b""), lines)
        Draft202012Validator(tool.output_schema).validate(made["structuredContent"])
        assert json.loads(made["content"][0]["text"]) == made["structuredContent"]
        assert made["isError"] is False
        data: dict[str, Any] = made["structuredContent"]
        return data

    def test_are_data_that_says_which_they_are(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], b"a\nb\nc\n", range(1, 2))
        assert made == {"from": 1, "lines": ["b"], "next_from": 2}

    def test_of_which_the_last_is_there_say_that_none_follows(self, odd_tools: Tools) -> None:
        made = self.read(odd_tools["read-log"], b"a\nb", range(1, 2))
        assert made == {"from": 1, "lines": ["b"], "next_from": None}

    def test_that_do_not_fit_are_said_to_be_missing(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], b"x" * 40 + b"\n" + b"y" * 40 + b"\n", limit=60)
        assert made["_note"] == "No more than 1 lines fit into one result."
        assert (made["lines"], made["next_from"]) == (["x" * 40], 1)

    def test_that_are_too_long_say_how_long_and_where_the_whole_is(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], b"x" * 500 + b"\n", limit=60)
        assert made["_note"] == (
            "Line 0 is shortened to its first 60 characters, of 500 bytes in all."
        )
        assert made["lines"] == ["x" * 60 + "…"]

    def test_beyond_the_last_one_say_how_many_there_are(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], b"a\nb\nc", range(7, 9))
        assert made["lines"] == [] and made["next_from"] is None
        assert made["_note"] == "There are 3 lines in all."

    def test_with_bytes_that_are_no_utf8_say_so(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], b"a\xff\n\xef\xbf\xbd\n")
        assert made["lines"] == ["a\ufffd", "\ufffd"] and "no UTF-8" in made["_note"]

    def test_never_have_the_bridge_s_own_token(self, tools: Tools) -> None:
        made = self.read(tools["read-file"], f"Bearer {SECRET}\n".encode())
        assert made["lines"] == ["Bearer ***"]


class TestTheBridgesOwnToken:
    """Should REST or the upstream echo it, whatever escapes it is written with."""

    @pytest.mark.parametrize(
        "content",
        [
            json.dumps({"id": SECRET, SECRET: [f"a{SECRET}b"]}).encode(),
            json.dumps({"id": SECRET}).replace("/", r"\/").encode(),
            b'{"id":"%b"}' % "".join(f"\\u{ord(c):04x}" for c in SECRET).encode(),
            json.dumps({"id": "x" * (LIMIT // 20 * 19 - 50) + SECRET * 9 + "x" * LIMIT}).encode(),
            json.dumps({"outputs": [{"a": SECRET}] * 30_000}).encode(),
        ],
        ids=["as it is", "slash", "escapes", "where it is cut", "in a large list"],
    )
    def test_is_in_no_result(self, tools: Tools, content: bytes) -> None:
        text = result(tools["get-batch-job"], content)["content"][0]["text"]
        assert SECRET[:9] not in text and "***" in text

    def test_is_in_no_note(self, tools: Tools) -> None:
        made = result(tools["get-batch-job"], {"id": "1"}, Gateway_Warning=f"/body/{SECRET}")
        assert SECRET not in str(made)
