"""The upstream client: the only module that opens a connection to the API, and the only one that holds its key.

What is sent and what comes back is decided in `messages`; this module sends once, keeps every limit, and says how
a request that got no answer failed. Thread-safe; safe to make before a fork, since connections open on first use.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import certifi
import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, ReadTimeoutError

from openapi.json_text import UNREADABLE, read_json

from .config import Settings
from .problems import Problem
from .translation import Answer, UpstreamRequest, decipher
from .upstream_connection import POOLS, WATCH, Exchange
from .upstream_key import Credentials, Key
from .upstream_records import UpstreamCall

REPEATS = 2
"""How often a safe request is repeated when nothing of an answer was received. Others are sent once."""

_CHUNK = 1 << 20


class Upstream:
    """The API behind the gateway: over kept connections for safe requests; over a new one for each other, or when an exchange wants it."""

    def __init__(self, settings: Settings, key: Key) -> None:
        contract = settings.contract
        self.key = key
        self.base_url = settings.base_url
        self.timeouts = (settings.connect_timeout, settings.read_timeout)
        self.total = settings.timeout
        self.max_answer = settings.max_answer
        self.passed_headers = contract.answer_headers
        self.trace = settings.trace_upstream
        self.address = urlsplit(self.base_url).hostname or ""
        self.kept, self.fresh = _adapters(settings)
        self.headers = {
            "User-Agent": f"{contract.product}/{contract.version}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }

    def send(
        self, request: UpstreamRequest, exchange: Exchange, limit: float | None = None
    ) -> Answer:
        """The upstream's answer; Problem for everything else, within `limit` seconds (None: GATEWAY_TIMEOUT)."""
        exchange.deadline = time.monotonic() + (self.total if limit is None else limit)
        WATCH.add(exchange)
        try:
            return self._send_with_key(request, exchange)
        finally:
            WATCH.remove(exchange)

    def _send_with_key(self, request: UpstreamRequest, exchange: Exchange) -> Answer:
        credentials = self.key.current()
        try:
            answer = self._send_repeatedly(request, exchange, credentials)
        except Problem as problem:
            if problem.upstream_status != 401 or not self.key.refuse(credentials):
                raise
            if not request.operation.safe:
                # Sent once, whatever comes of it; the next one carries the new key.
                problem.retryable = True
                raise
            return self._send_repeatedly(request, exchange, self.key.current())
        self.key.accept()
        return answer

    def _send_repeatedly(
        self, request: UpstreamRequest, exchange: Exchange, credentials: Credentials
    ) -> Answer:
        repeats = REPEATS if request.operation.safe else 0
        while True:
            try:
                return self._send(request, exchange, credentials)
            except NothingReceived as failure:
                if not repeats or exchange.over or failure.timed_out:
                    raise failure.problem(request, exchange) from failure
                repeats -= 1

    def _send(
        self, request: UpstreamRequest, exchange: Exchange, credentials: Credentials
    ) -> Answer:
        with UpstreamCall(request.operation, self.address) as call:
            try:
                response, content = self._exchange(request, exchange, credentials, call)
            except NothingReceived as failure:
                call.error = failure.problem(request, exchange).slug
                raise
        return decipher(
            request.operation,
            response.status_code,
            response.headers,
            _scrub(content, response.status_code, credentials),
            self.passed_headers,
        )

    def _exchange(
        self,
        request: UpstreamRequest,
        exchange: Exchange,
        credentials: Credentials,
        call: UpstreamCall,
    ) -> tuple[requests.Response, bytes]:
        prepared = self._prepare(request, credentials, call.headers if self.trace else {})
        adapter = self.kept if request.operation.safe and not exchange.fresh else self.fresh
        if adapter is self.fresh:
            prepared.headers["Connection"] = "close"
        exchange.begin()
        try:
            response = adapter.send(prepared, stream=True, timeout=self.timeouts)
        except requests.RequestException as error:
            raise NothingReceived(isinstance(error, requests.ReadTimeout)) from error
        finally:
            exchange.end()
        call.status = response.status_code
        try:
            content = self._read(request, response)
            if exchange.over and response.raw.length_remaining is None:
                raise _timeout(request)  # what looks like its end may be where it was ended
            return response, content
        except (HTTPError, OSError) as error:
            if exchange.over or isinstance(error, ReadTimeoutError):
                raise _timeout(request) from error
            raise _unusable(
                request, "The upstream's answer broke off.", response.status_code
            ) from error
        finally:
            exchange.end()
            response.close()

    def _prepare(
        self, request: UpstreamRequest, credentials: Credentials, trace: Mapping[str, str]
    ) -> requests.PreparedRequest:
        headers = {**self.headers, **trace, **request.headers, **credentials.headers}
        if request.body is not None:
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
        prepared.method = request.operation.upstream_method
        # Set past requests' own URL handling, which would resolve dots and decode what was encoded on purpose.
        prepared.url = f"{self.base_url}{request.target}{query}"
        prepared.headers = CaseInsensitiveDict(headers)
        prepared.body = request.body  # type: ignore[assignment]
        return prepared

    def _read(self, request: UpstreamRequest, response: requests.Response) -> bytes:
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:19]) > self.max_answer:
            raise _too_large(self.max_answer)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _unusable(
                request,
                "The upstream's answer is compressed, which was not asked for.",
                response.status_code,
            )
        chunks: list[bytes] = []
        size = 0
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            size += len(chunk)
            if size > self.max_answer:
                raise _too_large(self.max_answer)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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


