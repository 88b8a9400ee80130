"""W3C Trace Context; expectations: https://www.w3.org/TR/trace-context/ section 3."""

from __future__ import annotations

import pytest

from telemetry.trace_context import Trace, received

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def trace(*parents: str, state: str | None = None) -> Trace:
    headers = [(b"traceparent", parent.encode("latin-1")) for parent in parents]
    return received(
        headers + ([(b"tracestate", state.encode("latin-1"))] if state is not None else [])
    )


@pytest.mark.parametrize(
    ("parent", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", 1),
        (f"00-{TRACE}-{PARENT}-00", 0),
        (f"00-{TRACE}-{PARENT}-ff", 3),  # only the two bits that mean something are kept
        (f"cc-{TRACE}-{PARENT}-01", 1),  # a later version, read as version 00
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", 1),
    ],
)
def test_a_well_formed_traceparent_is_continued_by_a_span_of_our_own(
    parent: str, flags: int
) -> None:
    found = trace(parent)
    assert (found.trace_id, found.parent_id, found.flags) == (TRACE, PARENT, flags)
    assert found.span_id != PARENT


@pytest.mark.parametrize(
    "parent",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"cc-{TRACE}-{PARENT}-01more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT.upper()}-01",
        f" 00-{TRACE}-{PARENT}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}é-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-{'x' * 300}",
    ],
)
def test_anything_else_starts_a_new_trace(parent: str) -> None:
    found = trace(parent, state="vendor=1")
    assert found.trace_id not in (TRACE, "0" * 32) and len(found.trace_id) == 32
    assert (found.parent_id, found.state) == ("", "")


def test_two_traceparents_are_none() -> None:
    assert trace(*[f"00-{TRACE}-{PARENT}-01"] * 2).trace_id != TRACE


@pytest.mark.parametrize(
    ("state", "kept"),
    [("a=1,b=2", True), ("a" * 512, True), ("a" * 513, False), ("a=\xe9", False), ("", True)],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(state: str, kept: bool) -> None:
    found = trace(f"00-{TRACE}-{PARENT}-01", state=state)
    assert found.child().headers().get("tracestate", "") == (state if kept else "")


def test_a_child_is_in_the_same_trace_below_its_parent() -> None:
    parent = trace(f"00-{TRACE}-{PARENT}-01")
    child = parent.child()
    assert child.parent_id == parent.span_id
    assert child.headers()["traceparent"] == f"00-{TRACE}-{child.span_id}-01"
