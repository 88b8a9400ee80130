"""Checking a request against its operation: from an ASGI request to the upstream request that it asks for.

Replaces Connexion's request validation, which reads bodies twice, echoes them in its errors and answers 500 to
broken UTF-8. Everything is compiled once per operation; a request that passes is ready to be sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from access.authentication import require
from openapi.contract import Contract, Operation, Parameter, path_variables
from openapi.near_names import near_name
from openapi.validation import Validator, Violation, pointer_token
from serving.patience import patience

from .json_body import BodyReader
from .pool import Pool
from .problems import Problem
from .request_context import current
from .translation import Content, Inputs, UpstreamRequest, fill

MAX_QUERY_PARAMETERS = 200

ROOM = 8
"""Bodies of the greatest size that may be under way in one worker; smaller ones may be more."""

LARGE = 1 << 18
"""Bytes of a body from which on it is counted, and a thread reads it, so that other requests do not wait meanwhile."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
REQUEST = "gateway.request"


class Validation:
    """ASGI, after Connexion's routing: puts the `UpstreamRequest` into the scope, or raises Problem with every violation."""

    def __init__(self, app: ASGIApp, *, contract: Contract, max_body: int) -> None:
        self.app = app
        self.max_body = max_body
        self.room = Room(ROOM * max_body)
        # One at a time: it is work for the processor alone, and what it builds is in memory once.
        self.reading = Pool(1, "reading")
        self.readers = {
            operation.id: RequestReader(operation) for operation in contract.operations.values()
        }
        self.scopes = {
            operation.id: contract.scopes[operation.access]
            for operation in contract.operations.values()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            operation_id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
            if operation_id is None:
                raise HTTPException(404)
            ctx = current()
            ctx.operation = operation_id
            require(ctx.caller, self.scopes[operation_id])
            reader = self.readers[operation_id]
            if reader.path_names:
                ctx.path_values = "/".join(map(str, scope["path_params"].values()))
            if reader.body:
                await self._with_body(reader, scope, receive, send)
                return
            scope[REQUEST] = reader.read(scope, b"")
        await self.app(scope, receive, send)

    async def _with_body(
        self, reader: RequestReader, scope: Scope, receive: Receive, send: Send
    ) -> None:
        place = Place(self.room)
        reading: asyncio.Future[Any] | None = None
        try:
            content = await _content(scope, receive, self.max_body, place)
            if len(content) < LARGE:
                scope[REQUEST] = reader.read(scope, content)
            else:
                reading = self.reading.submit(
                    partial(copy_context().run, reader.read, scope, content)
                )
                reading.add_done_callback(lambda read: read.cancelled() or read.exception())
                # Goes on when the client leaves: until it has ended, the body is in memory.
                scope[REQUEST] = await asyncio.shield(reading)
            del content
            await self.app(scope, receive, send)
        finally:
            place.leave(reading if reading and not reading.done() else current().handling)
            reading = None  # its error's traceback keeps this frame, and the body with it


class Room:
    """Memory for large bodies, `most` bytes in all, from when they have come until nobody needs them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0


class Place:
    """What one body takes of the room, in bytes."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.size = 0

    def grow(self, size: int) -> None:
        """Takes `size` bytes in all; Problem (overloaded) when there are no more."""
        if self.room.taken + size - self.size > self.room.most:
            raise Problem(
                "overloaded",
                "Too many large bodies are under way.",
                headers=[("Retry-After", "1")],
            )
        self.room.taken += size - self.size
        self.size = size

    def leave(self, call: asyncio.Future[Any] | None) -> None:
        """Gives all of it back; while `call` goes on, as that of a client that has left does, when it has ended."""
        if call and not call.done():
            call.add_done_callback(lambda _: self.leave(None))
            return
        self.room.taken -= self.size
        self.size = 0


class RequestReader:
    """Reads the requests of one operation."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.body = BodyReader(operation.body) if operation.body else None
        self.path_names = path_variables(operation.path)
        self.parameters = {
            location: {
                p.name: ParameterReader(p) for p in operation.parameters if p.location == location
            }
            for location in ("path", "query", "header")
        }
        self.free = next(
            (ParameterReader(p) for p in operation.parameters if p.takes_unknown), None
        )

    def read(self, scope: Scope, content: Content) -> UpstreamRequest:
        """The upstream request; Problem with every violation of path, query and headers, or of the body."""
        path = dict(
            zip(
                self.path_names,
                (str(value) for value in scope["path_params"].values()),
                strict=True,
            )
        )
        query = _query(scope["query_string"])
        given = Headers(scope=scope)
        headers = {name: given[name] for name in self.parameters["header"] if name in given}
        violations = [
            *self._violations("path", [*path.items()]),
            *self._violations("query", query),
            *self._violations("header", [*headers.items()]),
        ]
        if violations:
            raise Problem("validation-failed", violations=violations)
        body = self._body(scope, content)
        return fill(self.operation, Inputs(path, query, headers, body, self._key(given)))

    def _key(self, given: Headers) -> str | None:
        """The Idempotency-Key, bare or as the draft's quoted string; where repeating does no harm it means nothing."""
        texts = given.getlist("idempotency-key")
        if not texts or self.operation.idempotent:
            return None
        text = texts[0]
        key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        if len(texts) > 1 or not _KEY.fullmatch(key):
            violation = "must be given once, as 1 to 255 visible ASCII characters"
            raise Problem(
                "validation-failed", violations=[Violation("/header/Idempotency-Key", violation)]
            )
        return key

    def _violations(self, location: str, pairs: list[tuple[str, str]]) -> Iterator[Violation]:
        readers = self.parameters[location]
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        for name, texts in values.items():
            at = f"/{location}/{pointer_token(name)}"
            reader = readers.get(name)
            if reader and not reader.parameter.takes_unknown:
                yield from reader.violations(texts, at)
            elif self.free:
                yield from self.free.member_violations(name, texts, at)
            else:
                meant = near_name(name, readers)
                yield Violation(
                    at, f"is not a known parameter{f'; did you mean {meant}?' if meant else ''}"
                )
        for name, reader in readers.items():
            if reader.parameter.required and name not in values:
                yield Violation(f"/{location}/{name}", "is required")

    def _body(self, scope: Scope, content: Content) -> Content | None:
        if self.body is None or not (content or self.body.required):
            return None
        if not content:
            raise Problem(
                "malformed-request", "The body is missing; this operation needs a JSON object."
            )
        _check_media_type(Headers(scope=scope))
        body, unknown = self.body.read(content)
        if unknown:
            told = f"members not in the contract were passed on unchecked: {_listed(unknown)}"
            current().warning = told
        return body


class ParameterReader:
    """Checks the texts of one parameter against its schema, in the type that the schema says."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        self.check = Validator(parameter.schema)
        members = parameter.schema.get("additionalProperties")
        self.member_check = Validator(members) if isinstance(members, dict) else None

    def violations(self, texts: list[str], at: str) -> list[Violation]:
        """What is wrong with a parameter that was given as `texts`, once or repeated."""
        schema = self.parameter.schema
        if schema.get("type") == "array":
            parts = texts if self.parameter.explode else ",".join(texts).split(",")
            return self.check.violations(
                [_typed(part, schema.get("items", {})) for part in parts], at
            )
        if len(texts) > 1:
            return [Violation(at, "must not be repeated")]
        return self.check.violations(_typed(texts[0], schema), at)

    def member_violations(self, name: str, texts: list[str], at: str) -> list[Violation]:
        """What is wrong with a member `name` of this free-form query object."""
        if not name:
            return [Violation(at, "is a parameter without a name")]
        return [
            violation
            for text in texts
            if self.member_check
            for violation in self.member_check.violations(text, at)
        ]


def _typed(text: str, schema: dict[str, Any]) -> Any:
    """`text` as the schema's type; the text itself when it is not one, for the check to refuse."""
    kind = schema.get("type")
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    digits = text.removeprefix("-")
    if kind in ("integer", "number") and digits.isascii() and digits.isdigit() and len(digits) < 19:
        return int(text)
    if kind == "number" and len(text) < 40:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _query(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_QUERY_PARAMETERS,
        )
    except UnicodeDecodeError as error:
        raise Problem("malformed-request", "The query is not percent-encoded UTF-8.") from error
    except ValueError as error:
        raise Problem(
            "malformed-request", f"The query has more than {MAX_QUERY_PARAMETERS} parameters."
        ) from error


async def _content(scope: Scope, receive: Receive, limit: int, place: Place) -> bytearray:
    """The whole body.

    Problem: content-too-large before a body over `limit` bytes is read, or as soon as it grows over; request-timeout when a
    piece of it takes too long.
    """
    too_large = Problem(
        "content-too-large", f"A body may have at most {limit} bytes (GATEWAY_MAX_BODY)."
    )
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length[:19]) > limit:
        raise too_large
    content = bytearray()
    try:
        async with patience() as came:
            while await _grow(content, receive):
                if len(content) > limit:
                    raise too_large
                _count(place, content)
                came(len(content))
    except TimeoutError as error:
        raise Problem("request-timeout", f"{len(content)} bytes of the body came.") from error
    if len(content) > limit:
        raise too_large
    _count(place, content)
    return content


def _count(place: Place, content: bytearray) -> None:
    if len(content) >= LARGE:
        place.grow(len(content))


async def _grow(content: bytearray, receive: Receive) -> bool:
    """Adds what comes next to `content`; False when that was the last of it."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Problem("malformed-request", "The body broke off.")
    content += message.get("body", b"")
    return bool(message.get("more_body"))


def _check_media_type(headers: Headers) -> None:
    media_type, _, parameters = headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if media_type.strip() != "application/json" or charset not in ("", "utf-8"):
        raise Problem("unsupported-media-type", "Send Content-Type: application/json, in UTF-8.")
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Problem("unsupported-media-type", "Send the body without Content-Encoding.")


def _listed(pointers: list[str]) -> str:
    """Pointers as one header-safe line of bounded length."""
    shown = [pointer for pointer in pointers[:5] if pointer.isascii() and pointer.isprintable()]
    return ", ".join(shown) + (" and others" if len(shown) < len(pointers) else "")
