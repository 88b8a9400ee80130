"""The bridge over raw HTTP: what is not MCP, what is not quite, and what comes from elsewhere.

Expectations: MCP 2026-07-28 and 2025-11-25, "Streamable HTTP"; RFC 9110 for the rest.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from mcp_bridge import edge, message_reader
from mcp_bridge.app import create_app
from mcp_bridge.canonical import LARGE
from mcp_bridge.config import Settings
from service.problems import PROBLEMS
from serving.problems import TITLES
from tests.mcp_bridge.hosting import served
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID
from tests.support.asgi import call, started

MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
MEDIA = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
ROUTED = {**MEDIA, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call"}
LEGACY = {**MEDIA, "MCP-Protocol-Version": "2025-11-25"}
HEADERS = {**ROUTED, "Mcp-Name": "get-batch-job"}


def message(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META} | params}


JSON_TYPES = [
    "application/json; charset=utf-8",
    "application/json;charset=utf8",
    "Application/JSON; odata=verbose",
    'application/json ; charset="UTF-8"; boundary=x',
    "application/json;",
    "application/json; charset=iso-8859-1",
]
"""Spellings of the one type; the bytes are what counts."""

MEMBERS = {"type", "title", "status", "detail", "request_id", "source", "retryable"}
CALL = message(name="get-batch-job", arguments={"job_id": JOB_ID})
LATER = message(name="get-batch-job", _meta=dict.fromkeys(META, "2099-01-01"))


@pytest.fixture(scope="module")
def rest_service() -> Iterator[str]:
    with served(Rest()) as url:
        yield url


@pytest.fixture(scope="module")
def url(rest_service: str) -> Iterator[str]:
    with served(create_app(Settings(rest_url=rest_service, max_body=100_000))) as url:
        yield url


def exchange(
    url: str,
    body: Any = CALL,
    headers: dict[str, str] = HEADERS,
    method: str = "POST",
    path: str = "/mcp",
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of one answer; the body parsed when it is JSON, also from a stream."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        text = response.read().decode()
    finally:
        connection.close()
    if answered.get("content-type", "").startswith("text/event-stream"):
        text = next(line[5:] for line in text.splitlines() if line.startswith("data:"))
    try:
        return response.status, answered, json.loads(text)
    except ValueError:
        return response.status, answered, text


def without(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def test_a_call_of_the_new_era_is_one_json_answer(url: str) -> None:
    status, headers, answer = exchange(url)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer["result"]["structuredContent"] == {}
    assert answer["result"]["resultType"] == "complete"


def test_a_call_of_the_old_era_needs_no_initialize(url: str) -> None:
    status, _, answer = exchange(url, headers=LEGACY)
    assert status == 200 and answer["result"]["structuredContent"] == {}


def test_a_client_that_says_nothing_of_what_it_accepts_is_answered(url: str) -> None:
    """The JDK's, for one."""
    assert exchange(url, headers=without(HEADERS, "Accept"))[0] == 200


def test_a_call_without_a_version_is_of_the_old_era(url: str) -> None:
    assert exchange(url, headers=MEDIA)[0] == 200


def test_lists_and_discovery_say_how_long_they_may_be_kept(url: str) -> None:
    for method in ("tools/list", "server/discover"):
        headers = {**ROUTED, "Mcp-Method": method}
        _, _, answer = exchange(url, message(method), headers)
        assert answer["result"]["ttlMs"] >= 60_000
        assert answer["result"]["cacheScope"] == "public"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (without(HEADERS, "Mcp-Method"), CALL, 400, -32020),
        (without(HEADERS, "Mcp-Name"), CALL, 400, -32020),
        ({**HEADERS, "Mcp-Name": "list-batch-jobs"}, CALL, 400, -32020),
        ({**HEADERS, "Mcp-Method": "tools/list"}, CALL, 400, -32020),
        ({**HEADERS, "MCP-Protocol-Version": "2099-01-01"}, CALL, 400, -32020),
        ({**HEADERS, "MCP-Protocol-Version": "2099-01-01"}, LATER, 400, -32022),
        ({**HEADERS, "Mcp-Method": "no/such"}, message("no/such"), 404, -32601),
        ({**HEADERS, "Mcp-Method": "ping"}, message("ping"), 404, -32601),
        ({**HEADERS, "Mcp-Name": "nope"}, message(name="nope"), 400, -32602),
        (HEADERS, message(name="get-batch-job", arguments=[1]), 400, -32602),
        (HEADERS, b'{"jsonrpc": "2.0", "id": 1, "method"', 400, -32700),
        (HEADERS, b"\xff\xfe", 400, -32700),
        (HEADERS, [CALL], 400, -32600),
        (HEADERS, b"5", 400, -32600),
    ],
)
def test_what_is_not_quite_mcp_is_answered_with_the_right_error(
    url: str, headers: dict[str, str], body: Any, status: int, code: int
) -> None:
    answered, _, answer = exchange(url, body, headers)
    assert (answered, answer["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Accept": "application/json"}, 200),
        ({"Accept": "text/event-stream"}, 406),
        ({"Accept": "*/*"}, 200),
        ({"Accept": ""}, 200),
        ({"Content-Type": "text/plain"}, 415),
        *(({"Content-Type": name}, 200) for name in JSON_TYPES),
    ],
)
def test_what_comes_from_elsewhere_or_speaks_otherwise_is_refused(
    url: str, change: dict[str, str], status: int
) -> None:
    assert exchange(url, headers={**HEADERS, **change})[0] == status


