"""What callers see of deploy/nginx.conf: TLS, its own failures, what it passes on and what it keeps to itself."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

import mcp_bridge.config
import service.config
from openapi.contract import DEFAULT_DOCUMENT, load
from service.problems import PROBLEMS
from tests.support.api import JOBS, job
from tests.support.file_upstream import FILES
from tests.support.gateway import Gateway
from tests.support.processes import ROOT, Sandbox, wait_until
from tests.system.front import CONFIGURATION, Front, front, small

CODED = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n".encode()
TRACED = b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PRIVATE = ["/metrics", "/livez", "/readyz", "/healthz"]


class Recorder:
    """A server that keeps the requests it gets, and answers none. `closing`: it ends the connection instead."""

    def __init__(self, listening: socket.socket, closing: bool) -> None:
        self.listening = listening
        self.closing = closing
        self.address = f"127.0.0.1:{listening.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []

    def serve(self) -> None:
        """Until its socket is closed."""
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.requests.append(connection.recv(65536))
            if self.closing:
                connection.close()


@contextmanager
def recorder(closing: bool = False) -> Iterator[Recorder]:
    """A running one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = Recorder(listening, closing)
        thread = threading.Thread(target=running.serve, daemon=True)
        thread.start()
        yield running
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for connection in running.connections:
        connection.close()


def problem(answer: requests.Response) -> dict[str, Any]:
    """The problem document of an answer; fails when it is none or its members are wrong."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) == {
        "type", "title", "status", "detail", "request_id", "source", "retryable",
    }  # fmt: skip
    assert document["status"] == answer.status_code
    assert document["request_id"] == answer.headers["x-request-id"]
    assert document["source"] == "gateway"
    assert document["title"] == PROBLEMS[document["type"].removeprefix("/problems#")].title
    return document


def parsed(content: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the JSON body of one answer as bytes."""
    head, _, body = content.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


# -- the way through


def test_calls_arrive_over_tls(nginx: Front, sandbox: Sandbox) -> None:
    created = nginx.request("POST", JOBS, json=job())
    assert created.status_code == 200
    assert (
        nginx.request("GET", f"{JOBS}/{created.json()['id']}").json()["id"] == created.json()["id"]
    )
    with nginx.connect() as connection:
        assert connection.version() == "TLSv1.3"


def test_a_name_that_is_not_ours_gets_no_certificate(nginx: Front) -> None:
    with pytest.raises(ssl.SSLError):
        nginx.connect("elsewhere.example.org")


def test_a_host_that_is_not_ours_is_refused_before_the_gateway(
    nginx: Front, sandbox: Sandbox
) -> None:
    answer = nginx.request("GET", JOBS, headers={"Host": "elsewhere.example.org"})
    assert problem(answer)["type"] == "/problems#misdirected-request"
    assert sandbox.ledger() == []


def test_a_create_larger_than_nginx_takes_by_default_arrives(
    nginx: Front, sandbox: Sandbox
) -> None:
    assert nginx.request("POST", JOBS, json=job("long " * 500_000)).status_code == 200


def test_reading_uses_kept_connections_and_changing_its_own(
    nginx: Front, rest: Gateway, sandbox: Sandbox
) -> None:
    nginx.request("GET", JOBS)
    before = connections_to(rest.port)
    for _ in range(20):
        nginx.request("GET", JOBS)
    assert connections_to(rest.port) - before == set()
    for _ in range(5):
        nginx.request("POST", JOBS, json=job())
    assert len(connections_to(rest.port) - before) == 5


