"""Lines picked out of a text while it comes."""

from __future__ import annotations

import json
import tracemalloc
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_bridge.lines import CUT_OFF, Lines
from mcp_bridge.shortening import compact, weigh


def read(content: bytes, wanted: range, limit: int = 60_000, size: int = 1 << 16) -> Lines:
    """The lines of a content that comes in pieces of `size` bytes, as few of them as are wanted."""
    lines = Lines(wanted, limit)
    for start in range(0, len(content), size):
        if lines.take(content[start : start + size]):
            return lines
    assert lines.take(b"")
    return lines


@settings(deadline=None)
@given(
    content=st.lists(st.sampled_from([b"a", b"\n", b"\r\n", "é€😀".encode(), b'"'])).map(b"".join),
    first=st.integers(0, 6),
    count=st.integers(1, 4),
    size=st.integers(1, 9),
)
def test_are_those_of_the_whole_text_however_it_is_cut_into_pieces(
    content: bytes, first: int, count: int, size: int
) -> None:
    whole = content.decode().split("\n")
    if not whole[-1]:
        whole.pop()
    expected = [line.removesuffix("\r") for line in whole][first : first + count]
    lines = read(content, range(first, first + count), size=size)
    assert lines.kept == expected
    assert lines.next_from == (first + count if len(whole) > first + count else None)
    assert not lines.cut and not lines.replaced and not lines.short


@settings(deadline=None)
@given(
    st.lists(st.text(st.sampled_from('ab"\x01é😀'), max_size=30), min_size=1), st.integers(1, 50)
)
def test_are_all_read_by_going_on_where_the_last_ones_end(texts: list[str], limit: int) -> None:
    content = "".join(f"{text}\n" for text in texts).encode()
    found: list[str] = []
    while True:
        lines = read(content, range(len(found), len(found) + 3), limit)
        assert weigh(compact(lines.kept)) <= limit + 16
        found += lines.kept
        if lines.next_from is None:
            break
        assert lines.next_from == len(found)
    assert len(found) == len(texts)
    for line, text in zip(found, texts, strict=True):
        assert line == text or text.startswith(line.removesuffix(CUT_OFF))


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_that_is_too_long_ends_visibly_and_the_next_one_is_told(end: bytes) -> None:
    content = b"x" * 100_000 + b"\nshort" + end
    lines = read(content, range(20), limit=1000)
    assert lines.kept == ["x" * 1000 + CUT_OFF]
    assert "1000 characters, of 100000 bytes" in lines.cut
    assert lines.next_from == 1
    assert read(content, range(1, 20), limit=1000).kept == ["short"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_that_is_too_long_and_the_last_is_told_to_be_the_last(end: bytes) -> None:
    assert read(b"x" * 5000 + end, range(20), limit=1000).next_from is None


def test_characters_are_never_halved() -> None:
    lines = read("😀".encode() * 1000, range(1), limit=100)
    assert lines.kept == ["😀" * 10 + CUT_OFF] and not lines.replaced


def test_bytes_that_are_no_utf8_are_shown_as_that_and_noticed() -> None:
    assert not read(b"\xff\nok\n", range(1, 2)).replaced
    lines = read(b"\xff\nok\n", range(2))
    assert lines.kept == ["\ufffd", "ok"] and lines.replaced
    assert not read("\ufffd".encode(), range(1)).replaced


def test_no_more_is_read_than_it_takes_to_know_that_more_follows() -> None:
    lines = Lines(range(2), 60_000)
    assert not lines.take(b"a\nb\n")
    assert lines.take(b"c")
    assert (lines.kept, lines.next_from) == (["a", "b"], 2)


def test_the_end_of_a_line_that_cannot_fit_is_not_waited_for() -> None:
    lines = Lines(range(2), 100)
    assert not lines.take(b"a\n" + b"x" * 1000)
    assert lines.take(b"x")
    assert (lines.kept, lines.next_from) == (["a"], 1)


@pytest.mark.parametrize("first", [0, 1 << 40])
@pytest.mark.parametrize("line", [b"x" * 99 + b"\n", b"\n", b"x"], ids=["lines", "blank", "no end"])
def test_take_no_memory_for_what_is_not_shown(line: bytes, first: int) -> None:
    piece = line * (65_536 // len(line))
    lines = Lines(range(first, 1 << 41), 1000)
    tracemalloc.start()
    for each in repeat(piece, 2000):
        lines.take(each)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_json_of_what_is_kept_has_the_size_that_was_asked_for() -> None:
    content = (json.dumps({"custom_id": "x", "text": '"quoted"' * 30}) + "\n").encode() * 1000
    lines = read(content, range(1000), limit=20_000)
    assert 19_000 < weigh(compact(lines.kept)) <= 20_010 and lines.short
