"""Reading a request by its operation: parameters and body are checked, and an upstream request is made of them.

Replaces Connexion's request validation, which reads bodies twice, echoes them in its errors and answers 500 to broken UTF-8.
Everything is compiled once per operation. The upstream request is handed over in the request's context, where `flask_dispatch`
takes it out: Connexion and Flask, which are between the two, are not given the body.
"""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from access.authentication import require
from openapi.contract import Contract, Operation, Parameter
from openapi.names import Names, letters
from openapi.scalars import read_items, read_scalar, write_scalar
from openapi.validation import Validator, Violation, pointer_token
from serving.body_buffer import (
    BodyRefused,
    MemoryBudget,
    Reservation,
    receive_body,
)

from .json_body import BodyReader
from .problems import Problem
from .request_context import current
from .streams import IncomingBody, refusal
from .threads import ThreadPool
from .translation import ByteStream, Inputs, RequestBody, UpstreamRequest, build_request
from .uploads import Upload

if TYPE_CHECKING:
    from .config import Settings

MAX_QUERY_PARAMETERS = 200

BODIES = 8
"""Bodies of the greatest size that may be under way in one worker; smaller ones may be more."""

LARGE = 1 << 18
"""Bytes of a body from which on its memory is counted, and a thread reads it."""

PREFERENCES = 4096
"""Characters of `Prefer` that are read; more say nothing."""

