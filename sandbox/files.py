"""Files: what clients upload, and what jobs leave behind. The content of a result file is computed when it is read first."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sandbox.answers import Invalid
from sandbox.jobs import Request
from sandbox.validation import Line, checked

JSONL_TYPES = ("application/json", "application/jsonl", "application/json-lines", "text/plain")


@dataclass
class File:
    """A file; `created` and `expires` are job seconds, `read` gives the content."""

    id: str
    workspace: str
    user: str
    filename: str
    purpose: str
    sample_type: str
    source: str
    mimetype: str
    read: Callable[[], bytes]
    created: float
    expires: float | None = None
    visibility: str = "workspace"

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file."""
        return self.read()

    def view(self, wall: Callable[[float], float]) -> dict[str, Any]:
        """The file as Mistral's schema FileSchema has it; `wall` turns job seconds into Unix time."""
        lines = sum(1 for line in self.content.split(b"\n") if line.strip())
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": int(wall(self.created)),
            "filename": self.filename,
            "purpose": self.purpose,
            "sample_type": self.sample_type,
            "source": self.source,
            "num_lines": lines if self.sample_type.startswith("batch") else None,
            "mimetype": self.mimetype,
            "signature": None,
            "expires_at": None if self.expires is None else int(wall(self.expires)),
            "visibility": self.visibility,
        }


def wrong_type(filename: str, purpose: str) -> str | None:
    """The media type that makes a file unfit for batch input, going by its name, or None."""
    guess = mimetypes.guess_type(filename)[0]
    fit = purpose != "batch" or guess is None or guess in JSONL_TYPES
    return None if fit else guess


def parse_input(content: bytes) -> tuple[list[Request], list[str]]:
    """The requests of an input file, and the reasons for which it makes a job fail.

    Mistral does not look at the lines on upload; what is wrong with them surfaces in the job.
    """
    requests, reasons = [], []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            checked(Line, value)
        except Invalid as error:
            loc = ".".join(map(str, error.violations[0]["loc"]))
            reasons.append(f"Line {number}: {loc}: not valid")
        except (ValueError, RecursionError):
            reasons.append(f"Invalid JSON on line {number}")
        else:
            requests.append(Request(value.get("custom_id"), value["body"]))
    if not requests and not reasons:
        reasons.append("The input is empty")
    return requests, reasons
