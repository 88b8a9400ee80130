"""Who may use the bridge: what callers see by their scopes, how they are refused, and whose token goes where.

Expectations: MCP 2026-07-28, "Authorization" and "Streamable HTTP"; RFC 6750; RFC 9728 for the metadata.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from access.jwt_issuer import RETRY
from mcp_bridge.app import create_app
from mcp_bridge.config import Settings
from openapi.contract import load
from tests.access.conftest import Tokens, bearing
from tests.access.issuer import AUDIENCE, ISSUER, RSA, STRANGER, KeyServer, token
from tests.mcp_bridge.hosting import served
from tests.mcp_bridge.rest import Rest
from tests.mcp_bridge.test_transport import LEGACY, MEDIA, ROUTED, exchange, message
from tests.support.api import JOB_ID
from tests.support.processes import environment, run

Open = Callable[..., str]
CREATE = {"endpoint": "/v1/embeddings", "model": "m", "requests": [{"body": {"input": "x"}}]}
ARGUMENTS = {
    "create-batch-job": CREATE,
    "list-batch-jobs": {},
    "get-batch-job": {"job_id": JOB_ID},
    "cancel-batch-job": {"job_id": JOB_ID},
    "upload-file": {"file_text": '{"custom_id": "1", "body": {}}'},
    "list-files": {},
    "get-file": {"file_id": JOB_ID},
    "read-file": {"file_id": JOB_ID},
    "delete-file": {"file_id": JOB_ID},
}
READS = {"list-batch-jobs", "get-batch-job"}
FILE_READS = {"list-files", "get-file", "read-file"}
FILE_WRITES = {"upload-file", "delete-file"}
ALLOWED = {
    "jobs:read": READS,
    "jobs:write": {"create-batch-job", "cancel-batch-job"},
    "files:read": FILE_READS,
    "files:write": FILE_WRITES,
    "metrics": set(),
}
TOOLS = {each.tool.name: each.scope for each in load().operations.values() if each.tool}
for added in TOOLS.keys() - ARGUMENTS.keys():  # by whoever added an operation to the project's own
    ALLOWED[TOOLS[added]].add(added)
ERAS = [ROUTED, LEGACY]


@pytest.fixture(scope="module")
def shared_rest() -> Rest:
    return Rest()


@pytest.fixture
def rest(shared_rest: Rest) -> Rest:
    shared_rest.arrived.clear()
    return shared_rest


@pytest.fixture(scope="module")
def bridge(shared_rest: Rest) -> Iterator[Open]:
    """Serves a bridge before `rest`, one for the same settings: `bridge(tokens_file=...)`; its URL."""
    with ExitStack() as running:
        rest_url = running.enter_context(served(shared_rest))

        @functools.cache
        def make(**settings: Any) -> str:
            return running.enter_context(
                served(create_app(Settings(rest_url=rest_url, **settings)))
            )

        yield make


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The path of a token file, and the tokens in it: one of each scope, and those of other callers."""
    tokens = Tokens(tmp_path_factory.mktemp("access") / "tokens")
    scopes = {scope: scope for scope in ALLOWED}
    scopes |= {"other reader": "jobs:read", "other writer": "jobs:write"}
    return str(tokens.path), {
        name: tokens.add(f"caller-{number}", scope)
        for number, (name, scope) in enumerate(scopes.items())
    }


@pytest.fixture
def tokens_file(secrets: tuple[str, dict[str, str]]) -> str:
    return secrets[0]


@pytest.fixture
def tokens(secrets: tuple[str, dict[str, str]]) -> dict[str, str]:
    return secrets[1]


