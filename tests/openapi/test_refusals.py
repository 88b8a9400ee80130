"""What cannot be derived is refused with its exact place and a reason, before anything is written.

Each case is one edit of a capability that can be derived. Places are written as in the messages.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from openapi.capability import CapabilityError, load, read
from openapi.derive import derive

HERE = Path(__file__).parent
CASES = yaml.safe_load((HERE / "refusals.yaml").read_text(encoding="utf-8"))
LIBRARY = load(HERE / "capabilities" / "library.yaml")
GONE = object()


def edit(document: Any, place: str, value: Any) -> None:
    """Put `value` at `place`; append where the index is the list's length, delete for GONE."""
    *steps, last = [
        int(step[1:-1]) if step.startswith("[") else step
        for step in re.findall(r"\[\d+\]|[^.\[\]]+", place)
    ]
    for step in steps:
        document = document.setdefault(step, {}) if isinstance(document, dict) else document[step]
    if value is GONE:
        del document[last]
    elif isinstance(document, list) and last == len(document):
        document.append(value)
    else:
        document[last] = value


def full(place: str) -> str:
    """The place with its abbreviation written out."""
    for short, long in (("consumes", "consumes[0]"), ("rest", "exposes[0]"), ("mcp", "exposes[1]")):
        if re.match(rf"{short}\b", place):
            return f"capability.{long}{place.removeprefix(short)}"
    return place


def refusal(tmp_path: Path, case: dict[str, Any]) -> str:
    """The message with which the edited capability is refused."""
    document = copy.deepcopy(LIBRARY)
    for place, value in case.get("set", {}).items():
        edit(document, full(place), value)
    for place in case.get("remove", []):
        edit(document, full(place), GONE)
    source = tmp_path / "edited.yaml"
    source.write_text(json.dumps(document), encoding="utf-8")  # which is YAML
    with pytest.raises(CapabilityError) as refused:
        derive(read(source))
    return str(refused.value).removeprefix(f"{source}: ")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['place']}: {case['reason'][:30]}")
def test_a_fault_is_refused_at_its_place_with_its_reason(tmp_path, case):
    message = refusal(tmp_path, case)

    assert message.startswith(f"{full(case['place'])}: ")
    assert case["reason"] in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a: [1\nb: 2", "line 2, column 2", "not YAML"),
        ("naftiko: x\ninfo:\n  label: a\n  label: b\n", "line 4, column 3", "'label' is repeated"),
        ("a: !!python/object:os.system x", "line 1, column 4", "not YAML"),
        ("", "file", "must be object, is null"),
        ("- a", "file", "must be object, is array"),
        ("[" * 2000, "file", "not YAML"),
        ("a: \x00", "file", "not YAML"),
        ("{? [a] : b}", "line 1, column 4", "not YAML"),
    ],
)
def test_a_file_that_is_no_capability_is_refused_in_one_line(tmp_path, text, place, reason):
    source = tmp_path / "broken.yaml"
    source.write_text(text, encoding="utf-8")

    with pytest.raises(CapabilityError) as refused:
        read(source)

    assert str(refused.value).startswith(f"{source}: {place}: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
