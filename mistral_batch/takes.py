"""What is taken of each answer into a column: `--take label=choices[0].message.content`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .errors import InputError

CONTENT = "answer=choices[0].message.content"
DEFAULTS = {
    "/v1/chat/completions": CONTENT,
    "/v1/fim/completions": CONTENT,
    "/v1/embeddings": "embedding=data[0].embedding",
}
"""What is taken where nothing is said; at other endpoints the whole body."""

_QUOTED = r"""("(?:[^"\\]|\\.)*"|'[^']*')"""
_STEP = re.compile(
    rf"""\[\s*(?:(-?\d{{1,18}})|{_QUOTED})\s*\]|(\.?)(?:{_QUOTED}|([^.\[\]"'\s]+))"""
)


@dataclass(frozen=True)
class Take:
    """A column `name` with what is at `path` in an answer's body: names of members, and places in arrays, from the end when negative."""

    name: str
    path: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> Take:
        """From NAME=PATH, as `label=choices[0].message["content"]`; `$` is the whole body. InputError with the place of a fault."""
        name, _, path = text.partition("=")
        if not name.strip() or not path.strip():
            raise InputError(
                f"--take {text!r} is not NAME=PATH, as label=choices[0].message.content; $ is the whole answer"
            )
        return cls(name.strip(), tuple(_steps(text.rstrip(), len(text) - len(path.lstrip()))))

    def of(self, answer: Any) -> Any:
        """What is there; None when nothing is."""
        for step in self.path:
            if isinstance(step, str):
                answer = answer.get(step) if isinstance(answer, dict) else None
            else:
                there = isinstance(answer, list) and -len(answer) <= step < len(answer)
                answer = answer[step] if there else None
        return answer


def default(endpoint: str) -> list[Take]:
    """What is taken of an endpoint's answers where nothing is said."""
    return [Take.parse(DEFAULTS.get(endpoint, "answer=$"))]


def _steps(text: str, at: int) -> list[str | int]:
    """The steps of the path that begins in `text` at `at`."""
    whole = text[at] == "$" and text[at + 1 : at + 2] in ("", ".", "[")
    at += whole
    steps: list[str | int] = []
    while at < len(text):
        found = _STEP.match(text, at)
        later = whole or bool(steps)
        if not found or (found[0][0] != "[" and later != (found[3] == ".")):
            wanted = f'{"." * later}name, [number] or ["name"]'
            raise InputError(
                f"--take {text!r}: at character {at + 1} should be {wanted}, not {text[at : at + 20]!r}"
            )
        index, quoted, name = found[1], found[2] or found[4], found[5]
        if index:
            steps.append(int(index))
        elif quoted:
            steps.append(_unquoted(text, at, quoted))
        else:
            steps.append(name)
        at = found.end()
    return steps


def _unquoted(text: str, at: int, quoted: str) -> str:
    if quoted[0] == "'":
        return quoted[1:-1]
    try:
        return str(json.loads(quoted))
    except ValueError as error:
        raise InputError(
            f"--take {text!r}: at character {at + 1} is no JSON text: {quoted}"
        ) from error
