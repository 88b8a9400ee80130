"""What became of all rows: how many were answered, what the others failed of, and what the answers used."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

KINDS = 20
"""Kinds of errors from which on those are one that differ in ids and other numbers alone."""

MOST = 1_000
"""Kinds of errors that are told apart."""

OTHERS = "other errors"

_UUID = re.compile(r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")
# A word with a digit in it, but for a status at the beginning.
_NUMBERED = re.compile(r"(?!^[45][0-9]{2} )(?<![\w-])[A-Za-z_-]*+[0-9][\w-]*+")


@dataclass
class Kind:
    """Errors of one kind: the first one's text and id, how many rows have one, and whether they are to be sent again."""

    error: str
    example: str
    again: bool
    count: int = 0


@dataclass
class Summary:
    """Counts of rows: `rows` are those `answered` and those `failed`; of the failed, `again` are sent again by a retry, `never` are not.

    `missing` are those of the failed that have no result at all. `nothing` says for how many answers a column found nothing.
    `usage` adds up what the results tell, by Mistral's names (`prompt_tokens`, `completion_tokens`, `pages_processed`, ...).
    """

    rows: int = 0
    answered: int = 0
    failed: int = 0
    again: int = 0
    never: int = 0
    missing: int = 0
    nothing: Counter[str] = field(default_factory=Counter)
    usage: dict[str, int | float] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    """New columns that the table has already, and what they are called instead."""
    _kinds: dict[tuple[str, bool], Kind] = field(default_factory=dict)
    _alike: bool = False

    @property
    def tokens_in(self) -> int:
        """Tokens that were read."""
        return int(self.usage.get("prompt_tokens", 0))

    @property
    def tokens_out(self) -> int:
        """Tokens that were written."""
        return int(self.usage.get("completion_tokens", 0))

    @property
    def errors(self) -> list[Kind]:
        """The kinds of errors, the most frequent first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.count)

    def clear(self) -> None:
        """Makes it as new, for rows that are read again."""
        self.__dict__.update(Summary().__dict__)

    def fail(self, error: str, custom_id: str, again: bool) -> None:
        """Counts a row that has no answer."""
        self.failed += 1
        if again:
            self.again += 1
        else:
            self.never += 1
        known = error.replace(custom_id, "#") if len(custom_id) > 2 else error
        self._add(_UUID.sub("#", known), Kind(error, custom_id, again, 1))
        if not self._alike and len(self._kinds) > KINDS:
            self._alike = True
            kinds, self._kinds = self._kinds, {}
            for (text, _), kind in kinds.items():
                self._add(text, kind)

    def _add(self, text: str, kind: Kind) -> None:
        if self._alike:
            text = _NUMBERED.sub("#", text)
        key = text, kind.again
        if key not in self._kinds and len(self._kinds) >= MOST:
            key, kind.error = (OTHERS, kind.again), OTHERS
        if known := self._kinds.get(key):
            known.count += kind.count
        else:
            self._kinds[key] = kind
