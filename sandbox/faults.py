"""Faults: everything that can go wrong between a client and Mistral, on demand.

A fault is chosen for one request by its header `X-Sandbox-Fault: name; parameter=value`, or for coming
requests by rules (`POST /sandbox/faults`). FAULT_TYPES at the end of the functions is the table of them.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from typing import Any

from werkzeug.wrappers import Response

from sandbox.answers import RATE_LIMITED, inference_error, json_answer, quota_headers
from sandbox.ledger import Entry

Params = dict[str, Any]
HEADER = "HTTP_X_SANDBOX_FAULT"
TICK = 0.05  # seconds between polls of a connection that has unread bytes


class BadFault(ValueError):
    """A fault or rule that does not exist, or has unknown members."""


class FaultedRequest:
    """A request under a fault: its ledger entry, its real answer, its connection."""

    def __init__(self, app: Any, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.entry: Entry = environ["sandbox.entry"]
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
        """Waits; True as soon as the client closes the connection, which the ledger notes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.connection], [], [], left)[0]:
                return False
            try:
                closed = self.connection.recv(1, socket.MSG_PEEK) == b""
            except OSError:
                closed = True
            if closed:
                self.entry["client_closed_at"] = time.time()
                return True
            time.sleep(min(TICK, left))
        return False

    def send(self, data: bytes) -> bool:
        """Sends bytes past the server; False when the client has left."""
        try:
            self.connection.sendall(data)
        except OSError:
            self.entry["client_closed_at"] = time.time()
            return False
        return True

    def head(self) -> bytes:
        """The real answer's status line and headers as bytes; the connection ends after it."""
        headers = [*self.answer.headers, *self.environ["sandbox.headers"], ("Connection", "close")]
        lines = [f"HTTP/1.1 {self.answer.status}", *(f"{name}: {text}" for name, text in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


# Each answers with a Response, or with None when it has dealt with the connection itself.


def _latency(request: FaultedRequest, seconds: float) -> Response | None:
    return None if request.client_left(seconds) else request.answer


def _hang(request: FaultedRequest, seconds: float) -> None:
    request.client_left(seconds)


def _drop(request: FaultedRequest, reset: bool) -> None:
    if reset:  # with a RST
        linger = struct.pack("ii", 1, 0)
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with socket.socket() as blank:  # the server still owns the descriptor, so only swap it
            os.dup2(blank.fileno(), request.connection.fileno())


def _truncated(request: FaultedRequest) -> None:
    data = request.answer.get_data()
    request.send(request.head() + data[: len(data) // 2])


def _garbage(request: FaultedRequest, bytes: int) -> None:
    request.send(b"\x00" + random.randbytes(bytes))  # noqa: S311 (no secret)


def _html(request: FaultedRequest, status: int) -> Response:
    page = f"<html><head><title>{status}</title></head><body>cloudflare</body></html>\n"
    return Response(page, status, content_type="text/html; charset=UTF-8")


def _status(request: FaultedRequest, status: int, body: Any) -> Response:
    return json_answer(body or {"detail": f"The sandbox was told to answer {status}"}, status)


def _detail(request: FaultedRequest, status: int, detail: str) -> Response:
    return json_answer({"detail": detail}, status)


def _forbidden(request: FaultedRequest) -> Response:
    message = "This model is not available in your subscription tier"
    return json_answer(inference_error(message, "tier_not_allowed", "1910", 403), 403)


def _rate_limited(request: FaultedRequest, retry_after: Any, zero_quota: bool) -> Response:
    forms = {
        "seconds": "2",
        "date": formatdate(time.time() + 2, usegmt=True),
        "negative": "-5",
        "huge": "99999999999",
        "garbage": "soon",
    }
    headers = quota_headers(0 if zero_quota else 60, 0)
    if retry_after != "absent":
        headers["Retry-After"] = forms.get(str(retry_after), str(retry_after))
    return json_answer(RATE_LIMITED, 429, headers)


def _redirect(request: FaultedRequest, status: int, location: str) -> Response:
    return Response("", status, {"Location": location})


def _wrong_type(request: FaultedRequest, type: str) -> Response:
    request.answer.headers["Content-Type"] = type
    return request.answer


def _invalid_json(request: FaultedRequest) -> Response:
    data = request.answer.get_data()
    request.answer.set_data(data[: len(data) // 2])
    return request.answer


def _gzip(request: FaultedRequest, corrupt: bool) -> Response:
    data = gzip.compress(request.answer.get_data())
    # Corrupt: the header, then no deflate block.
    request.answer.set_data(data[:10] + b"\xff" * 20 if corrupt else data)
    request.answer.headers["Content-Encoding"] = "gzip"
    return request.answer


def _huge(request: FaultedRequest, bytes: int, announced: bool) -> Response:
    start, end, piece = b'{"data":"', b'"}', b"x" * 65536

    def body() -> Iterator[Any]:
        left = bytes - len(start) - len(end)
        yield start
        while left > 0:
            yield piece[:left]
            left -= len(piece)
        yield end

    headers = {"Content-Length": str(bytes)} if announced else {}
    return Response(body(), 200, headers, content_type="application/json")


def _slow(request: FaultedRequest, interval: float, part: str) -> None:
    head, data = request.head(), request.answer.get_data()
    quick, slow = (head, data) if part == "body" else (b"", head + data)
    if not request.send(quick):
        return
    for index in range(len(slow)):
        if request.client_left(interval) or not request.send(slow[index : index + 1]):
            return


def _list_lag(request: FaultedRequest, seconds: float) -> Response:
    request.environ["sandbox.list_lag"] = seconds
    return request.answer


class FaultType:
    """What a fault does, and its parameters with their defaults.

    Every type also knows `processed`: whether Mistral does what was asked before the fault strikes.
    """

    def __init__(self, act: Callable[..., Response | None], help: str, **params: Any) -> None:
        self.act, self.help = act, help
        self.params: Params = {"processed": False, **params}


# A table: one row, one line.
# fmt: off
FAULT_TYPES = {
    "latency": FaultType(_latency, "Answers late, by `seconds`; `processed=true`: does the work first.", seconds=1.0),
    "hang": FaultType(_hang, "Answers nothing for `seconds`, then closes the connection.", seconds=300.0),
    "drop-before": FaultType(_drop, "Closes without answer or work; `reset=true`: by RST.", reset=False),
    "drop-after": FaultType(_drop, "Does the work, then closes likewise.", processed=True, reset=False),
    "truncated": FaultType(_truncated, "Announces the whole answer, sends half of its body, closes.", processed=True),
    "garbage": FaultType(_garbage, "Sends `bytes` random bytes instead of HTTP.", bytes=64),
    "html-502": FaultType(_html, "502 with an HTML page, as a proxy gives it.", status=502),
    "html-503": FaultType(_html, "503 likewise.", status=503),
    "html-504": FaultType(_html, "504 likewise.", status=504),
    "status": FaultType(_status, "Any `status` with any JSON `body` (text, or JSON).", status=500, body=""),
    "unauthorized": FaultType(_detail, "401 as Mistral words it.", status=401, detail="Unauthorized"),
    "payment-required": FaultType(_detail, "402: the plan lacks the service.", status=402, detail="You do not have access to this service"),
    "forbidden": FaultType(_forbidden, "403: the model is not in the plan."),
    "rate-limited": FaultType(_rate_limited, "429; `retry_after`: seconds, date, negative, huge, absent, garbage, or a value of its own; `zero_quota=true`: the plan allows none at all.", retry_after="seconds", zero_quota=False),
    "redirect": FaultType(_redirect, "A redirect to `location`.", status=307, location="/elsewhere"),
    "wrong-type": FaultType(_wrong_type, "The real answer as another media type.", processed=True, type="text/plain"),
    "invalid-json": FaultType(_invalid_json, "The real answer without its second half, complete as HTTP.", processed=True),
    "gzip": FaultType(_gzip, "The real answer in gzip; `corrupt=true`: damaged.", processed=True, corrupt=False),
    "huge": FaultType(_huge, "200 with a JSON body of `bytes` bytes; `announced=false`: chunked, without its length.", bytes=50_000_000, announced=True),
    "slow": FaultType(_slow, "The real answer, one byte per `interval` seconds, from its `part` on: headers or body.", processed=True, interval=0.1, part="body"),
    "list-lag": FaultType(_list_lag, "The job that is created appears in lists after `seconds` only.", seconds=5.0),
}
# fmt: on


@dataclass(frozen=True)
class Fault:
    """A fault of a type, with its parameters."""

    name: str
    params: Params

    def inject(self, request: FaultedRequest) -> Response | None:
        """The answer under the fault; None when none is to be sent any more."""
        params = self.params.copy()
        if params.pop("processed"):
            _ = request.answer
        return FAULT_TYPES[self.name].act(request, **params)


def parse_header(text: str) -> Fault:
    """A fault from `name; parameter=value; ...`; raises BadFault."""
    name, *pairs = (part.strip() for part in text.split(";"))
    given = (pair.partition("=") for pair in pairs if pair)
    return make(name, {key.strip(): value.strip() for key, _, value in given})


def make(name: str, given: Params) -> Fault:
    """A fault with the given parameters, whose values may be text; raises BadFault."""
    if name not in FAULT_TYPES:
        raise BadFault(f"no such fault; there are {', '.join(FAULT_TYPES)}")
    defaults = FAULT_TYPES[name].params
    if given.keys() - defaults.keys():
        raise BadFault(f"{name} has only the parameters {', '.join(defaults)}")
    return Fault(name, defaults | {key: _cast(defaults[key], given[key]) for key in given})


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
    seen: int = 0

    def take(self, environ: dict[str, Any]) -> bool:
        """Whether the rule strikes this request; counts it when it matches."""
        matches = (
            self.times != 0
            and self.method in ("", environ["REQUEST_METHOD"])
            and re.search(self.path, environ["PATH_INFO"]) is not None
            and re.search(self.query, environ["QUERY_STRING"]) is not None
        )
        self.seen += matches
        if not matches or self.seen < self.nth:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def view(self) -> Params:
        """The rule as the admin API shows it."""
        match = {"method": self.method, "path": self.path, "query": self.query, "nth": self.nth}
        fault = {"fault": self.fault.name, **self.fault.params}
        return {"match": match, "times": self.times, "seen": self.seen, **fault}


def parse_rule(given: Any) -> Rule:
    """A rule from `{fault, match: {method, path, query, nth}, times, ...parameters}`; raises BadFault."""
    if not isinstance(given, dict) or not isinstance(given.get("match", {}), dict):
        raise BadFault("a rule is an object with fault, match, times and parameters")
    match, times = given.get("match", {}), given.get("times", 1)
    if match.keys() - {"method", "path", "query", "nth"}:
        raise BadFault("match has only the members method, path, query, nth")
    params = {key: value for key, value in given.items() if key not in ("fault", "match", "times")}
    rule = Rule(
        make(str(given.get("fault")), params),
        method=str(match.get("method", "")).upper(),
        path=str(match.get("path", "")),
        query=str(match.get("query", "")),
        nth=_cast(1, match.get("nth", 1)),
        times=None if times is None else _cast(1, times),
    )
    try:
        _ = re.compile(rule.path), re.compile(rule.query)
    except re.error as error:
        raise BadFault("match holds an invalid regular expression") from error
    return rule


class Faults:
    """The rules in force, in the order in which they were given; the first that fits strikes."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._lock = threading.Lock()

    def add(self, rules: list[Rule]) -> None:
        """Puts further rules in force."""
        with self._lock:
            self.rules += rules

    def clear(self) -> None:
        """Ends all rules."""
        with self._lock:
            self.rules = []

    def pick(self, environ: dict[str, Any]) -> Fault | None:
        """The fault for a request: its header's, else that of the first rule that fits.

        Raises BadFault when its header names none.
        """
        if HEADER in environ:
            return parse_header(environ[HEADER])
        with self._lock:
            return next((rule.fault for rule in self.rules if rule.take(environ)), None)
