"""Every operation and page against every scope: what a token allows, what it does not, and what is open to all."""

from __future__ import annotations

import functools
import json
from functools import partial
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate
from responses import RequestsMock

from openapi.contract import Operation, load
from openapi.derive import OWN_CAPABILITIES
from tests.access.conftest import Gateway as Make
from tests.access.conftest import Tokens, bearing, open_gateway
from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID

CONTRACT = load()
OPERATIONS = list(CONTRACT.operations.values())
HINTS = {
    tool["call"].partition(".")[2]: tool["hints"]["readOnly"]
    for capability in OWN_CAPABILITIES
    for adapter in yaml.safe_load(capability.read_text(encoding="utf-8"))["capability"]["exposes"]
    for tool in adapter.get("tools", [])
    if "hints" in tool
}
"""Whether an operation only reads, by the capabilities' own words."""
SCOPES = [*sorted(CONTRACT.scopes), "metrics"]
PAGES = [
    *("/", "/docs", "/docs/start.js", "/docs/assets/swagger-ui.css"),
    *("/openapi.json", "/openapi.yaml", "/problems"),
]
LINE = b'{"custom_id": "1", "body": {}}'
CREATE = {"endpoint": "/v1/embeddings", "model": "m", "requests": [{"body": {"input": "x"}}]}


def call(client: Any, operation: Operation, headers: dict[str, str], body: Any = CREATE) -> Any:
    sent: dict[str, Any] = {"json": body} if operation.body else {}
    if operation.body and operation.body.streamed:
        sent = {"files": {"file": ("a.jsonl", LINE)}, "data": {"purpose": "batch"}}
    return client.request(operation.method, path(operation), headers=headers, **sent)


def path(operation: Operation) -> str:
    return operation.path.replace("{job-id}", JOB_ID).replace("{file-id}", JOB_ID)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Make]:
    """A token of each scope, and a maker of clients of gateways with all of them: one gateway for the same settings."""
    folder = tmp_path_factory.mktemp("gateway")
    tokens = Tokens(folder / "tokens")
    secrets = {scope: tokens.add(scope.replace(":", "-"), scope) for scope in SCOPES}
    return secrets, functools.cache(partial(open_gateway, folder, GATEWAY_TOKENS_FILE=tokens.path))


@pytest.fixture
def secrets(shared: tuple[dict[str, str], Make]) -> dict[str, str]:
    return shared[0]


@pytest.fixture
def secured(shared: tuple[dict[str, str], Make]) -> Make:
    return shared[1]


@pytest.fixture
def upstream(mistral: RequestsMock) -> RequestsMock:
    """Says yes to everything."""

    def yes(request: Any) -> tuple[int, dict[str, str], str]:
        if not isinstance(request.body, bytes | bytearray | None):
            b"".join(request.body)  # an upload, which ends when it is read
        body = '{"purpose": "batch"}'
        return 200, {"Content-Length": f"{len(body)}"}, body

    for each in OPERATIONS:
        mistral.add_callback(
            each.upstream_method, UPSTREAM + path(each), yes, content_type="application/json"
        )
    return mistral


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_an_operation_needs_its_own_scope_and_no_other_will_do(
    operation: Operation, scope: str, secured: Make, secrets: dict[str, str], upstream: RequestsMock
) -> None:
    secret, client = secrets[scope], secured(GATEWAY_SIGNED_URLS="on")
    writes = not HINTS.get(operation.id, operation.method == "GET")
    needed = f"{'files' if 'file' in operation.id else 'jobs'}:{'write' if writes else 'read'}"
    answer = call(client, operation, bearing(secret))
    if scope == needed:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 403
        assert answer.json()["type"] == "/problems#insufficient-scope"
        assert needed in answer.json()["detail"]
        challenge = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in challenge and f'scope="{needed}"' in challenge
        assert len(upstream.calls) == 0


