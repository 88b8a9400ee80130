"""What a row asks: its `custom_id` and its request line in Mistral's form, from the options `--prompt`, `--body` and the like.

Requests that are given are sent as they stand, those that are made from rows are read as strictly: a line leaves here only when an
upload would take it. For speed, the lines of a batch are decoded in one call of msgspec's, and one by one only when that fails:
1,000,000 lines of 270 bytes take 1.7 s, one by one 5 s (timed in a loop).
"""

from __future__ import annotations

import decimal
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .errors import InputError
from .sources import MAX_LINE, UNREADABLE, Batch, Fault, Source, reason

CHAT = "/v1/chat/completions"

MAX_ID = 65_536
"""Characters of a `custom_id`, as a gateway takes them."""


class Form(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a row becomes a request. Without `prompt` and `body` rows are requests already, in Mistral's form (or OpenAI's).

    `id` is the column with the `custom_id`, else the rows are numbered; `{column}` in `prompt`, `system` and in strings of `body`
    stands for the row's value, `{{` for a brace.
    """

    endpoint: str = ""
    model: str = ""
    id: str = ""
    prompt: str = ""
    system: str = ""
    max_tokens: int | None = None
    body: dict[str, Any] | None = None


class _Object(msgspec.Struct, gc=False):
    """Any JSON object, whose members are read past."""


_MESSAGES = Annotated[list[_Object], Meta(min_length=1)]
_TEXTS = str | list[Any]
# Mistral's OpenAPI of 2026-08: the member that a request of each endpoint must have. A transcription has one of three.
NEEDS: dict[str, tuple[str, Any]] = {
    CHAT: ("messages", _MESSAGES),
    "/v1/agents/completions": ("messages", _MESSAGES),
    "/v1/embeddings": ("input", _TEXTS),
    "/v1/fim/completions": ("prompt", str),
    "/v1/moderations": ("input", _TEXTS),
    "/v1/chat/moderations": ("input", list[Any]),
    "/v1/ocr": ("document", _Object),
    "/v1/classifications": ("input", _TEXTS),
    "/v1/chat/classifications": ("input", _Object | list[Any]),
    "/v1/conversations": ("inputs", _TEXTS),
    "/v1/audio/transcriptions": ("", Any),
}


@dataclass
class Read:
    """The good rows of a batch: the request line of each, its `custom_id` and its number; and what is wrong with the others."""

    lines: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    numbers: Sequence[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class _Wrong(Exception):
    """A row cannot be a request; the text goes on after its place."""


class Lines:
    """The requests of `source` by `form`; InputError for a form that the source's columns do not fit, and for no rows at all.

    `endpoint` and `model` are those of the job: the form's, else the first request's, else (endpoint) /v1/chat/completions; there may
    be no model.
    """

    def __init__(self, source: Source, form: Form) -> None:
        self.source = source
        self.form = form
        self.endpoint = form.endpoint
        self.model = form.model
        first = next(source.batches(), None)
        if first is None:
            raise InputError(f"{source.name} has no rows")
        self._template = _template(form)
        if self._template is None:
            self._take_terms(first)
        elif form.body and isinstance(form.body.get("model"), str):
            self.model = self.model or form.body["model"]
        self.endpoint = self.endpoint or CHAT
        _check_endpoint(self.endpoint)
        self._needs, kind = NEEDS[self.endpoint]
        if form.prompt and self._needs != "messages":
            raise InputError(f"--prompt asks a chat; say with --body what {self.endpoint} is sent")
        if self._template and source.columns:
            _check_columns(source, [*self._template.columns, *filter(None, [form.id])])
        members: list[Any] = [("model", str | UnsetType, UNSET)]
        if self._needs:
            members.insert(0, (self._needs, kind))
        body = msgspec.defstruct("Body", members, gc=False)
        whole: list[Any] = [
            ("body", body),
            ("custom_id", str | UnsetType, UNSET),
            ("url", Any, UNSET),
        ]
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Request", whole, gc=False)
        )
        self._members = [each for each in ("custom_id", "body", "model", self._needs) if each]

    def ids(self, batch: Batch) -> list[str]:
        """The `custom_id` of each row. InputError for a row that has none that can be used."""
        if self._template is None:
            return _good(self.read(batch)).ids
        faults: dict[int, Fault] = {fault.number: fault for fault in batch.faults}
        ids = self._named(batch, faults)
        return _good(Read(ids=ids, faults=list(faults.values()))).ids

    def of(self, batch: Batch) -> Iterator[bytes]:
        """The request line of each row, without a line end. InputError for a row that cannot be one, with its place."""
        yield from _good(self.read(batch)).lines

    def read(self, batch: Batch) -> Read:
        """The request lines of a batch, and every fault that is in it."""
        if self._template:
            faults = {fault.number: fault for fault in batch.faults}
            lines = self._made(batch, self._template, faults)
        else:
            faults = {fault.number: fault for fault in batch.found}
            lines = _given(batch, faults)
        ids = [] if faults else self._quickly(lines)
        if ids:
            return Read(lines, ids, batch.numbers)
        read = Read()
        numbers: list[int] = []
        for index, (line, number) in enumerate(zip(lines, batch.numbers, strict=True)):
            if number in faults:
                continue
            try:
                line, custom_id = self._one(line, batch.first + index)
            except _Wrong as wrong:
                faults[number] = batch.fault(index, str(wrong))
                continue
            read.lines.append(line)
            read.ids.append(custom_id)
            numbers.append(number)
        read.numbers = numbers
        read.faults = sorted(faults.values(), key=lambda fault: fault.number)
        return read

    def _take_terms(self, first: Batch) -> None:
        """Has endpoint and model from the first request where options name none."""
        form, columns = self.form, self.source.columns
        if form.id not in ("", "custom_id") or form.system or form.max_tokens is not None:
            raise InputError(
                "--id, --system and --max-tokens go with --prompt (--id with --body too)"
            )
        if columns and "body" not in columns and "custom_id" not in columns:
            raise InputError(
                f"the rows of {self.source.name} are no requests, which have a body;"
                " say with --prompt or --body what is asked of each"
            )
        for line in _given(first, {}):
            try:
                request = _terms_decoder.decode(line)
            except UNREADABLE:
                continue
            self.endpoint = self.endpoint or request.url
            self.model = self.model or request.body.model
            return

    def _quickly(self, lines: list[bytes]) -> list[str]:
        """The ids of lines that are all good as they stand; none when they have to be looked at one by one."""
        text = b"\n".join(lines)
        try:
            text.isascii() or text.decode()  # msgspec does not look inside what it passes over
            requests = self._decoder.decode_lines(text)
        except UNREADABLE:
            return []
        count = len(lines)
        # Each line begins and ends with a brace, so that there is an object on each and none across lines.
        if not (text[:1] == b"{" and text.endswith(b"}") and text.count(b"}\n{") == count - 1):
            return []
        ids = [each.custom_id for each in requests]
        models = [each.body.model for each in requests]
        named = count - models.count(UNSET)
        once = all(
            text.count(b'"%b"' % name.encode()) == (named if name == "model" else count)
            for name in self._members
        )
        good = len(requests) == count and once and UNSET not in ids and "" not in ids
        if not good or len(text) > MAX_LINE or max(map(len, ids)) > MAX_ID:
            return []
        if not self.form.model and not set(models) <= {UNSET, self.model or UNSET}:
            return []
        if not self.form.endpoint and not all(
            e.url is UNSET or e.url == self.endpoint for e in requests
        ):
            return []
        return ids

    def _one(self, line: bytes, row: int) -> tuple[bytes, str]:
        """The line that is sent for one, and its id. Raises _Wrong."""
        if len(line) > MAX_LINE:
            raise _Wrong(f"is longer than {MAX_LINE} bytes")
        try:
            line.isascii() or line.decode()
            request = self._decoder.decode(line)
            if any(line.count(b'"%b"' % name.encode()) > 1 for name in self._members):
                json.loads(line, object_pairs_hook=self._once)
        except UNREADABLE as error:
            raise _Wrong(reason(line, error)) from error
        model, url, custom_id = request.body.model, request.url, request.custom_id
        if not self.form.model and model is not UNSET and model != self.model:
            first = f"is {self.model!r}" if self.model else "is not named"
            raise _Wrong(
                f"body.model is {model!r}, but that of the first request {first}: a job has one model;"
                " --model names it for all"
            )
        if not self.form.endpoint and url is not UNSET and url != self.endpoint:
            raise _Wrong(f"url is {url!r}, but the job's endpoint is {self.endpoint!r}")
        if custom_id is UNSET:
            custom_id = f"row-{row}"
            line = b'{"custom_id":"%b",%b' % (custom_id.encode(), line[1:].lstrip())
        if not custom_id:
            raise _Wrong("custom_id is empty")
        if len(custom_id) > MAX_ID:
            raise _Wrong(f"custom_id is longer than {MAX_ID} characters")
        return line, custom_id

    def _once(self, pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        for name in self._members:
            if names.count(name) > 1:
                raise _Wrong(f"has the member {name} more than once")

    def _named(self, batch: Batch, faults: dict[int, Fault]) -> list[str]:
        """The id of each row, empty where there is a fault."""
        if not self.form.id:
            return [f"row-{number}" for number in range(batch.first, batch.first + len(batch))]
        values = batch.column(self.form.id)
        if set(map(type, values)) == {str} and all(values):
            return values

        def named(value: Any) -> str:
            try:
                return _id(value)
            except _Wrong as wrong:
                raise _Wrong(f"column {self.form.id!r} {wrong}") from None

        return _each(batch, values, named, faults, "")

    def _made(self, batch: Batch, template: _Template, faults: dict[int, Fault]) -> list[bytes]:
        """The line that each row makes, whatever where there is a fault."""
        ids = self._named(batch, faults)
        values = {name: batch.column(name) for name in template.columns}
        filled = [_filled(batch, hole, values[hole.column], faults) for hole in template.holes]
        if template.blank:
            for index, number in enumerate(batch.numbers):
                texts = (values[column][index] for column in template.blank)
                if number not in faults and not any(str(text).strip() for text in texts):
                    faults[number] = batch.fault(index, "has nothing to ask: its prompt is blank")
        return [template.text % row for row in zip(map(_encode, ids), *filled, strict=True)]


@dataclass(frozen=True)
class _Hole:
    """Where a column's value goes: as its own JSON when it is `typed`, else as a part of a text."""

    column: str
    typed: bool


