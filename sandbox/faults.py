"""Faults: everything that can go wrong between a client and Mistral, on demand.

A fault is chosen for one request by its header `X-Sandbox-Fault: kind; name=value`, or for coming
requests by rules (`POST /sandbox/faults`). Each kind is a function that answers, or does not.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property
from typing import Any

from werkzeug.wrappers import Response

from sandbox.ledger import Entry

Params = dict[str, Any]
HEADER = "HTTP_X_SANDBOX_FAULT"
TICK = 0.05  # seconds between looks at a connection that has unread bytes


class BadFault(ValueError):
    """A fault or rule that does not exist, or has unknown members."""


class Exchange:
    """One request under a fault: its ledger entry, its real answer, its connection."""

    def __init__(self, app: Any, environ: dict[str, Any], entry: Entry) -> None:
        self.environ, self.entry = environ, entry
        self._app = app

    @cached_property
    def answer(self) -> Response:
        """The real answer; looking at it processes the request."""
        response = Response.from_app(self._app, self.environ, buffered=True)
        response.direct_passthrough = False
        return response

    @property
    def connection(self) -> socket.socket:
        """The client's connection; there is none under Flask's test client."""
        if "gunicorn.socket" not in self.environ:
            raise BadFault("this fault needs a real connection")
        return self.environ["gunicorn.socket"]  # type: ignore[no-any-return]

    def client_left(self, seconds: float) -> bool:
        """Wait; True as soon as the client closes the connection, which the ledger notes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.connection], [], [], left)[0]:
                return False
            if self._closed():
                self.entry["client_closed_at"] = time.time()
                return True
            time.sleep(min(TICK, left))
        return False

    def _closed(self) -> bool:
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def send(self, data: bytes) -> bool:
        """Send bytes past the server; False when the client has left."""
        try:
            self.connection.sendall(data)
        except OSError:
            self.entry["client_closed_at"] = time.time()
            return False
        return True

    def reset(self) -> None:
        """Close the connection with a RST."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with socket.socket() as blank:  # the server still owns the descriptor, so only swap it
            os.dup2(blank.fileno(), self.connection.fileno())

    def head(self, response: Response) -> bytes:
        """A response's status line and headers as bytes; the connection ends after it."""
        fields = [*response.headers, *self.environ["sandbox.headers"], ("Connection", "close")]
        lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


# A kind answers with a Response, or with None when it has dealt with the connection itself.
Act = Callable[[Exchange, Params], Response | None]


@dataclass(frozen=True)
class Kind:
    """A fault: what it does and its parameters with their defaults."""

    act: Act
    help: str
    params: Params


KINDS: dict[str, Kind] = {}


def kind(name: str, help: str, **params: Any) -> Callable[[Act], Act]:
    """Register a function as a kind of fault.

    Every kind also knows `processed`: whether Mistral does what was asked before the fault strikes.
    """

    def register(act: Act) -> Act:
        KINDS[name] = Kind(act, help, {"processed": False, **params})
        return act

    return register


@kind("latency", "Answers late, by `seconds`; `processed=true`: does the work first.", seconds=1.0)
def _latency(exchange: Exchange, params: Params) -> Response | None:
    return None if exchange.client_left(params["seconds"]) else exchange.answer


@kind("hang", "Answers nothing for `seconds`, then closes the connection.", seconds=300.0)
def _hang(exchange: Exchange, params: Params) -> None:
    exchange.client_left(params["seconds"])


@kind("drop-after", "Does the work, then closes likewise.", reset=False, processed=True)
@kind("drop-before", "Closes without answer or work; `reset=true`: by RST.", reset=False)
def _drop(exchange: Exchange, params: Params) -> None:
    if params["reset"]:
        exchange.reset()


