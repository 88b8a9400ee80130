"""A file of batch requests is checked line by line while it passes, in pieces of any size."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from service import batch_file
from service.batch_file import LONG, MAX_FAULTS, MAX_LINE, BatchFile
from service.problems import Overloaded
from serving.body_buffer import MemoryBudget

GOOD = b'{"custom_id":"a","body":{"max_tokens":5}}\n'
OTHER = GOOD.replace(b'"a"', b'"b"')
THIRD = GOOD.replace(b'"a"', b'"c"')


def check(content: bytes, size: int = 1 << 16) -> BatchFile:
    """The file's check, `size` bytes at a time, ended."""
    file = BatchFile()
    for start in range(0, len(content), size):
        file.feed(content[start : start + size])
    file.faults = file.end()  # type: ignore[attr-defined]
    return file


def faults(content: bytes, size: int = 1 << 16) -> list[tuple[int, str]]:
    return [(fault.line, fault.reason) for fault in check(content, size).faults]  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD + OTHER[:-1],
        b"\xef\xbb\xbf" + GOOD,
        (GOOD + OTHER).replace(b"\n", b"\r\n"),
        GOOD + b"\n  \n" + OTHER + b"\n",
        b" " + GOOD + b"\t" + OTHER,
        '{"custom_id":"größe","body":{"a":"日本"}}\n'.encode(),
        b'{"method":"POST","custom_id":"a","url":"/x","body":{}}\n',
    ],
    ids=["plain", "no last end", "BOM", "CRLF", "blank lines", "white space", "UTF-8", "members"],
)
def test_what_mistral_is_not_known_to_refuse_passes(content: bytes, size: int) -> None:
    assert faults(content, size) == []


@pytest.mark.parametrize("size", [1, 11, 1 << 16])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"hello", "It is not JSON: invalid character (byte 0)."),
        (b'{"custom_id":"x","body":{}', "It is not JSON: Input data was truncated."),
        (b"[1]", "It must be an object, is an array."),
        (b'{"body":{}}', "custom_id is missing."),
        (b'{"custom_id":"x"}', "body is missing."),
        (b'{"custom_id":7,"body":{}}', "custom_id must be text, is a number."),
        (b'{"custom_id":null,"body":{}}', "custom_id must be text, is null."),
        (b'{"custom_id":"x","body":"{}"}', "body must be an object, is text."),
        (b'{"custom_id":"x","body":{"top_p":NaN}}', "NaN and Infinity are no JSON."),
        (b'{"custom_id":"x","body":{"top_p":-Infinity}}', "NaN and Infinity are no JSON."),
        (b'{"custom_id":"x","body":{"a":"\xff"}}', "It is not UTF-8, at byte 30."),
        (OTHER[:-1] + OTHER[:-1], "It is not JSON: trailing characters (byte 42)."),
        (b'{"custom_id":"x","body":{"a":' + b"[" * 5000, "It is nested too deeply."),
        (GOOD[:-1], "custom_id repeats that of line 1."),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_what_is_wrong(
    line: bytes, reason: str, size: int
) -> None:
    assert faults(GOOD + b"\n" + line + b"\n" + THIRD, size) == [(3, reason)]


def test_a_request_over_two_lines_is_no_line_of_json() -> None:
    broken = b'{"custom_id":"a","body":{}} {"custom_id":"b","body":\n{}}\n'
    assert [line for line, _ in faults(broken)] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_requests_is_refused(content: bytes) -> None:
    assert faults(content) == [(1, "The file has no requests: it is empty.")]


def test_utf_16_is_named_once() -> None:
    assert faults((GOOD + OTHER).decode().encode("utf-16"), 9) == [
        (1, "The file is UTF-16; write it in UTF-8.")
    ]


def test_all_faults_are_counted_and_the_first_ones_told_in_order() -> None:
    lines = [b"%d\n" % number for number in range(3 * MAX_FAULTS)]
    file = check(GOOD + GOOD + b"".join(lines))
    told = file.faults  # type: ignore[attr-defined]
    assert file.count == 1 + 3 * MAX_FAULTS
    assert [fault.line for fault in told] == list(range(2, 2 + MAX_FAULTS))


def test_ids_are_compared_over_the_whole_file() -> None:
    content = b"".join(b'{"custom_id":"%d","body":{}}\n' % (n % 9_999) for n in range(10_001))
    assert faults(content, 1000) == [
        (10_000, "custom_id repeats that of line 1."),
        (10_001, "custom_id repeats that of line 2."),
    ]


def test_a_line_that_is_too_long_is_one_fault_and_the_next_are_read() -> None:
    long = b'{"custom_id":"x","body":{"a":"' + b"x" * (MAX_LINE + (1 << 17)) + b'"}}\n'
    assert faults(GOOD + long + OTHER + b"7\n") == [
        (2, f"The line is longer than {MAX_LINE} bytes."),
        (4, "It must be an object, is a number."),
    ]


def test_each_line_takes_ten_bytes_of_memory_at_most() -> None:
    body = {"messages": [{"role": "user", "content": "x" * 100}]}
    file = BatchFile()
    tracemalloc.start()
    try:
        for block in range(200):
            lines = (
                json.dumps({"custom_id": f"{block}-{line}", "body": body}) for line in range(500)
            )
            file.feed("\n".join(lines).encode() + b"\n")
        del lines
        grown, _ = tracemalloc.get_traced_memory()
        assert file.end() == []
    finally:
        tracemalloc.stop()
    assert file.requests == 100_000
    assert grown < 10 * 100_000 + 100_000


def test_faults_that_are_not_told_take_no_memory() -> None:
    file = BatchFile()
    for _ in range(100):
        file.feed(GOOD * 1000)
    tracemalloc.start()
    try:
        assert len(file.end()) == MAX_FAULTS
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.count == 99_999
    assert peak < 1 << 20


def test_long_lines_are_held_within_a_budget_for_all_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_file, "LONG_LINES", MemoryBudget(3 * 2 * LONG, 2 * LONG))
    one, other = BatchFile(), BatchFile()
    one.feed(b'{"custom_id": "' + bytes(2 * LONG))
    with pytest.raises(Overloaded):
        other.feed(b'{"custom_id": "' + bytes(2 * LONG))
    one.feed(b"\n")  # the line ends, however it was
    other = BatchFile()
    other.feed(b'{"custom_id": "' + bytes(2 * LONG))
    other.let_go()
    one.feed(bytes(2 * LONG))


def test_a_file_of_more_lines_than_are_checked_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "MAX_CHECKED_LINES", 10)
    file = BatchFile()
    for number in range(12):
        file.feed(b'{"custom_id": "%d", "body": {}}\n' % number)
    assert (file.end(), file.doubts) == ([], {"has more than 10 lines, which were not checked"})