def connections_to(port: int) -> set[str]:
    """The addresses from which this machine's clients are, or lately were, connected to a port of its own."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if int(row[2].partition(":")[2], 16) == port}


def test_the_gateway_learns_what_it_judges_by_and_nothing_that_a_caller_made_up(
    folder: Path, certificate: tuple[str, str]
) -> None:
    made_up = (
        "X-Forwarded-For: 10.9.8.7\r\nX-Forwarded-Host: evil\r\nForwarded: for=evil\r\n"
        "X-Forwarded-Proto: http\r\nX_Request_ID: evil\r\nConnection: close, X-Request-ID\r\n"
    )
    with (
        recorder() as upstream,
        front(folder, certificate, upstream.address, read_timeout="1s") as nginx,
    ):
        head = f"GET /v1//x/%2e%2e%2f?a=%2f HTTP/1.1\r\nHost: localhost:{nginx.port}\r\n"
        nginx.raw(f"{head}{made_up}\r\n".encode())
        lines = upstream.requests[0].decode().splitlines()
    assert lines[0] == "GET /v1//x/%2e%2e%2f?a=%2f HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    assert headers["host"] == f"localhost:{nginx.port}"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"
    assert "x-request-id" in headers
    assert "evil" not in " ".join(headers.values())


@pytest.mark.parametrize(("origin", "status"), [("https://localhost", 200), ("https://evil", 403)])
def test_the_gateways_own_pages_may_call_it_and_others_may_not(
    nginx: Front, sandbox: Sandbox, origin: str, status: int
) -> None:
    own = f"{origin}:{nginx.port}"  # of Swagger UI, which the gateway knows by scheme and Host
    assert nginx.request("POST", JOBS, json=job(), headers={"Origin": own}).status_code == status


# -- waiting for a job


def test_a_wait_for_a_final_state_passes_and_is_answered_as_by_the_gateway(
    nginx: Front, rest: Gateway, sandbox: Sandbox
) -> None:
    path = f"{JOBS}/{nginx.request('POST', JOBS, json=job()).json()['id']}"
    sandbox.advance(3600)
    for preference, final in (("wait=45", True), ("wait=1", False)):
        answer = nginx.request("GET", path, headers={"Prefer": preference})
        assert (answer.status_code, answer.headers["preference-applied"]) == (200, preference)
        assert answer.headers["age"].isdecimal()
        assert answer.content == rest.get(path).content
        assert (answer.json()["status"] == "SUCCESS") is final
        path = f"{JOBS}/{nginx.request('POST', JOBS, json=job()).json()['id']}"


def test_the_longest_wait_is_below_every_limit_around_it() -> None:
    longest = service.config.Settings.wait_limit
    limits = dict(
        re.findall(
            r"^ *(proxy_\w+_timeout|keepalive_timeout) +(\d+)s;", CONFIGURATION.read_text(), re.M
        )
    )
    kubernetes = (ROOT / "deploy" / "kubernetes.yaml").read_text()
    units = [path.read_text() for path in (ROOT / "deploy" / "systemd").glob("*.service")]
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    around = [
        int(limits["proxy_read_timeout"]),
        mcp_bridge.config.Settings.timeout,
        service.config.LONGEST,
        *map(int, re.findall(r"terminationGracePeriodSeconds: (\d+)", kubernetes)),
        *map(int, re.findall(r"TimeoutStopSec=(\d+)", "".join(units))),
        *map(int, re.findall(r"stop_grace_period: (\d+)s", compose)),
    ]
    assert 0 < longest < min(around)


# -- one id everywhere


@pytest.mark.parametrize("given", ["nightly-42", None, 'not"well-formed', "x" * 200])
def test_the_request_id_is_the_same_in_the_answer_and_in_both_logs(
    nginx: Front, rest: Gateway, sandbox: Sandbox, given: str | None
) -> None:
    answer = nginx.request("GET", JOBS, headers={"X-Request-ID": given})
    own = answer.headers["x-request-id"]
    assert (own == given) is (given == "nightly-42")
    wait_until(lambda: any(line["request_id"] == own for line in nginx.log()))
    wait_until(lambda: any(f'"request_id":"{own}"' in line for line in rest.output))


# -- failures of nginx's own


def test_a_body_above_the_limit_is_refused_as_a_problem(nginx: Front, sandbox: Sandbox) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {32 * 2**20 + 1}\r\n"
    with nginx.connect() as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        status, document = parsed(connection.recv(65536))
    assert (status, document["type"]) == (413, "/problems#content-too-large")
    assert sandbox.ledger() == []


@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414, "malformed-request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000, 431, "malformed-request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        (b"nonsense\r\n\r\n", 400, "malformed-request"),
        (TRACED, 405, "method-not-allowed"),
        (CODED, 501, "malformed-request"),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "malformed-request"),
    ],
    ids=["long URL", "long header", "no Host", "no HTTP", "TRACE", "unknown coding", "HTTP/2.0"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_as_a_problem(
    nginx: Front, content: bytes, status: int, slug: str
) -> None:
    got, document = parsed(nginx.raw(content))
    assert (got, document["status"], document["type"]) == (status, status, f"/problems#{slug}")


# RFC 9110 section 15.5.6: 405 comes with Allow.
@pytest.mark.parametrize("host", ["localhost", "elsewhere.example.org"])
def test_a_method_that_nginx_refuses_comes_with_those_that_are_answered(
    nginx: Front, host: str
) -> None:
    answer = nginx.request("TRACE", "/", headers={"Host": host})
    assert problem(answer)["type"] == "/problems#method-not-allowed"
    methods = {operation.method for operation in load(DEFAULT_DOCUMENT).operations.values()}
    assert answer.headers["allow"].split(", ") == sorted({*methods, "HEAD", "OPTIONS"})


@pytest.mark.parametrize(
    ("content", "method"),
    [(CODED, "POST"), (TRACED, "TRACE"), (b"GET / HTTP/2.0\r\n\r\n", "GET")],
    ids=["unknown coding", "TRACE", "HTTP/2.0"],
)
def test_the_log_has_the_method_that_was_asked_for_also_when_nothing_else_was_read(
    nginx: Front, content: bytes, method: str
) -> None:
    _, document = parsed(nginx.raw(content))
    lines = wait_until(
        lambda: [line for line in nginx.log() if line["request_id"] == document["request_id"]]
    )
    assert [line["method"] for line in lines] == [method]


def test_a_body_that_nginx_has_no_room_for_is_a_problem_that_says_that_nothing_was_sent_on(
    folder: Path, certificate: tuple[str, str], rest: Gateway, sandbox: Sandbox
) -> None:
    within = small(folder / "body", "1m")
    with front(folder, certificate, rest.address, within=within) as nginx:
        refused = nginx.request("POST", JOBS, json=job("long " * 500_000))
        taken = nginx.request("POST", JOBS, json=job())
    document = problem(refused)
    assert (refused.status_code, document["type"]) == (500, "/problems#gateway-unavailable")
    assert document["detail"].startswith("Nothing was sent on.")
    assert document["retryable"] is True
    assert taken.status_code == 200
    assert len(sandbox.ledger()) == 1


def test_plain_http_is_refused_as_a_problem(nginx: Front) -> None:
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status, document = parsed(connection.recv(65536))
    assert (status, document["type"]) == (400, "/problems#malformed-request")


@pytest.mark.parametrize(
    "path",
    [*PRIVATE, "/./metrics", "/%6detrics", "/x/../metrics", "/metrics?x=1", "/.problem"],
)
def test_metrics_and_probes_are_not_public(nginx: Front, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    status, document = parsed(nginx.raw(request.encode()))
    assert (status, document["type"]) == (404, "/problems#not-found")


def test_too_many_requests_are_refused_as_a_problem(
    folder: Path, certificate: tuple[str, str], rest: Gateway
) -> None:
    with front(folder, certificate, rest.address, rate="1r/m") as nginx:
        answers = [nginx.request("GET", "/problems") for _ in range(105)]
    assert [a.status_code for a in answers[:100]] == [200] * 100  # the burst
    assert problem(answers[-1])["type"] == "/problems#too-many-requests"
    assert answers[-1].headers["retry-after"] == "1"


@pytest.mark.parametrize("server", ["127.0.0.1:{port}", "127.0.0.1:{port} down"])
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", JOBS, {}),
        ("POST", JOBS, {}),
        ("POST", JOBS, {"Idempotency-Key": "k"}),
        ("POST", "/mcp", {}),
    ],
)
def test_a_gateway_that_is_down_is_a_problem_that_says_that_nothing_was_sent_on(
    folder: Path,
    certificate: tuple[str, str],
    closed_port: int,
    server: str,
    method: str,
    path: str,
    headers: dict[str, str],
) -> None:
    with front(folder, certificate, server.format(port=closed_port)) as nginx:
        answer = nginx.request(method, f"{path}?x=1", headers=headers)
        wait_until(nginx.log)
        line = nginx.log()[-1]
    document = problem(answer)
    assert (answer.status_code, document["type"]) == (502, "/problems#gateway-unavailable")
    assert document["detail"].startswith("Nothing was sent on.")
    assert document["retryable"] is True
    assert (line["method"], line["path"], line["status"]) == (method, path, 502)


def test_the_one_gateway_that_is_left_answers_every_call(
    folder: Path, certificate: tuple[str, str], closed_port: int, rest: Gateway, sandbox: Sandbox
) -> None:
    down = [f"127.0.0.1:{closed_port}"] * 2
    with front(folder, certificate, *down, rest.address) as nginx:
        answers = [nginx.request("GET", JOBS) for _ in range(10)]
        answers += [nginx.request("POST", JOBS, json=job()) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 20


@pytest.mark.parametrize(
    ("method", "path", "headers", "retryable"),
    [
        ("GET", JOBS, {}, True),
        ("OPTIONS", JOBS, {}, True),
        ("DELETE", f"{FILES}/1", {}, True),
        ("POST", JOBS, {}, False),
        ("POST", JOBS, {"Idempotency-Key": "k"}, True),
        ("POST", f"{JOBS}?x=1", {"Idempotency-Key": '"a b"'}, True),
        ("POST", FILES, {"Idempotency-Key": "k"}, False),  # which is none for uploads
        ("POST", f"{FILES}?x=1", {"Idempotency-Key": "k"}, False),
        ("POST", "/mcp", {}, False),
        ("POST", "/mcp", {"Idempotency-Key": "k"}, False),  # of which the bridge knows nothing
        ("POST", "/mcp/?x=1", {"Idempotency-Key": "k"}, False),
    ],
)
def test_a_gateway_that_breaks_off_is_a_problem_that_says_whether_to_repeat(
    folder: Path,
    certificate: tuple[str, str],
    method: str,
    path: str,
    headers: dict[str, str],
    retryable: bool,
) -> None:
    with (
        recorder(closing=True) as upstream,
        front(folder, certificate, upstream.address, mcp=upstream.address) as nginx,
    ):
        answer = nginx.request(method, path, headers=headers)
    document = problem(answer)
    assert (answer.status_code, document["type"]) == (502, "/problems#gateway-unavailable")
    assert "Nothing was sent on" not in document["detail"]
    assert ("not known" in document["detail"], document["retryable"]) == (not retryable, retryable)


def test_a_gateway_that_does_not_answer_is_a_problem(
    folder: Path, certificate: tuple[str, str]
) -> None:
    with (
        recorder() as upstream,
        front(folder, certificate, upstream.address, read_timeout="1s") as nginx,
    ):
        answer = nginx.request("POST", JOBS, json=job())
    assert (answer.status_code, problem(answer)["type"]) == (504, "/problems#gateway-unavailable")
    assert answer.json()["retryable"] is False
    assert len(upstream.requests) == 1


def test_every_problem_of_nginx_is_one_that_the_gateway_documents(nginx: Front) -> None:
    text = (nginx.folder / "nginx.conf").read_text()
    slugs = set(table(text, "map $status $problem").values())
    assert slugs - set(PROBLEMS) == set()
    titles = table(text, "map $problem $problem_title")
    titles["gateway-unavailable"] = titles.pop("default")
    assert titles == {slug: f'"{PROBLEMS[slug].title}"' for slug in slugs}


def table(text: str, head: str) -> dict[str, str]:
    """The rows of a `map` of nginx.conf."""
    rows = text.partition(f"{head} {{")[2].partition("}")[0].strip().splitlines()
    return dict(row.strip().rstrip(";").split(maxsplit=1) for row in rows)


def test_both_servers_answer_their_failures_alike() -> None:
    pages = CONFIGURATION.read_text().split("location = /.problem {")[1:]
    first, second = (page.partition("}")[0] for page in pages)
    assert first == second


# -- what slow senders hold


def test_a_slow_sender_holds_nothing_in_the_gateway(
    nginx: Front, rest: Gateway, sandbox: Sandbox
) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with ExitStack() as open_connections:
        for _ in range(30):
            connection = open_connections.enter_context(nginx.connect())
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert nginx.request("GET", JOBS).status_code == 200
        assert rest.inflight() <= 1  # the one that asks
