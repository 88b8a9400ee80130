"""The upstream client: sends requests to the API with its credentials, and reads the answers.

What is sent and what comes back is decided in `translation`; this module keeps every limit, repeats what only reads, and says
how a request that got no answer failed. Thread-safe; safe to make before a fork, since connections open on first use.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import certifi
import msgspec
import requests
from msgspec import Raw
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, ReadTimeoutError

from openapi.contract import Operation, UpstreamAPI
from openapi.json_text import UNREADABLE, read_json
from telemetry import metrics, spans

from .problems import Problem
from .request_context import current
from .streams import Pace, TooSlow
from .translation import Answer, ByteStream, UpstreamRequest, parse_answer, parse_streamed_answer
from .upstream_connection import WATCHDOG, CancellableRequest, Deadline, Transport
from .upstream_key import Credentials, UpstreamKey

if TYPE_CHECKING:
    from .config import Settings

REPEATS = 2
"""How often a safe request is repeated when nothing of an answer was received. Others are sent once."""

log = logging.getLogger("gateway.upstream")

_CHUNK = 1 << 20
_PIECE = 1 << 18
SHOWN = 5
"""Ids that a problem names."""


class Upstreams:
    """All APIs behind the gateway; those of one base URL and authentication are one."""

    def __init__(self, settings: Settings) -> None:
        self.base_urls = settings.base_urls
        """By namespace."""
        self._by_namespace: dict[str, Upstream] = {}
        made: list[tuple[str, UpstreamAPI, Upstream]] = []
        for namespace, api in settings.contract.upstreams.items():
            url = settings.base_urls[namespace]
            same = (
                each for u, a, each in made if u == url and a.authentication == api.authentication
            )
            upstream = next(same, None)
            if upstream is None:
                upstream = Upstream(settings, url, UpstreamKey(settings, api.authentication))
                made.append((url, api, upstream))
            self._by_namespace[namespace] = upstream

    @property
    def key_refused(self) -> bool:
        """True while one of them refuses its key."""
        return any(each.key.refused for each in self._by_namespace.values())

    def send(self, request: UpstreamRequest, cancellable: CancellableRequest) -> Answer:
        """As `Upstream.send` of the one that has the request's operation."""
        return self._by_namespace[request.operation.namespace].send(request, cancellable)


