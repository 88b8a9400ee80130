"""JWTs of an issuer: a real key server on loopback, real signatures, and what forgers try.

Expectations: RFC 7519 (claims), RFC 8725 (best practices: algorithms, audiences), RFC 6750 (challenges).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import ssl
import time
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import KeySet, RSAKey
from responses import RequestsMock
from starlette.testclient import TestClient

from access import issuers
from access.issuers import Issuer, KeysUnavailable, fetch_keys, scopes_of
from access.settings import SettingsError
from tests.access.conftest import Gateway as Make
from tests.access.conftest import Tokens, bearing
from tests.access.issuer import AUDIENCE, EC, ISSUER, RSA, STRANGER, KeyServer, token
from tests.conftest import UPSTREAM

JOBS = "/v1/batch/jobs"


@pytest.fixture
def client(gateway: Make, key_server: KeyServer, mistral: RequestsMock) -> TestClient:
    mistral.get(UPSTREAM + JOBS, json={})
    return gateway(
        GATEWAY_JWT_ISSUER=ISSUER, GATEWAY_JWT_AUDIENCE=AUDIENCE, GATEWAY_JWKS_URL=key_server.url
    )


def forged(algorithm: str, secret: bytes = b"") -> str:
    """A token whose algorithm needs no private key, made by hand as forgers do."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": int(time.time()) + 300}
    parts = [{"alg": algorithm, "kid": "rsa-1"}, {**claims, "scope": "jobs:read"}]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def status(client: TestClient, secret: str) -> int:
    return client.get(JOBS, headers=bearing(secret)).status_code


@pytest.mark.parametrize("key", [RSA, EC])
def test_a_good_token_is_accepted(key: Any, client: TestClient) -> None:
    assert status(client, token(key)) == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [AUDIENCE, "https://other.example"]},
        {"nbf": -5},
        {"exp": -5},  # clocks may differ a little
        {"scope": None, "scp": ["jobs:read"]},
        {"scope": None, "scp": "jobs:read"},
    ],
)
def test_so_is_one_that_says_it_otherwise(claims: dict[str, Any], client: TestClient) -> None:
    assert status(client, token(**claims)) == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example"},
        {"aud": ["https://other.example"]},
        {"aud": AUDIENCE + "/"},
        {"aud": None},
        {"iss": "https://evil.example/"},
        {"iss": ISSUER.rstrip("/")},
        {"iss": None},
        {"exp": -3600},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 3600},
        {"sub": None},
        {"sub": ""},
        {"sub": "a b"},
        {"sub": "x" * 300},
        {"sub": 5},
    ],
)
def test_a_token_for_others_of_others_or_of_other_times_is_refused(
    claims: dict[str, Any], client: TestClient, mistral: RequestsMock
) -> None:
    answer = client.get(JOBS, headers=bearing(token(**claims)))
    assert answer.status_code == 401
    challenge = answer.headers["www-authenticate"]
    assert 'error="invalid_token"' in challenge and "error_description=" in challenge
    assert len(mistral.calls) == 0


def test_a_token_without_a_scope_may_do_nothing(client: TestClient) -> None:
    for claims in ({"scope": None}, {"scope": "openid"}, {"scope": 5}, {"scope": "jobs:write"}):
        assert status(client, token(**claims)) == 403


def test_what_needs_no_private_key_is_refused(client: TestClient, mistral: RequestsMock) -> None:
    body = token().split(".")
    for secret in (
        forged("none"),
        forged("None"),
        forged("HS256", RSA.as_pem(private=False)),
        forged("RS256", RSA.as_pem(private=False)),
        token(STRANGER),
        token(header={"alg": "RS512"}),
        f"{body[0]}.{body[1]}.",
        f"{body[0]}.{body[1]}.{body[2][:-4]}AAAA",
        f"{body[0]}.{forged('none').split('.')[1]}.{body[2]}",
        "a.b.c",
        "..",
    ):
        assert status(client, secret) == 401
    assert len(mistral.calls) == 0


HEADERS: list[Any] = [
    *([1], "text", 5, None, {}),
    *({"crit": 5}, {"crit": None}, {"crit": {}}, {"crit": [5]}, {"crit": ["new"]}),
    {"crit": ["b64"], "b64": False},
    *({"alg": 5}, {"alg": None}, {"alg": ["RS256"]}, {"alg": {}}, {"alg": True}),
    *({"kid": 5}, {"kid": []}, {"kid": {}}, {"kid": "\ud800"}, {"kid": "ec-1"}),
    *({"typ": 5}, {"cty": 5}, {"jwk": 5}, {"jku": 5}, {"x5c": 5}, {"zip": "DEF"}, {"new": 1}),
]
DEEP = b"[" * 5000


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_header_of_any_form_is_refused_and_never_a_failure(
    header: Any, client: TestClient, mistral: RequestsMock
) -> None:
    whole = {"alg": "RS256", "kid": "rsa-1", **header} if isinstance(header, dict) else header
    body = token().split(".")[1]
    assert status(client, f"{base64url(json.dumps(whole).encode())}.{body}.eA") == 401
    assert len(mistral.calls) == 0


