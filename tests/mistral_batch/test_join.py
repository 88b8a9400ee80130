"""A row for every row, in the table's order, whatever came back; and what of it is sent again."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mistral_batch.errors import InputError, ResultsError
from mistral_batch.join import Join, again
from mistral_batch.lines import Form, Lines
from mistral_batch.results import outcomes
from mistral_batch.runs import Run
from mistral_batch.sources import open_source
from mistral_batch.summary import Summary
from mistral_batch.takes import Take
from tests.mistral_batch.joining import (
    PROMPT,
    answer,
    begun,
    end,
    failure,
    result,
    rows,
    sent_again,
)


def read(run: Run, lines: Lines, *takes: str) -> tuple[list[dict[str, Any]], Summary]:
    """All rows with their new columns, and the summary."""
    join = Join(run, lines, [Take.parse(each) for each in takes])
    found = []
    for joined in join:
        new = [
            dict(zip(joined.columns, v, strict=True))
            for v in zip(*joined.columns.values(), strict=True)
        ]
        found += [row | more for row, more in zip(joined.rows, new, strict=True)]
    return found, join.summary


def resent(run: Run, everything: bool = False) -> list[str]:
    return [json.loads(line)["custom_id"] for line in again(run, everything)]


def test_rows_come_in_the_order_of_the_table_from_whatever_order_and_file(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c", "d", "e"), per_job=3)
    end(run, [answer("c", "C"), answer("a", "A")], [failure("b", {"message": "no"}, 422)])
    end(run, [answer("e", "E"), answer("d", "D")], chunk=2)
    found, summary = read(run, lines)
    assert [(row["id"], row["answer"], row["error"], row["attempt"]) for row in found] == [
        ("a", "A", None, 1),
        ("b", None, "422 no", 1),
        ("c", "C", None, 1),
        ("d", "D", None, 1),
        ("e", "E", None, 1),
    ]
    assert found[0]["text"] == "text of a"
    assert (summary.rows, summary.answered, summary.failed) == (5, 4, 1)


@pytest.mark.parametrize(
    ("status", "why", "said"),
    [
        ("CANCELLED", "", "no result: the job was cancelled"),
        ("TIMEOUT_EXCEEDED", "", "no result: the job timed out"),
        ("FAILED", "bad model", "no result: the job failed: bad model"),
        ("SUCCESS", "", "no result: the job has none for it"),
        ("SOMETHING_NEW", "", "no result: the job ended as SOMETHING_NEW"),
    ],
)
def test_a_row_without_a_result_is_there_says_why_and_is_sent_again(
    tmp_path: Path, status: str, why: str, said: str
) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"), per_job=3)
    end(run, [answer("b")], status=status, why=why)
    found, summary = read(run, lines)
    assert [row["error"] for row in found] == [said, None, said]
    assert (summary.missing, summary.failed, summary.again, summary.never) == (2, 2, 2, 0)
    assert resent(run) == ["a", "c"]


def test_a_job_that_was_never_sent_leaves_all_its_rows_without_a_result(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"))
    end(run, [answer("a"), answer("b")])
    end(run, chunk=2, status="CANCELLED")
    assert [row["error"] for row in read(run, lines)[0]] == [
        None,
        None,
        "no result: the job was cancelled",
    ]


def test_results_that_are_still_to_come_are_no_reason_to_send_again(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"))
    end(run, [answer("a"), failure("b", "x", 429)])
    assert read(run, lines)[0][2]["error"] == "not sent yet"
    with pytest.raises(ResultsError, match="not over"):
        resent(run)


def test_what_may_succeed_is_sent_again_and_all_when_asked_for(tmp_path: Path) -> None:
    statuses = [408, 409, 429, 500, 503, 529, 400, 401, 403, 404, 413, 422, 418]
    ids = [f"r{status}" for status in statuses]
    run, lines = begun(tmp_path, rows("good", *ids), per_job=99)
    end(run, [answer("good")], [failure(f"r{each}", "no", each) for each in statuses])
    may = ["r408", "r409", "r429", "r500", "r503", "r529", "r418"]
    assert resent(run) == may
    assert resent(run, everything=True) == ids
    summary = read(run, lines)[1]
    assert (summary.again, summary.never) == (len(may), 6)


def test_what_is_sent_again_are_the_very_lines_in_their_order(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, rows("a", "b", "c", "d"))
    content = b"".join(
        (run.folder / c.content).read_bytes() for c in run.manifest.attempts[0].chunks
    )
    end(run, [failure("b", "x", 500), failure("a", "x", 500)])
    end(run, [failure("d", "x", 500), failure("c", "x", 500)], chunk=2)
    assert b"".join(line + b"\n" for line in again(run)) == content


def test_an_error_of_unknown_kind_is_sent_again_once(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"), per_job=9)
    end(run, [failure("a", "odd"), failure("b", "odd"), answer("c")])
    assert resent(run) == ["a", "b"]
    sent_again(run, 2, ["a", "b"])
    end(run, [failure("b", "odd"), failure("a", "x", 429)], attempt=2)
    assert resent(run) == ["a"]
    summary = read(run, lines)[1]
    assert (summary.again, summary.never) == (1, 1)


def test_the_last_good_answer_is_shown_and_else_the_last_error(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c", "d"))
    end(run, [failure("a", "first", 500), failure("b", "first", 500)])
    end(run, [answer("d"), failure("c", "first", 500)], chunk=2)
    sent_again(run, 2, ["a", "b", "c"])
    end(run, [answer("b", "later"), failure("a", "second", 500)], attempt=2)
    end(run, [], attempt=2, chunk=2, status="CANCELLED")
    sent_again(run, 3, ["a", "c"])
    end(run, [answer("c", "third"), failure("a", "no", 422)], attempt=3)
    found, summary = read(run, lines)
    assert [(row["answer"], row["error"], row["attempt"]) for row in found] == [
        (None, "422 no", 3),
        ("later", None, 2),
        ("third", None, 3),
        ("fine", None, 1),
    ]
    assert (summary.answered, summary.missing, resent(run)) == (3, 0, [])


def test_an_error_takes_the_place_of_no_answer(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a"))
    end(run, [answer("a", "good")])
    sent_again(run, 2, ["a"])
    end(run, [failure("a", "no", 500)], attempt=2)
    assert read(run, lines)[0][0]["answer"] == "good"
    assert resent(run) == []


def test_an_error_is_shown_although_a_later_attempt_was_cancelled(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a"))
    end(run, [failure("a", "slow down", 429)])
    sent_again(run, 2, ["a"])
    end(run, attempt=2, status="CANCELLED")
    (row,), summary = read(run, lines)
    assert (row["error"], row["attempt"], summary.missing) == ("429 slow down", 1, 0)


@pytest.mark.parametrize("twice", ["one file", "both files", "identical"])
def test_two_results_for_a_row_are_an_error_that_names_it(tmp_path: Path, twice: str) -> None:
    run, lines = begun(tmp_path, rows("a", "b"))
    first, other = answer("a", "one"), answer("a", "two")
    files = {
        "one file": [[first, answer("b"), other]],
        "both files": [[first, answer("b")], [failure("a")]],
        "identical": [[first, first]],
    }
    path = end(run, *files[twice])[-1]
    with pytest.raises(ResultsError, match="custom_id 'a' has two results") as caught:
        read(run, lines)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("stranger", ["x", "c", ""])
def test_a_result_for_a_stranger_is_an_error_that_names_it(tmp_path: Path, stranger: str) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"))  # c is of the other job
    (path,) = end(run, [answer("a"), answer(stranger), answer("b")])
    end(run, [answer("c")], chunk=2)
    with pytest.raises(ResultsError, match=f"{path} line 2: custom_id '{stranger}' was not asked"):
        read(run, lines)


def test_a_retry_has_no_results_but_for_what_it_asked(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b"))
    end(run, [failure("a", "x", 500), answer("b")])
    sent_again(run, 2, ["a"])
    end(run, [answer("a"), answer("b")], attempt=2)
    with pytest.raises(ResultsError, match="'b' was not asked"):
        read(run, lines)


def test_what_all_results_say_is_had_without_the_table(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, rows("a", "b", "c"))
    end(run, [answer("b", prompt_tokens=1), b""], [failure("a", "x", 500)])
    end(run, chunk=2, status="CANCELLED")
    sent_again(run, 2, ["a"])
    end(run, [answer("a", prompt_tokens=2)], attempt=2)
    found = [(each.custom_id, each.error, each.usage) for each in outcomes(run)]
    assert found == [
        ("b", "", {"prompt_tokens": 1}),
        ("a", "500 x", {}),
        ("a", "", {"prompt_tokens": 2}),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"b","response":{"status_co',
        b'{"custom_id":"b"}}',
        b'["b"]',
        b'{"custom_id":null,"error":"x"}',
        b'{"custom_id":7,"error":"x"}',
        b'{"error":"x"}',
        b"<html>",
        b'{"custom_id":"b","response":' + b"[" * 100_000,
    ],
)
def test_a_broken_result_is_an_error_with_its_file_and_line(tmp_path: Path, line: bytes) -> None:
    run, lines = begun(tmp_path, rows("a", "b"))
    (path,) = end(run, [answer("a"), b"", line])
    with pytest.raises(ResultsError, match=f"{path} line 3"):
        read(run, lines)


def test_a_result_that_is_cut_off_is_told_whoever_reads_it(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, rows("a", "b"))
    (path,) = end(run, [answer("a"), b'{"custom_id":"b","respo'])
    with pytest.raises(ResultsError, match=f"{path} line 2 cannot be read"):
        list(outcomes(run))


def test_a_results_file_that_is_gone_is_named(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a"))
    (path,) = end(run, [answer("a")])
    path.unlink()
    with pytest.raises(ResultsError, match=f"{path} cannot be read"):
        read(run, lines)


def test_half_characters_and_numbers_beyond_json_lose_no_answer(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"), per_job=3)
    body = b'{"choices":[{"message":{"content":%b}}]}'
    line = b'{"custom_id":"%b","response":{"status_code":200,"body":%b},"error":null}\r'
    end(
        run,
        [
            line % (b"a", body % b'"half \\ud83d"'),
            line % (b"b", body % b'"bad \xff"'),
            line % (b"c", body % b"NaN"),
        ],
    )
    a, b, c = (row["answer"] for row in read(run, lines)[0])
    assert (a, b) == ("half �", "bad �")
    assert c != c


def test_a_table_that_is_another_one_is_refused_with_the_row(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, rows("a", "b"))
    end(run, [answer("a"), answer("b")])
    for other, said in ((rows("a", "x"), "row 2 .* 'x'"), (rows("b", "a", "c"), "row 3 .* 'c'"),
                        (rows("a"), "fewer rows")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read(run, Lines(open_source(other), PROMPT))


def test_a_table_that_is_broken_by_now_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows("a", "b"))))
    run, lines = begun(tmp_path / "runs", path)
    end(run, [answer("a"), answer("b")])
    path.write_text(path.read_text()[:-1])
    with pytest.raises(InputError, match=str(path)):
        read(run, lines)


def test_a_run_of_which_nothing_was_sent_says_so(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a"))
    run.manifest.attempts.clear()
    with pytest.raises(InputError, match=r"nothing of .* was sent yet"):
        read(run, lines)


def test_new_columns_do_not_take_the_names_of_the_tables(tmp_path: Path) -> None:
    table = [each | {"error": "mine", "attempt": 9, "batch_attempt": 8} for each in rows("a")]
    run, lines = begun(tmp_path, table)
    end(run, [answer("a")])
    (row,), summary = read(run, lines, "text=choices[0].message.content")
    assert row == table[0] | {
        "batch_text": "fine",
        "batch_error": None,
        "batch_batch_attempt": 1,
    }
    assert summary.renamed == {
        "text": "batch_text",
        "error": "batch_error",
        "attempt": "batch_batch_attempt",
    }


def test_a_column_that_only_a_later_row_has_keeps_its_name_too(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    table = [*rows("a"), rows("b")[0] | {"answer": "mine"}]
    path.write_text("\n".join(map(json.dumps, table)))
    run, lines = begun(tmp_path / "runs", path)
    end(run, [answer("a"), answer("b")])
    found, _ = read(run, lines)
    assert found[1]["answer"] == "mine"
    assert [row["batch_answer"] for row in found] == ["fine", "fine"]


def test_what_is_taken_by_default_is_what_the_endpoint_is_about(tmp_path: Path) -> None:
    bodies: dict[str, Any] = {
        "/v1/fim/completions": {"choices": [{"message": {"content": "x"}}]},
        "/v1/embeddings": {"data": [{"embedding": [0.5, 1]}]},
        "/v1/moderations": {"results": [{"categories": {}}]},
    }
    new = []
    for endpoint, body in bodies.items():
        form = Form(endpoint=endpoint, id="id", body={"input": "{text}", "prompt": "{text}"})
        run, lines = begun(tmp_path, rows("a"), form)
        end(run, [result("a", body)])
        (row,), _ = read(run, lines)
        new.append({name: row[name] for name in row if name in ("answer", "embedding")})
    assert new == [{"answer": "x"}, {"embedding": [0.5, 1]}, {"answer": bodies["/v1/moderations"]}]


def test_a_path_that_finds_nothing_is_counted_and_the_row_is_answered(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b", "c"), per_job=9)
    end(run, [answer("a"), answer("b", None), failure("c", "x", 429)])
    found, summary = read(run, lines, "said=choices[0].message.content", "odd=choices[5].x")
    assert [row["said"] for row in found] == ["fine", None, None]
    assert (summary.nothing, summary.answered) == ({"said": 1, "odd": 2}, 2)


def test_a_column_is_taken_once(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a"))
    with pytest.raises(InputError, match="several columns named 'x'"):
        read(run, lines, "x=a", "x=b")


def test_a_list_of_parts_stays_as_it_is(tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Yes"}]
    run, lines = begun(tmp_path, rows("a"))
    end(run, [answer("a", parts)])
    assert read(run, lines)[0][0]["answer"] == parts


def test_usage_is_that_of_all_results_of_all_attempts(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b"))
    end(run, [answer("a", prompt_tokens=3, completion_tokens=2), failure("b", "x", 500)])
    sent_again(run, 2, ["b"])
    end(run, [answer("b", prompt_tokens=10, completion_tokens=1)], attempt=2)
    summary = read(run, lines)[1]
    assert (summary.tokens_in, summary.tokens_out) == (13, 3)


def test_errors_are_grouped_by_what_they_say_the_most_frequent_first(tmp_path: Path) -> None:
    ids = [f"row-{number}" for number in range(1, 9)]
    run, lines = begun(tmp_path, rows(*ids), per_job=9)
    end(
        run,
        [
            failure("row-8", "slow down", 429),
            failure("row-2", "request row-2 is bad", 422),
            failure("row-1", "request row-1 is bad", 422),
            failure("row-3", "request row-3 is bad", 422),
            failure("row-4", "job 0190b5a6-0000-4000-8000-000000000001 hung", 500),
            failure("row-5", "job 0190b5a6-0000-4000-8000-000000000002 hung", 500),
            failure("row-6", "too long: 5000 tokens", 422),
            failure("row-7", "too long: 6000 tokens", 400),
        ],
    )
    told = [(e.count, e.error, e.example, e.again) for e in read(run, lines)[1].errors]
    assert told == [
        (3, "422 request row-1 is bad", "row-1", False),
        (2, "500 job 0190b5a6-0000-4000-8000-000000000001 hung", "row-4", True),
        (1, "422 too long: 5000 tokens", "row-6", False),
        (1, "400 too long: 6000 tokens", "row-7", False),
        (1, "429 slow down", "row-8", True),
    ]


def test_many_kinds_of_errors_are_compared_without_their_numbers() -> None:
    summary = Summary()
    for number in range(5_000):
        summary.fail(f"422 prompt has {number} tokens", f"r-{number}", False)
        summary.fail("429 slow down", f"r-{number}", True)
    told = [(kind.count, kind.error) for kind in summary.errors]
    assert told == [(5000, "422 prompt has 0 tokens"), (5000, "429 slow down")]


def test_kinds_of_errors_do_not_grow_without_bound() -> None:
    summary = Summary()
    for number in range(9_000):
        word = "".join(chr(97 + number // 26**place % 26) for place in range(3))
        summary.fail(f"said {word}", "id", False)
    assert len(summary.errors) == 1_001
    assert sum(kind.count for kind in summary.errors) == 9_000


def test_rows_can_be_read_again_and_the_summary_is_that_of_one_reading(tmp_path: Path) -> None:
    run, lines = begun(tmp_path, rows("a", "b"))
    end(run, [answer("a"), failure("b", "x", 500)])
    join = Join(run, lines)
    assert [len(list(join)), len(list(join))] == [1, 1]
    assert (join.summary.rows, join.summary.failed) == (2, 1)


def test_what_is_in_memory_does_not_grow_with_the_answers(tmp_path: Path) -> None:
    ids = [f"r{number}" for number in range(3_000)]
    run, lines = begun(tmp_path, rows(*ids), per_job=1_500)
    for chunk in (1, 2):
        end(run, [answer(e, "x" * 20_000) for e in ids[1_500 * (chunk - 1) :][:1_500]], chunk=chunk)
    join = Join(run, lines)
    _ = join.new_columns
    tracemalloc.start()
    try:
        sizes = [len(joined) for joined in join]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) == len(ids)
    assert peak < 30 << 20  # of 60 MB