class Upstream:
    """One API behind the gateway: over kept connections for safe requests; over a new one for each other, or when one wants it."""

    def __init__(self, settings: Settings, base_url: str, key: UpstreamKey) -> None:
        contract = settings.contract
        self.key = key
        self.base_url = base_url
        self.connect_timeout = settings.connect_timeout
        self.read_timeout = settings.read_timeout
        self.max_answer = settings.max_answer
        self.passed_headers = contract.answer_headers
        self.trace = settings.trace_upstream
        self.address = urlsplit(self.base_url).hostname or ""
        self.doubt = settings.base_url_doubts.get(base_url, "")
        self.suspected = False
        """Whether the log has it that the base URL may be wrong."""
        context = ssl.create_default_context(cafile=settings.ca_file or certifi.where())
        self.kept, self.fresh = (
            Transport(self.base_url, context, connections=settings.threads, fresh=fresh)
            for fresh in (False, True)
        )
        self.headers = {
            "User-Agent": f"{contract.product}/{contract.version}",
            "Accept-Encoding": "identity",
        }

    def send(self, request: UpstreamRequest, cancellable: CancellableRequest) -> Answer:
        """The upstream's answer, whole; Problem for everything else. Ends at the deadline, or when it is cancelled.

        A request that only reads is repeated: when nothing of an answer came, and when the upstream refused a key in whose
        place there is another by now.
        """
        safe = request.operation.safe
        repeats = REPEATS if safe else 0
        credentials = self.key.current()
        WATCHDOG.add(cancellable)
        try:
            while True:
                try:
                    answer = self._attempt(request, credentials, cancellable)
                except NothingReceived:
                    if not repeats or _is_over(cancellable):
                        raise
                    repeats -= 1
                except Problem as problem:
                    if problem.upstream_status != 401 or not self.key.refuse(credentials):
                        raise
                    if (
                        not safe
                    ):  # sent once, whatever comes of it; the next one carries the new key
                        problem.retryable = True
                        raise
                    credentials = self.key.current()
                else:
                    self.key.accept()
                    return answer
        finally:
            WATCHDOG.remove(cancellable)

    def _attempt(
        self, request: UpstreamRequest, credentials: Credentials, cancellable: CancellableRequest
    ) -> Answer:
        with Attempt(request.operation, self.address) as attempt:
            prepared = self._prepare(request, credentials, attempt.headers if self.trace else {})
            if request.stream:
                prepared.body = _until_sent(request.stream, cancellable)  # type: ignore[assignment]
            response = self._open(request, prepared, cancellable)
            attempt.status = response.status_code
            succeeded = 200 <= response.status_code < 300
            if succeeded and request.stream and not request.stream.complete:
                response.close()
                detail = "The upstream answered with a success before it had the whole body."
                raise _unusable(request.operation, detail, response.status_code)
            if request.operation.answer_streamed and succeeded:
                return self._streamed(request, response, cancellable, credentials)
            with response:
                content = self._read_whole(request, response, cancellable)
        try:
            return parse_answer(
                request.operation,
                response.status_code,
                response.headers,
                _scrub(content, response.status_code, credentials),
                self.passed_headers,
            )
        except Problem as problem:
            self._explain(request, problem)
            raise

    def _explain(self, request: UpstreamRequest, problem: Problem) -> None:
        """Adds to the problem what may be meant by a 404, by a redirect, and by a success that is a page for people."""
        status, by_id = problem.upstream_status or 0, request.operation.upstream_path_variables
        said = problem.detail.rstrip(".")
        if status == 404 and not by_id and (ids := _ids_in(request)):
            problem.detail = f"{said}. It may mean one of these ids: {ids}."
            return
        nothing_there = status == 404 and (not by_id or self.doubt)
        no_api = problem.slug == "upstream-bad-response" and (status < 400 or status == 404)
        if nothing_there or no_api:
            wrong = (
                self.doubt
                or "If other calls fail so too, the gateway's GATEWAY_UPSTREAM_URL is wrong"
            )
            problem.detail = f"{said}. {wrong}."
            if not self.suspected:
                self.suspected = True
                url = f"{self.base_url}{request.operation.upstream_path}"
                log.error("%s was answered with %d: is GATEWAY_UPSTREAM_URL right?", url, status)

    def _prepare(
        self, request: UpstreamRequest, credentials: Credentials, trace: Mapping[str, str]
    ) -> requests.PreparedRequest:
        headers = {
            **self.headers,
            "Accept": request.operation.response_media_type,
            **trace,
            **request.headers,
            **credentials.headers,
        }
        if request.stream:
            headers["Content-Type"] = request.stream.content_type
            if request.stream.length is not None:
                headers["Content-Length"] = str(request.stream.length)
        elif request.body is not None:
            headers["Content-Type"] = "application/json"
            headers["Content-Length"] = str(len(request.body))
        elif request.operation.upstream_method not in ("GET", "HEAD"):
            headers["Content-Length"] = "0"
        query = (
            f"{'&' if '?' in request.target else '?'}{credentials.query}"
            if credentials.query
            else ""
        )
        prepared = requests.PreparedRequest()
        prepared.method = request.method
        # Set past requests' own URL handling, which would resolve dots and decode what was encoded on purpose.
        prepared.url = f"{self.base_url}{request.target}{query}"
        prepared.headers = CaseInsensitiveDict(headers)
        prepared.body = request.body  # type: ignore[assignment]
        return prepared

    def _open(
        self,
        request: UpstreamRequest,
        prepared: requests.PreparedRequest,
        cancellable: CancellableRequest,
    ) -> requests.Response:
        """The answer with its status and headers, its content still to be read. Problem when none began."""
        transport = self.kept if request.operation.safe and not cancellable.fresh else self.fresh
        if transport is self.fresh:
            prepared.headers["Connection"] = "close"
        left = max(cancellable.deadline.left(), 0.001)  # 0 would be no limit; nothing is sent then
        timeouts = (
            min(self.connect_timeout, left),
            min(self.read_timeout, cancellable.silence, left),
        )
        cancellable.begin()
        try:
            return transport.send(prepared, stream=True, timeout=timeouts)
        except (requests.RequestException, HTTPError) as error:
            if not cancellable.sent:
                raise NothingReceived(
                    "upstream-unreachable",
                    "No connection to the upstream could be made; nothing was sent.",
                    retryable=True,
                ) from error
            if request.stream and not request.stream.complete:
                detail = "The upstream ended the connection before it had the whole body; nothing was created."
                raise Problem("upstream-bad-response", detail, retryable=True) from error
            if isinstance(error, requests.ReadTimeout) or _is_over(cancellable):
                raise timed_out(request.operation) from error
            detail = "The upstream ended the connection, or answered with what is not HTTP/1.1."
            raise _unusable(request.operation, detail, kind=NothingReceived) from error
        finally:
            cancellable.end()

    def _streamed(
        self,
        request: UpstreamRequest,
        response: requests.Response,
        cancellable: CancellableRequest,
        credentials: Credentials,
    ) -> Answer:
        """The answer whose content is passed on as it comes."""
        pieces = iter(()) if request.only_head else self._pieces(request, response, cancellable)
        secrets = [secret.decode() for secret in credentials.secrets]
        headers = {
            name: value
            for name, value in response.headers.items()
            if not any(secret in value for secret in secrets)
        }
        try:
            if not response.raw.chunked and response.raw.length_remaining is None:
                # Where it breaks off would look like its end.
                detail = "The upstream's answer does not say where it ends."
                raise _unusable(request.operation, detail, response.status_code)
            answer = parse_streamed_answer(
                request.operation,
                response.status_code,
                CaseInsensitiveDict(headers),
                pieces,
                self.passed_headers,
            )
        except Problem:
            response.close()
            raise
        if request.only_head:
            response.close()
        return answer

    def _pieces(
        self,
        request: UpstreamRequest,
        response: requests.Response,
        cancellable: CancellableRequest,
    ) -> Iterator[bytes]:
        """The content of an answer in pieces, as they come. Raises Problem when it breaks off, or comes too slowly."""
        pace = Pace()
        WATCHDOG.add(cancellable)  # a piece that comes a byte at a time is a wait without an end
        try:
            with response:
                while True:
                    begun = time.monotonic()
                    cancellable.deadline = Deadline(pace.left)
                    piece = response.raw.read(_PIECE, decode_content=False)
                    cancellable.deadline = Deadline(math.inf)
                    if not piece:
                        return
                    pace.waited(time.monotonic() - begun, len(piece))
                    yield piece
        except TooSlow as error:
            raise timed_out(request.operation) from error
        except (HTTPError, OSError) as error:
            if cancellable.deadline.expired:
                raise timed_out(request.operation) from error
            detail = "The upstream's answer broke off."
            raise _unusable(request.operation, detail, response.status_code) from error
        finally:
            WATCHDOG.remove(cancellable)

    def _read_whole(
        self,
        request: UpstreamRequest,
        response: requests.Response,
        cancellable: CancellableRequest,
    ) -> bytes:
        """The content of an answer, which is then in memory once."""
        operation, status = request.operation, response.status_code
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:19]) > self.max_answer:
            raise _too_large(self.max_answer)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _unusable(
                operation, "The upstream's answer is compressed, which was not asked for.", status
            )
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := response.raw.read(_CHUNK, decode_content=False):
                size += len(piece)
                if size > self.max_answer:
                    raise _too_large(self.max_answer)
                pieces.append(piece)
        except (HTTPError, OSError) as error:
            if _is_over(cancellable) or isinstance(error, ReadTimeoutError):
                raise timed_out(operation) from error
            raise _unusable(operation, "The upstream's answer broke off.", status) from error
        if cancellable.cancelled and response.raw.length_remaining is None:
            raise timed_out(operation)  # what looks like its end may be where it was ended
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _until_sent(stream: ByteStream, cancellable: CancellableRequest) -> Iterator[bytes]:
    yield from stream
    cancellable.expect_answer()