@dataclass(frozen=True)
class _Template:
    """A request line with a %b for its id and for each of `holes`. A prompt has nothing but the columns in `blank`, when there are any."""

    text: bytes
    holes: list[_Hole]
    blank: list[str]

    @property
    def columns(self) -> list[str]:
        """Those that are used, each once."""
        return list(dict.fromkeys(hole.column for hole in self.holes))


def _template(form: Form) -> _Template | None:
    """What each row is put into; None when rows are requests already."""
    if form.body is None and not form.prompt:
        return None
    if form.body is not None and (form.prompt or form.system or form.max_tokens is not None):
        raise InputError(
            "--body has all of a request; --prompt, --system and --max-tokens do not go with it"
        )
    body, blank = form.body, []
    if body is None:
        roles = [("system", form.system), ("user", form.prompt)]
        body = {"messages": [{"role": role, "content": text} for role, text in roles if text]}
        if form.max_tokens is not None:
            body["max_tokens"] = form.max_tokens
        parts = _parts(form.prompt)
        if not "".join(part for part in parts if isinstance(part, str)).strip():
            blank = [part.column for part in parts if isinstance(part, _Hole)]
            if not blank:
                raise InputError("--prompt is blank")
    if _has_nan(body):
        raise InputError("--body has NaN or Infinity, which are no JSON")
    pieces = list(_pieces(body, typed=form.body is not None))
    holes = [piece for piece in pieces if isinstance(piece, _Hole)]
    text = b"".join(
        b"%b" if isinstance(each, _Hole) else each.replace(b"%", b"%%") for each in pieces
    )
    return _Template(b'{"custom_id":%%b,"body":%b}' % text, holes, blank)