@pytest.mark.parametrize("era", [LEGACY, {**ROUTED, "Mcp-Method": "ping"}], ids=["old", "new"])
@pytest.mark.parametrize(
    ("change", "id", "code"),
    [
        *(({"id": id}, None, -32600) for id in (None, 1.5, True, {}, [1])),
        ({"jsonrpc": "1.0"}, 1, -32600),
        ({"method": 5}, 1, -32600),
        ({"params": [1]}, 1, -32602),
    ],
)
def test_a_request_that_is_none_is_refused_with_its_id_where_that_is_one(
    change: dict[str, Any], id: Any, code: int, era: dict[str, str], url: str
) -> None:
    status, _, answer = exchange(url, {**message("ping"), **change}, era)
    assert (status, answer["id"], answer["error"]["code"]) == (400, id, code)


@pytest.mark.parametrize("era", [LEGACY, HEADERS], ids=["old", "new"])
def test_a_byte_order_mark_before_a_message_is_skipped(era: dict[str, str], url: str) -> None:
    status, _, answer = exchange(url, b"\xef\xbb\xbf" + json.dumps(CALL).encode(), era)
    assert status == 200 and "result" in answer


@pytest.mark.parametrize("era", [LEGACY, HEADERS], ids=["old", "new"])
def test_bytes_that_are_no_utf8_are_refused_and_nothing_is_sent(era: dict[str, str]) -> None:
    broken = json.dumps(CALL).replace(JOB_ID, JOB_ID[:-1] + "\xff").encode("latin-1")
    rest = Rest()
    with (
        served(rest) as rest_url,
        served(create_app(Settings(rest_url=rest_url))) as url,
    ):
        status, _, answer = exchange(url, broken.replace(b"\\u00ff", b"\xff"), era)
    assert (status, answer["error"]["code"], rest.arrived) == (400, -32700, [])


@pytest.mark.parametrize("note", [{}, {"id": None}], ids=["no id", "null, as in JSON-RPC 1.0"])
@pytest.mark.parametrize("era", [LEGACY, {**ROUTED, "Mcp-Method": "notifications/initialized"}])
def test_a_notification_is_acknowledged(
    note: dict[str, Any], era: dict[str, str], url: str
) -> None:
    sent = {"jsonrpc": "2.0", "method": "notifications/initialized", **note}
    assert exchange(url, sent, era)[0] == 202


@pytest.mark.parametrize(
    ("method", "member"),
    [
        ("prompts/list", "prompts"),
        ("resources/list", "resources"),
        ("resources/templates/list", "resourceTemplates"),
    ],
)
@pytest.mark.parametrize("era", [LEGACY, ROUTED], ids=["old", "new"])
def test_what_it_has_none_of_is_listed_as_nothing(
    method: str, member: str, era: dict[str, str], url: str
) -> None:
    headers = {**era, "Mcp-Method": method}
    status, _, answer = exchange(url, message(method), headers)
    assert (status, answer["result"][member]) == (200, [])


