"""Files of text as sources: JSON and comma separated values, packed by gzip or not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from bisect import bisect_right
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO, StringIO
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from .errors import InputError
from .sources import BLOCK, MAX_LINE, ROWS, Batch, Fault, check_names, fault_at

if TYPE_CHECKING:
    from _csv import Reader as _Reader


class File:
    """What files have in common."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def digest(self) -> str:
        """SHA-256 of the file as it is, in hex."""
        with reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _blocks(self) -> Iterator[tuple[bytes, bool]]:
        """The text in whole lines, after its byte order mark; and whether a line that follows was too long and is left out."""
        zipped = self.path.name.lower().endswith(".gz")
        with reading(self.path), self.path.open("rb") as raw:
            file = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw
            begin = file.read(3)
            if begin[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
                raise InputError(f"{self.path} is UTF-16; write it in UTF-8")
            if begin[:2] == b"\x1f\x8b":
                raise InputError(f"{self.path} is packed by gzip; let its name end with .gz")
            if begin != BOM_UTF8:
                file.seek(0)
            while block := file.read(BLOCK):
                rest = b"" if block[-1:] == b"\n" else file.readline(MAX_LINE)
                if len(rest) < MAX_LINE or rest[-1:] == b"\n":
                    yield block + rest, False
                    continue
                yield block[: block.rfind(b"\n") + 1], True
                while (piece := file.readline(BLOCK)) and piece[-1:] != b"\n":
                    pass


class JsonLines(File):
    """A file with an object a line; blank lines are passed over."""

    all_columns = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        head = next(self.batches(), None)
        self.columns = tuple(next(filter(None, head.read()), {})) if head else ()

    def batches(self) -> Iterator[Batch]:
        """The lines, without spaces around them."""
        first = number = 1
        for block, too_long in self._blocks():
            lines = list(map(bytes.strip, block.split(b"\n")))
            if not lines[-1]:
                lines.pop()
            numbers: Sequence[int] = range(number, number + len(lines))
            number += len(lines)
            found = []
            if too_long:
                found = [fault_at("line", number, f"is longer than {MAX_LINE} bytes")]
                number += 1
            if not all(lines):
                numbers = [each for each, line in zip(numbers, lines, strict=True) if line]
                lines = list(filter(None, lines))
            if lines or found:
                yield Batch(first, lines=lines, numbers=numbers, unit="line", found=found)
            first += len(lines)


class CSV(File):
    """A file of comma separated values (RFC 4180), all of them text; its first line names the columns.

    It is separated by semicolons or tabs where that line has them and no comma.
    """

    all_columns = True

    def __init__(self, path: Path, separator: str = "") -> None:
        super().__init__(path)
        csv.field_size_limit(MAX_LINE)
        if not separator:
            head = next(self._blocks(), (b"", False))[0].partition(b"\n")[0]
            others = [each for each in (";", "\t") if each.encode() in head]
            separator = "," if b"," in head or not others else others[0]
        self.separator = separator
        broken: list[Fault] = []
        try:
            self.columns = tuple(next(filter(None, self._reader(broken, [])), ()))
        except csv.Error as error:
            raise InputError(f"{path} line 1: {_said(error)}") from error
        if broken:
            raise InputError(f"{path} line {broken[0].number}: {broken[0].what}")
        check_names(self.name, self.columns)

    def batches(self) -> Iterator[Batch]:
        """The rows after the first line; one with more or fewer fields is a fault."""
        blocks: list[int] = []
        broken: list[Fault] = []
        reader = self._reader(broken, blocks)
        next(filter(None, reader), None)
        first, line = 1, reader.line_num + 1
        more = True
        while more:
            fields: list[list[str]] = []
            faults: dict[int, str] = {}  # by index
            blocks.clear()
            try:
                while more and len(fields) < ROWS and not blocks:
                    before = len(fields)
                    fields.extend(islice(reader, 64))
                    more = len(fields) == before + 64
            except csv.Error as error:
                faults[len(fields)] = _said(error)
                fields.append([""])
            if reader.line_num == line + len(fields) - 1:
                numbers: Sequence[int] = range(line, line + len(fields))
            else:  # some have several lines
                sizes = (1 + sum(field.count("\n") for field in row) for row in fields)
                numbers = list(accumulate(sizes, initial=line))[: len(fields)]
            line = reader.line_num + 1
            for fault in broken:
                faults[bisect_right(numbers, fault.number) - 1] = fault.what
            broken.clear()
            yield from self._batch(first, fields, numbers, faults)
            first += len(fields) - fields.count([])

    def _batch(
        self, first: int, fields: list[list[str]], numbers: Sequence[int], faults: dict[int, str]
    ) -> Iterator[Batch]:
        width = len(self.columns)
        if faults or set(map(len, fields)) != {width}:
            for index, row in enumerate(fields):
                if row and len(row) != width:
                    what = f"has {len(row)} fields, but there are {width} columns"
                    faults.setdefault(index, what)
                if index in faults:
                    fields[index] = [""] * width
        found = [fault_at("line", numbers[index], faults[index]) for index in sorted(faults)]
        if [] in fields:  # blank lines
            numbers = [number for number, row in zip(numbers, fields, strict=True) if row]
            fields = list(filter(None, fields))
        if fields:
            columns = dict(zip(self.columns, zip(*fields, strict=True), strict=True))
            yield Batch(first, columns=columns, numbers=numbers, unit="line", found=found)

    def _reader(self, broken: list[Fault], blocks: list[int]) -> _Reader:
        texts = self._texts(broken, blocks)
        return csv.reader(texts, delimiter=self.separator, strict=True)

    def _texts(self, broken: list[Fault], blocks: list[int]) -> Iterator[str]:
        """The lines as text; `broken` is told of each that is not UTF-8, `blocks` of each block that is begun."""
        number = 0
        for block, too_long in self._blocks():
            blocks.append(len(block))
            try:
                yield from StringIO(block.decode(), newline="\n")
            except UnicodeDecodeError:
                for at, line in enumerate(BytesIO(block), number + 1):
                    try:
                        line.decode()
                    except UnicodeDecodeError as error:
                        what = f"is not UTF-8, at byte {error.start + 1}"
                        broken.append(fault_at("line", at, what))
                    yield line.decode(errors="replace")
            number += block.count(b"\n")
            if too_long:
                raise InputError(f"{self.path} line {number + 1} is longer than {MAX_LINE} bytes")


def _said(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return "has a quotation mark that is never closed"
    if "new-line" in text:
        return "has a CR that ends no line; lines end with LF or CR LF"
    return f"is no CSV: {text}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """InputError for what the system or gzip says of a file."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
