"""The bytes of a file, written and read in pieces."""

from __future__ import annotations

import random

import pytest

from sandbox.content import PIECE, Content

TEXT = b"a\n \nb\r\n\r\n\n  c\n\t"


def content(data: bytes, *cuts: int) -> Content:
    """One written in pieces that end at these places."""
    made = Content()
    for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True):
        made.write(data[start:stop])
    return made


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_lines_that_are_not_blank_are_counted_wherever_pieces_end(cut: int) -> None:
    assert content(TEXT, cut).lines == 3
    assert content(TEXT[:cut]).lines == len(TEXT[:cut].split())


def test_each_line_is_found_where_it_starts() -> None:
    rng = random.Random(1)
    data = b"\n".join(b"x" * rng.randrange(3000) for _ in range(1000))  # several pieces, on disk
    whole = content(data, 10, PIECE + 1)
    found = list(whole.places())
    assert b"\n".join(line for _, line in found) == data
    assert all(whole.read(start, len(line)) == line for start, line in found)


@pytest.mark.parametrize("size", [0, 1, 1000, 3 * PIECE + 7])
def test_any_part_can_be_read(size: int) -> None:
    data = random.Random(1).randbytes(size)
    whole = content(data)
    assert b"".join(whole.pieces()) == data
    for start, stop in ((0, size // 2), (size // 3, size), (size // 2, size // 2)):
        assert b"".join(whole.pieces(start, stop)) == data[start:stop]