@pytest.mark.parametrize(
    "part", [b"", b"{", b"\xff", DEEP, b'{"alg":%s}' % (b"9" * 5000), b'{"alg":NaN}', b"\x00"]
)
def test_a_header_that_is_no_json_is_refused_and_never_a_failure(
    part: bytes, client: TestClient
) -> None:
    assert status(client, f"{base64url(part)}.e30.eA") == 401


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"\xff", b"[1]", b"5", b"null", b'"text"', DEEP),
        *(b'{"exp":%s}' % (b"9" * 5000), b'{"exp":1e999}', b'{"exp":NaN}', b'{"exp":[]}'),
    ],
)
def test_a_payload_of_any_form_is_refused_even_when_the_issuer_signed_it(
    payload: bytes, client: TestClient
) -> None:
    header = {"alg": "RS256", "kid": "rsa-1"}
    assert status(client, jws.serialize_compact(header, payload, RSA)) == 401


def test_a_key_in_the_token_itself_is_not_believed(client: TestClient) -> None:
    jwk = STRANGER.as_dict(private=False)
    assert status(client, token(STRANGER, header={"jwk": jwk, "kid": "own"})) == 401


def test_two_subjects_are_two_callers(
    gateway: Make, key_server: KeyServer, mistral: RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    client = gateway(
        GATEWAY_JWT_ISSUER=ISSUER,
        GATEWAY_JWT_AUDIENCE=AUDIENCE,
        GATEWAY_JWKS_URL=key_server.url,
        GATEWAY_RATE_LIMIT="1/hour",
    )
    assert [status(client, token(sub=name)) for name in ("a", "a", "b")] == [200, 429, 200]


def test_tokens_of_a_file_work_beside_it(
    gateway: Make, key_server: KeyServer, token_file: Tokens, mistral: RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    client = gateway(
        GATEWAY_JWT_ISSUER=ISSUER,
        GATEWAY_JWT_AUDIENCE=AUDIENCE,
        GATEWAY_JWKS_URL=key_server.url,
        GATEWAY_TOKENS_FILE=token_file.path,
    )
    assert status(client, token_file.add("a", "jobs:read")) == 401  # added a moment ago
    assert status(client, token()) == 200


class TestKeys:
    """Where the keys come from, with a clock of the test's own."""

    NOW = 1000.0

    @pytest.fixture(autouse=True)
    def clock(self) -> None:
        self.now = self.NOW

    def issuer(self, url: str) -> Issuer:
        return Issuer(ISSUER, AUDIENCE, url, ["RS256", "ES256"], clock=lambda: self.now)

    def test_are_fetched_once_however_many_tokens_come(self, key_server: KeyServer) -> None:
        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            await asyncio.gather(*(issuer.grant(token()) for _ in range(5)))
            await issuer.grant(token(EC))

        asyncio.run(calls())
        assert key_server.asked == 1

    def test_are_fetched_again_for_a_new_one(self, key_server: KeyServer) -> None:
        new = RSAKey.generate_key(2048, {"kid": "rsa-2", "use": "sig"})

        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            await issuer.grant(token())
            key_server.publish(new)
            self.now += issuers.RETRY
            await issuer.grant(token(new))
            with pytest.raises(issuers.Untrusted):  # the old one is gone
                await issuer.grant(token())

        asyncio.run(calls())
        assert key_server.asked == 2

    def test_are_not_fetched_for_every_unknown_name(self, key_server: KeyServer) -> None:
        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            await issuer.grant(token())
            self.now += issuers.RETRY
            for number in range(20):
                with pytest.raises(issuers.Untrusted):
                    await issuer.grant(token(STRANGER, header={"kid": f"made-up-{number}"}))

        asyncio.run(calls())
        assert key_server.asked == 2

    def test_are_renewed_beside_the_calls_that_still_use_them(self, key_server: KeyServer) -> None:
        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            await issuer.grant(token())
            self.now += issuers.FRESH
            await issuer.grant(token())
            assert issuer.fetching
            await issuer.fetching

        asyncio.run(calls())
        assert key_server.asked == 2

    @pytest.mark.parametrize(
        "answer",
        [
            (503, b"down"),
            (200, b"<html>"),
            (200, b"{}"),
            (200, b'{"keys": []}'),
            (200, b'{"keys": 5}'),
            (200, b"[]"),
            (200, DEEP * 20),
            (404, b""),
        ],
    )
    def test_stay_good_for_a_day_when_they_cannot_be_fetched(
        self, answer: tuple[int, bytes], key_server: KeyServer
    ) -> None:
        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            await issuer.grant(token())
            key_server.answer(answer[1], answer[0])
            self.now += issuers.STALE - 1
            await issuer.grant(token())
            assert issuer.fetching
            await issuer.fetching
            self.now += 1
            with pytest.raises(KeysUnavailable):
                await issuer.grant(token())

        asyncio.run(calls())

    def test_that_were_never_had_make_a_token_uncheckable_until_they_are(
        self, key_server: KeyServer
    ) -> None:
        key_server.answer(b"", 500)

        async def calls() -> None:
            issuer = self.issuer(key_server.url)
            with pytest.raises(KeysUnavailable):
                await issuer.grant(token())
            key_server.publish(RSA)
            with pytest.raises(KeysUnavailable):  # not asked again at once
                await issuer.grant(token())
            self.now += issuers.RETRY
            await issuer.grant(token())

        asyncio.run(calls())
        assert key_server.asked == 2

    def test_of_a_kind_that_nobody_knows_do_no_harm_beside_the_others(
        self, key_server: KeyServer
    ) -> None:
        known = KeySet([RSA]).as_dict(private=False)["keys"]
        key_server.answer(json.dumps({"keys": [{"kty": "new"}, *known]}).encode())
        asyncio.run(self.issuer(key_server.url).grant(token()))

    def test_are_not_had_by_a_redirect(self, key_server: KeyServer) -> None:
        key_server.answer(b"", 302, Location="http://127.0.0.1:1/")
        with pytest.raises(OSError, match="302"):
            fetch_keys(key_server.url)

    def test_are_had_of_a_trusted_server_alone(
        self,
        key_server: KeyServer,
        certificate: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        key_server.http.socket = context.wrap_socket(key_server.http.socket, server_side=True)
        url = f"https://localhost:{key_server.http.server_port}/keys"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_keys(url)
        assert key_server.asked == 0
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        assert b"rsa-1" in fetch_keys(url)

    def test_are_not_had_when_they_are_endless(self, key_server: KeyServer) -> None:
        key_server.answer(b" " * (issuers.MAX_KEYS + 1))
        with pytest.raises(OSError, match="bytes"):
            fetch_keys(key_server.url)


def test_a_token_that_cannot_be_checked_is_not_called_bad(
    client: TestClient, key_server: KeyServer
) -> None:
    key_server.answer(b"", 500)
    answer = client.get(JOBS, headers=bearing(token()))
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems#issuer-unreachable"
    assert answer.json()["retryable"] is True
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"GATEWAY_JWT_AUDIENCE": ""}, "belong together"),
        ({"GATEWAY_JWKS_URL": ""}, "belong together"),
        ({"GATEWAY_JWT_ISSUER": ""}, "belong together"),
        ({"GATEWAY_JWT_ALGORITHMS": "HS256"}, "HS256 is not allowed"),
        ({"GATEWAY_JWT_ALGORITHMS": "RS256,none"}, "none is not allowed"),
        ({"GATEWAY_JWT_ALGORITHMS": ","}, "is empty"),
        ({"GATEWAY_JWKS_URL": "http://issuer.example/keys"}, "https"),
        ({"GATEWAY_JWKS_URL": "file:///etc/passwd"}, "https"),
        ({"GATEWAY_JWKS_URL": "https://user:SECRET@issuer.example/keys"}, "without a user"),
    ],
)
def test_an_issuer_that_is_not_safe_stops_the_start(
    changes: dict[str, str], said: str, gateway: Make
) -> None:
    whole = {
        "GATEWAY_JWT_ISSUER": ISSUER,
        "GATEWAY_JWT_AUDIENCE": AUDIENCE,
        "GATEWAY_JWKS_URL": "https://issuer.example/keys",
    }
    with pytest.raises(ValueError, match="GATEWAY_JW") as caught:
        gateway(**{**whole, **changes})
    assert said in str(caught.value) and "SECRET" not in str(caught.value)


def test_an_issuer_alone_protects_an_open_address(gateway: Make) -> None:
    gateway(
        GATEWAY_HOST="0.0.0.0",
        GATEWAY_JWT_ISSUER=ISSUER,
        GATEWAY_JWT_AUDIENCE=AUDIENCE,
        GATEWAY_JWKS_URL="https://issuer.example/keys",
    )


def test_a_bad_setting_is_said_by_the_class_itself() -> None:
    with pytest.raises(SettingsError, match="JWKS_URL"):
        Issuer(ISSUER, AUDIENCE, "ftp://issuer.example", ["RS256"])


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": ["a", 5]}, {"a"}),
        ({"scp": ["a"]}, {"a"}),
        ({"scope": "a", "scp": "b"}, {"a"}),
        ({"scope": None}, set()),
        ({}, set()),
    ],
)
def test_scopes_are_words_or_a_list(claims: dict[str, Any], scopes: set[str]) -> None:
    assert scopes_of(claims) == scopes