def _pieces(value: Any, typed: bool) -> Iterator[bytes | _Hole]:
    """The JSON of a template, in pieces between its holes."""
    if isinstance(value, dict):
        comma = b"{"
        for name, member in value.items():
            yield comma + _encode(str(name)) + b":"
            yield from _pieces(member, typed)
            comma = b","
        yield b"}" if value else b"{}"
    elif isinstance(value, list | tuple):
        comma = b"["
        for member in value:
            yield comma
            yield from _pieces(member, typed)
            comma = b","
        yield b"]" if value else b"[]"
    elif not isinstance(value, str):
        yield _encode(value)
    else:
        parts = _parts(value)
        if typed and len(parts) == 1 and isinstance(parts[0], _Hole):
            yield _Hole(parts[0].column, typed=True)
            return
        yield b'"'
        for part in parts:
            yield part if isinstance(part, _Hole) else _encode(part)[1:-1]
        yield b'"'


def _parts(text: str) -> list[str | _Hole]:
    """A text that may name columns in braces, cut into its own parts and the columns."""
    parts: list[str | _Hole] = []
    for found in re.finditer(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+", text):
        if found[1] is not None:
            parts.append(_Hole(found[1], typed=False))
        elif found[0] in ("{", "}"):
            begin = text[max(0, found.start() - 20) : found.start() + 20]
            raise InputError(
                f"a brace has no other in {begin!r}; write {found[0] * 2} for one brace"
            )
        else:
            parts.append(found[0][0] if found[0] in ("{{", "}}") else found[0])
    return parts


def _check_endpoint(endpoint: str) -> None:
    if endpoint not in NEEDS:
        near = get_close_matches(endpoint, NEEDS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(NEEDS)}"
        raise InputError(f"there is no endpoint {endpoint!r}{hint}")


def _check_columns(source: Source, used: list[str]) -> None:
    for name in used:
        if name not in source.columns:
            near = get_close_matches(name, source.columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"{source.name} has no column {name!r}; it has {', '.join(source.columns[:50])}{hint}"
                " (for a brace that is no column, write {{ or }})"
            )


def _good(read: Read) -> Read:
    if read.faults:
        raise InputError(f"{read.faults[0].place}: {read.faults[0].what}")
    return read


def _given(batch: Batch, faults: dict[int, Fault]) -> list[bytes]:
    """The rows as lines of JSON."""
    if batch.lines is not None:
        return batch.lines
    return _each(batch, batch.rows, lambda row: _json(dict(row)), faults)


def _each(
    batch: Batch,
    values: Sequence[Any],
    make: Callable[[Any], Any],
    faults: dict[int, Fault],
    instead: Any = b"",
) -> list[Any]:
    """What `make` makes of each value, `instead` where it raises _Wrong, which is a fault."""
    made = []
    for index, value in enumerate(values):
        try:
            made.append(make(value))
        except _Wrong as wrong:
            made.append(instead)
            faults.setdefault(batch.numbers[index], batch.fault(index, str(wrong)))
    return made


def _filled(batch: Batch, hole: _Hole, values: list[Any], faults: dict[int, Fault]) -> list[bytes]:
    """What each row has in a hole."""
    kinds = set(map(type, values))
    try:
        if kinds == {str} and not hole.typed:
            return [_encode(value)[1:-1] for value in values]
        if kinds <= {str, int, bool}:
            return (
                list(map(_encode, values)) if hole.typed else [_inner(_encode(v)) for v in values]
            )
    except (ValueError, OverflowError):
        pass  # one by one, to say which

    def fill(value: Any) -> bytes:
        try:
            text = _json(value)
        except _Wrong as wrong:
            raise _Wrong(f"column {hole.column!r} {wrong}") from None
        return text if hole.typed else _inner(text)

    return _each(batch, values, fill, faults)


def _inner(text: bytes) -> bytes:
    """The JSON of a value as a part of a JSON text: of a text what is in it, else as it is written."""
    return text[1:-1] if text[:1] == b'"' else _encode(text.decode())[1:-1]


def _json(value: Any) -> bytes:
    """A value as JSON. Raises _Wrong for none, and for what JSON does not have."""
    if value is None:
        raise _Wrong("has no value")
    if _has_nan(value):
        raise _Wrong(
            "has no value (NaN)"
            if value != value
            else "has NaN or Infinity in it, which are no JSON"
        )
    try:
        return _encode(value)
    except UnicodeEncodeError as error:
        raise _Wrong("has half of a surrogate pair, which is no character") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _Wrong(f"cannot be written as JSON: {error}") from error


def _id(value: Any) -> str:
    """The text of an id. A whole number that came as a float is one: so a column with gaps has them in pandas."""
    if value is None or value != value:
        raise _Wrong("has no value, and so the row no id")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(
        value, str | int | float | decimal.Decimal | date | UUID
    ):
        raise _Wrong(f"has a {type(value).__name__}, which is no id: that is a text or a number")
    if not str(value):
        raise _Wrong("is empty, and so the row has no id")
    return str(value)


def _has_nan(value: Any) -> bool:
    """Whether there is a number in a value that JSON does not have."""
    if isinstance(value, float | decimal.Decimal):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_nan, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_nan, value))


def _listed(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no JSON")


_encode = msgspec.json.Encoder(enc_hook=_listed, decimal_format="number").encode


class _TermsBody(msgspec.Struct):
    model: str = ""


class _Terms(msgspec.Struct):
    body: _TermsBody
    url: str = ""


_terms_decoder = msgspec.json.Decoder(_Terms)
