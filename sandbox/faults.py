"""Faults: everything that can go wrong between a client and Mistral, on demand.

A fault is chosen for one request by its header `X-Sandbox-Fault: name; parameter=value`, or for coming
requests by rules (`POST /sandbox/faults`). FAULT_TYPES at the end of the functions is the table of them.
"""

from __future__ import annotations

import gzip
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property
from typing import Any

from werkzeug.wrappers import Response

from sandbox.answers import RATE_LIMITED, inference_error, json_answer, page, quota_headers
from sandbox.connection import LINGER, Connection
from sandbox.content import PIECE
from sandbox.incoming import BodyCut, Incoming
from sandbox.ledger import Entry

Params = dict[str, Any]
HEADER = "HTTP_X_SANDBOX_FAULT"


class BadFault(ValueError):
    """A fault or rule that does not exist, or has unknown members."""


class FaultedRequest:
    """A request under a fault: its ledger entry, its body as it arrives, its real answer, its connection."""

    def __init__(self, app: Any, environ: dict[str, Any], body: Incoming) -> None:
        self.environ, self.body = environ, body
        self.entry: Entry = environ["sandbox.entry"]
        self._app = app

    @cached_property
    def answer(self) -> Response:
        """The real answer, its body still to be read; looking at it processes the request. Raises BodyCut."""
        response = Response.from_app(self._app, self.environ)
        response.direct_passthrough = False
        if self.body.outcome:
            raise BodyCut
        return response

    @cached_property
    def connection(self) -> Connection:
        """The client's connection; there is none under Flask's test client."""
        connection: Connection = self.environ["sandbox.connection"]
        if not connection:
            raise BadFault("this fault needs a real connection")
        return connection

    def client_left(self, seconds: float) -> bool:
        """Waits; True as soon as the client closes the connection, which the ledger notes."""
        return self.connection.client_left(seconds)

    @property
    def half(self) -> int:
        """Half the bytes of the real answer's body."""
        return int(self.answer.headers["Content-Length"]) // 2

    def send_head(self) -> bool:
        """Sends the real answer's status line and headers; False when the client has left."""
        return self.connection.send(self.connection.head(self.answer))

    def send_body(self, *, after: int, pause: Callable[[], bool], piece: int = PIECE) -> bool:
        """Sends the real answer's body; `pause`, before each `piece` bytes that follow the first `after`, says whether it ends there.

        False when it ended early, by that or because the client left.
        """
        sent = 0
        with closing(self.answer):
            for part in _pieces(self.answer.iter_encoded(), after, piece):
                if (sent >= after and pause()) or not self.connection.send(part):
                    return False
                sent += len(part)
                self.entry["answer_bytes"] += len(part)
        return True


def _pieces(parts: Iterable[bytes], after: int, size: int) -> Iterator[bytes]:
    """The same bytes in other pieces: a border at `after`, none longer than `size` from there on."""
    at = 0
    for part in parts:
        start = 0
        while start < len(part):
            step = after - at if at < after else size
            piece = part[start : start + step]
            yield piece
            at, start = at + len(piece), start + len(piece)


# Each answers with a Response, or with None when it has dealt with the connection itself.


def _latency(request: FaultedRequest, seconds: float) -> Response | None:
    return None if request.client_left(seconds) else request.answer


def _hang(request: FaultedRequest, seconds: float) -> None:
    request.client_left(seconds)


def _drop(request: FaultedRequest, reset: bool) -> None:
    if reset:
        request.connection.reset()


def _truncated(request: FaultedRequest, after: int, reset: bool) -> None:
    if request.send_head():
        after = request.half if after < 0 else after
        request.send_body(after=after, pause=lambda: True)
    if reset:
        request.connection.reset()


def _garbage(request: FaultedRequest, bytes: int) -> None:
    request.connection.send(b"\x00" + random.randbytes(bytes))  # noqa: S311 (no secret)


def _html(request: FaultedRequest, status: int) -> Response:
    return page(status)


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


def _slow(request: FaultedRequest, interval: float, part: str, piece: int, after: int) -> None:
    def pause() -> bool:
        return request.client_left(interval)

    head = request.connection.head(request.answer)
    steps = _pieces([head], 0 if part == "headers" else len(head), piece)
    if all(not (part == "headers" and pause()) and request.connection.send(step) for step in steps):
        request.send_body(after=after, pause=pause, piece=piece)


def _stalled(request: FaultedRequest, after: int, seconds: float) -> None:
    silence = iter([seconds])
    if request.send_head():
        after = request.half if after < 0 else after
        request.send_body(after=after, pause=lambda: request.client_left(next(silence, 0)))