# RFC 7240 section 2; a comma may be within quotes.
_PREFERENCES = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class RequestReader:
    """ASGI, after Connexion's routing: puts the `UpstreamRequest` into the context, or raises Problem with every violation."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.max_body = settings.max_body
        contract = settings.contract
        self.budget = MemoryBudget(BODIES * self.max_body, LARGE)
        # Large bodies, so that other requests do not wait meanwhile; one at a time, since it is work for the processor alone.
        self.large_bodies = ThreadPool(1, "reading")
        self.operations = {
            operation.id: (
                OperationReader(operation, contract, settings.wait_limit),
                operation.scope,
            )
            for operation in contract.operations.values()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        operation_id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        if operation_id is None:
            raise HTTPException(404)
        ctx = current()
        ctx.operation = operation_id
        reader, needed_scope = self.operations[operation_id]
        require(ctx.caller, needed_scope)
        ctx.path_values = "/".join(map(str, scope["path_params"].values()))
        if reader.streamed:
            ctx.upstream_request, ctx.warning = reader.read(
                scope, stream=self._stream(reader, scope)
            )
            await self.app(scope, receive, send)
        elif reader.body:
            await self._with_body(reader, scope, receive, send)
        else:
            ctx.upstream_request, ctx.warning = reader.read(scope)
            await self.app(scope, receive, send)

    def _stream(self, reader: OperationReader, scope: Scope) -> ByteStream:
        """The body, which comes when a thread takes it."""
        _check_encoding(Headers(scope=scope))
        settings = self.settings
        body = IncomingBody(scope, settings.max_file, "GATEWAY_MAX_FILE")
        if not reader.operation.files:
            return body
        return Upload(
            body,
            purposes=frozenset(settings.file_purposes),
            check_lines=settings.check_files == "on",
        )

    async def _with_body(
        self, reader: OperationReader, scope: Scope, receive: Receive, send: Send
    ) -> None:
        ctx = current()
        reservation = Reservation(self.budget)
        reading: asyncio.Future[Any] | None = None
        try:
            content = await receive_body(scope, receive, self.max_body, reservation)
            if content.startswith(BOM_UTF8):  # RFC 8259 section 8.1 lets a reader skip it
                del content[: len(BOM_UTF8)]
            if len(content) < LARGE:
                ctx.upstream_request, ctx.warning = reader.read(scope, content)
            else:
                reading = self.large_bodies.submit(partial(reader.read, scope, content))
                # Goes on when the client leaves: until it has ended, the body is in memory.
                request, ctx.warning = await asyncio.shield(reading)
                if request.key is not None:
                    reservation.resize(2 * len(content))  # it is copied, to be tagged
                ctx.upstream_request = request
                del request
                reading = None
            del content
            await self.app(scope, receive, send)
        except BodyRefused as error:
            raise refusal(error, self.max_body, "GATEWAY_MAX_BODY") from error
        finally:
            reservation.release(reading if reading and not reading.done() else ctx.handling)
            # What outlives the request must not keep its body: its context, and a frame that its error's traceback has.
            ctx.upstream_request = reading = None


class OperationReader:
    """Reads the requests of one operation. Thread-safe."""

    def __init__(self, operation: Operation, contract: Contract, wait_limit: float) -> None:
        self.operation = operation
        self.wait_limit = wait_limit
        self.streamed = operation.body is not None and operation.body.streamed
        self.body = BodyReader(operation.body) if operation.body and not self.streamed else None
        self.parameters = {
            location: {
                parameter.name: parameter
                for parameter in operation.parameters
                if parameter.location == location and not parameter.takes_unknown
            }
            for location in ("path", "query", "header")
        }
        self.validator = Validator(
            {
                "properties": {
                    location: {
                        "properties": {p.name: p.schema for p in known.values()},
                        "required": [p.name for p in known.values() if p.required],
                    }
                    for location, known in self.parameters.items()
                }
            }
        )
        self.elsewhere = {
            letters(parameter.name): f"{other.method} {other.path}"
            for other in reversed([*contract.operations.values()])  # the first of several
            for parameter in other.parameters
            if other.namespace == operation.namespace and parameter.location == "query"
        }
        """Operations of the same API, by the names of their query parameters."""
        self.free = ""
        """The name of the query object that takes any member, each a parameter by itself; empty where there is none."""
        self.member: re.Pattern[str] | None = None
        self.member_validator: Validator | None = None
        self.names = Names(
            {each.name: each.schema for each in operation.parameters if each.location == "query"}
        )
        for parameter in operation.parameters:
            if parameter.takes_unknown:
                self.free = parameter.name
                # How a member can be given as well, and must be where its name looks like a parameter's.
                name = re.escape(self.free)
                self.member = re.compile(rf"{name}(?:\[([^\[\]]+)\]|\.(.+))", re.DOTALL)
                member = parameter.schema.get("additionalProperties")
                self.member_validator = Validator(member) if isinstance(member, dict) else None

    def read(
        self, scope: Scope, content: RequestBody = b"", stream: ByteStream | None = None
    ) -> tuple[UpstreamRequest, str]:
        """The upstream request, and a warning for the caller.

        Raises Problem with every violation of path, query and headers, or of the body.
        """
        given = Headers(scope=scope)
        values = map(str, scope["path_params"].values())
        texts = {
            "path": zip(self.operation.path_variables, values, strict=True),
            "query": _query(scope["query_string"]),
            "header": [(name, given[name]) for name in self.parameters["header"] if name in given],
        }
        sent = self._parameters(texts)
        body, warning = self._body(given, content)
        key = self._idempotency_key(given)
        if "idempotency-key" in given and self.streamed:
            warning = "Idempotency-Key means nothing here: a repeated upload is another file"
        wait, unread = self._wait(given)
        only_head = self.operation.answer_streamed and scope["method"] == "HEAD"
        inputs = Inputs(
            dict(sent["path"]),
            sent["query"],
            dict(sent["header"]),
            body,
            key,
            stream,
            only_head,
            wait,
        )
        return build_request(self.operation, inputs), warning or unread

    def _parameters(
        self, given: Mapping[str, Iterable[tuple[str, str]]]
    ) -> dict[str, list[tuple[str, str]]]:
        """The parameters as they are sent, by their location; Problem with all that is wrong with them."""
        found: list[Violation] = []
        values: dict[str, dict[str, Any]] = {location: {} for location in given}
        sent: dict[str, list[tuple[str, str]]] = {location: [] for location in given}
        for location, pairs in given.items():
            texts_of: dict[str, list[str]] = {}
            for name, text in pairs:
                texts_of.setdefault(name, []).append(text)
            for name, texts in texts_of.items():
                parameter = self.parameters[location].get(name)
                if parameter is None:
                    member, violations = self._unknown(location, name, texts)
                    found += violations
                    sent[location] += [(member, text) for text in texts]
                elif len(texts) > 1 and parameter.schema.get("type") != "array":
                    at = f"/{location}/{pointer_token(name)}"
                    found.append(Violation(at, "must not be repeated"))
                else:
                    values[location][name], texts = _value(texts, parameter)
                    sent[location] += [(name, text) for text in texts]
        if not found and self.validator.is_valid(values):
            return sent
        others = self.validator.violations(values)
        places = {violation.pointer for violation in found}
        others = [each for each in others if each.pointer not in places]
        raise Problem("validation-failed", violations=[*found, *others])

    def _unknown(self, location: str, name: str, texts: list[str]) -> tuple[str, list[Violation]]:
        """The name under which a parameter is sent that the operation does not name, and what is wrong with it.

        Where the query takes any, that is one that looks like a parameter, of this operation or of another: as a filter it would
        find nothing.
        """
        at = f"/{location}/{pointer_token(name)}"
        filtered = ""
        if self.free and "[" not in name:
            filtered = f" A filter of this name is {self.free}[{name[:100]}]."
        known = self.parameters[location]
        member = self.member.fullmatch(name) if self.member else None
        if member and (inner := member[1] or member[2]):
            like = self.free if self.member and self.member.fullmatch(inner) else inner
            if like in known or like == self.free:
                detail = f"cannot be told from the parameter {like} upstream"
                return inner, [Violation(at, detail)]
            name = inner
        elif not name:
            return name, [Violation(at, "is a parameter without a name")]
        elif self.free == name:
            detail = f"is given a member at a time: {name}[NAME]=VALUE"
            return name, [Violation(at, detail)]
        elif meant := self.names.meant(name):
            hint = f"is not a known parameter; did you mean {meant}?{filtered}"
            return name, [Violation(at, hint)]
        elif other := self.elsewhere.get(letters(name)):
            hint = f"is a parameter of {other}, not of this operation.{filtered}"
            return name, [Violation(at, hint if filtered else hint[:-1])]
        elif not self.free:
            return name, [Violation(at, "is not a known parameter")]
        check = self.member_validator
        return name, [v for text in texts for v in check.violations(text, at)] if check else []

    def _body(self, headers: Headers, content: RequestBody) -> tuple[RequestBody | None, str]:
        """The body as it goes upstream, None for none, and a warning for the caller about it."""
        if self.body is None or not (content or self.body.required):
            return None, ""
        if not content:
            raise Problem(
                "malformed-request", "The body is missing; this operation needs a JSON object."
            )
        _check_encoding(headers)
        return self.body.read(content)

    def _wait(self, headers: Headers) -> tuple[float, str]:
        """Seconds that the caller would wait for a final state, by `Prefer: wait` (RFC 7240), and a warning when it cannot be read."""
        if not self.operation.hints.state or not self.wait_limit:
            return 0.0, ""
        given = ",".join(headers.getlist("prefer"))
        if len(given) > PREFERENCES:
            return 0.0, f"Prefer has more than {PREFERENCES} characters; it was ignored"
        for preference in _PREFERENCES.findall(given):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() != "wait":
                continue  # of several the first one counts
            seconds = value.strip().strip('"')
            if not (seconds.isascii() and seconds.isdecimal()):
                return 0.0, "Prefer: wait must be whole seconds; it was ignored"
            return min(float(seconds), self.wait_limit), ""
        return 0.0, ""

    def _idempotency_key(self, headers: Headers) -> str | None:
        """The Idempotency-Key, bare or as the draft's quoted string; where repeating does no harm it means nothing."""
        texts = headers.getlist("idempotency-key")
        if not texts or not self.operation.takes_key:
            return None
        text = texts[0]
        key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        if len(texts) > 1 or not _KEY.fullmatch(key):
            detail = "must be given once, as 1 to 255 visible ASCII characters"
            violation = Violation("/header/Idempotency-Key", detail)
            raise Problem("validation-failed", violations=[violation])
        return key


def _value(texts: list[str], parameter: Parameter) -> tuple[Any, list[str]]:
    """What was given as `texts`, once or repeated, in the type that the schema says, and the texts to send for it."""
    kind = parameter.schema.get("type")
    if kind == "string" and parameter.location != "query":
        return texts[0], texts  # these are not written by hand
    if kind != "array":
        value = read_scalar(texts[0], parameter.schema)
        return value, [write_scalar(value)]
    items = read_items(texts, parameter.schema, explode=parameter.explode)
    sent = [write_scalar(item) for item in items]
    return items, sent if parameter.explode else [",".join(sent)]


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


def _check_encoding(headers: Headers) -> None:
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise Problem("unsupported-media-type", "Send the body without Content-Encoding.")
