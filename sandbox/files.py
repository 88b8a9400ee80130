"""Files: what clients upload, and what jobs leave behind. The content of a result file is computed when it is read first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from mimetypes import MimeTypes
from typing import Any

from sandbox.content import PIECE, Content

JSONL = "application/jsonl"
JSONL_TYPES = ("application/json", JSONL, "application/json-lines", "text/plain")
UNKNOWN_TYPE = "application/octet-stream"

# The types that Python knows, not those of this machine.
_types = MimeTypes()
_types.add_type(JSONL, ".jsonl")

# `ocr_input`: Mistral's documentation, Basic OCR. Of others it says nothing.
SAMPLE_TYPES = {"batch": "batch_request", "fine-tune": "instruct"}


def sample_type(purpose: str) -> str:
    """The sample type of an upload."""
    return SAMPLE_TYPES.get(purpose, f"{purpose.replace('-', '_')}_input")


def media_type(filename: str, given: str | None) -> str:
    """The media type of an upload: by its name, else as the client says."""
    return _types.guess_type(filename)[0] or given or UNKNOWN_TYPE


def wrong_type(filename: str, purpose: str) -> str | None:
    """The media type that makes a file unfit for batch input, going by its name, or None."""
    guess = _types.guess_type(filename)[0]
    fit = purpose != "batch" or guess is None or guess in JSONL_TYPES
    return None if fit else guess


@dataclass
class File:
    """A file; `created` and `expires` are job seconds, `read` gives the content, whole or in pieces."""

    id: str
    workspace: str
    user: str
    filename: str
    purpose: str
    sample_type: str
    source: str
    mimetype: str
    read: Callable[[], Content | Iterable[bytes]]
    created: float
    expires: float | None = None
    visibility: str = "workspace"

    @cached_property
    def content(self) -> Content:
        """The bytes of the file."""
        given = self.read()
        if isinstance(given, Content):
            return given
        content = Content()
        for piece in _gathered(given):
            content.write(piece)
        return content

    def view(self, wall: Callable[[float], float]) -> dict[str, Any]:
        """The file as Mistral's schema FileSchema has it; `wall` turns job seconds into Unix time."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.content.size,
            "created_at": int(wall(self.created)),
            "filename": self.filename,
            "purpose": self.purpose,
            "sample_type": self.sample_type,
            "source": self.source,
            "num_lines": self.content.lines if self.sample_type.startswith("batch") else None,
            "mimetype": self.mimetype,
            "signature": None,
            "expires_at": None if self.expires is None else int(wall(self.expires)),
            "visibility": self.visibility,
        }


def _gathered(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    gathered = bytearray()
    for line in lines:
        gathered += line
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