@pytest.mark.parametrize(
    ("method", "params"), [("prompts/get", {"name": "x"}), ("resources/read", {"uri": "x://y"})]
)
@pytest.mark.parametrize("era", [LEGACY, ROUTED], ids=["old", "new"])
def test_what_it_has_none_of_is_not_found(
    method: str, params: dict[str, str], era: dict[str, str], url: str
) -> None:
    headers = {**era, "Mcp-Method": method, "Mcp-Name": next(iter(params.values()))}
    answer = exchange(url, message(method, **params), headers)[2]
    assert answer["error"]["code"] == -32602


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/register", 404),
        ("POST", "/token", 404),
        ("GET", "/authorize?x=y", 404),
        ("GET", "/.well-known/oauth-authorization-server", 404),
        ("GET", "/.well-known/openid-configuration/mcp", 404),
        ("GET", "/mcp/.well-known/openid-configuration", 404),
        ("GET", "/livez/", 404),
        ("POST", "/livez", 405),
        ("GET", "/mcp", 405),
        ("HEAD", "/mcp", 405),
        ("OPTIONS", "/mcp", 405),
        ("DELETE", "/mcp/", 405),
    ],
)
def test_all_that_is_no_message_is_answered_with_a_problem_document(
    method: str, path: str, status: int, url: str
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"} if path == "/token" else MEDIA
    answered, headers, problem = exchange(
        url, b"{}" if method == "POST" else b"", form, method, path
    )
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    if method != "HEAD":
        kind = {404: "not-found", 405: "method-not-allowed"}[status]
        assert problem.keys() == MEMBERS
        assert (problem["type"], problem["status"]) == (f"/problems#{kind}", status)
        assert problem["request_id"] == headers["x-request-id"]
        assert exchange(url, b"", {}, "GET", "/problems")[2][kind] == problem["title"]


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"Host": "evil.example"}, 421, "misdirected-request"),
        ({"Origin": "https://evil.example"}, 403, "cross-origin"),
        ({"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
    ],
)
def test_a_refusal_is_a_problem_document_in_the_rest_service_s_words(
    change: dict[str, str], status: int, kind: str, url: str
) -> None:
    answered, headers, problem = exchange(url, headers={**HEADERS, **change})
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    assert problem.keys() == MEMBERS
    assert (problem["type"], problem["title"]) == (f"/problems#{kind}", PROBLEMS[kind].title)


def test_the_kinds_of_problem_outside_of_the_rest_service_are_its_own() -> None:
    assert {kind: PROBLEMS[kind].title for kind in TITLES} == TITLES


@pytest.mark.anyio
async def test_a_failure_of_the_bridge_s_own_is_a_problem_with_the_id_of_its_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(*_: Any) -> None:
        raise ValueError("SECRET")

    status, body = await call(edge.Edge(broken, None), "POST", "/mcp", {"X-Request-ID": "r-1"})
    assert (status, json.loads(body)["type"]) == (500, "/problems#internal-error")
    assert b"SECRET" not in body
    (record,) = [each for each in caplog.records if each.exc_info]
    assert "r-1" in record.getMessage()


def test_a_message_over_the_limit_is_refused_before_it_is_read(url: str) -> None:
    large = message(name="get-batch-job", arguments={"job_id": "x" * 200_000})
    assert exchange(url, large)[0] == 413


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
@pytest.mark.parametrize("headers", [MEDIA, LEGACY, ROUTED])
def test_only_post_has_a_use(url: str, method: str, headers: dict[str, str]) -> None:
    status, answered, _ = exchange(url, b"", headers, method)
    assert (status, answered["allow"]) == (405, "POST")


def test_a_trailing_slash_needs_no_redirect(url: str) -> None:
    assert exchange(url, path="/mcp/")[0] == 200


def test_other_paths_are_not_there(url: str) -> None:
    assert exchange(url, path="/other")[0] == 404


def test_a_peculiar_version_header_does_not_leak_what_went_wrong(url: str) -> None:
    status, _, answer = exchange(url, headers={**HEADERS, "MCP-Protocol-Version": "\x80\xff"})
    assert status == 400 and "Traceback" not in str(answer)


@pytest.mark.anyio
async def test_white_space_around_a_header_is_no_part_of_it() -> None:
    """RFC 9110 section 5.5; httptools, for one, hands it on."""
    padded = {name: f" \t{value}  " for name, value in HEADERS.items()}
    app = create_app(Settings())
    async with started(app):
        assert await asked(app, message(name="get-batch-job", arguments={"bad": 1}), padded) == 200


