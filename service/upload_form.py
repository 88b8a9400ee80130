"""The form of an upload (RFC 7578), read while it passes: which parts it has, what it is for, and the bytes of its file.

What goes upstream are the bytes that came, not what was read here; so a form that can be read in two ways is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from openapi.validation import Violation

from .problems import Problem

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of what callers send

MAX_FIELD = 4096
"""Bytes of a part that is no file."""

MAX_PARTS = 16

BLOCK = 1 << 16
"""Bytes of a file that are handed on at a time."""

# Here and below: what all known clients write. What another reader could read in another way would reach the upstream unchecked.
_CHARSET = r'(?:; ?charset="?utf-8"?)?'
_TYPE = re.compile(
    rf"""multipart/form-data{_CHARSET}; ?boundary=(?:([!#-~]{{1,70}})|"([ !#-~]{{1,70}})"){_CHARSET}""",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]")
_NAME = rb"[A-Za-z0-9_.\[\]-]+"
_TOKEN = rb"[\w!#$%&'*+.^`|~-]+"
_DISPOSITION = re.compile(
    rb"""form-data; ?name=(?:"(%b)"|(%b))(; ?filename=(?:"(?:[^"\\]|\\.)*"|%b)(?:; ?filename\*=%b)?)?"""
    % (_NAME, _NAME, _TOKEN, _TOKEN),
    re.IGNORECASE,
)
_FIELD_TYPE = re.compile(rb'(?:text/plain(?:; ?charset="?(?:utf-8|us-ascii)"?)?)?', re.IGNORECASE)
_AS_THEY_ARE = (b"", b"binary", b"8bit", b"7bit")
_HEADERS = {
    *(b"content-disposition", b"content-type"),
    *(b"content-length", b"content-transfer-encoding"),
}
_CONTROL = re.compile(rb"[\0-\x1f\x7f]")
_FILE, _PURPOSE = b"file", b"purpose"


class UploadForm:
    """One form: `feed` it piece by piece, then `end` it. `purposes`: the values of `purpose` that may be uploaded."""

    def __init__(
        self, content_type: str, purposes: frozenset[str], on_file: Callable[[bytes], None]
    ) -> None:
        named = _TYPE.fullmatch(content_type)
        boundary = (named[1] or named[2]) if named else ""
        if not _BOUNDARY.fullmatch(boundary):
            raise Problem(
                "unsupported-media-type",
                "Send the file as multipart/form-data, with one boundary in Content-Type and nothing else.",
            )
        self.purposes = purposes
        self.purpose: str | None = None
        self.file_size = -1  # bytes; negative until there is a file
        self._on_file = on_file
        self._delimiters = _Delimiters(boundary.encode())
        self._name = b""
        self._names: list[bytes] = []
        self._parts = 0
        self._header = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}  # of the present part
        self._field = bytearray()
        self._whole = False
        self._parser = MultipartParser(
            boundary.encode(),
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
        self._delimiters.feed(piece)
        if self._delimiters.count > self._parts + 1:
            raise _ambiguous()

    @property
    def closed(self) -> bool:
        """True when its closing boundary has come: for some readers that is its end."""
        return self._delimiters.closed

    def end(self) -> None:
        """Raises Problem unless the form was whole, with one file and a purpose."""
        if not (self._whole and self.closed):
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
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Problem("malformed-request", f"The form has more than {MAX_PARTS} parts.")
        self._headers.clear()
        self._field.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        name = self._header.lower()
        if name not in _HEADERS or name in self._headers or _CONTROL.search(self._value):
            detail = "A part of the form may have Content-Disposition and Content-Type, once each."
            raise Problem("malformed-request", detail)
        self._headers[name] = self._value
        self._header = self._value = b""

    def _headers_end(self) -> None:
        headers = self._headers
        named = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
        self._name = (named[1] or named[2]) if named else b""
        if named is None or bool(named[3]) is not (self._name == _FILE):
            raise Problem(
                "malformed-request",
                'Each part of the form needs Content-Disposition: form-data; name="NAME", and file alone also filename="NAME".',
            )
        plain = self._name == _FILE or _FIELD_TYPE.fullmatch(headers.get(b"content-type", b""))
        if (
            not plain
            or headers.get(b"content-transfer-encoding", b"").lower() not in _AS_THEY_ARE
            or self._name == b"_charset_"
        ):
            detail = "The parts of the form must be as they are: in UTF-8, and not encoded."
            raise Problem("malformed-request", detail)
        meant = self._name.lower().strip(b"[]_.-")
        if meant in (_FILE, _PURPOSE) and meant != self._name:
            name = self._name.decode()
            raise _violation(name, f"is not a known part; did you mean {meant.decode()}?")
        if self._name in self._names:
            raise _violation(self._name.decode("latin-1"), "must not be repeated")
        self._names.append(self._name)
        if self._name == _FILE:
            self.file_size = 0

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == _FILE:
            self.file_size += end - start
            for at in range(start, end, BLOCK):
                self._on_file(data[at : min(at + BLOCK, end)])
            return
        self._field += data[start:end]
        if _CONTROL.search(self._field):
            raise _violation(self._name.decode("latin-1"), "has control characters")
        if len(self._field) > MAX_FIELD:
            raise _violation(self._name.decode("latin-1"), f"is longer than {MAX_FIELD} bytes")

    def _part_ends(self) -> None:
        if self._name != _PURPOSE:
            return
        self.purpose = self._field.decode("utf-8", "replace")
        if self.purpose not in self.purposes:
            detail = f"must be {self._allowed()} (GATEWAY_FILE_PURPOSES)"
            raise _violation("purpose", detail)

    def _form_ends(self) -> None:
        self._whole = True


class _Delimiters:
    """The boundaries of a form, found apart from its reader: what only another reader would take for one is refused.

    Such as one after a bare line feed, or with white space behind it. Nothing may be before the first, and nothing but a line's
    end after the closing one.
    """

    def __init__(self, boundary: bytes) -> None:
        self.count = 0
        self.closed = False
        self._mark = b"--" + boundary
        self._begun = False
        self._kept = b"\r\n"  # bytes in which one may begin; a form begins as if after a line
        self._after = b""  # the closing one

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises Problem."""
        if self.closed:
            self._end(piece)
            return
        text, mark = self._kept + piece, self._mark
        if not self._begun:
            self._kept = text
            if len(text) < len(mark) + 4:
                return
            self._begun = text.startswith((mark, b"\r\n" + mark), 2)
            if not self._begun:
                raise _ambiguous()
        done, at = 0, text.find(mark)
        while at >= 0 and at + len(mark) + 2 <= len(text):
            before, after = text[max(at - 2, 0) : at], text[at + len(mark) : at + len(mark) + 2]
            done = at + len(mark)
            if before.endswith((b"\r", b"\n")):
                if before != b"\r\n" or after not in (b"\r\n", b"--"):
                    raise _ambiguous()
                self.count += 1
                if after == b"--":
                    self.closed = True
                    self._end(text[done + 2 :])
                    return
            at = text.find(mark, done)
        self._kept = text[max(done, len(text) - len(mark) - 3) :]

    def _end(self, piece: bytes) -> None:
        self._after += piece[:3]
        if not b"\r\n".startswith(self._after):
            raise Problem("malformed-request", "Something follows the end of the form.")


def _ambiguous() -> Problem:
    detail = "The form can be read in two ways: its boundary is not as RFC 7578 has it, or comes within a part."
    return Problem("malformed-request", detail)


def _violation(part: str, detail: str) -> Problem:
    return Problem("validation-failed", violations=[Violation(f"/body/{part}", detail)])