def _ids_in(request: UpstreamRequest) -> str:
    """The first ids in its body, by what the contract says of its members' form: it refers to something else by them."""
    body = request.operation.body
    if request.body is None or body is None:
        return ""
    ids: list[str] = []
    with contextlib.suppress(*UNREADABLE):
        members = read_json(bytes(request.body), dict[str, Raw])
        for name, schema in body.schema.get("properties", {}).items():
            of_each = schema.get("items", {}).get("format")
            if name in members and "uuid" in (of_each, schema.get("format")):
                found: Any = read_json(members[name], object) or []
                ids += found if isinstance(found, list) else [found]
    return ", ".join(map(str, ids[:SHOWN]))


def _is_over(cancellable: CancellableRequest) -> bool:
    return cancellable.cancelled or cancellable.deadline.expired


def _scrub(content: bytes, status: int, credentials: Credentials) -> bytes:
    """An error body without our key, should the upstream echo it, in whatever JSON escapes."""
    if status < 400:
        return content
    with contextlib.suppress(*UNREADABLE):
        content = msgspec.json.encode(read_json(content, object))
    for secret in credentials.secrets:
        for spelling in (secret, msgspec.json.encode(secret.decode())[1:-1]):
            content = content.replace(spelling, b"***")
    return content


class NothingReceived(Problem):
    """The attempt ended before anything of an answer came, though there was time: what only reads may be repeated."""


