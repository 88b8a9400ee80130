"""What `check` says of requests before anything is sent; what an upload to the gateway refuses is among it."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
from pyarrow import parquet

from mistral_batch.check import Checked, check
from mistral_batch.errors import InputError
from mistral_batch.lines import Form, Lines
from mistral_batch.sources import open_source
from service.batch_file import BatchFile

BODY = b'{"messages":[{"role":"user","content":"Good?"}]}'
GOOD = b'{"custom_id":"a","body":%b}' % BODY


def of(table: Any, **form: Any) -> Checked:
    return check(Lines(open_source(table), Form(**form)))


@pytest.fixture
def checked(tmp_path: Path) -> Any:
    """Checks lines as a file."""

    def one(content: bytes, **form: Any) -> Checked:
        path = tmp_path / "reviews.jsonl"
        path.write_bytes(content)
        return of(path, **form)

    return one


def places(found: Checked) -> list[str]:
    return [fault.place for fault in found.faults]


BAD = {
    "no JSON": b"{custom_id}",
    "half an object": GOOD[:-1],
    "two objects": GOOD + b" " + GOOD,
    "an array": b"[]",
    "a text": b'"a"',
    "null": b"null",
    "no body": b'{"custom_id":"a"}',
    "a text as body": b'{"custom_id":"a","body":"x"}',
    "an array as body": b'{"custom_id":"a","body":[]}',
    "null as body": b'{"custom_id":"a","body":null}',
    "no id": b'{"body":%b}' % BODY,
    "a number as id": b'{"custom_id":1,"body":%b}' % BODY,
    "null as id": b'{"custom_id":null,"body":%b}' % BODY,
    "NaN": b'{"custom_id":"a","body":{"messages":[{}],"temperature":NaN}}',
    "Infinity": b'{"custom_id":"a","body":{"messages":[{}],"temperature":-Infinity}}',
    "not UTF-8": b'{"custom_id":"a","body":{"messages":[{"content":"\xff"}]}}',
    "not UTF-8 in a name": b'{"custom_id":"a","\xe9":1,"body":%b}' % BODY,
    "a control character": b'{"custom_id":"a","body":{"messages":[{"content":"\x01"}]}}',
    "an odd escape": b'{"custom_id":"a","body":{"messages":[{"content":"\\x"}]}}',
    "too deep": b'{"custom_id":"a","body":{"messages":[%b]}}' % (b"[" * 5000 + b"]" * 5000),
    "too long": b'{"custom_id":"a","body":{"messages":[{"content":"%b"}]}}' % (b"x" * (17 << 20)),
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
@pytest.mark.parametrize("before", [0, 3], ids=["first", "fourth"])
def test_what_an_upload_refuses_is_a_fault_here_too(checked: Any, line: bytes, before: int) -> None:
    if line == BAD["no id"] and not before:
        return  # where no request has an id, all are numbered
    lines = [GOOD.replace(b'"a"', b'"%d"' % number) for number in range(before)]
    content = b"\n".join([*lines, line, b""])
    upload = BatchFile()
    for start in range(0, len(content), 1 << 16):
        upload.feed(content[start : start + (1 << 16)])
    assert [fault.line for fault in upload.end()] == [before + 1]
    found = checked(content)
    assert [(fault.number, fault.place) for fault in found.faults] == [
        (before + 1, f"line {before + 1}")
    ]
    assert found.requests == before


def test_what_an_upload_takes_is_taken_here_too(checked: Any) -> None:
    lines = [
        GOOD,
        b'{"method":"POST","url":"/v1/chat/completions","custom_id":"b","body":%b}' % BODY,
        b'{"custom_id":"\xc3\xa9","body":{"messages":[{"content":"\\ud83d\\ude00 \\\\ud800"}]}}',
        b'{"custom_id":"custom_id","body":{"messages":[{"content":"body","model":"messages"}]}}',
    ]
    content = b"\xef\xbb\xbf" + b"\r\n\n".join(lines)
    upload = BatchFile()
    upload.feed(content)
    assert upload.end() == []
    found = checked(content)
    assert (found.faults, found.requests) == ([], 4)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b'{"custom_id":"","body":%b}' % BODY, "custom_id is empty"),
        (b'{"custom_id":"%b","body":%b}' % (b"x" * 65_537, BODY), "custom_id is longer"),
        (b'{"custom_id":"b","body":{}}', "body.messages is missing"),
        (b'{"custom_id":"b","body":{"messages":[]}}', "body.messages is empty"),
        (b'{"custom_id":"b","body":{"messages":"a"}}', "body.messages must be an array, is text"),
        (b'{"custom_id":"b","body":{"messages":["a"]}}', "body.messages[0] must be an object"),
        (b'{"custom_id":"b","body":{"messages":[{}],"model":5}}', "body.model must be text"),
        (b'{"custom_id":"b","custom_id":"c","body":%b}' % BODY, "custom_id more than once"),
        (b'{"custom_id":"b","body":%b,"body":%b}' % (BODY, BODY), "body more than once"),
        (b'{"custom_id":"b","body":{"messages":[{}],"messages":[{}]}}', "messages more than once"),
        (b'{"custom_id":"b","body":{"messages":[{"content":"\\ud800"}]}}', "surrogate"),
        (b'{"custom_id":"b","body":{"messages":[{"content":"\\udc00 \\ud800"}]}}', "surrogate"),
        (b'{"custom_id":"b","body":{"messages":[{"content":"', "is not JSON"),
    ],
)
def test_what_mistral_would_refuse_is_a_fault_with_its_reason(
    checked: Any, line: bytes, word: str
) -> None:
    found = checked(b"\n".join([GOOD, b"", line]))
    assert places(found) == ["line 3"]
    assert word in found.faults[0].what


def test_every_fault_is_told_in_order_with_its_line(checked: Any) -> None:
    lines = [GOOD, b"[]", GOOD, b"", b'{"custom_id":"b","body":{}}', GOOD, b"\xff"]
    found = checked(b"\n".join(lines))
    assert places(found) == ["line 2", "line 3", "line 5", "line 6", "line 7"]
    assert found.faults[1].what == 'custom_id "a" repeats that of line 1'
    assert found.more == 0


def test_a_hundred_faults_are_told_and_the_others_counted(checked: Any) -> None:
    bad = checked(b"\n".join([b"[]"] * 150 + [GOOD] * 50))
    assert (len(bad.faults), bad.more) == (100, 99)
    assert places(bad)[-1] == "line 100"
    mixed = checked(b"\n".join([GOOD, b"[]"] * 120))
    assert (len(mixed.faults), mixed.more) == (100, 139)
    assert places(mixed) == [f"line {line}" for line in range(2, 102)]


def test_ids_are_compared_in_parts_when_they_are_many(
    checked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(
        "mistral_batch.check"
    )  # the package has a function of that name
    monkeypatch.setattr(module, "AT_ONCE", 7)
    names = [*range(50), 3, 49, 3]
    lines = [GOOD.replace(b'"a"', b'"%d"' % name) for name in names]
    found = checked(b"\n\n".join(lines))
    assert [fault.what for fault in found.faults] == [
        'custom_id "3" repeats that of line 7',
        'custom_id "49" repeats that of line 99',
        'custom_id "3" repeats that of line 7',
    ]
    assert places(found) == ["line 101", "line 103", "line 105"]


def test_a_number_that_a_row_was_given_can_be_anothers_id(checked: Any) -> None:
    padding = b" " * (1 << 18)  # the first batch has no ids
    numbered = b'{"body":%b}\n' % BODY.replace(b"}]}", b"}]%b}" % padding)
    found = checked(numbered + GOOD.replace(b'"a"', b'"row-1"'))
    assert found.faults[0].what == 'custom_id "row-1" repeats that of line 1'


def test_ids_of_a_table_that_come_twice_are_told_by_its_rows() -> None:
    rows = [{"id": each, "text": "a"} for each in (1, "1", 2, 1.0)]
    found = of(rows, id="id", prompt="{text}")
    assert [(fault.place, fault.what) for fault in found.faults] == [
        ("row 2", 'custom_id "1" repeats that of row 1'),
        ("row 4", 'custom_id "1" repeats that of row 1'),
    ]


def test_sums_are_those_of_what_is_sent(checked: Any) -> None:
    seen: list[bytes] = []
    rows = [{"id": str(number), "text": "é" * 40} for number in range(10_000)]
    lines = Lines(open_source(rows), Form(id="id", prompt="{text}", endpoint="", model="m"))
    found = check(lines, seen.append)
    sent = b"".join(line + b"\n" for line in seen)
    assert (found.requests, found.size) == (10_000, len(sent))
    assert found.digest == hashlib.sha256(sent).hexdigest()
    assert (found.name, found.endpoint, found.model) == ("the list", "/v1/chat/completions", "m")
    given = checked(sent)
    assert (given.requests, given.size, given.digest) == (10_000, len(sent), found.digest)


def test_the_digest_is_of_the_requests_and_their_order(checked: Any) -> None:
    lines = [GOOD.replace(b'"a"', b'"%d"' % number) for number in range(3)]
    first = checked(b"\n".join(lines)).digest
    assert checked(b"\xef\xbb\xbf\n" + b"\r\n\n".join(lines) + b"\n").digest == first
    assert checked(b"\n".join(reversed(lines))).digest != first
    assert checked(b"\n".join(lines[:2])).digest != first


def test_faults_of_the_table_are_among_those_of_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a\na"\n1,b\n2\n,c\n3,\xff\n4,d\n')
    found = of(path, id="id", prompt="{text}")
    assert [(fault.number, fault.what.split()[0]) for fault in found.faults] == [
        (4, "custom_id"), (5, "has"), (6, "column"), (7, "is"),
    ]  # fmt: skip
    assert found.requests == 3


def test_a_result_is_written_as_json_by_itself(checked: Any) -> None:
    told = json.loads(msgspec.json.encode(checked(GOOD + b"\n[]")))
    assert told["requests"] == 1
    assert told["faults"] == [
        {"place": "line 2", "number": 2, "what": "must be an object, is an array"}
    ]


def test_a_file_that_breaks_off_ends_the_check(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = b"".join(GOOD.replace(b'"a"', b'"%d"' % number) + b"\n" for number in range(50_000))
    path.write_bytes(gzip.compress(lines, 1)[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        of(path)


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Of 25,000 more rows there is a hash each; the rows themselves would take 10 MB."""
    peaks = []
    for count in (5_000, 30_000):
        path = tmp_path / "a.jsonl"
        with path.open("wb") as file:
            for number in range(count):
                file.write(
                    GOOD.replace(b'"a"', b'"%d"' % number).replace(b"Good", b"x" * 300) + b"\n"
                )
        of(path)  # what is loaded once
        tracemalloc.start()
        of(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4_000_000


def test_objects_that_do_not_keep_to_their_lines_are_faults(checked: Any) -> None:
    two = GOOD + GOOD.replace(b'"a"', b'"b"')
    over = GOOD.replace(b'"a"', b'"c"').replace(b',"body"', b',\n"body"')
    assert places(checked(two + b"\n" + over)) == ["line 1", "line 2", "line 3"]
    rows = b'{"text":"a"}{"text":"b"}\n{"text":\n"c"}'
    assert places(checked(rows, prompt="{text}")) == ["line 1", "line 2", "line 3"]


def test_a_row_that_makes_too_long_a_request_is_a_fault() -> None:
    found = of([{"text": "a"}, {"text": "x" * (16 << 20)}], prompt="{text}")
    assert places(found) == ["row 2"]
    assert "longer" in found.faults[0].what


@pytest.mark.parametrize("kind", ["parquet", "list", "csv"])
def test_lines_are_made_so_few_at_a_time_that_a_long_text_in_all_takes_little(
    tmp_path: Path, kind: str
) -> None:
    long, path = "x" * 100_000, tmp_path / f"t.{kind}"
    table: Any = [{"n": n, "doc": long} for n in range(2_000)]
    form = Form(prompt="{doc} {n}")
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(table), path)
        table = path
    elif kind == "csv":
        path.write_text("n\n" + "1\n" * 2_000)
        table, form = path, Form(prompt="{n}", system=long)
    tracemalloc.start()
    checked = check(Lines(open_source(table), form))
    assert (checked.requests, checked.faults) == (2_000, [])
    assert checked.size > 200_000_000
    assert tracemalloc.get_traced_memory()[1] < 80_000_000
    tracemalloc.stop()


def test_a_fault_of_a_line_that_is_in_no_batch_is_told_with_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = ['{"q":"x"}'] * 300 + ["{"] + ['{"q":"x"}'] * 300
    path.write_text("\n".join([*rows, '{"q":"%s"}' % ("x" * (17 << 20))]))
    checked = check(Lines(open_source(path), Form(prompt="{q}")))
    assert (checked.requests, [fault.number for fault in checked.faults]) == (600, [301, 602])
