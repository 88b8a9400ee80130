"""How far something is that takes time, and what to tell of it: by what its document says of the members that count.

Pure. What an answer says in no way that can be understood is as if it did not say it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from openapi.job_hints import JobHints
from openapi.json_text import UNREADABLE, read_json

OLD = 20
"""Seconds after which it is said how old a state is: more than the REST service lets pass between two looks."""

SOON = 15 * 60
"""Seconds left up to which waiting is worth while for somebody who could do something else."""

LONGEST = 14 * 24 * 3600
"""Seconds left beyond which a reckoning is none."""

LONG = 1000
"""Bytes that a state or a number may have."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.:-]{0,63}")


@dataclass(frozen=True)
class Shown:
    """What an answer says of how far it is; None for what it does not say. `started` is a Unix time.

    `running` is true in a state in which it goes on at its pace; in others that are not final it may not.
    """

    state: str = ""
    final: bool = False
    running: bool = False
    unit: str = ""
    total: int | None = None
    done: int | None = None
    failed: int | None = None
    started: float | None = None

    @property
    def counted(self) -> str:
        """How far it is in words; empty where nothing counts it."""
        if not self.unit:
            return ""
        failed = f", {self.failed} failed" if self.failed else ""
        if self.done is None:
            known = f"{self.total} {self.unit}" if self.total else ""
            return known or f"{self.unit} not counted yet"
        if self.total:
            return f"{self.done} of {self.total} {self.unit} done{failed}"
        return (
            f"{self.done} {self.unit} done{failed}" if self.done else f"{self.unit} not counted yet"
        )

    def left(self, now: float) -> float | None:
        """Seconds that it will take from `now` on at the pace that it had so far; None when that cannot be reckoned."""
        if not (self.running and self.total and self.done and self.started):
            return None
        passed = now - self.started  # negative where clocks differ
        left = passed / self.done * (self.total - self.done)
        return left if passed >= 1 and left <= LONGEST else None


def read(hints: JobHints, content: bytes | bytearray) -> Shown | None:
    """What `content`, a JSON object, shows; None when it is no such thing. All but the members that count is looked through only."""
    state, progress = hints.state, hints.progress
    if not state:
        return None
    names: tuple[str, ...] = (state.member,)
    if progress:
        names += (progress.total, progress.done, progress.failed, progress.started)
    try:
        shown = read_json(content, _shape(names))
    except UNREADABLE:
        return None
    value, *counts = (_value(getattr(shown, f"m{place}")) for place in range(len(names)))
    named = value if isinstance(value, str) and _NAME.fullmatch(value) else ""
    final = state.is_final(value)
    if not progress:
        return Shown(named, final)
    total, done, failed = map(_count, counts[:3])
    started = counts[3] if _is_number(counts[3]) and counts[3] > 0 else None
    return Shown(
        state=named,
        final=final,
        running=named in progress.running,
        unit=progress.unit,
        total=total if total and total >= (done or 0) else None,
        done=done,
        failed=failed if failed and failed <= (done or 0) else None,
        started=started,
    )


def note(shown: Shown, *, now: float, age: float, wait: str) -> str:
    """What to tell of something that is not final, which was seen `age` seconds ago; empty when it is, or shows nothing.

    `now` is the Unix time, `wait` what to give a call that waits, such as `wait 45`; empty where none can.
    """
    if shown.final or not (shown.state or shown.total or shown.done):
        return ""
    left = shown.left(now - age)
    pace = f"{_duration(max(0.0, left - age))} left at this pace" if left is not None else ""
    old = f"as seen {age:.0f} s ago: nothing newer could be had since" if age > OLD else ""
    told = "; ".join(filter(None, [shown.counted, pace, old]))
    again = f"with {wait}" if wait else "later"
    if left is not None and left - age > SOON:
        then = f"Do other work first, and call again {again} when most of that time is over."
    else:
        then = f"Call again {again}, or do other work first."
    return f"{shown.state or 'In no known state'}{': ' if told else ''}{told}. {then}"


Tell = Callable[[int, int | None, str], Awaitable[None]]
"""Tells a caller how much is done, of how much, and the same in words."""


class Report:
    """Tells a caller how far it is, when more is done than it was told before (MCP, "Progress")."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.told = -1

    async def __call__(self, shown: Shown) -> None:
        done = shown.done or 0
        if done > self.told:
            self.told = done
            words = ": ".join(filter(None, [shown.state, shown.counted]))
            await self.tell(done, shown.total, words)


def wants_progress(meta: Mapping[str, Any] | None) -> str | int | None:
    """The progress token of a call that has one (MCP, "Progress": text or integer)."""
    token = (meta or {}).get("progress_token")
    return token if isinstance(token, str | int) else None


@lru_cache(64)
def _shape(names: tuple[str, ...]) -> Any:
    """The type of an object of which these members are read: m0, m1 and so on, as one name can be there twice."""
    fields: list[tuple[str, Any, Any]] = [
        (f"m{n}", Raw | UnsetType, UNSET) for n in range(len(names))
    ]
    return msgspec.defstruct(
        "Members", fields, rename=dict(zip([each[0] for each in fields], names, strict=True))
    )


def _value(text: Raw | UnsetType) -> Any:
    """What the JSON text of a member says; None for a number that is too large, for one."""
    with suppress(*UNREADABLE):
        return None if text is UNSET or len(text) > LONG else read_json(text, Any)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> int | None:
    return int(value) if _is_number(value) and 0 <= value < 1 << 53 else None


def _duration(seconds: float) -> str:
    for length, name in ((24 * 3600, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.0f} {name}"
    return "about a minute" if seconds >= 45 else "less than a minute"
