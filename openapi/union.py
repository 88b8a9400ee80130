"""Several capabilities as one: what two of them declare alike is declared once, any other clash is refused with both places."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from openapi.capability import Capability, CapabilityError


@dataclass(frozen=True)
class Part:
    """A part of a capability: its place, and what it means, without its words for people."""

    capability: Capability
    place: str
    meaning: Any

    @property
    def where(self) -> str:
        return f"{self.capability.source}: {self.place}"


class Union:
    """Parts by what they are called; `add` says whether one is new."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, Part] = {}

    def add(self, name: Hashable, called: str, part: Part) -> bool:
        """False when a part of this name is there and means the same; CapabilityError when it means something else."""
        earlier = self._parts.setdefault(name, part)
        if earlier.meaning != part.meaning:
            reason = f"{called} is something else in {earlier.where}"
            if isinstance(part.meaning, dict) and isinstance(earlier.meaning, dict):
                named = [
                    each for each in part.meaning if part.meaning[each] != earlier.meaning[each]
                ]
                reason = f"{reason}: another {' and '.join(named)}"
            raise CapabilityError(part.where, reason)
        return earlier is part
