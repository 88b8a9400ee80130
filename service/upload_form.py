"""The form of an upload (RFC 7578), read while it passes: which parts it has, what it is for, and the bytes of its file.

What goes upstream are the bytes that came, not what was read here; so a form that can be read in two ways is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from openapi.validation import Violation

from .problems import Problem

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of what callers send

MAX_FIELD = 4096
"""Bytes of a part that is no file."""

MAX_PARTS = 16

BLOCK = 1 << 16
"""Bytes of a file that are handed on at a time."""

# What all known clients write. A part whose name a lenient reader could read in another way would reach the upstream unchecked.
_DISPOSITION = re.compile(
    rb"""form-data; ?name="([A-Za-z0-9_.\[\]-]+)"(?:; ?filename="(?:[^"\\\r\n]|\\.)*")?(?:; ?filename\*=[!-~]+)?""",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


class UploadForm:
    """One form: `feed` it piece by piece, then `end` it. `purposes`: the values of `purpose` that may be uploaded."""

    def __init__(
        self, content_type: str, purposes: frozenset[str], on_file: Callable[[bytes], None]
    ) -> None:
        media_type, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if media_type != b"multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
            raise Problem(
                "unsupported-media-type",
                "Send the file as multipart/form-data, with a boundary in Content-Type.",
            )
        self.purposes = purposes
        self.purpose: str | None = None
        self.file_size = -1  # bytes; negative until there is a file
        self._on_file = on_file
        self._name = b""
        self._names: list[bytes] = []
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._field = bytearray()
        self._whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
        )

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises Problem for a form that cannot be read, or that must not be uploaded."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise Problem("malformed-request", f"The form cannot be read: {error}.") from error

    def end(self) -> None:
        """Raises Problem unless the form was whole, with one file and a purpose."""
        if not self._whole:
            raise Problem("malformed-request", "The form ends before its last boundary.")
        if self.file_size < 0:
            raise _violation("file", "is missing; send the file as a part of this name")
        if self.purpose is None:
            raise _violation("purpose", f"is missing; it must be {self._allowed()}")

    def let_go(self) -> None:
        """Ends the use of it: what it refers to can go."""
        del self._parser, self._on_file

    def _allowed(self) -> str:
        return " or ".join(sorted(self.purposes))

    def _part_begins(self) -> None:
        self._disposition = b""
        self._field.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        named = _DISPOSITION.fullmatch(self._disposition)
        if named is None:
            raise Problem(
                "malformed-request",
                'Each part of the form needs Content-Disposition: form-data; name="NAME", and a file also filename="NAME".',
            )
        self._name = named[1]
        if self._name in self._names:
            raise _violation(self._name.decode("latin-1"), "must not be repeated")
        self._names.append(self._name)
        if len(self._names) > MAX_PARTS:
            raise Problem("malformed-request", f"The form has more than {MAX_PARTS} parts.")
        if self._name == b"file":
            self.file_size = 0

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == b"file":
            self.file_size += end - start
            for at in range(start, end, BLOCK):
                self._on_file(data[at : min(at + BLOCK, end)])
            return
        self._field += data[start:end]
        if len(self._field) > MAX_FIELD:
            raise _violation(self._name.decode("latin-1"), f"is longer than {MAX_FIELD} bytes")

    def _part_ends(self) -> None:
        if self._name != b"purpose":
            return
        self.purpose = self._field.decode("utf-8", "replace")
        if self.purpose not in self.purposes:
            detail = f"must be {self._allowed()} (GATEWAY_FILE_PURPOSES)"
            raise _violation("purpose", detail)

    def _form_ends(self) -> None:
        self._whole = True


def _violation(part: str, detail: str) -> Problem:
    return Problem("validation-failed", violations=[Violation(f"/body/{part}", detail)])
