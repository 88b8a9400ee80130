"""What a web page can send is refused, by the headers that it cannot choose.

Expectations: RFC 9110 and 9112 for Host, the Fetch standard for Origin, Sec-Fetch-* and CORS.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from access import AccessDenied
from access.origins import EXPOSED, OriginPolicy, split_host
from environment import SettingsError
from openapi.contract import load
from tests.access.conftest import HOST, Tokens, bearing, open_gateway
from tests.access.conftest import Gateway as Make
from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID, JOBS
from tests.support.file_upstream import FILES
from tests.support.gateway import Gateway, gateway_process
from tests.support.processes import ROOT, Sandbox, sandbox_process

CANCEL = f"{JOBS}/{JOB_ID}/cancel"
APP = "https://app.example"
UPLOAD: dict[str, Any] = {
    "data": {"purpose": "batch"},
    "files": {"file": ("a.jsonl", b'{"custom_id": "1", "body": {}}\n')},
}


def slug(answer: Any) -> str:
    return str(answer.json()["type"]).partition("#")[2]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A gateway with a public name and one page that may call."""
    names = {"GATEWAY_ALLOWED_HOSTS": "gw.example", "GATEWAY_ALLOWED_ORIGINS": APP}
    return open_gateway(tmp_path_factory.mktemp("gateway"), **names)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8080",
        "evil.example:8080",
        "localhost:99999",
        "localhost:0",
        "localhost:",
        "localhost:80:80",
        "localhost.",
        "local host",
        "user@localhost",
        "127.0.0.2",
        "[::2]:8080",
        "[::1",
        "0.0.0.0:8080",
        "gw.example.evil.example",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_host_that_is_not_ours_is_misdirected(
    host: str, method: str, listed: TestClient, mistral: RequestsMock
) -> None:
    answer = listed.request(method, JOBS, headers={"Host": host})
    assert (answer.status_code, slug(answer)) == (421, "misdirected-request")
    assert "GATEWAY_ALLOWED_HOSTS" in answer.json()["detail"]
    assert len(mistral.calls) == 0


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "gw.example", "GW.example:443"],
)
def test_our_own_hosts_are_answered_on_any_port(
    host: str, listed: TestClient, mistral: RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    assert listed.get(JOBS, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_answered_whatever_they_call_the_host(path: str, listed: TestClient) -> None:
    assert listed.get(path, headers={"Host": "10.1.2.3:8080"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:8080"},
        {"Origin": "http://localhost:8080"},
        {"Origin": f"{APP}.evil.example"},
        {"Origin": "https://sub.app.example"},
        {"Origin": "http://app.example"},
        {"Origin": f"{APP}:8443"},
        {"Origin": ""},
        {"Origin": HOST, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "something new"},
    ],
)
@pytest.mark.parametrize("path", [JOBS, CANCEL, FILES])
def test_what_a_foreign_page_sends_is_refused(
    path: str, headers: dict[str, str], listed: TestClient, mistral: RequestsMock
) -> None:
    form = UPLOAD if path == FILES else {}
    answer = listed.post(path, headers=headers, **form)
    assert (answer.status_code, slug(answer)) == (403, "cross-origin")
    assert "GATEWAY_ALLOWED_ORIGINS" in answer.json()["detail"]
    assert "access-control-allow-origin" not in answer.headers
    assert len(mistral.calls) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": HOST},
        {"Origin": HOST, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": APP},
        {"Origin": APP, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_programs_our_own_pages_and_listed_pages_may_call(
    headers: dict[str, str], listed: TestClient, mistral: RequestsMock
) -> None:
    mistral.post(UPSTREAM + CANCEL, json={})
    mistral.post(UPSTREAM + FILES, json={})
    assert listed.post(CANCEL, headers=headers).status_code == 200
    listed.post(FILES, headers=headers, **UPLOAD)
    assert len(mistral.calls) == 2


def test_a_foreign_page_cannot_even_make_us_read(listed: TestClient, mistral: RequestsMock) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert listed.get(JOBS, headers=headers).status_code == 403
    assert len(mistral.calls) == 0


def test_a_link_to_a_page_of_ours_may_be_followed_from_anywhere(listed: TestClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert listed.get("/docs", headers=headers).status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", [JOBS, CANCEL])
def test_a_body_that_does_not_say_it_is_json_is_refused_even_where_none_is_read(
    path: str, content_type: str | None, listed: TestClient, mistral: RequestsMock
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = listed.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, slug(answer)) == (415, "unsupported-media-type")
    assert len(mistral.calls) == 0


@pytest.mark.parametrize(
    ("types", "taken"),
    [
        ([b"application/json"], True),
        ([b" \tApplication/JSON \t; charset=utf-8"], True),
        ([b"application/json\x0b"], False),
        ([b"\xa0application/json"], False),
        ([b"application/json\x1f; charset=utf-8"], False),
        ([b"application/json; a=b", b"text/plain"], False),
        ([b"application/json", b"application/json"], False),
    ],
)
def test_a_body_says_once_and_exactly_that_it_is_json(types: list[bytes], taken: bool) -> None:
    headers = [(b"host", b"gw.example"), (b"content-length", b"2")]
    headers += [(b"content-type", each) for each in types]
    scope = {"method": "POST", "path": JOBS, "headers": headers}
    policy = policy_of(hosts=("gw.example",))
    if taken:
        assert policy.admit(scope) == []
    else:
        with pytest.raises(AccessDenied, match="unsupported-media-type"):
            policy.admit(scope)


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("POST", JOBS, "multipart/form-data; boundary=x"),
        ("POST", CANCEL, "multipart/form-data; boundary=x"),
        ("DELETE", f"{FILES}/{JOB_ID}", "multipart/form-data; boundary=x"),
        ("POST", FILES, "application/json"),
        ("POST", FILES, "multipart/mixed; boundary=x"),
        ("POST", FILES, "application/x-www-form-urlencoded"),
    ],
)
def test_a_form_is_taken_for_an_upload_alone_and_nothing_else_is(
    method: str, path: str, content_type: str, listed: TestClient, mistral: RequestsMock
) -> None:
    headers = {"Content-Type": content_type}
    answer = listed.request(method, path, content=b"{}", headers=headers)
    assert (answer.status_code, slug(answer)) == (415, "unsupported-media-type")
    assert len(mistral.calls) == 0


PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "cors",
}


class TestCors:
    def test_a_listed_page_is_told_that_it_may_call(self, listed: TestClient) -> None:
        answer = listed.options(JOBS, headers=PREFLIGHT)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == APP
        assert answer.headers["access-control-allow-methods"] == "POST"
        assert "idempotency-key" in answer.headers["access-control-allow-headers"]

    def test_another_page_is_told_nothing(self, listed: TestClient) -> None:
        answer = listed.options(JOBS, headers={**PREFLIGHT, "Origin": "https://evil.example"})
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_a_listed_page_may_read_answers_and_failures(
        self, listed: TestClient, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        for path in (JOBS, "/v1/nothing"):
            answer = listed.get(path, headers={"Origin": APP})
            assert answer.headers["access-control-allow-origin"] == APP
            assert answer.headers["vary"] == "Origin"
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]

    def test_a_listed_page_may_read_why_it_was_refused(
        self, gateway: Make, token_file: Tokens
    ) -> None:
        secret = token_file.add("reader", "jobs:read")
        client = gateway(
            GATEWAY_ALLOWED_ORIGINS=APP,
            GATEWAY_TOKENS_FILE=token_file.path,
            GATEWAY_RATE_LIMIT="2/hour",
        )
        page = {"Origin": APP, **bearing(secret)}
        answers = [
            client.post(JOBS, content=b"{}", headers={**page, "Content-Type": "text/plain"}),
            client.get(JOBS, headers={"Origin": APP}),
            client.get(JOBS, params={"page": "x"}, headers=page),
            client.post(JOBS, json={}, headers=page),
            client.get(JOBS, headers=page),
            client.get(f"{JOBS}/", headers=page),
            client.put(JOBS, headers=page),
        ]
        assert [answer.status_code for answer in answers] == [415, 401, 422, 403, 429, 404, 429]
        for answer in answers:
            assert answer.headers.get_list("access-control-allow-origin") == [APP]
            assert answer.headers.get_list("vary") == ["Origin"]

    def test_a_listed_page_s_script_may_read_every_header_of_ours(self) -> None:
        declared = set(load().document["components"]["headers"])
        undeclared = {"RateLimit", "RateLimit-Policy", "WWW-Authenticate"}
        table = (ROOT / "docs" / "observability.md").read_text()
        observed = set(re.findall(r"^\| `([A-Z][A-Za-z-]+): ", table, re.MULTILINE))
        assert {"Server-Timing"} <= observed
        exposed = set(EXPOSED.split(", "))
        assert (declared | undeclared | observed) - exposed == set()

    def test_there_are_no_credentials_and_no_cookies(
        self, listed: TestClient, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        answer = listed.get(JOBS, headers={"Origin": APP})
        assert "access-control-allow-credentials" not in answer.headers
        assert "set-cookie" not in answer.headers

    @pytest.mark.parametrize("path", [JOBS, "/docs", "/livez"])
    def test_without_listed_pages_there_is_no_cors_at_all(
        self, path: str, client: TestClient, mistral: RequestsMock
    ) -> None:
        mistral.get(UPSTREAM + JOBS, json={})
        answer = client.get(path, headers={"Origin": HOST})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        asked = client.options(JOBS, headers={**PREFLIGHT, "Origin": HOST})
        assert not [name for name in asked.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", [JOBS, "/v1/nothing", "/docs", "/openapi.json", "/livez"])
def test_no_answer_can_be_taken_for_something_else_or_embedded(
    path: str, client: TestClient, mistral: RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_answers_of_operations_are_not_kept(client: TestClient, mistral: RequestsMock) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    assert client.get(JOBS).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_ALLOWED_HOSTS", "https://gw.example"),
        ("GATEWAY_ALLOWED_HOSTS", "gw.example/"),
        ("GATEWAY_ALLOWED_HOSTS", "*"),
        ("GATEWAY_ALLOWED_HOSTS", "*.example"),
        ("GATEWAY_ALLOWED_ORIGINS", "app.example"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://app.example/"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://App.example"),
        ("GATEWAY_ALLOWED_ORIGINS", "*"),
        ("GATEWAY_ALLOWED_ORIGINS", "null"),
    ],
)
def test_an_entry_that_cannot_match_or_lets_everybody_in_is_refused(
    name: str, value: str, gateway: Make
) -> None:
    with pytest.raises(ValueError, match=name):
        gateway(**{name: value})


def test_with_tokens_any_host_may_be_allowed(gateway: Make, token_file: Any) -> None:
    secret = token_file.add("collector", "metrics")
    client = gateway(GATEWAY_ALLOWED_HOSTS="*", GATEWAY_TOKENS_FILE=token_file.path)
    headers = {"Host": "10.1.2.3:8080", "Authorization": f"Bearer {secret}"}
    assert client.get("/metrics", headers=headers).status_code == 200


def policy_of(
    hosts: tuple[str, ...], origins: tuple[str, ...] = (), protected: bool = False
) -> OriginPolicy:
    return OriginPolicy(
        hosts, origins, protected=protected, hosts_setting="HOSTS", origins_setting="ORIGINS"
    )


@pytest.mark.parametrize(
    ("entry", "port", "admitted"),
    [
        ("gw.example", "", True),
        ("gw.example", ":8443", True),
        ("gw.example:*", "", True),
        ("gw.example:*", ":8443", True),
        ("gw.example:8443", ":8443", True),
        ("gw.example:8443", "", False),
        ("gw.example:8443", ":443", False),
    ],
)
def test_an_entry_with_a_port_means_that_port(entry: str, port: str, admitted: bool) -> None:
    policy = policy_of(hosts=(entry,))
    scope = {"method": "GET", "headers": [(b"host", f"gw.example{port}".encode())]}
    if admitted:
        assert policy.admit(scope) == []
    else:
        with pytest.raises(AccessDenied, match="misdirected"):
            policy.admit(scope)


def test_an_origin_with_any_port_is_still_that_host() -> None:
    policy = policy_of(hosts=("h",), origins=("http://localhost:*",))

    def admitted(origin: str) -> bool:
        scope = {
            "method": "POST",
            "headers": [(b"host", b"h"), (b"origin", origin.encode())],
        }
        try:
            policy.admit(scope)
        except AccessDenied:
            return False
        return True

    assert admitted("http://localhost") and admitted("http://localhost:3000")
    assert not admitted("http://localhost.evil.example")
    assert not admitted("http://localhost:3000.evil.example")
    assert not admitted("https://localhost:3000")


@pytest.mark.parametrize("text", ["::1", "a b", "[::1]x", "a:1:2", ".a", "", "é", "a:b", "a/b"])
def test_what_is_no_host_has_no_name(text: str) -> None:
    assert split_host(text) == ("", None)


def test_a_star_needs_tokens() -> None:
    policy_of(hosts=("*",), protected=True)
    with pytest.raises(SettingsError, match="needs tokens"):
        policy_of(hosts=("*",))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with sandbox_process() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def running(sandbox: Sandbox, tmp_path_factory: Any) -> Iterator[Gateway]:
    """gunicorn as it is run."""
    store = tmp_path_factory.mktemp("store") / "keys.sqlite3"
    with gateway_process(f"{sandbox.url}/v1", GATEWAY_STORE=store) as running:
        yield running


@pytest.mark.parametrize(
    ("target", "hosts", "status"),
    [
        (JOBS, ["localhost"], 200),
        (JOBS, ["evil.example"], 421),
        (JOBS, [], 400),
        (JOBS, ["localhost", "localhost"], 400),
        (JOBS, ["localhost", "evil.example"], 400),
        (JOBS, ["evil.example", "localhost"], 400),
        (f"http://evil.example{JOBS}", ["localhost"], 421),
        (f"http://evil.example{JOBS}", ["evil.example"], 421),
        (f"//evil.example{JOBS}", ["localhost"], 404),
    ],
)
def test_one_known_host_and_a_plain_path_are_asked_for(
    target: str, hosts: list[str], status: int, running: Gateway, sandbox: Sandbox
) -> None:
    sandbox.reset()
    headers = "".join(f"Host: {host}\r\n" for host in hosts)
    request = f"GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert int(answer.split(b" ", 2)[1]) == status
    assert len(sandbox.ledger()) == (1 if status == 200 else 0)


def test_every_operation_is_behind_the_origin_policy(
    listed: TestClient, mistral: RequestsMock
) -> None:
    for operation in load().operations.values():
        path = operation.path.replace("{job-id}", JOB_ID)
        for headers in ({"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = listed.request(operation.method, path, headers=headers)
            assert answer.status_code in (403, 421)
    assert len(mistral.calls) == 0
