"""Overlays are applied as the Overlay Specification 1.0 and 1.1 say (section "Action Object")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from openapi.overlay import OverlayError, apply

Overlaid = Callable[..., Any]


@pytest.fixture
def overlaid(tmp_path: Path) -> Overlaid:
    """`overlaid(document, *actions)` is the document with an overlay of these actions applied."""

    def act(document: dict[str, Any], *actions: Any) -> dict[str, Any]:
        source = tmp_path / "overlay.yaml"
        whole = {"overlay": "1.1.0", "info": {"title": "t", "version": "1"}, "actions": [*actions]}
        source.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return apply(document, source)

    return act


@pytest.mark.parametrize(
    ("document", "action", "result"),
    [
        # objects merge recursively, new members last
        (
            {"info": {"title": "a", "x": {"y": 1}}},
            {"target": "$.info", "update": {"x": {"z": 2}, "title": "b"}},
            {"info": {"title": "b", "x": {"y": 1, "z": 2}}},
        ),
        ({"info": {}}, {"target": "$", "update": {"info": {"a": 1}}}, {"info": {"a": 1}}),
        # arrays within an update are concatenated
        ({"a": {"tags": [1]}}, {"target": "$.a", "update": {"tags": [2]}}, {"a": {"tags": [1, 2]}}),
        # a target that is an array takes an entry, or in 1.1 a list of them
        ({"tags": [1]}, {"target": "$.tags", "update": {"n": "x"}}, {"tags": [1, {"n": "x"}]}),
        ({"tags": [1]}, {"target": "$.tags", "update": [2, 3]}, {"tags": [1, 2, 3]}),
        # 1.1: a scalar is replaced
        ({"a": {"b": "old"}}, {"target": "$.a.b", "update": "new"}, {"a": {"b": "new"}}),
        # an entry of an array is a target like any other
        ({"tags": [{"name": "x"}]}, {"target": "$.tags[0]", "update": {"d": 1}},
         {"tags": [{"name": "x", "d": 1}]}),
        # one action, many targets
        ({"p": {"/a": {"get": {}}, "/b": {"get": {}}}}, {"target": "$.p.*.get", "update": {"s": 1}},
         {"p": {"/a": {"get": {"s": 1}}, "/b": {"get": {"s": 1}}}}),
        # removal of members, and of several entries of one array
        ({"a": {"b": 1, "c": 2}}, {"target": "$.a.b", "remove": True}, {"a": {"c": 2}}),
        ({"l": [1, 2, 3, 4]}, {"target": "$.l[?@ > 1 && @ < 4]", "remove": True}, {"l": [1, 4]}),
        ({"l": [1, 2]}, {"target": "$.l[0, 0]", "remove": True}, {"l": [2]}),
        ({"a": {"b": 1}}, {"target": "$.a.b", "remove": False}, {"a": {"b": 1}}),
        # 1.1: copy merges from elsewhere in the document
        ({"p": {"/a": {"get": {"x": 1}}, "/b": {"put": {}}}},
         {"target": "$.p['/b']", "copy": "$.p['/a']"},
         {"p": {"/a": {"get": {"x": 1}}, "/b": {"put": {}, "get": {"x": 1}}}}),
    ],
)  # fmt: skip
def test_an_action_changes_what_its_target_selects(overlaid, document, action, result):
    assert overlaid(document, action) == result


def test_actions_build_on_one_another(overlaid):
    moved = overlaid(
        {"paths": {"/items": {"get": {}}}},
        {"target": "$.paths", "update": {"/new": {}}},
        {"target": "$.paths['/new']", "copy": "$.paths['/items']"},
        {"target": "$.paths['/items']", "remove": True},
    )

    assert moved == {"paths": {"/new": {"get": {}}}}


def test_the_given_document_is_left_as_it_was(overlaid):
    document = {"tags": [{"name": "a"}]}

    overlaid(document, {"target": "$.tags[0]", "update": {"b": 1}})

    assert document == {"tags": [{"name": "a"}]}


def test_two_targets_of_one_update_do_not_share_it(overlaid):
    result = overlaid(
        {"a": {"list": []}, "b": {"list": []}},
        {"target": "$.*", "update": {"more": []}},
        {"target": "$.a.more", "update": 1},
    )

    assert result["b"]["more"] == []


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"target": "$.nothing", "update": {}}, "actions[0] (target $.nothing): matches nothing"),
        ({"target": "$.a[", "update": {}}, "actions[0] (target $.a[): "),
        # RFC 9535 has `&&`; what only one library knows would make the overlay that library's
        ({"target": "$.list[?@ > 0 and @ < 9]", "remove": True}, "actions[0] (target $.list[?"),
        ({"target": "$", "remove": True}, "the root can only be merged into"),
        ({"target": "$.a", "update": "text"}, "a scalar and an object cannot be merged"),
        ({"target": "$.a", "update": {"b": {}}}, "a scalar and an object cannot be merged"),
        ({"target": "$", "update": {"list": 1}}, "a scalar and an array cannot be merged"),
        ({"target": "$.a", "copy": "$.list[*]"}, "copy $.list[*] matches 2 nodes, must match one"),
        ({"update": {}}, "actions[0]: has no target"),
        ({"target": "$.a"}, "actions[0]: needs one of update, remove, copy"),
        ({"target": "$.a", "update": {}, "remove": True}, "needs one of update, remove, copy"),
        ({"target": "$.a", "updat": {}, "remove": True}, "actions[0].updat: unknown key"),
        ("text", "actions[0]: has no target"),
    ],
)
def test_an_action_that_cannot_be_applied_is_named(overlaid, tmp_path, action, reason):
    with pytest.raises(OverlayError) as refused:
        overlaid({"a": {"b": 1}, "list": [1, 2]}, action)

    assert str(refused.value).startswith(f"{tmp_path / 'overlay.yaml'}: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("overlay: 2.0.0\nactions: []", "overlay: must be 1.0.x or 1.1.x"),
        ("[]", "overlay: must be 1.0.x or 1.1.x"),
        ("overlay: 1.0.0", "actions: must be a list of at least one action"),
        ("overlay: 1.0.0\nactions: []", "actions: must be a list of at least one action"),
        ("overlay: [", "line 1, column 11: not YAML"),
        (
            "overlay: 1.0.0\noverlay: 1.0.0",
            "line 2, column 1: not YAML: the key 'overlay' is repea",
        ),
    ],
)
def test_a_file_that_is_no_overlay_is_refused(tmp_path, text, reason):
    source = tmp_path / "overlay.yaml"
    source.write_text(text, encoding="utf-8")

    with pytest.raises(OverlayError) as refused:
        apply({}, source)

    assert str(refused.value).startswith(f"{source}: {reason}")


def test_an_overlay_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(OverlayError):
        apply({}, tmp_path / "none.yaml")