def headers_for(
    method: str, secret: str, era: dict[str, str] = ROUTED, name: str = ""
) -> dict[str, str]:
    headers = {**era, **(bearing(secret) if secret else {})}
    if era is ROUTED:
        headers |= {"Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
    return headers


def listed(url: str, secret: str, era: dict[str, str] = ROUTED) -> set[str]:
    _, _, answer = exchange(url, message("tools/list"), headers_for("tools/list", secret, era))
    return {tool["name"] for tool in answer["result"]["tools"]}


def called(url: str, tool: str, secret: str, era: dict[str, str] = ROUTED) -> Any:
    body = message(name=tool, arguments=ARGUMENTS[tool])
    return exchange(url, body, headers_for("tools/call", secret, era, tool))


def test_the_tools_here_are_those_of_the_contract() -> None:
    assert {*ARGUMENTS} <= {*TOOLS}
    assert set().union(*ALLOWED.values()) == {*TOOLS}


@pytest.mark.parametrize("era", ERAS, ids=["modern", "legacy"])
@pytest.mark.parametrize("scope", ALLOWED)
def test_a_caller_sees_and_calls_the_tools_of_their_scopes_and_no_others(
    scope: str,
    era: dict[str, str],
    bridge: Open,
    rest: Rest,
    tokens_file: str,
    tokens: dict[str, str],
) -> None:
    secret = tokens[scope]
    url = bridge(tokens_file=tokens_file)
    assert listed(url, secret, era) == ALLOWED[scope]
    for tool in ARGUMENTS:
        rest.arrived.clear()
        _, _, answer = called(url, tool, secret, era)
        allowed = tool in ALLOWED[scope]
        assert answer["result"]["isError"] is not allowed
        assert len(rest.arrived) == allowed
        if not allowed:
            (needed,) = [each for each, tools in ALLOWED.items() if tool in tools]
            assert f"scope {needed}" in answer["result"]["content"][0]["text"]


def test_files_of_results_are_read_for_nobody_who_may_not_read_files(
    bridge: Open, rest: Rest, tokens_file: str, tokens: dict[str, str]
) -> None:
    job = {"id": JOB_ID, "status": "SUCCESS", "output_file": JOB_ID, "input_files": [JOB_ID]}
    rest.answers(job)
    body = message(name="get-batch-job", arguments={"job_id": JOB_ID, "only": "failed"})
    headers = headers_for("tools/call", tokens["jobs:read"], name="get-batch-job")
    _, _, answer = exchange(bridge(tokens_file=tokens_file), body, headers)
    rest.answers({})
    shown = answer["result"]["structuredContent"]
    assert [arrived.path for arrived in rest.arrived] == [f"/v1/batch/jobs/{JOB_ID}"]
    assert shown["outputs"] is None and "no tool of this caller reads" in shown["_note"]


def test_without_tokens_everybody_sees_everything(bridge: Open) -> None:
    assert listed(bridge(), "") == TOOLS.keys()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/oauth-authorization-server/mcp"),
        ("GET", "/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/mcp/.well-known/openid-configuration"),
        ("GET", "/mcp/.well-known/oauth-protected-resource"),
        ("GET", "/authorize"),
        ("POST", "/register"),
        ("POST", "/token"),
    ],
)
def test_who_looks_for_a_way_to_a_token_is_told_without_one_that_there_is_none(
    method: str, path: str, bridge: Open, tokens_file: str
) -> None:
    url = bridge(tokens_file=tokens_file)
    form = {"Content-Type": "application/x-www-form-urlencoded"} if path == "/token" else MEDIA
    status, headers, answer = exchange(url, b"" if method == "GET" else b"{}", form, method, path)
    assert (status, answer["type"]) == (404, "/problems#not-found")
    assert "www-authenticate" not in headers


@pytest.mark.parametrize(
    "path",
    ["/mcp", "/mcp/", "/mcp//", "/mcp?x=/livez", "//mcp", "/%6dcp", "/./mcp", "/livez/../mcp"],
)
def test_no_spelling_of_the_endpoint_s_path_goes_without_a_token(
    path: str, bridge: Open, rest: Rest, tokens_file: str
) -> None:
    call = message(name="get-batch-job", arguments={"job_id": JOB_ID})
    status, _, _ = exchange(bridge(tokens_file=tokens_file), call, LEGACY, path=path)
    assert status in (401, 404) and not rest.arrived


@pytest.mark.parametrize("era", ERAS, ids=["modern", "legacy"])
@pytest.mark.parametrize("secret", ["", "mbg_unknown"])
def test_a_caller_without_a_good_token_is_refused_before_a_tool_is_looked_for(
    secret: str, era: dict[str, str], bridge: Open, rest: Rest, tokens_file: str
) -> None:
    url = bridge(tokens_file=tokens_file)
    for tool in ARGUMENTS:
        status, headers, answer = called(url, tool, secret, era)
        assert (status, answer["status"]) == (401, 401)
        assert headers["www-authenticate"].startswith('Bearer realm="gateway"')
        # No issuer, so nothing that a client could ask for a token.
        assert "resource_metadata" not in headers["www-authenticate"]
    assert rest.arrived == []


def test_a_list_that_depends_on_the_caller_is_not_for_others_to_keep(
    bridge: Open, tokens_file: str, tokens: dict[str, str]
) -> None:
    secret = tokens["jobs:read"]
    for url, scope in ((bridge(), "public"), (bridge(tokens_file=tokens_file), "private")):
        _, _, answer = exchange(url, message("tools/list"), headers_for("tools/list", secret))
        assert answer["result"]["cacheScope"] == scope