def test_a_scope_is_asked_for_before_a_body_is_looked_at(
    secured: Make, secrets: dict[str, str]
) -> None:
    secret, client = secrets["jobs:read"], secured()
    create = CONTRACT.operations["createbatchjob"]
    assert call(client, create, bearing(secret), {"not": "valid"}).status_code == 403


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/batch/jobs/not-a-uuid"])
def test_without_a_token_nothing_is_learnt_of_a_path(path: str, secured: Make) -> None:
    client = secured()
    assert client.get(path).status_code == client.post(path).status_code == 401


class TestPages:
    @pytest.mark.parametrize("path", ["/livez", "/readyz"])
    def test_probes_are_open(self, path: str, secured: Make) -> None:
        client = secured()
        assert client.get(path).status_code == 200

    @pytest.mark.parametrize("scope", SCOPES)
    def test_metrics_need_a_scope_of_their_own(
        self, scope: str, secured: Make, secrets: dict[str, str]
    ) -> None:
        secret, client = secrets[scope], secured()
        assert client.get("/metrics").status_code == 401
        answer = client.get("/metrics", headers=bearing(secret))
        assert answer.status_code == (200 if scope == "metrics" else 403)

    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize(
        ("docs", "host", "open_to_all"),
        [
            ("auto", "127.0.0.1", True),
            ("auto", "::1", True),
            ("auto", "0.0.0.0", False),
            ("on", "0.0.0.0", True),
            ("off", "127.0.0.1", False),
        ],
    )
    def test_for_people_are_open_or_need_any_token(
        self,
        path: str,
        docs: str,
        host: str,
        open_to_all: bool,
        secured: Make,
        secrets: dict[str, str],
    ) -> None:
        secret, client = secrets["jobs:read"], secured(GATEWAY_DOCS=docs, GATEWAY_HOST=host)
        served = {200, 307}
        assert (client.get(path).status_code in served) is open_to_all
        assert client.get(path, headers=bearing(secret)).status_code in served

    @pytest.mark.parametrize("path", PAGES)
    def test_for_people_are_not_there_when_off_without_tokens(
        self, path: str, gateway: Make
    ) -> None:
        assert gateway(GATEWAY_DOCS="off").get(path).status_code == 404

    def test_only_three_words_say_who_sees_them(self, gateway: Make) -> None:
        with pytest.raises(ValueError, match="GATEWAY_DOCS"):
            gateway(GATEWAY_DOCS="maybe")


class TestTheDocument:
    def test_says_nothing_of_tokens_where_there_are_none(self, gateway: Make) -> None:
        served = gateway().get("/openapi.json").json()
        assert "securitySchemes" not in served["components"]
        assert not any("security" in item for item in operations_of(served))

    def test_declares_tokens_and_scopes_where_there_are_some(self, secured: Make) -> None:
        served = secured().get("/openapi.json").json()
        validate(served)
        scheme = served["components"]["securitySchemes"]["bearer"]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        for operation in OPERATIONS:
            declared = served["paths"][operation.path][operation.method.lower()]
            assert declared["security"] == [{"bearer": []}]
            scope = operation.scope
            assert scope in declared["responses"]["403"]["description"]
            assert "401" in declared["responses"]

    def test_is_the_same_in_both_forms(self, secured: Make) -> None:
        client = secured()
        as_yaml = yaml.load(client.get("/openapi.yaml").text, yaml.CSafeLoader)
        assert json.loads(json.dumps(as_yaml, default=str)) == client.get("/openapi.json").json()

    def test_differs_in_nothing_else(self, gateway: Make, secured: Make) -> None:
        plain = gateway().get("/openapi.json").json()
        secured = secured().get("/openapi.json").json()
        del secured["components"]["securitySchemes"]
        for declared in operations_of(secured):
            del declared["security"], declared["responses"]["401"], declared["responses"]["403"]
        assert secured == plain


def operations_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [document["paths"][operation.path][operation.method.lower()] for operation in OPERATIONS]