def _partial(request: FaultedRequest) -> Response:
    answer, length = request.answer, request.half

    def body() -> Iterator[bytes]:
        left = length
        for piece in _pieces(answer.iter_encoded(), length, PIECE):
            if not left:
                return
            yield piece
            left -= len(piece)

    headers = {"Content-Range": f"bytes 0-{length - 1}/{answer.headers['Content-Length']}"}
    part = Response(body(), 206, headers, content_type=answer.content_type)
    part.content_length = length
    part.call_on_close(answer.close)
    return part


def _upload_cut(request: FaultedRequest, after: int, reset: bool) -> Response | None:
    request.body.hold(after, request.body.cut)
    try:
        return request.answer
    except BodyCut:
        _drop(request, reset)
        return None


def _upload_slow(request: FaultedRequest, interval: float, piece: int, after: int) -> Response:
    def pause() -> int:
        request.client_left(interval)
        return piece

    request.connection.narrow()
    request.body.hold(after, pause)
    return request.answer


def _upload_stalled(request: FaultedRequest, after: int, seconds: float) -> Response:
    silence = iter([seconds])

    def pause() -> None:
        request.client_left(next(silence, 0))

    request.connection.narrow()
    request.body.hold(after, pause)
    return request.answer


def _early(request: FaultedRequest, status: int, after: int, rest: str) -> None:
    request.body.discard(after)
    connection = request.connection
    if not connection.answer(page(status)):
        return
    if rest == "read":
        connection.linger()
    elif rest == "ignore":
        connection.client_left(LINGER)
    elif rest == "reset":
        connection.reset()


def _content_redirect(request: FaultedRequest, status: int) -> Response:
    request.environ["sandbox.content_redirect"] = status
    return request.answer


def _list_lag(request: FaultedRequest, seconds: float) -> Response:
    request.environ["sandbox.list_lag"] = seconds
    return request.answer


class FaultType:
    """What a fault does, and its parameters with their defaults.

    Every type also knows `processed`: whether Mistral does what was asked before the fault strikes. `arrived`: whether
    the request's body has arrived by then, as it has unless the fault is about just that.
    """

    def __init__(
        self, act: Callable[..., Response | None], help: str, *, arrived: bool = True, **params: Any
    ) -> None:
        self.act, self.help, self.arrived = act, help, arrived
        self.params: Params = {"processed": False, **params}


# A table: one row, one line.
# fmt: off
FAULT_TYPES = {
    "latency": FaultType(_latency, "Answers late, by `seconds`; `processed=true`: does the work first.", seconds=1.0),
    "hang": FaultType(_hang, "Answers nothing for `seconds`, then closes the connection.", seconds=300.0),
    "drop-before": FaultType(_drop, "Closes without answer or work; `reset=true`: by RST.", reset=False),
    "drop-after": FaultType(_drop, "Does the work, then closes likewise.", processed=True, reset=False),
    "truncated": FaultType(_truncated, "Announces the whole answer, sends `after` bytes of its body (-1: half), closes; `reset=true`: by RST.", processed=True, after=-1, reset=False),
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
    "slow": FaultType(_slow, "The real answer, `piece` bytes per `interval` seconds, from its `part` on: headers or body, of that from byte `after` on.", processed=True, interval=0.1, part="body", piece=1, after=0),
    "stalled": FaultType(_stalled, "The real answer, with a silence of `seconds` after `after` bytes of its body (-1: half).", processed=True, after=-1, seconds=300.0),
    "partial": FaultType(_partial, "206 with the first half of the real answer, which nobody asked for.", processed=True),
    "content-redirect": FaultType(_content_redirect, "A download is redirected to a signed address of the file, which gives it without a key.", status=307),
    "upload-cut": FaultType(_upload_cut, "Reads `after` bytes of the request's body, closes; `reset=true`: by RST. Nothing comes of the request.", arrived=False, after=0, reset=False),
    "upload-slow": FaultType(_upload_slow, "Reads the request's body by `piece` bytes per `interval` seconds, from byte `after` on.", arrived=False, interval=0.1, piece=65536, after=0),
    "upload-stalled": FaultType(_upload_stalled, "Reads nothing for `seconds` once `after` bytes of the request's body were read, then goes on.", arrived=False, after=0, seconds=300.0),
    "early": FaultType(_early, "Answers `status` with an HTML page after `after` bytes of the request's body. The `rest` of it: read (and thrown away), ignore, close, reset (closes, by RST).", arrived=False, status=413, after=0, rest="read"),
    "list-lag": FaultType(_list_lag, "The job that is created appears in lists after `seconds` only.", seconds=5.0),
}
# fmt: on


@dataclass(frozen=True)
class Fault:
    """A fault of a type, with its parameters."""

    name: str
    params: Params

    @property
    def arrived(self) -> bool:
        """Whether the request's body has arrived before it strikes."""
        return FAULT_TYPES[self.name].arrived

    def inject(self, request: FaultedRequest) -> Response | None:
        """The answer under the fault; None when none is to be sent any more. Raises BodyCut."""
        if self.arrived:
            request.body.receive()
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
