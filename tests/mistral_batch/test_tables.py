"""Where rows go: each format keeps what it can hold, and a file is whole or as it was before."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mistral_batch.errors import InputError, MissingExtra, ResultsError
from mistral_batch.join import Join
from mistral_batch.lines import Form
from mistral_batch.runs import NotWritten
from mistral_batch.tables import examine, table, write
from mistral_batch.takes import Take
from tests.mistral_batch.joining import PROMPT, answer, begun, end, failure, result, rows

EMBEDDING = Form(model="m", endpoint="/v1/embeddings", id="id", body={"input": "{text}"})


def joined(
    home: Path, given: Any, *files: Any, form: Form = PROMPT, takes: tuple[str, ...] = ()
) -> Join:
    """The rows of a table whose requests were one job with these results."""
    run, lines = begun(home, given, form, per_job=1 << 20)
    end(run, *files)
    return Join(run, lines, [Take.parse(each) for each in takes])


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, strict=True))


def test_jsonl_has_a_row_a_line_with_the_new_members_last(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write(out, joined(tmp_path, rows("b", "a"), [answer("a", "Jä"), failure("b", "x", 500)]))
    assert out.read_text("utf-8").splitlines() == [
        '{"id":"b","text":"text of b","answer":null,"error":"500 x","attempt":1}',
        '{"id":"a","text":"text of a","answer":"Jä","error":null,"attempt":1}',
    ]


def test_requests_in_mistrals_form_keep_their_members(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    request = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "x"}]}, "n": [1]}
    source.write_text(json.dumps(request))
    out = tmp_path / "out.jsonl"
    write(out, joined(tmp_path, source, [answer("a")], form=Form(model="m")))
    assert jsonl(out) == [request | {"answer": "fine", "error": None, "attempt": 1}]
    write(out.with_suffix(".csv"), joined(tmp_path, source, [answer("a")], form=Form(model="m")))
    head, row = read_csv(out.with_suffix(".csv"))
    assert head == ["custom_id", "body", "n", "answer", "error", "attempt"]
    assert [json.loads(row[1]), *row[2:]] == [request["body"], "[1]", "fine", "", "1"]


def test_json_that_was_given_stays_as_it_was_written(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given = ['{ "n" : 1.50, "text":"J\\u00e4", "big": 12345678901234567890123 }', "{ }", '{"a":1}']
    source.write_text("\r\n".join([*given, ""]))
    form = Form(model="m", prompt="Say something")
    results = [answer("row-1"), answer("row-2"), answer("row-3")]
    write(out, joined(tmp_path, source, results, form=form))
    lines = out.read_text().splitlines()
    for line, before in zip(lines, given, strict=True):
        assert line.startswith(before[:-1].rstrip())
        assert json.loads(line) == json.loads(before) | {
            "answer": "fine",
            "error": None,
            "attempt": 1,
        }


def test_csv_stays_text_and_can_be_read_again(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    given = [["id", "text", "n"], ["007", 'say "hi"\nthere', "1.50"], ["a\rb", "x,y", ""]]
    with source.open("w", newline="") as file:
        csv.writer(file).writerows(given)
    out = tmp_path / "out.csv"
    results = [answer("007", "line\r\nline"), answer("a\rb", "cr\ralone")]
    write(out, joined(tmp_path, source, results))
    assert read_csv(out) == [
        [*given[0], "answer", "error", "attempt"],
        [*given[1], "line\r\nline", "", "1"],
        [*given[2], "cr\ralone", "", "1"],
    ]
    assert b"attempt\n" in out.read_bytes()


def test_csv_cells_of_values_that_are_no_text_are_json(tmp_path: Path) -> None:
    contents = [[{"type": "text", "text": "é"}], None, True, 7, 0.5, "", "null", {}]
    ids = [f"r{number}" for number in range(len(contents))]
    results = [answer(each, content) for each, content in zip(ids, contents, strict=True)]
    out = tmp_path / "out.csv"
    write(out, joined(tmp_path, rows(*ids), results))
    cells = [row[2] for row in read_csv(out)[1:]]
    assert cells == ['[{"type":"text","text":"é"}]', "", "true", "7", "0.5", "", "null", "{}"]


def test_csv_of_rows_that_differ_has_every_column_of_any(tmp_path: Path) -> None:
    given = [{"id": "a", "text": "x"}, {"id": "b", "late": 1, "text": "y"}]
    out = tmp_path / "out.csv"
    write(out, joined(tmp_path, given, [answer("a"), answer("b")]))
    assert read_csv(out)[0] == ["id", "text", "late", "answer", "error", "attempt"]
    assert [row[2] for row in read_csv(out)[1:]] == ["", "1"]


def arrow_table() -> pa.Table:
    """A table with types that only Arrow has."""
    moment = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
    columns = {
        "id": pa.array([1, 2], pa.uint16()),
        "text": pa.array(["x", "y"], pa.large_string()).dictionary_encode(),
        "when": pa.array([moment, None], pa.timestamp("ns", "Europe/Paris")),
        "price": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(9, 2)),
        "tags": pa.array([["a"], []], pa.list_(pa.string())),
        "raw": pa.array([b"\xff", b""], pa.binary()),
        "map": pa.array([{"k": 1}, None], pa.struct([("k", pa.int8())])),
    }
    return pa.table(columns).replace_schema_metadata({"pandas": "kept"})


def test_the_tables_own_columns_stay_as_they_are_in_parquet(tmp_path: Path) -> None:
    given = arrow_table()
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet.write_table(given, source)
    write(out, joined(tmp_path, source, [answer("2", "B"), failure("1", "x", 500)]))
    found, before = parquet.read_table(out), parquet.read_table(source)
    assert found.select(before.column_names).equals(before)
    assert found.schema.metadata[b"pandas"] == b"kept"
    assert found.select(["answer", "error", "attempt"]).to_pydict() == {
        "answer": [None, "B"],
        "error": ["500 x", None],
        "attempt": [1, 1],
    }


def test_a_table_in_memory_gives_a_table_with_its_types(tmp_path: Path) -> None:
    given = arrow_table()
    found = table(joined(tmp_path, given, [answer("2"), answer("1")]))
    assert found.select(given.column_names).equals(given)
    assert found.column("answer").type == pa.string()


def test_arrows_values_are_written_as_json_and_csv_too(tmp_path: Path) -> None:
    results = [answer("1"), answer("2")]
    write(tmp_path / "o.jsonl", joined(tmp_path, arrow_table(), results))
    first = jsonl(tmp_path / "o.jsonl")[0]
    assert (first["id"], first["tags"], first["map"], first["price"]) == (1, ["a"], {"k": 1}, 1.1)
    assert first["when"].startswith("2026-11-30T13:00:00")
    write(tmp_path / "o.csv", joined(tmp_path, arrow_table(), results))
    row = read_csv(tmp_path / "o.csv")[1]
    assert row[2].startswith("2026-11-30T13:00:00")
    assert row[3:7] == ["1.10", '["a"]', "/w==", '{"k":1}']


def test_embeddings_are_lists_of_numbers(tmp_path: Path) -> None:
    numbers = [0.1, -2, 1e-9]
    results = [result("a", {"data": [{"embedding": numbers}]}), failure("b", "x", 500)]
    found = table(joined(tmp_path, rows("b", "a"), results, form=EMBEDDING))
    assert found.schema.field("embedding").type == pa.list_(pa.float64())
    assert found.column("embedding").to_pylist() == [None, numbers]


def test_a_column_has_the_type_of_all_its_values(tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "int": [1, None, 2],
        "float": [1, 2.5, None],
        "bool": [True, None, False],
        "text": ["a", None, "b"],
        "mixed": [1, "1", None],
        "nested": [{"a": [1]}, None, [1, "x"]],
        "numbers": [[1, 2.5], [], None],
        "big": [1, 1 << 70, None],
        "none": [None, None, None],
        "truth": [True, 1, None],
    }
    given = [
        row | {f"{name}_": each[at] for name, each in values.items()}
        for at, row in enumerate(rows("a", "b", "c"))
    ]
    found = table(joined(tmp_path, given, map(answer, "abc")))
    types = {name: str(found.schema.field(f"{name}_").type) for name in values}
    assert types == {
        "int": "int64",
        "float": "double",
        "bool": "bool",
        "text": "string",
        "mixed": "string",
        "nested": "string",
        "numbers": "list<item: double>",
        "big": "string",
        "none": "string",
        "truth": "string",
    }
    for name in ("int", "float", "bool", "text", "numbers", "none"):
        assert found.column(f"{name}_").to_pylist() == values[name]
    assert found.column("mixed_").to_pylist() == ["1", "1", None]
    assert found.column("nested_").to_pylist() == ['{"a":[1]}', None, '[1,"x"]']


@pytest.mark.parametrize("suffix", [".parquet", ""])
def test_a_value_of_another_type_far_down_changes_the_column_from_its_beginning(
    tmp_path: Path, suffix: str
) -> None:
    count = 9_000  # more than two batches
    given = [row | {"n": at} for at, row in enumerate(rows(*map(str, range(count))))]
    given[-2]["n"] = "odd"
    results: list[Any] = [answer(str(at), None) for at in range(count - 1)]
    join = joined(tmp_path, given, [*results, answer(str(count - 1), 7)])
    if suffix:
        write(tmp_path / "o.parquet", join)
        found = parquet.read_table(tmp_path / "o.parquet")
    else:
        found = table(join)
    assert found.column("n").to_pylist()[:2] + found.column("n").to_pylist()[-2:] == [
        "0",
        "1",
        "odd",
        str(count - 1),
    ]
    assert found.column("answer").to_pylist()[-2:] == [None, 7]
    assert (join.summary.rows, join.summary.answered) == (count, count)


def test_standard_output_has_jsonl(tmp_path: Path, capfdbinary: Any) -> None:
    write(None, joined(tmp_path, rows("a"), [answer("a")]))
    assert json.loads(capfdbinary.readouterr().out)["answer"] == "fine"


def test_whoever_reads_standard_output_may_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, write_through=True))
        with pytest.raises(NotWritten, match="standard output"):
            write(None, joined(tmp_path, rows("a"), [answer("a")]))


def test_a_file_is_replaced_only_when_all_rows_are_there(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv", ".parquet"):
        out = tmp_path / f"out{suffix}"
        out.write_text("before")
        with pytest.raises(ResultsError):
            write(out, joined(tmp_path / suffix, rows("a"), [answer("x")]))
        assert out.read_text() == "before"
        write(out, joined(tmp_path / f"{suffix}2", rows("b"), [answer("b")]))
        assert out.read_bytes() != b"before"
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [
        "out.csv",
        "out.jsonl",
        "out.parquet",
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    out.write_text("before")
    ids = [f"{at}" for at in range(3_000)]
    join = joined(tmp_path, rows(*ids), [answer(each, os.urandom(500).hex()) for each in ids])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NotWritten, match=f"{out} cannot be written"):
            write(out, join)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_text() == "before"
    assert not list(tmp_path.glob("*.part"))


def test_a_link_still_leads_to_the_file_that_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    write(link, joined(tmp_path, rows("a"), [answer("a")]))
    assert link.is_symlink()
    assert jsonl(target)[0]["id"] == "a"


def test_the_table_itself_is_not_written_over(tmp_path: Path) -> None:
    source, link = tmp_path / "in.jsonl", tmp_path / "link.jsonl"
    source.write_text("\n".join(map(json.dumps, rows("a"))))
    link.symlink_to(source)
    before = source.read_bytes()
    for out in (source, link, tmp_path / "." / "in.jsonl"):
        with pytest.raises(InputError, match="is the table itself"):
            examine(out, source)
        with pytest.raises(InputError, match="is the table itself"):
            write(out, joined(tmp_path, source, [answer("a")]))
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out", "by the name's suffix"),
        ("out.xlsx", ".jsonl, .csv, .parquet"),
        ("missing/out.csv", "there is no folder"),
        ("file/out.csv", "there is no folder"),
        ("folder.csv", "is a folder"),
        ("pipe.jsonl", "is no file"),
    ],
)
def test_what_cannot_be_written_to_is_refused_before(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=said):
        examine(tmp_path / name)


@pytest.mark.parametrize("error", [PermissionError(13, "Denied"), OSError(30, "Read-only")])
def test_a_folder_that_may_not_be_written_to_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(path: Path, **_: Any) -> None:  # whoever runs the tests may well be root
        raise error

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(InputError, match=f"cannot be written: {error.strerror}"):
        examine(tmp_path / "out.csv")


def test_a_name_that_is_too_long_is_refused_before(tmp_path: Path) -> None:
    for length in (240, 251, 300):
        with pytest.raises(InputError, match="cannot be written: File name too long"):
            examine(tmp_path / f"{'x' * length}.csv")


def test_nothing_is_left_of_an_examination(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("before")
    examine(out)
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]
    assert out.read_text() == "before"


def test_suffixes_are_known_in_capitals_too(tmp_path: Path) -> None:
    examine(tmp_path / "OUT.CSV")
    examine(None)


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="extra 'tables'"):
        examine(tmp_path / "out.parquet")
    write(tmp_path / "out.csv", joined(tmp_path, rows("a"), [answer("a")]))
