"""Tables of every kind give the same rows, and what is wrong with one is said with its place."""

from __future__ import annotations

import datetime
import gzip
import importlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from mistral_batch.errors import InputError, MissingExtra
from mistral_batch.sources import BLOCK, Source, open_source

ROWS = [{"id": "007", "text": "Good, and cheap"}, {"id": "8", "text": 'Bad: "loud"\nand late é'}]
CSV = 'id,text\n007,"Good, and cheap"\n8,"Bad: ""loud""\nand late é"\n'.encode()
JSONL = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
BOM = b"\xef\xbb\xbf"
TEXTS = {
    "a.csv": CSV,
    "of-windows.csv": BOM + CSV.replace(b"e\n", b"e\r\n").replace(b"t\n", b"t\r\n").replace(b"p\"\n", b"p\"\r\n"),
    "without-end.CSV": CSV[:-1],
    "blank.csv": b"\r\n" + CSV.replace(b"007", b"\n\n007") + b"\n\n",
    "a.tsv": CSV.replace(b"id,text", b"id\ttext").replace(b"007,", b"007\t").replace(b"8,", b"8\t"),
    "semicolons.csv": CSV.replace(b"id,text", b"id;text").replace(b"007,", b"007;").replace(b"8,", b"8;"),
    "tabs.csv": CSV.replace(b"id,text", b"id\ttext").replace(b"007,", b"007\t").replace(b"8,", b"8\t"),
    "a.jsonl": JSONL,
    "a.ndjson": JSONL,
    "of-windows.jsonl": BOM + JSONL.replace(b"\n", b"\r\n"),
    "without-end.jsonl": JSONL[:-1],
    "blank.jsonl": b"\n  \n" + JSONL.replace(b"\n", b"\n\n\r\n \t\n"),
    "spaces.jsonl": b" " + JSONL.replace(b"}", b"} "),
    "a.jsonl.gz": gzip.compress(JSONL),
    "two-parts.jsonl.gz": gzip.compress(JSONL[:30]) + gzip.compress(JSONL[30:]),
    "a.csv.gz": gzip.compress(BOM + CSV),
}  # fmt: skip


def rows_of(source: Source) -> list[dict[str, Any]]:
    return [row for batch in source.batches() for row in batch.rows]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def said(table: Any) -> str:
    """What is said of a table that cannot be read."""
    with pytest.raises(InputError) as caught:
        rows_of(open_source(table))
    return str(caught.value)


@pytest.mark.parametrize(("name", "content"), TEXTS.items(), ids=TEXTS)
def test_the_same_rows_come_from_every_kind_of_text(
    tmp_path: Path, name: str, content: bytes
) -> None:
    source = open_source(written(tmp_path / name, content))
    assert source.columns == ("id", "text")
    assert rows_of(source) == rows_of(source) == ROWS
    first = [batch.first for batch in source.batches()]
    assert first == [1]


def test_a_path_may_be_text(tmp_path: Path) -> None:
    assert rows_of(open_source(str(written(tmp_path / "a.csv", CSV)))) == ROWS


TABLES = {
    "Parquet": lambda table, folder: _parquet(table, folder / "a.parquet"),
    "a table": lambda table, folder: table,
    "a record batch": lambda table, folder: table.to_batches()[0],
    "a reader, which comes once": lambda table, folder: table.to_reader(),
    "another library's": lambda table, folder: _Stream(table),
    "dictionaries": lambda table, folder: table.set_column(
        1, "text", table["text"].dictionary_encode()
    ),
    "chunks": lambda table, folder: pyarrow.concat_tables([table.slice(0, 1), table.slice(1)]),
    "a frame that makes a table itself": lambda table, folder: _Frame(table),
    "dicts": lambda table, folder: table.to_pylist(),
}


def _parquet(table: pyarrow.Table, path: Path) -> Path:
    parquet.write_table(table, path)
    return path


