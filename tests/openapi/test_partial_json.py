"""JSON texts read along a schema: what is built is what the check needs, and is counted before."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from openapi import json_text, partial_json
from openapi.json_text import check_utf8, holds_more
from openapi.partial_json import TooLarge, read
from openapi.validation import Validator

OPEN = {"type": "object"}
ITEM: dict[str, Any] = {
    "type": "object",
    "required": ["body"],
    "properties": {"id": {"type": "string", "maxLength": 9}, "body": OPEN},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["a", "b"]},
        "count": {"type": "integer"},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 9}},
        "files": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 36}},
        "items": {"type": "array", "maxItems": 3, "items": ITEM},
        "groups": {
            "type": "array",
            "items": {"type": "object", "properties": {"items": {"type": "array", "items": ITEM}}},
        },
        "either": {"anyOf": [{"type": "string"}, {"type": "array"}]},
    },
}


def text(value: Any) -> Raw:
    return Raw(value if isinstance(value, bytes) else json.dumps(value).encode())


def seen(value: Any) -> Any:
    return read(text(value), SCHEMA, "/body")[1]


def written(value: Any) -> bytes:
    return msgspec.json.encode(read(text(value), SCHEMA)[0])


def refused(value: Any) -> tuple[str, str]:
    with pytest.raises(TooLarge) as caught:
        seen(value)
    return caught.value.violation.pointer, caught.value.violation.detail


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all limits a hundredth or less."""
    monkeypatch.setattr(partial_json, "VALUES", 20)
    monkeypatch.setattr(json_text, "SLICE", 64)
    monkeypatch.setattr(partial_json, "FEW", 1)
    monkeypatch.setattr(partial_json, "SHORT", 16)


class TestWhatIsBuilt:
    def test_is_all_that_the_schema_describes_but_for_the_inside_of_open_objects(self) -> None:
        value = {
            "name": "a", "count": 3, "labels": {"x": "y"}, "files": ["f"], "either": [1],
            "items": [{"id": "1", "body": {"deep": [1]}}],
            "groups": [{"items": [{"id": "2", "body": {"deep": [2]}}]}],
        }  # fmt: skip
        expected = json.loads(json.dumps(value))
        expected["items"][0]["body"] = expected["groups"][0]["items"][0]["body"] = {}
        assert seen(value) == expected

    def test_is_nothing_of_a_member_that_the_schema_does_not_name(self) -> None:
        items = [{"body": {}, "b": [1]}, {"body": {}, "id": "x" * 2000}]
        value = seen({"a": [[]], "items": items, "groups": [{"c": {}}]})
        assert value["a"] is None and value["groups"] == [{"c": None}]
        assert value["items"][0]["b"] is None

    @pytest.mark.parametrize(
        "value",
        [
            {"name": [1] * 9}, {"name": {"x": 1}}, {"name": "x" * 99}, {"name": None}, {"name": 5},
            {"count": "9"}, {"count": 1.5}, {"count": True}, {"labels": [1]}, {"labels": "x"},
            {"labels": {"x": "y" * 999}}, {"files": {"x": 1}}, {"files": [1]}, {"files": [[1]]},
            {"items": [5]}, {"items": [None]}, {"items": ["x", {}]}, {"items": {}},
            {"items": [{}, {"body": 1}, {"body": []}]}, {"items": [{"body": {}, "id": [1]}]},
            {"items": [{"body": {}, "id": "x" * 9999}]}, {"groups": [{"items": [{}, 1]}]},
            {"either": {"x": [1]}}, [], "x", 5, None,
        ],
    )  # fmt: skip
    def test_is_refused_in_the_same_words_as_all_of_it(self, value: Any) -> None:
        check = Validator(SCHEMA)
        assert check.violations(seen(value)) == check.violations(value) != []

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({"type": "array", "uniqueItems": True, "items": ITEM}, [{"body": {"x": 1}}, {"body": {"x": 2}}]),
            ({"type": "array", "uniqueItems": True, "items": OPEN}, [{"x": 1}, {"x": 2}]),
            ({"properties": {"o": {"type": "object", "enum": [{"x": 1}]}}}, {"o": {"x": 1}}),
        ],
    )  # fmt: skip
    def test_is_all_of_what_a_rule_compares_as_a_whole(self, schema: Any, value: Any) -> None:
        assert read(text(value), schema)[1] == value

    def test_is_nothing_where_the_schema_says_nothing(self) -> None:
        assert read(text([[1]] * 200_000), {})[1] is None


