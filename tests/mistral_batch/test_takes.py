"""What `--take NAME=PATH` finds in an answer, and how a fault in it is told."""

from __future__ import annotations

from typing import Any

import pytest

from mistral_batch.errors import InputError
from mistral_batch.takes import Take

BODY = {
    "choices": [{"message": {"content": "Yes"}}, {"message": {"content": None}}],
    "usage": {"total-tokens": 7},
    "a.b": {"c d": 1, 'q"]': 2, "": 3},
    "$": "dollar",
    "0": "zero",
    "größe": [[1, 2], [3]],
    "text": "word",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("choices[0].message.content", "Yes"),
        (" choices[0].message.content ", "Yes"),
        ("$.choices[0].message.content", "Yes"),
        ('choices[0]["message"]["content"]', "Yes"),
        ("choices[-2].message", {"content": "Yes"}),
        ("choices[ -1 ].message.content", None),
        ("choices[2].message", None),
        ("choices[-3]", None),
        ("choices.0", None),
        ("choices.message", None),
        ("usage", {"total-tokens": 7}),
        ("usage.total-tokens", 7),
        ('"a.b"."c d"', 1),
        ("'a.b'['c d']", 1),
        ('["a.b"]["q\\"]"]', 2),
        ('"a.b"[""]', 3),
        ("größe[0][1]", 2),
        ("größe[-1]", [3]),
        ("$", BODY),
        ("$[0]", None),
        ("$.$", "dollar"),
        ('"$"', "dollar"),
        ("0", "zero"),
        ("text[0]", None),
        ("text.x", None),
        ("x=y", None),
        ("none.of.it[3]", None),
    ],
)
def test_a_path_finds(path: str, found: Any) -> None:
    take = Take.parse(f"label={path}")
    assert (take.name, take.of(BODY)) == ("label", found)


def test_nothing_is_found_in_what_is_no_object() -> None:
    assert Take.parse("a=b").of([1]) is None
    assert Take.parse("a=[0]").of([1]) == 1
    assert Take.parse("a=b").of("text") is None


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("choices[0", 8),
        ("choices[]", 8),
        ("choices[x]", 8),
        ("choices[*].a", 8),
        ("choices[0]message", 11),
        ("choices..a", 8),
        ("choices.", 8),
        (".a", 1),
        ("a.[0]", 2),
        ("a b", 2),
        ('a"b"', 2),
        ('a["b]', 2),
        ('a["\\x"]', 2),
        ("a]", 2),
        ("a[1.5]", 2),
        ("a[- 1]", 2),
    ],
)
def test_a_fault_in_a_path_is_told_with_its_place(path: str, place: int) -> None:
    with pytest.raises(InputError, match=f"at character {place + len('label=')} "):
        Take.parse(f"label={path}")


@pytest.mark.parametrize("text", ["label", "label=", "=path", "  = a", "", "label=  "])
def test_what_is_no_name_and_path_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME=PATH"):
        Take.parse(text)


def test_a_place_of_thousands_of_digits_is_an_input_error() -> None:
    with pytest.raises(InputError):
        Take.parse(f"a=[{'9' * 5_000}]")