@pytest.mark.parametrize("era", ERAS, ids=["modern", "legacy"])
def test_the_rest_service_gets_the_bridge_s_token_and_never_the_caller_s(
    era: dict[str, str], bridge: Open, rest: Rest, tokens_file: str, tokens: dict[str, str]
) -> None:
    secret = tokens["jobs:read"]
    url = bridge(tokens_file=tokens_file, rest_token="mbg_bridge")
    called(url, "get-batch-job", secret, era)
    assert rest.last.headers["authorization"] == "Bearer mbg_bridge"
    assert secret not in str(rest.last)


def test_the_same_call_of_two_callers_is_no_repeat_and_of_one_caller_is(
    bridge: Open, rest: Rest, tokens_file: str, tokens: dict[str, str]
) -> None:
    one, other = tokens["jobs:write"], tokens["other writer"]
    url = bridge(tokens_file=tokens_file)
    for secret in (one, one, other):
        called(url, "create-batch-job", secret)
    keys = [arrived.headers["idempotency-key"] for arrived in rest.arrived]
    assert keys[0] == keys[1] != keys[2]


def test_probes_need_no_token(bridge: Open, tokens_file: str) -> None:
    url = bridge(tokens_file=tokens_file)
    for path in ("/livez", "/readyz"):
        assert exchange(url, b"", {"Host": "10.1.2.3"}, "GET", path)[0] == 200


@pytest.mark.parametrize("path", ["/mcp%00", "/livez%0a", "/%ff"])
def test_a_path_that_cannot_be_read_is_refused(path: str, bridge: Open) -> None:
    status, _, answer = exchange(bridge(), b"", {}, "GET", path)
    assert (status, answer["type"]) == (400, "/problems#malformed-request")


def test_one_call_too_many_is_refused_and_told_when_to_come_back(
    bridge: Open, tokens_file: str, tokens: dict[str, str]
) -> None:
    one, other = tokens["jobs:read"], tokens["other reader"]
    url = bridge(tokens_file=tokens_file, rate_limit="1/hour")
    status, headers, _ = called(url, "get-batch-job", one)
    assert (status, headers["ratelimit-policy"]) == (200, '"1-in-3600s";q=1;w=3600')
    status, headers, _ = called(url, "get-batch-job", one)
    assert status == 429 and int(headers["retry-after"]) > 3000
    assert called(url, "get-batch-job", other)[0] == 200


class TestWithAnIssuer:
    METADATA = "/.well-known/oauth-protected-resource/mcp"

    def open(self, bridge: Open, keys: KeyServer, audience: str = AUDIENCE) -> str:
        return bridge(jwt_issuer=ISSUER, jwt_audience=audience, jwks_url=keys.url)

    def test_its_tokens_are_accepted_and_others_are_not(
        self, bridge: Open, key_server: KeyServer, rest: Rest
    ) -> None:
        url = self.open(bridge, key_server)
        assert listed(url, token(RSA)) == READS
        assert called(url, "get-batch-job", token(RSA))[0] == 200
        for bad in (token(STRANGER), token(aud="https://rest.example"), token(exp=-3600)):
            status, headers, _ = called(url, "get-batch-job", bad)
            assert status == 401 and 'error="invalid_token"' in headers["www-authenticate"]
        assert len(rest.arrived) == 1
        assert "authorization" not in rest.last.headers

    def test_a_caller_stays_the_same_when_their_token_is_renewed(
        self, bridge: Open, key_server: KeyServer, rest: Rest
    ) -> None:
        url = self.open(bridge, key_server)
        for claims in ({"exp": 300}, {"exp": 600}, {"sub": "other"}):
            called(url, "create-batch-job", token(scope="jobs:write", **claims))
        keys = [arrived.headers["idempotency-key"] for arrived in rest.arrived]
        assert keys[0] == keys[1] != keys[2]

    def test_the_refusal_leads_to_where_tokens_are_had(
        self, bridge: Open, key_server: KeyServer
    ) -> None:
        url = self.open(bridge, key_server, f"{AUDIENCE}/mcp")
        _, headers, _ = called(url, "get-batch-job", "")
        challenge = headers["www-authenticate"]
        assert f'resource_metadata="{url}{self.METADATA}"' in challenge
        assert 'scope="files:read files:write jobs:read jobs:write"' in challenge
        status, _, metadata = exchange(url, b"", {}, "GET", self.METADATA)
        assert status == 200
        assert metadata == {
            "resource": f"{AUDIENCE}/mcp",
            "authorization_servers": [ISSUER],
            "scopes_supported": ["files:read", "files:write", "jobs:read", "jobs:write"],
            "bearer_methods_supported": ["header"],
        }

    def test_an_audience_that_is_no_address_leaves_the_address_as_it_was_called(
        self, bridge: Open, key_server: KeyServer
    ) -> None:
        url = self.open(bridge, key_server, "gateway")
        _, _, metadata = exchange(url, b"", {}, "GET", self.METADATA)
        assert metadata["resource"] == f"{url}/mcp"

    def test_keys_that_cannot_be_had_are_no_fault_of_the_token(
        self, bridge: Open, key_server: KeyServer
    ) -> None:
        key_server.answer(b"", 500)
        url = self.open(bridge, key_server)
        status, headers, _ = called(url, "get-batch-job", token(RSA))
        assert status == 503 and 0 < int(headers["retry-after"]) <= RETRY