class _Stream:
    """A data frame of a library that we do not know."""

    def __init__(self, table: pyarrow.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


class _Frame(_Stream):
    """As polars has it, whose stream has texts as views."""

    def to_arrow(self) -> pyarrow.Table:
        return self.table


@pytest.mark.parametrize("of", TABLES.values(), ids=TABLES)
def test_the_same_rows_come_from_every_kind_of_table(tmp_path: Path, of: Any) -> None:
    source = open_source(of(pyarrow.Table.from_pylist(ROWS), tmp_path))
    assert source.columns == ("id", "text")
    assert rows_of(source) == rows_of(source) == ROWS
    assert source.digest() == source.digest()


def test_values_keep_their_types_where_the_table_has_types(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=datetime.UTC)
    row = {
        "number": 7,
        "share": 0.5,
        "price": Decimal("1.10"),
        "when": moment,
        "day": moment.date(),
        "tags": ["a", None],
        "of": {"lang": "fr", "score": None},
        "none": None,
        "raw": b"\x00",
        "yes": True,
    }
    table = pyarrow.Table.from_pylist([row])
    source = open_source(_parquet(table, tmp_path / "a.parquet"))
    assert rows_of(source) == rows_of(open_source(table)) == [row]
    assert next(source.batches()).arrow.schema.field("price").type == pyarrow.decimal128(3, 2)


def test_times_finer_than_pythons_are_read_to_the_microsecond() -> None:
    table = pyarrow.table(
        {
            "when": pyarrow.array([1_700_000_000_123_456_789], pyarrow.timestamp("ns", "UTC")),
            "took": pyarrow.array([1_001], pyarrow.duration("ns")),
            "at": pyarrow.array([1_001], pyarrow.time64("ns")),
        }
    )
    row = rows_of(open_source(table))[0]
    assert row["when"].microsecond == 123456
    assert row["took"] == datetime.timedelta(microseconds=1)
    assert row["at"] == datetime.time(microsecond=1)


def test_a_table_that_arrow_does_not_take_is_said_in_words() -> None:
    class Odd:
        def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
            return pyarrow.chunked_array([[1]]).__arrow_c_stream__(requested_schema)

    assert "the Odd cannot be taken" in said(Odd())


def test_texts_that_come_as_views_have_a_digest_too() -> None:
    table = pyarrow.table({"text": pyarrow.array(["a", "b"], pyarrow.string_view())})
    assert open_source(table).digest() == open_source(table).digest()
    assert open_source(table).digest() != open_source(table.slice(1)).digest()


def test_a_digest_is_of_the_content_however_it_is_chunked() -> None:
    whole = pyarrow.table({"text": [str(number) for number in range(9000)], "n": range(9000)})
    parts = pyarrow.concat_tables([whole.slice(0, 17), whole.slice(17, 5000), whole.slice(5017)])
    other = whole.slice(0, 8999)
    assert open_source(whole).digest() == open_source(parts).digest()
    assert open_source(whole).digest() != open_source(other).digest()
    rows = whole.to_pylist()
    assert open_source(rows).digest() != open_source(rows[:-1]).digest()


def test_rows_know_their_lines_across_batches(tmp_path: Path) -> None:
    wide = "x" * (BLOCK // 3)
    lines = b"".join(b'{"text":"%b"}\n\n' % wide.encode() for _ in range(7))
    batches = list(open_source(written(tmp_path / "a.jsonl", lines)).batches())
    assert len(batches) > 1
    assert [number for batch in batches for number in batch.numbers] == list(range(1, 14, 2))
    assert [batch.first for batch in batches][1] == len(batches[0]) + 1
    content = "text\n" + "".join(f'"{wide}\n"\n\n' for _ in range(200))
    batches = list(open_source(written(tmp_path / "a.csv", content.encode())).batches())
    assert len(batches) > 1
    assert [number for batch in batches for number in batch.numbers] == list(range(2, 602, 3))


def test_a_row_that_cannot_be_read_is_named_by_its_line(tmp_path: Path) -> None:
    lines = b'{"a":1}\n\n[1]\n{"a":\n{"a":"\xff"}\n{"a":3}'
    batch = next(open_source(written(tmp_path / "a.jsonl", lines)).batches())
    assert [fault.place for fault in batch.faults] == ["line 3", "line 4", "line 5"]
    assert batch.column("a") == [1, None, None, None, 3]
    with pytest.raises(InputError, match="line 3: must be an object"):
        batch.rows  # noqa: B018


@pytest.mark.parametrize(
    ("content", "places"),
    [
        (b"a,b\n1,2\n1\n1,2,3\n1,2\n", ["line 3", "line 4"]),
        (b'a,b\n"1\n1",2\n\n1\n', ["line 5"]),
        (b'a,b\n1,"2"x\n1,2\n', ["line 2"]),
        (b'a,b\n1,2\n\n1,"2\n3,4\n', ["line 4"]),
        (b"a,b\n1,\xe9\n1,2\n", ["line 2"]),
        (b'a,b\n1,"\n\xe9"\n1,2\n1\n', ["line 2", "line 5"]),
        (b"a,b\n1,2\r3,4\n1,2\n", ["line 2"]),
        (b"a;b\n1,5;2;3\n", ["line 2"]),
    ],
    ids=["ragged", "after several lines", "text after a quotation", "open quotation", "latin-1",
         "latin-1 within a quotation", "a lone CR", "semicolons"],
)  # fmt: skip
def test_faults_of_a_csv_are_told_by_the_line_where_the_row_begins(
    tmp_path: Path, content: bytes, places: list[str]
) -> None:
    batches = list(open_source(written(tmp_path / "a.csv", content)).batches())
    assert [fault.place for batch in batches for fault in batch.faults] == places


def test_a_csv_holds_nul_and_fields_larger_than_python_takes_by_itself(tmp_path: Path) -> None:
    field = "x" * 1_000_000 + "\x00"
    source = open_source(written(tmp_path / "a.csv", f"a,b\n{field},\n".encode()))
    assert rows_of(source) == [{"a": field, "b": ""}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "a.txt"),
        ("a.json", b"[]", ".jsonl"),
        ("a", b"", ".parquet"),
        ("a.parquet.gz", b"", ".parquet"),
        ("a.csv.zip", b"", ".csv"),
        ("a.parquet", b"PAR1", "no Parquet"),
        ("a.parquet", b"", "no Parquet"),
        ("a.jsonl.gz", b"{}\n", "gzip"),
        ("a.jsonl.gz", gzip.compress(JSONL)[:-12], "cannot be read"),
        ("a.csv.gz", gzip.compress(CSV)[:-12], "cannot be read"),
        ("a.jsonl", gzip.compress(JSONL), ".gz"),
        ("a.csv", gzip.compress(CSV), ".gz"),
        ("a.jsonl", JSONL.decode().encode("utf-16"), "UTF-16"),
        ("a.csv", CSV.decode().encode("utf-16"), "UTF-16"),
        ("a.csv", b"a,,b\n", "column 2 has no name"),
        ("a.csv", b"a,b, \n", "column 3 has no name"),
        ("a.csv", b",text\n0,a\n", "index=False"),
        ("a.csv", b"a,b,a\n", "'a'"),
        ("a.csv", b"a\xe9\n1\n", "line 1"),
        ("a.csv", b"a\n" + b"x" * (17 << 20), "line 2 is longer"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_is_no_table_is_said_in_words(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    text = said(written(tmp_path / name, content))
    assert words in text


def test_a_folder_and_a_missing_file_are_said_in_words(tmp_path: Path) -> None:
    assert "is a folder" in said(tmp_path)
    assert "no file" in said(tmp_path / "a.csv")


def test_a_file_that_may_not_be_read_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.csv", CSV)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in said(path)


@pytest.mark.parametrize("table", [5, None, b"a.csv", {"a": [1]}, [1], [{"a": 1}, ["a"]]])
def test_an_object_that_is_no_table_is_said_in_words(table: Any) -> None:
    assert "is no table" in said(table) or "not a dict" in said(table)


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""]])
def test_columns_of_a_table_have_names_of_their_own(names: list[str]) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=names)
    assert "column" in said(table)


def test_a_table_without_rows_has_columns_and_no_batches(tmp_path: Path) -> None:
    table = pyarrow.table({"a": pyarrow.array([], pyarrow.string())})
    for each in (table, _parquet(table, tmp_path / "a.parquet"), written(tmp_path / "a.csv", b"a")):
        source = open_source(each)
        assert (source.columns, list(source.batches())) == (("a",), [])
    for each in ([], written(tmp_path / "a.jsonl", b"\n"), written(tmp_path / "b.csv", b"")):
        source = open_source(each)
        assert (source.columns, list(source.batches())) == ((), [])


def test_without_pyarrow_text_is_read_and_parquet_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _parquet(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert rows_of(open_source(written(tmp_path / "a.csv", CSV))) == ROWS
    with pytest.raises(MissingExtra, match="'tables'; install it with"):
        open_source(path)


def test_wide_rows_of_parquet_come_in_smaller_batches(tmp_path: Path) -> None:
    wide = pyarrow.table({"text": [f"{number}" + "x" * (1 << 20) for number in range(32)]})
    path = _parquet(wide, tmp_path / "a.parquet")
    assert max(map(len, open_source(path).batches())) <= 8
