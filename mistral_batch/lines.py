"""What a row asks: its `custom_id` and its request line in Mistral's form, from the options `--prompt`, `--body` and the like.

Requests that are given are sent as they stand, those that are made from rows are read as strictly: a line leaves here only when an
upload would take it. For speed, the lines of a batch are decoded in one call of msgspec's, and one by one only when that fails:
that takes half the time (timed in a loop on 300,000 lines of 270 bytes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .errors import InputError
from .sources import (
    BLOCK,
    FEW,
    MAX_LINE,
    UNREADABLE,
    Batch,
    Fault,
    Source,
    are_braced,
    check_utf8,
    reason,
)
from .templates import (
    Faults,
    Hole,
    Template,
    Wrong,
    each,
    encode,
    filled,
    id_of,
    is_broken,
    json_of,
    parts_of,
    template_of,
)

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


_TEXTS = str | list[Any]
# Mistral's OpenAPI of 2026-08: the member that a request of each endpoint must have. A transcription has one of three.
NEEDS: dict[str, tuple[str, Any]] = {
    CHAT: ("messages", Annotated[list[_Object], Meta(min_length=1)]),
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


class Lines:
    """The requests of `source` by `form`; InputError for a form that the source's columns do not fit, and for no rows at all.

    `endpoint` and `model` are those of the job: the form's, else the first request's, else (endpoint) /v1/chat/completions; there may
    be no model.
    """

    def __init__(self, source: Source, form: Form) -> None:
        self.source = source
        self.form = form
        first = next(source.batches(), None)
        if first is None:
            raise InputError(f"{source.name} has no rows")
        self._template, self._blank = _template(form)
        if self._template:
            _check_columns(source, form, self._template.columns)
        elif source.columns and not {"body", "custom_id"} & {*source.columns}:
            raise InputError(
                f"the rows of {source.name} are no requests, which have a body;"
                " say with --prompt or --body what is asked of each"
            )
        read = _terms(self._written(next(self._parts(first)), {})[0])
        terms = read[0] if read else _Terms(_TermsBody())
        self.endpoint = form.endpoint or terms.url or CHAT
        self.model = form.model or terms.body.model
        self._numbered = all(one.custom_id is UNSET for one in read)
        _check_endpoint(self.endpoint)
        needs, kind = NEEDS[self.endpoint]
        if form.prompt and needs != "messages":
            raise InputError(f"--prompt asks a chat; say with --body what {self.endpoint} is sent")
        text: Any = str | UnsetType
        members: list[Any] = [(needs, kind)] if needs else []
        body = msgspec.defstruct("Body", [*members, ("model", text, UNSET)], gc=False)
        whole: list[Any] = [("body", body), ("custom_id", text, UNSET), ("url", text, UNSET)]
        request: Any = msgspec.defstruct("Request", whole, gc=False)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(request)
        self._once = [name for name in ("custom_id", "body", needs) if name]
        """Members that no request has twice."""

    def batches(self) -> Iterator[Batch]:
        """All rows, so few at a time that their lines take some megabytes."""
        for batch in self.source.batches():
            yield from self._parts(batch)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        if self._template is None and batch.lines is not None:
            yield batch
            return
        each = len(self._template.text) if self._template else 1
        step = max(1, min(FEW, 32 * BLOCK // each))
        for start in range(0, len(batch) or 1, step):  # without rows there may be faults
            yield batch.part(start, start + step)

    def ids(self, batch: Batch) -> list[str]:
        """The `custom_id` of each row. InputError for a row that has none that can be used."""
        if self._template is None:
            return _good(self.read(batch)).ids
        faults = {fault.number: fault for fault in batch.faults}
        ids = self._named(batch, faults)
        return _good(Read(ids=ids, faults=list(faults.values()))).ids

    def of(self, batch: Batch) -> Iterator[bytes]:
        """The request line of each row, without a line end. InputError for a row that cannot be one, with its place."""
        yield from _good(self.read(batch)).lines

    def read(self, batch: Batch) -> Read:
        """The request lines of a batch, and every fault that is in it."""
        faults: Faults = {}
        lines, ids = self._written(batch, faults)
        if not faults:
            ids = ids if self._are_alike(lines, ids) else self._quickly(lines)
            if ids:
                return Read(lines, ids, batch.numbers)
        read, numbers = Read(), []
        for index, (line, number) in enumerate(zip(lines, batch.numbers, strict=True)):
            if number in faults:
                continue
            try:
                line, custom_id = self._one(line, batch.first + index)
            except Wrong as wrong:
                faults[number] = batch.fault(index, str(wrong))
                continue
            read.lines.append(line)
            read.ids.append(custom_id)
            numbers.append(number)
        read.numbers = numbers
        read.faults = [faults[number] for number in sorted(faults)]
        return read

    def _written(self, batch: Batch, faults: Faults) -> tuple[list[bytes], list[str]]:
        """The line of each row as it is given, or as it is made with its id; whatever where there is a fault."""
        template = self._template
        known = batch.faults if template or batch.lines is None else batch.found
        faults.update((fault.number, fault) for fault in known)
        if template is None:
            if batch.lines is not None:
                return batch.lines, []
            return each(batch, batch.read(), json_of, faults), []
        ids = self._named(batch, faults)
        values = {name: batch.column(name) for name in template.columns}
        parts = [filled(batch, hole, values[hole.column], faults) for hole in template.holes]
        if self._blank:
            for index, number in enumerate(batch.numbers):
                texts = (values[column][index] for column in self._blank)
                if number not in faults and not any(str(text).strip() for text in texts):
                    faults[number] = batch.fault(index, "has nothing to ask: its prompt is blank")
        rows = zip(map(encode, ids), *parts, strict=True)
        if faults:
            return [b"" if None in row else template.text % row for row in rows], ids
        return [template.text % row for row in rows], ids

    def _are_alike(self, lines: list[bytes], ids: list[str]) -> bool:
        """Whether lines are all good because one is: they were made of a template, and only their texts differ."""
        if not ids or self._template is None or any(hole.typed for hole in self._template.holes):
            return False
        try:
            self._one(lines[0], 0)
        except Wrong:
            return False
        return max(map(len, lines)) <= MAX_LINE and max(map(len, ids)) <= MAX_ID

    def _named(self, batch: Batch, faults: Faults) -> list[str]:
        """The id of each row."""
        if not self.form.id:
            return [f"row-{number}" for number in range(batch.first, batch.first + len(batch))]
        values = batch.column(self.form.id)
        if set(map(type, values)) == {str} and all(values) and not is_broken("".join(values)):
            return list(values)
        return each(batch, values, id_of, faults, f"column {self.form.id!r} ")

    def _quickly(self, lines: list[bytes]) -> list[str]:
        """The ids of lines that are all good as they stand; none when they have to be looked at one by one."""
        text = b"\n".join(lines)
        try:
            check_utf8(text)
            requests = self._decoder.decode_lines(text)
        except UNREADABLE:
            return []
        count = len(lines)
        ids = [one.custom_id for one in requests]
        good = (
            len(ids) == count
            and are_braced(lines)
            and all(text.count(b'"%b"' % name.encode()) == count for name in self._once)
            and UNSET not in ids
            and "" not in ids
            and len(text) <= MAX_LINE
            and not _may_be_huge(text)
            and max(map(len, ids)) <= MAX_ID
            and (self.form.model or {one.body.model for one in requests} <= {UNSET, self.model})
            and (self.form.endpoint or {one.url for one in requests} <= {UNSET, self.endpoint})
        )
        return ids if good else []

    def _one(self, line: bytes, row: int) -> tuple[bytes, str]:
        """The line that is sent for one, and its id. Raises Wrong."""
        if len(line) > MAX_LINE:
            raise Wrong(f"is longer than {MAX_LINE} bytes")
        try:
            check_utf8(line)
            request = self._decoder.decode(line)
            if _may_be_huge(line):
                msgspec.json.decode(line)
            if any(line.count(b'"%b"' % name.encode()) > 1 for name in self._once):
                json.loads(line, object_pairs_hook=self._check_pairs)
        except UNREADABLE as error:
            raise Wrong(reason(line, error)) from error
        model, url, custom_id = request.body.model, request.url, request.custom_id
        if not self.form.model and model not in (UNSET, self.model):
            first = f"is {self.model!r}" if self.model else "is not named"
            raise Wrong(
                f"body.model is {model!r}, but that of the first request {first}: a job has one model"
                " (--model names it for all)"
            )
        if not self.form.endpoint and url not in (UNSET, self.endpoint):
            raise Wrong(f"url is {url!r}, but the job's endpoint is {self.endpoint!r}")
        if custom_id is UNSET:
            if not self._numbered:
                raise Wrong("custom_id is missing, which other requests have")
            custom_id = f"row-{row}"
            line = b'{"custom_id":"%b",%b' % (custom_id.encode(), line[1:].lstrip())
        if not custom_id:
            raise Wrong("custom_id is empty")
        if len(custom_id) > MAX_ID:
            raise Wrong(f"custom_id is longer than {MAX_ID} characters")
        return line, custom_id

    def _check_pairs(self, pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        for name in self._once:
            if names.count(name) > 1:
                raise Wrong(f"has the member {name} more than once")


def _template(form: Form) -> tuple[Template | None, list[str]]:
    """What each row is put into, None when rows are requests already; and the columns that are all that a prompt has, if it is so."""
    with_prompt = form.system or form.max_tokens is not None
    if form.body is not None:
        if form.prompt or with_prompt:
            raise InputError(
                "--body has all of a request; --prompt, --system and --max-tokens do not go with it"
            )
        return template_of(form.body, typed=True), []
    if not form.prompt:
        if with_prompt or form.id not in ("", "custom_id"):
            raise InputError("--id, --system and --max-tokens are for rows with --prompt or --body")
        return None, []
    roles = [("system", form.system), ("user", form.prompt)]
    body: dict[str, Any] = {
        "messages": [{"role": role, "content": text} for role, text in roles if text]
    }
    if form.max_tokens is not None:
        body["max_tokens"] = form.max_tokens
    parts = parts_of(form.prompt)
    if "".join(part for part in parts if isinstance(part, str)).strip():
        return template_of(body, typed=False), []
    blank = [part.column for part in parts if isinstance(part, Hole)]
    if not blank:
        raise InputError("--prompt is blank")
    return template_of(body, typed=False), blank


def _terms(lines: list[bytes]) -> list[_Terms]:
    """What those requests that can be read say of their job."""
    read = []
    for line in lines:
        with suppress(*UNREADABLE):
            read.append(_terms_decoder.decode(line))
    return read


def _check_endpoint(endpoint: str) -> None:
    if endpoint not in NEEDS:
        near = get_close_matches(endpoint, NEEDS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(NEEDS)}"
        raise InputError(f"there is no endpoint {endpoint!r}{hint}")


def _check_columns(source: Source, form: Form, used: list[str]) -> None:
    for name in [*used, *filter(None, [form.id])] if source.columns else ():
        if name not in source.columns:
            near = [each for each in source.columns if each.lower() == name.lower()]
            near = near or get_close_matches(name, source.columns, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            braces = "" if name == form.id else " (for a brace that is no column, write {{ or }})"
            raise InputError(
                f"{source.name} has no column {name!r}; it has {', '.join(source.columns[:50])}{hint}{braces}"
            )


def _good(read: Read) -> Read:
    if read.faults:
        raise InputError(f"{read.faults[0].place}: {read.faults[0].what}")
    return read


class _TermsBody(msgspec.Struct):
    model: str = ""


class _Terms(msgspec.Struct):
    body: _TermsBody
    url: str = ""
    custom_id: Any = UNSET


_may_be_huge = re.compile(rb"\d{200}|\d[eE]\+?\d{3}").search
"""Whether a number may be out of range, which msgspec does not see in what it passes over."""
_terms_decoder = msgspec.json.Decoder(_Terms)