class TestWhatIsWritten:
    @pytest.mark.parametrize(
        "value",
        [
            b'{"a" : 1, "items":[ {"body":{"x":1,"x":2}} ]}',
            b'{"groups":[{"items":[{"body":{}, "z":[]}]}]}',
            b'{"items":[{"body":{},"id":"' + b"x" * 2000 + b'"}]}',
        ],
    )
    def test_is_the_text_as_it_came(self, value: bytes) -> None:
        assert written(value) == value

    @pytest.mark.parametrize(
        ("value", "anew"),
        [
            (b'{"a":1,"a":2}', b'{"a":2}'),
            (b'{"items":[{"id":1,"body":{},"id":"x"}]}', b'{"items":[{"id":"x","body":{}}]}'),
            (b'{"items":[{"z":[],"z":{},"body":{}}]}', b'{"items":[{"z":{},"body":{}}]}'),
            (b'{"groups":[{"a":1,"a":2}]}', b'{"groups":[{"a":2}]}'),
        ],
    )
    def test_has_the_last_of_a_repeated_member(self, value: bytes, anew: bytes) -> None:
        assert written(value) == anew


@pytest.mark.usefixtures("few")
class TestTooLarge:
    def test_an_array_of_objects_is_counted_before_it_is_read(self) -> None:
        four = ("/body/items", "must have at most 3 items")
        assert refused({"items": [{"body": {}}] * 40}) == four
        assert refused({"items": [{}] * 4}) == four

    def test_something_else_in_a_long_array_of_objects_is_told_by_its_place(self) -> None:
        items = [{"body": {"x": [1] * 30}}, {"body": {}}, 5]
        assert refused({"items": items}) == ("/body/items/2", "must be an object")

    def test_members_are_counted_before_they_are_kept(self) -> None:
        many = {f"k{number}": "" for number in range(30)}
        told = "has too many members, or too long names"
        assert refused(many) == ("/body", told)
        assert refused({"labels": many}) == ("/body/labels", told)
        assert refused({"items": [{"body": {}, **many}]}) == ("/body/items", told)
        assert refused({"x" * 5000: 1}) == ("/body", told)
        assert refused({"groups": [{"items": [{"body": {}, "id": "x"}]}] * 9})[1] == told

    def test_the_same_member_again_and_again_is_counted_too(self) -> None:
        again = b"{" + b",".join([b'"a":1'] * 30) + b"}"
        assert refused(again)[0] == "/body"

    def test_all_other_values_are_counted_before_they_are_built(self) -> None:
        assert refused({"either": [1] * 40}) == ("/body/either", "has more than 20 values")
        assert refused({"files": ["x"] * 40}) == ("/body/files", "has more than 20 values")

    def test_values_are_counted_over_all_of_a_text(self) -> None:
        groups = {"groups": [{"c": [1] * 3}] * 2, "either": [1] * 15}
        assert seen(groups)["either"] == [1] * 15
        assert refused({"either": [1] * 15, "files": ["x"] * 6})[0] == "/body/files"

    def test_an_item_that_is_longer_than_any_may_be_is_not_built(self) -> None:
        assert seen({"files": ["x" * 3000]}) == {"files": ["x" * 37]}

    def test_more_items_may_be_built_where_the_schema_allows_them(self) -> None:
        schema = {"type": "array", "maxItems": 50, "items": {"type": "string"}}
        assert read(text(["x"] * 50), schema)[1] == ["x"] * 50
        with pytest.raises(TooLarge):
            read(text(["x"] * 51), schema)
        assert read(text([[1]] * 24), schema)[1] == [[]] * 24


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\,[]{}:/é\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='b"\\,[{:'), inner),
)


def count(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(1 + count(each) for each in inside)


@settings(deadline=None)
@given(VALUES, st.integers(1, 40), st.booleans())
def test_values_are_counted_without_building_any(value: Any, size: int, spaced: bool) -> None:
    spelt = json.dumps(value, indent=1 if spaced else None).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "SLICE", size)
        # At most: between two slices an empty array or object can look as if there were something in it.
        assert holds_more(Raw(spelt), count(value) - 1) or not count(value)
        patch.setattr(json_text, "SLICE", 1 << 16)
        assert not holds_more(Raw(spelt), count(value))


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.integers(1, 9))
def test_the_byte_that_is_no_utf_8_is_named_as_python_names_it(content: bytes, size: int) -> None:
    def place(decode: Any) -> int | None:
        try:
            decode(content)
        except UnicodeDecodeError as error:
            return error.start
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "SLICE", size)
        assert place(check_utf8) == place(bytes.decode)


def test_all_that_is_wrong_in_a_few_items_is_told_however_few_are_allowed() -> None:
    value = seen({"count": "x", "items": [{"body": {}}, {"body": 1}, {"body": {}}, {"body": {}}]})
    found = {fault.pointer for fault in Validator(SCHEMA).violations(value, "/body")}
    assert {"/body/count", "/body/items", "/body/items/1/body"} <= found