class NothingReceived(Exception):
    """The exchange ended before anything of an answer came."""

    def __init__(self, timed_out: bool) -> None:
        super().__init__(timed_out)
        self.timed_out = timed_out

    def problem(self, request: UpstreamRequest, exchange: Exchange) -> Problem:
        """What the caller is told."""
        if not exchange.sent:
            return Problem(
                "upstream-unreachable",
                "No connection to the upstream could be made; nothing was sent.",
                retryable=True,
            )
        if self.timed_out or exchange.over:
            return _timeout(request)
        return _unusable(
            request, "The upstream ended the connection, or answered with what is not HTTP/1.1."
        )


def _timeout(request: UpstreamRequest) -> Problem:
    return Problem(
        "upstream-timeout",
        f"No complete answer came in time.{_unknown(request)}",
        retryable=request.operation.safe,
    )


def _unusable(request: UpstreamRequest, detail: str, status: int | None = None) -> Problem:
    return Problem(
        "upstream-bad-response",
        f"{detail}{_unknown(request)}",
        retryable=request.operation.safe,
        upstream_status=status,
    )


def _unknown(request: UpstreamRequest) -> str:
    if request.operation.safe:
        return ""
    return " The request was sent once and may have been carried out: look before you repeat it."


def _too_large(limit: int) -> Problem:
    return Problem(
        "upstream-answer-too-large",
        f"The upstream's answer has more than {limit} bytes (GATEWAY_MAX_ANSWER); ask for less at a time.",
    )


def _adapters(settings: Settings) -> tuple[_Adapter, _Adapter]:
    """One that keeps its connections, one that does not; making their TLS context costs 20 ms, so they share it."""
    context = ssl.create_default_context(cafile=settings.ca_file or certifi.where())
    return _Adapter(settings, context, POOLS), _Adapter(settings, context, FRESH)


class _Fresh:
    """Mixin for connection pools that keep nothing: no request meets a connection that its server is about to close."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        return self._new_conn()  # type: ignore[attr-defined]

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.close()


FRESH = {
    scheme: type(f"Fresh{pool.__name__}", (_Fresh, pool), {}) for scheme, pool in POOLS.items()
}


class _Adapter(HTTPAdapter):
    """requests' transport for one server, with a TLS context given and connections that can be ended from outside.

    Used without a `Session`, which would add cookies, redirects, .netrc and proxies of the environment: none may touch these
    requests. What requests finds out anew for each (the pool, the path) is the same for all of ours.
    """

    def __init__(self, settings: Settings, context: ssl.SSLContext, pools: dict[str, Any]) -> None:
        self.context = context
        self.pools = pools
        super().__init__(pool_connections=1, pool_maxsize=settings.threads, max_retries=0)
        parts = urlsplit(settings.base_url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.pool = self.poolmanager.connection_from_url(self.origin)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self.context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.pools

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        """The one pool there is."""
        return self.pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to set: the context verifies, and loading the authorities again per connection is what costs."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Path and query as they are."""
        return (request.url or "").removeprefix(self.origin)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Without cookies and encoding, which nobody asks for."""
        response = requests.Response()
        response.status_code = resp.status
        response.headers = CaseInsensitiveDict(resp.headers)
        response.raw = resp
        response.request = req
        return response
