"""Which known name somebody probably meant: for `did you mean` in violations, refusals of capability files and tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def letters(name: str) -> str:
    """The name without case, hyphens and underscores, which is how names are compared that should have been the same."""
    return name.replace("_", "").replace("-", "").lower()


def near_name(
    name: str,
    known: Iterable[str],
    aliases: Mapping[str, str] | None = None,
    likeness: float = 0.75,
) -> str | None:
    """The known name that `name` probably stands for; None for a name that is unlike all of them.

    That is one with the same letters in another case style or nearly so, or the name that an alias belongs to. `likeness`
    is difflib's ratio, 1.0 for the same letters.
    """
    spellings = {letters(each): each for each in known}
    spellings |= {letters(alias): meant for alias, meant in (aliases or {}).items()}
    near = get_close_matches(letters(name[:200])[:64], spellings, n=1, cutoff=likeness)
    return spellings[near[0]] if near else None
