"""Which known name a wrong one stands for: the one rule for parameters, members, arguments, tools and steps of a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

LOOKED_AT = 200
"""Characters of a name that are looked at; no honest name has more."""

_BRACKETS = re.compile(r"[\[\]]+")
_PARTS = 5
"""Parts of a name with brackets that are looked at: `filter[status][in]` has four."""


def letters(name: str) -> str:
    """The name without case, hyphens and underscores, which is how names are compared that should have been the same."""
    return name.replace("_", "").replace("-", "").lower()


def is_slip(given: str, known: str) -> bool:
    """True when `given` is `known` with a slip of the keyboard in it, or with two where both have ten letters or more.

    A slip is a letter too many, one too few, a wrong one, or two that changed places (optimal string alignment distance); the
    first letter is right. The work is bounded whatever the lengths are: 16 comparisons.
    """
    slips = 2 if min(len(given), len(known)) >= 10 else 1
    return given[:1] == known[:1] and _within(given, known, slips)


class Names:
    """Known names with their schemas, and which of them a wrong name stands for. Thread-safe; make it once and keep it.

    `x-aliases` of a schema are words for the name that callers use by mistake; `x-unlike` are words that look like it and are none.
    """

    def __init__(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        self._known = {letters(name): name for name in known}
        self._unlike = {
            letters(word) for each in known.values() for word in each.get("x-unlike", ())
        }
        self._spellings: dict[str, str] = dict(self._known)
        for name, schema in known.items():
            for alias in schema.get("x-aliases", ()):
                self._spellings.setdefault(letters(alias), name)

    def meant(self, name: str) -> str | None:
        """The known name that `name` without brackets (`page[size]`), or a part between them (`filter[status]`), stands for; else None.

        That is one with the same letters in whatever case style, one whose alias has the same letters, or one with a slip in it.
        """
        name = name[:LOOKED_AT]
        for part in (_BRACKETS.sub("", name), *_BRACKETS.split(name, _PARTS - 1)):
            given = letters(part)
            if same := self._spellings.get(given):
                return same
            if given not in self._unlike:
                for spelling, known in self._known.items():
                    if is_slip(given, spelling):
                        return known
        return None


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The one of the names that `name` stands for, as `Names.meant` has it; for names without schemas."""
    return Names({each: {} for each in known}).meant(name)


def _within(given: str, known: str, slips: int) -> bool:
    """True when no more slips than these lie between the two."""
    if abs(len(given) - len(known)) > slips:
        return False
    at = next(
        (i for i, pair in enumerate(zip(given, known, strict=False)) if pair[0] != pair[1]), None
    )
    if at is None:  # one begins with the other
        return True
    given, known = given[at:], known[at:]
    if not slips:
        return False
    swapped = given[:2] == known[1::-1] and _within(given[2:], known[2:], slips - 1)
    return (
        swapped
        or _within(given[1:], known, slips - 1)
        or _within(given, known[1:], slips - 1)
        or _within(given[1:], known[1:], slips - 1)
    )