@pytest.mark.anyio
async def test_a_large_call_needs_no_thread_that_the_system_may_not_have(
    rest_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    app = create_app(Settings(rest_url=rest_service))
    async with started(app):
        monkeypatch.setattr(threading.Thread, "start", none_left)
        large = message(name="get-batch-job", arguments={"job_id": JOB_ID, "x": "x" * LARGE})
        assert await asked(app, large, HEADERS) == 200


async def asked(app: Any, message: Any, headers: dict[str, str]) -> int:
    """The status of the application's answer to a message."""
    headers = {**headers, "Host": " localhost "}
    status, _ = await call(app, "POST", "/mcp", headers, json.dumps(message).encode())
    return status


class TestProbes:
    def test_live_and_ready_when_the_rest_service_is(self, url: str) -> None:
        assert exchange(url, b"", {}, "GET", "/livez")[0] == 200
        assert exchange(url, b"", {}, "GET", "/readyz")[0] == 200

    def test_live_but_not_ready_without_a_rest_service(self) -> None:
        with served(create_app(Settings(rest_url="http://127.0.0.1:1"))) as url:
            assert exchange(url, b"", {}, "GET", "/livez")[0] == 200
            assert exchange(url, b"", {}, "GET", "/readyz")[0] == 503

    def test_not_ready_when_the_rest_service_is_not(self) -> None:
        with (
            served(Rest(status=503)) as rest_url,
            served(create_app(Settings(rest_url=rest_url))) as url,
        ):
            assert exchange(url, b"", {}, "GET", "/readyz")[0] == 503

    def test_answer_whatever_host_the_prober_names(self, url: str) -> None:
        assert exchange(url, b"", {"Host": "10.1.2.3"}, "GET", "/livez")[0] == 200


def test_the_hosts_and_origins_of_the_settings_are_answered_beside_loopback_s(
    rest_service: str,
) -> None:
    settings = Settings(
        rest_url=rest_service,
        allowed_hosts=("gw.example",),
        allowed_origins=("https://app.example",),
    )
    with served(create_app(settings)) as url:
        ours = {**HEADERS, "Host": "gw.example", "Origin": "https://app.example"}
        assert exchange(url, headers=ours)[0] == 200
        assert exchange(url)[0] == 200
        assert exchange(url, headers={**HEADERS, "Host": "other.example"})[0] == 421


@pytest.mark.parametrize("headers", [HEADERS, LEGACY])
def test_the_id_and_trace_headers_of_a_call_and_no_others_are_passed_on(
    headers: dict[str, str],
) -> None:
    rest = Rest()
    with (
        served(rest) as rest_url,
        served(create_app(Settings(rest_url=rest_url))) as url,
    ):
        secrets = {"Authorization": "Bearer SECRET", "Cookie": "SECRET", "X-Request-ID": "r-9"}
        exchange(url, headers={**headers, **secrets})
    assert rest.last.headers["x-request-id"] == "r-9"
    assert "SECRET" not in str(rest.last.headers)


@pytest.mark.parametrize("headers", [HEADERS, LEGACY])
@pytest.mark.parametrize(
    ("answer", "fails"),
    [
        (b'{"id": "\\ud83d"}', False),
        (b'{"id": ' + b"[" * 300 + b"]" * 300 + b"}", True),
    ],
    ids=["half a surrogate pair", "300 levels"],
)
def test_an_answer_that_the_sdk_cannot_write_still_ends_in_a_result(
    headers: dict[str, str], answer: bytes, fails: bool
) -> None:
    with (
        served(Rest(content=answer)) as rest_url,
        served(create_app(Settings(rest_url=rest_url))) as url,
    ):
        result = exchange(url, headers=headers)[2]["result"]
    assert result["isError"] is fails


@pytest.mark.parametrize("headers", [HEADERS, LEGACY])
@pytest.mark.parametrize("arguments", [{"job_id": "\udfff"}, {"job_id": JOB_ID, "\udfff": 1}])
def test_half_of_a_surrogate_pair_is_refused_with_the_message_s_id(
    url: str, headers: dict[str, str], arguments: dict[str, Any]
) -> None:
    """The SDK reads it in the one era and not in the other, and never writes it."""
    call = message(name="get-batch-job", arguments=arguments)
    status, _, answer = exchange(url, call, headers=headers)
    assert (status, answer["id"], answer["error"]["code"]) == (400, call["id"], -32700)
    assert "half of a surrogate pair" in answer["error"]["message"]


@pytest.mark.parametrize("headers", [HEADERS, LEGACY])
def test_hanging_up_cancels_the_call_of_the_rest_service(headers: dict[str, str]) -> None:
    arrived, hung_up = threading.Event(), threading.Event()
    rest = Rest(hold=asyncio.Event(), on_arrival=arrived.set, on_hang_up=hung_up.set)
    with (
        served(rest) as rest_url,
        served(create_app(Settings(rest_url=rest_url))) as url,
    ):
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("POST", "/mcp", json.dumps(CALL), headers)
        assert arrived.wait(5)
        connection.close()
        assert hung_up.wait(10)  # the call itself would last 50 seconds


@pytest.mark.anyio
async def test_the_end_of_an_answer_is_no_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers report both in the same words; what is done after an answer must come to its end."""
    monkeypatch.setattr(message_reader, "WATCHED_AFTER", 0)
    answered, watched, ended = anyio.Event(), anyio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await watched.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.wait_all_tasks_blocked()
        ended.append(True)

    body = b'{"jsonrpc":"2.0","method":"x"}'
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        watched.set()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answered.set()

    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": []}
    reader = message_reader.MessageReader(app, max_body=100, reading=ThreadPoolExecutor(1))
    await edge.Edge(reader, None)(scope, receive, send)
    assert ended


def test_clients_share_one_pool_of_connections() -> None:
    rest = Rest()
    with (
        served(rest) as rest_url,
        served(create_app(Settings(rest_url=rest_url))) as url,
    ):
        for headers in (HEADERS, LEGACY) * 3:
            assert exchange(url, headers=headers)[0] == 200
    assert len(rest.arrived) == 6
    assert len({arrived.connection for arrived in rest.arrived}) == 1