def timed_out(operation: Operation) -> Problem:
    """The problem of a request that was sent, and whose time is over."""
    return Problem(
        "upstream-timeout",
        f"No complete answer came in time.{_uncertainty(operation)}",
        retryable=operation.repeatable,
    )


def _unusable(
    operation: Operation, detail: str, status: int | None = None, kind: type[Problem] = Problem
) -> Problem:
    return kind(
        "upstream-bad-response",
        f"{detail}{_uncertainty(operation)}",
        retryable=operation.repeatable,
        upstream_status=status,
    )


def _uncertainty(operation: Operation) -> str:
    if operation.safe:
        return ""
    advice = "repeating it does no harm" if operation.repeatable else "look before you repeat it"
    if operation.files and operation.files.kind == "upload":
        advice = "repeating it makes a second file at worst"
    return f" The request was sent once and may have been carried out: {advice}."


def _too_large(limit: int) -> Problem:
    return Problem(
        "upstream-answer-too-large",
        f"The upstream's answer has more than {limit} bytes (GATEWAY_MAX_ANSWER); ask for less at a time.",
    )


class Attempt:
    """One request to the upstream and its answer, measured: a `with` block around both.

    `status` is 0 until an answer has begun. `headers` continue the caller's trace.
    """

    def __init__(self, operation: Operation, address: str) -> None:
        self.operation = operation
        self.address = address
        self.status = 0
        self.ctx = current()
        trace, self.span = self.ctx.trace.child(), None
        if spans.exporter:
            trace, self.span = spans.exporter.start(trace, "client")
        self.headers = trace.headers()

    def __enter__(self) -> Attempt:
        self.begun = time.perf_counter()
        return self

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self.begun
        kind = error.slug if isinstance(error, Problem) else ""
        if self.status >= 600:  # no status, which is found out when the answer is parsed
            kind = kind or "upstream-bad-response"
        self.ctx.upstream_status = self.status
        self.ctx.upstream_seconds += seconds
        status = str(self.status) if 100 <= self.status < 600 else ""
        method, path = self.operation.upstream_method, self.operation.upstream_path
        labels = (method, path, status, self.address, kind)
        metrics.labelled(metrics.upstream, *labels).observe(seconds)
        if self.status == 429:
            metrics.upstream_ratelimited.inc()
        if self.span is None:
            return
        attributes: spans.Attributes = {
            "http.request.method": method,
            "url.template": path,
            "server.address": self.address,
        }
        if self.status:
            attributes["http.response.status_code"] = self.status
        if kind or self.status >= 400:
            attributes["error.type"] = kind or str(self.status)
        spans.end(self.span, f"{method} {path}", attributes)