def test_without_an_issuer_there_is_no_metadata(bridge: Open, tokens_file: str) -> None:
    path = TestWithAnIssuer.METADATA
    assert exchange(bridge(), b"", {}, "GET", path)[0] == 404
    url = bridge(tokens_file=tokens_file)
    assert exchange(url, b"", {}, "GET", path)[0] == 404


class TestPages:
    ORIGIN = "https://app.example"

    def test_that_are_listed_are_told_so_and_others_are_not(self, bridge: Open) -> None:
        url = bridge(allowed_origins=(self.ORIGIN,))
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,mcp-method",
        }
        status, headers, _ = exchange(url, b"", {**asked, "Origin": self.ORIGIN}, "OPTIONS")
        assert (status, headers["access-control-allow-origin"]) == (204, self.ORIGIN)
        assert "mcp-method" in headers["access-control-allow-headers"]
        evil = {**asked, "Origin": "https://evil.example"}
        status, headers, _ = exchange(url, b"", evil, "OPTIONS")
        assert status == 403 and "access-control-allow-origin" not in headers

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://127.0.0.1:3000"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "rebound.example"},
        ],
    )
    def test_that_are_foreign_are_refused_before_tokens_are_asked_for(
        self, headers: dict[str, str], bridge: Open, rest: Rest, tokens_file: str
    ) -> None:
        url = bridge(tokens_file=tokens_file)
        body = message(name="get-batch-job", arguments={"job_id": JOB_ID})
        sent = {**headers_for("tools/call", "", ROUTED, "get-batch-job"), **headers}
        assert exchange(url, body, sent)[0] in (403, 421)
        assert rest.arrived == []


def started(command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    """A start of the bridge that is expected to end by itself."""
    return run([sys.executable, "-m", *command], environment(BRIDGE_PORT="0", **settings))


GUNICORN = ["gunicorn", "-c", "python:mcp_bridge.gunicorn_conf"]


@pytest.mark.parametrize("command", [["mcp_bridge"], GUNICORN], ids=["alone", "gunicorn"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.7", "gw.example"])
def test_the_bridge_does_not_start_at_an_open_address(command: list[str], host: str) -> None:
    done = started(command, BRIDGE_HOST=host)
    assert done.returncode == 2, done.stderr
    assert f"BRIDGE_HOST {host}" in done.stderr and "BRIDGE_TOKENS_FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_nor_at_one_of_its_command_line() -> None:
    done = started([*GUNICORN, "--bind", "0.0.0.0:0"])
    assert done.returncode == 2 and "BRIDGE_TOKENS_FILE" in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"BRIDGE_TOKENS_FILE": "/nonexistent"},
        {"BRIDGE_JWT_ISSUER": ISSUER},
        {"BRIDGE_ALLOWED_HOSTS": "*"},
        {"BRIDGE_ALLOWED_ORIGINS": "*"},
        {"BRIDGE_RATE_LIMIT": "many"},
    ],
)
@pytest.mark.parametrize("command", [["mcp_bridge"], GUNICORN], ids=["alone", "gunicorn"])
def test_nor_with_a_setting_that_cannot_be_used(
    command: list[str], settings: dict[str, str]
) -> None:
    done = started(command, **settings)
    assert done.returncode == 2, done.stderr
    assert "mcp_bridge: cannot start: " in done.stderr and "Traceback" not in done.stderr


def test_over_standard_input_nobody_can_reach_it_and_no_token_is_needed(tmp_path: Path) -> None:
    done = started(["mcp_bridge", "--stdio"], BRIDGE_HOST="0.0.0.0")
    assert done.returncode == 0, done.stderr