@kind("truncated", "Announces the whole answer, sends half of its body, closes.", processed=True)
def _truncated(exchange: Exchange, params: Params) -> None:
    data = exchange.answer.get_data()
    exchange.send(exchange.head(exchange.answer) + data[: len(data) // 2])


@kind("garbage", "Sends `bytes` random bytes instead of HTTP.", bytes=64)
def _garbage(exchange: Exchange, params: Params) -> None:
    exchange.send(b"\x00" + random.randbytes(params["bytes"]))  # noqa: S311 (no secret)


@kind("html-504", "504 likewise.", status=504)
@kind("html-503", "503 likewise.", status=503)
@kind("html-502", "502 with an HTML page, as a proxy gives it.", status=502)
def _html(exchange: Exchange, params: Params) -> Response:
    page = f"<html><head><title>{params['status']}</title></head><body>cloudflare</body></html>\n"
    return Response(page, params["status"], content_type="text/html; charset=UTF-8")


@kind("status", "Any `status` with any JSON `body` (text, or JSON).", status=500, body="")
def _status(exchange: Exchange, params: Params) -> Response:
    body = params["body"] or {"detail": f"The sandbox was told to answer {params['status']}"}
    return _json(params["status"], body)


@kind(
    "payment-required",
    "402: the plan lacks the service.",
    status=402,
    detail="You do not have access to this service",
)
@kind("unauthorized", "401 as Mistral words it.", status=401, detail="Unauthorized")
def _detail(exchange: Exchange, params: Params) -> Response:
    return _json(params["status"], {"detail": params["detail"]})


@kind("forbidden", "403: the model is not in the plan.")
def _forbidden(exchange: Exchange, params: Params) -> Response:
    text = "This model is not available in your subscription tier"
    return _json(403, _error(text, "tier_not_allowed", "1910", 403))


@kind(
    "rate-limited",
    "429; `retry_after`: seconds, date, negative, huge, absent, garbage, or a value of its own; "
    "`zero_quota=true`: the plan allows none at all.",
    retry_after="seconds",
    zero_quota=False,
)
def _rate_limited(exchange: Exchange, params: Params) -> Response:
    forms = {
        "seconds": "2",
        "date": formatdate(time.time() + 2, usegmt=True),
        "negative": "-5",
        "huge": "99999999999",
        "garbage": "soon",
    }
    limit = 0 if params["zero_quota"] else 60
    headers = quota_headers(limit, 0)
    if params["retry_after"] != "absent":
        value = str(params["retry_after"])
        headers["Retry-After"] = forms.get(value, value)
    return _json(429, RATE_LIMITED, headers)


@kind("redirect", "A redirect to `location`.", status=307, location="/elsewhere")
def _redirect(exchange: Exchange, params: Params) -> Response:
    return Response("", params["status"], {"Location": params["location"]})


@kind("wrong-type", "The real answer as another media type.", type="text/plain", processed=True)
def _wrong_type(exchange: Exchange, params: Params) -> Response:
    exchange.answer.headers["Content-Type"] = params["type"]
    return exchange.answer


@kind("invalid-json", "The real answer without its second half, complete as HTTP.", processed=True)
def _invalid_json(exchange: Exchange, params: Params) -> Response:
    data = exchange.answer.get_data()
    exchange.answer.set_data(data[: len(data) // 2])
    return exchange.answer


@kind("gzip", "The real answer in gzip; `corrupt=true`: damaged.", corrupt=False, processed=True)
def _gzip(exchange: Exchange, params: Params) -> Response:
    data = gzip.compress(exchange.answer.get_data())
    if params["corrupt"]:
        data = data[:10] + b"\xff" * 20  # the header, then no deflate block
    exchange.answer.set_data(data)
    exchange.answer.headers["Content-Encoding"] = "gzip"
    return exchange.answer


@kind(
    "huge",
    "200 with a JSON body of `bytes` bytes; `announced=false`: chunked, without its length.",
    bytes=50_000_000,
    announced=True,
)
def _huge(exchange: Exchange, params: Params) -> Response:
    start, end, piece = b'{"data":"', b'"}', b"x" * 65536

    def body() -> Iterator[bytes]:
        left = params["bytes"] - len(start) - len(end)
        yield start
        while left > 0:
            yield piece[:left]
            left -= len(piece)
        yield end

    headers = {"Content-Length": str(params["bytes"])} if params["announced"] else {}
    return Response(body(), 200, headers, content_type="application/json")


@kind(
    "slow",
    "The real answer, one byte per `interval` seconds, from its `part` on: headers or body.",
    interval=0.1,
    part="body",
    processed=True,
)
def _slow(exchange: Exchange, params: Params) -> None:
    head, data = exchange.head(exchange.answer), exchange.answer.get_data()
    quick, slow = (head, data) if params["part"] == "body" else (b"", head + data)
    if not exchange.send(quick):
        return
    for index in range(len(slow)):
        if exchange.client_left(params["interval"]) or not exchange.send(slow[index : index + 1]):
            return


@kind("list-lag", "The job that is created appears in lists after `seconds` only.", seconds=5.0)
def _list_lag(exchange: Exchange, params: Params) -> Response:
    exchange.environ["sandbox.list_lag"] = params["seconds"]
    return exchange.answer


def _json(status: int, body: Any, headers: Params | None = None) -> Response:
    text = body if isinstance(body, str) else json.dumps(body)
    return Response(text, status, headers, content_type="application/json")


def _error(message: str, type: str, code: str, status: int) -> Params:
    """An error body in the form of Mistral's inference services."""
    return {
        "object": "error",
        "message": message,
        "type": type,
        "param": None,
        "code": code,
        "raw_status_code": status,
    }


RATE_LIMITED = _error("Rate limit exceeded", "rate_limited", "1300", 429)


def quota_headers(limit: int, remaining: int) -> dict[str, str]:
    """The rate limit headers that Mistral's live API sends."""
    return {
        "x-ratelimit-limit-req-minute": str(limit),
        "x-ratelimit-remaining-req-minute": str(remaining),
    }


@dataclass(frozen=True)
class Fault:
    """A kind with its parameters, ready to strike."""

    name: str
    params: Params

    def strike(self, exchange: Exchange) -> Response | None:
        """Do it; None when no answer is to be sent any more."""
        if self.params["processed"]:
            _ = exchange.answer
        return KINDS[self.name].act(exchange, self.params)


def parse_header(text: str) -> Fault:
    """A fault from `kind; name=value; ...`.

    Raises:
        BadFault: no such kind or parameter, or a value of the wrong type.
    """
    name, *pairs = (part.strip() for part in text.split(";"))
    given = (pair.partition("=") for pair in pairs if pair)
    return make(name, {key.strip(): value.strip() for key, _, value in given})


def make(name: str, given: Params) -> Fault:
    """A fault of a kind with the given parameters, whose values may be text; raises BadFault."""
    if name not in KINDS:
        raise BadFault(f"no such fault; there are {', '.join(KINDS)}")
    defaults = KINDS[name].params
    unknown = given.keys() - defaults.keys()
    if unknown:
        raise BadFault(f"{name} has only the parameters {', '.join(defaults)}")
    params = {key: _cast(defaults[key], value) for key, value in given.items()}
    return Fault(name, defaults | params)


def _cast(default: Any, value: Any) -> Any:
    """A parameter value in the type of its default; a body may be any JSON."""
    if isinstance(default, bool):
        return value is True or str(value).lower() in ("1", "true", "yes")
    if isinstance(default, str):
        return value
    try:
        return type(default)(value)
    except (TypeError, ValueError) as error:
        raise BadFault(f"a {type(default).__name__} is needed") from error


@dataclass
class Rule:
    """A fault for coming requests that match; `times` None: all of them."""

    fault: Fault
    method: str = ""
    path: str = ""
    query: str = ""
    nth: int = 1
    times: int | None = 1
    seen: int = field(default=0)

    def take(self, environ: dict[str, Any]) -> bool:
        """Whether the rule strikes this request; counts it when it matches."""
        if self.times == 0 or not self._matches(environ):
            return False
        self.seen += 1
        if self.seen < self.nth:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def _matches(self, environ: dict[str, Any]) -> bool:
        return (
            self.method in ("", environ["REQUEST_METHOD"])
            and re.search(self.path, environ["PATH_INFO"]) is not None
            and re.search(self.query, environ["QUERY_STRING"]) is not None
        )

    def view(self) -> Params:
        """The rule as the admin door shows it."""
        match = {"method": self.method, "path": self.path, "query": self.query, "nth": self.nth}
        fault = {"fault": self.fault.name, **self.fault.params}
        return {"match": match, "times": self.times, "seen": self.seen, **fault}


def parse_rule(given: Any) -> Rule:
    """A rule from `{fault, match: {method, path, query, nth}, times, ...parameters}`.

    Raises:
        BadFault: something in it is unknown or of the wrong type.
    """
    if not isinstance(given, dict) or not isinstance(given.get("match", {}), dict):
        raise BadFault("a rule is an object with fault, match, times and parameters")
    match = given.get("match", {})
    if match.keys() - {"method", "path", "query", "nth"}:
        raise BadFault("match has only the members method, path, query, nth")
    params = {key: value for key, value in given.items() if key not in ("fault", "match", "times")}
    rule = Rule(
        make(str(given.get("fault")), params),
        method=str(match.get("method", "")).upper(),
        path=str(match.get("path", "")),
        query=str(match.get("query", "")),
        nth=_cast(1, match.get("nth", 1)),
        times=None if given.get("times", 1) is None else _cast(1, given.get("times", 1)),
    )
    for pattern in (rule.path, rule.query):
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadFault("match holds an invalid regular expression") from error
    return rule


class Faults:
    """The rules in force, in the order in which they were given; the first that fits strikes."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rules: list[Rule]) -> None:
        """Put further rules in force."""
        with self._lock:
            self.rules += rules

    def clear(self) -> None:
        """End all rules."""
        with self._lock:
            self.rules = []

    def pick(self, environ: dict[str, Any]) -> Fault | None:
        """The fault for a request: its header's, else that of the first rule that fits.

        Raises:
            BadFault: the header names none.
        """
        if HEADER in environ:
            return parse_header(environ[HEADER])
        if not self.rules:
            return None
        with self._lock:
            return next((rule.fault for rule in self.rules if rule.take(environ)), None)
