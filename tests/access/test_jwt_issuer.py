"""JWTs of an issuer: a real key server on loopback, real signatures, and what forgers try.

Expectations: RFC 7519 (claims), RFC 8725 (best practices: algorithms, audiences), RFC 6750 (challenges).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hmac
import json
import logging
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from responses import RequestsMock
from starlette.testclient import TestClient

from access import AccessDenied, jwt_issuer
from access import token_file as reading
from access.authentication import Authentication
from access.jwt_issuer import InvalidToken, JwtIssuer, KeysUnavailable, fetch_keys, scopes_of
from environment import SettingsError
from tests.access.conftest import Gateway as Make
from tests.access.conftest import Tokens, bearing, open_gateway, serving_keys
from tests.access.issuer import (
    AUDIENCE,
    EC,
    ISSUER,
    RSA,
    STRANGER,
    Key,
    KeyServer,
    ec_key,
    rsa_key,
    token,
)
from tests.conftest import UPSTREAM
from tests.support.api import JOBS

pytestmark = pytest.mark.anyio

SETTINGS = {"GATEWAY_JWT_ISSUER": ISSUER, "GATEWAY_JWT_AUDIENCE": AUDIENCE}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving_keys() as server:
        folder = tmp_path_factory.mktemp("gateway")
        yield open_gateway(folder, **SETTINGS, GATEWAY_JWKS_URL=server.url)


@pytest.fixture
def client(shared: TestClient, mistral: RequestsMock) -> TestClient:
    """A client of a gateway of this module's."""
    mistral.get(UPSTREAM + JOBS, json={})
    return shared


def forged(algorithm: str, secret: bytes = b"") -> str:
    """A token whose algorithm needs no private key, made by hand as forgers do."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": int(time.time()) + 300}
    parts = [{"alg": algorithm, "kid": "rsa-1"}, {**claims, "scope": "jobs:read"}]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256')) if secret else ''}"


PUBLIC = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def fetch(url: str) -> bytes:
    """What a new process finds at `url`."""
    return asyncio.run(fetch_keys(url, ssl.create_default_context()))


def jwks(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A key server on the test's own loop, which answers as no library would: its URL."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


class Trickle:
    """Answers with a byte now and then, for ever. `asked` and `left` say when a fetch begins and ends."""

    def __init__(self) -> None:
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            writer.write(b" ")
            await asyncio.wait({gone}, timeout=0.01)
        gone.exception()  # it may have left by a reset
        self.left.set()


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
        {"exp": "99999999999"},
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
        forged("HS256", PUBLIC),
        forged("RS256", PUBLIC),
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
    assert status(client, RSA.sign(header, payload)) == 401


PAIRS = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}


@pytest.mark.parametrize(
    ("pair", "algorithm"),
    [
        (curve or key_type, algorithm)
        for (key_type, curve), algorithms in jwt_issuer.BY_KEY_TYPE.items()
        for algorithm in algorithms
    ],
)
def test_every_algorithm_that_may_be_allowed_is_checked_where_it_is_and_only_there(
    pair: str, algorithm: str, key_server: KeyServer
) -> None:
    key = Key("any", PAIRS[pair], algorithm)
    key_server.publish(key)

    def name(allowed: list[str]) -> str:
        issuer = JwtIssuer(ISSUER, AUDIENCE, key_server.url, allowed)
        return asyncio.run(issuer.grant(token(key))).name

    assert name([algorithm]) == "jwt:pipeline"
    with pytest.raises(InvalidToken, match="unsupported algorithm"):
        name([other for other in jwt_issuer.ALGORITHMS if other != algorithm])


def test_a_key_in_the_token_itself_is_not_believed(client: TestClient) -> None:
    jwk = STRANGER.published()
    assert status(client, token(STRANGER, header={"jwk": jwk, "kid": "own"})) == 401


def test_two_subjects_are_two_callers(
    gateway: Make, key_server: KeyServer, mistral: RequestsMock
) -> None:
    mistral.get(UPSTREAM + JOBS, json={})
    client = gateway(**SETTINGS, GATEWAY_JWKS_URL=key_server.url, GATEWAY_RATE_LIMIT="1/hour")
    assert [status(client, token(sub=name)) for name in ("a", "a", "b")] == [200, 429, 200]


def test_tokens_of_a_file_work_beside_it(
    gateway: Make,
    key_server: KeyServer,
    token_file: Tokens,
    mistral: RequestsMock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "CHECK_INTERVAL", 3600.0)  # however long a start takes
    mistral.get(UPSTREAM + JOBS, json={})
    secret = token_file.add("before", "jobs:read")
    client = gateway(
        **SETTINGS, GATEWAY_JWKS_URL=key_server.url, GATEWAY_TOKENS_FILE=token_file.path
    )
    assert status(client, secret) == 200
    assert status(client, token_file.add("a", "jobs:read")) == 401  # added a moment ago
    assert status(client, token()) == 200


class TestKeys:
    """Where the keys come from, with a clock of the test's own."""

    NOW = 1000.0

    @pytest.fixture(autouse=True)
    def clock(self) -> None:
        self.now = self.NOW

    def issuer(self, url: str) -> JwtIssuer:
        return JwtIssuer(ISSUER, AUDIENCE, url, ["RS256", "ES256"], clock=lambda: self.now)

    async def test_are_fetched_once_however_many_tokens_come(self, key_server: KeyServer) -> None:
        issuer = self.issuer(key_server.url)
        await asyncio.gather(*(issuer.grant(token()) for _ in range(5)))
        await issuer.grant(token(EC))
        assert key_server.asked == 1

    async def test_are_fetched_again_for_a_new_one(self, key_server: KeyServer) -> None:
        new = rsa_key("rsa-2")
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        key_server.publish(new)
        self.now += jwt_issuer.RETRY
        await issuer.grant(token(new))
        with pytest.raises(InvalidToken):  # the old one is gone
            await issuer.grant(token())
        assert key_server.asked == 2

    async def test_are_not_fetched_for_every_unknown_name(self, key_server: KeyServer) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        self.now += jwt_issuer.RETRY
        for number in range(20):
            with pytest.raises(InvalidToken):
                await issuer.grant(token(STRANGER, header={"kid": f"made-up-{number}"}))
        assert key_server.asked == 2

    async def test_are_renewed_beside_the_calls_that_still_use_them(
        self, key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        self.now += jwt_issuer.FRESH
        await issuer.grant(token())
        assert issuer.fetching
        await issuer.fetching
        assert key_server.asked == 2

    async def test_that_were_withdrawn_while_nobody_called_are_not_used_again(
        self, key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        key_server.publish(EC)
        self.now += jwt_issuer.MAX_AGE
        for key in (RSA, STRANGER):
            with pytest.raises(InvalidToken):
                await issuer.grant(token(key))
        await issuer.grant(token(EC))
        assert key_server.asked == 2

    async def test_that_are_too_old_make_nobody_wait_for_an_issuer_that_did_not_answer(
        self, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jwt_issuer, "FETCH_SECONDS", 0.1)
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        self.now += jwt_issuer.MAX_AGE
        async with answering(Trickle()) as issuer.keys_url:
            await issuer.grant(token())
            assert issuer.fetching
            assert issuer.fetching.done()
            self.now += jwt_issuer.RETRY
            await issuer.grant(token())
            assert not issuer.fetching.done()
            await issuer.fetching

    def test_are_not_shown_with_what_may_be_a_secret_in_their_url(
        self, key_server: KeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        key_server.answer(b"", 500)
        with pytest.raises(KeysUnavailable):
            asyncio.run(self.issuer(f"{key_server.url}?key=CANARY").grant(token()))
        assert "cannot be had" in caplog.text and "CANARY" not in caplog.text

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
    async def test_stay_good_for_a_day_when_they_cannot_be_fetched(
        self, answer: tuple[int, bytes], key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        key_server.answer(answer[1], answer[0])
        self.now += jwt_issuer.STALE - 1
        await issuer.grant(token())
        assert issuer.fetching
        await issuer.fetching
        self.now += 1
        with pytest.raises(KeysUnavailable):
            await issuer.grant(token())

    async def test_that_were_never_had_make_a_token_uncheckable_until_they_are(
        self, key_server: KeyServer
    ) -> None:
        key_server.answer(b"", 500)
        issuer = self.issuer(key_server.url)
        with pytest.raises(KeysUnavailable):
            await issuer.grant(token())
        key_server.publish(RSA)
        with pytest.raises(KeysUnavailable):  # not asked again at once
            await issuer.grant(token())
        self.now += jwt_issuer.RETRY
        await issuer.grant(token())
        assert key_server.asked == 2

    def test_of_a_kind_that_nobody_knows_do_no_harm_beside_the_others(
        self, key_server: KeyServer
    ) -> None:
        key_server.answer(jwks({"kty": "new"}, RSA.published()))
        asyncio.run(self.issuer(key_server.url).grant(token()))

    ODD: ClassVar[dict[str, Any]] = {
        "an unknown curve": EC.published(crv="P-999", kid="odd"),
        "a point that is not on its curve": EC.published(y=EC.published()["x"], kid="odd"),
        "no exponent": RSA.published(e=None, kid="odd"),
        "an unknown use": RSA.published(use="tls", kid="odd"),
        "encryption": RSA.published(use="enc", kid="odd"),
        "an algorithm of encryption": RSA.published(use=None, alg="RSA-OAEP", kid="odd"),
        "operations without verify": RSA.published(use=None, key_ops=["encrypt"], kid="odd"),
        "use and operations that differ": RSA.published(key_ops=["encrypt"], kid="odd"),
        "no text as algorithm": {**RSA.published(kid="odd"), "alg": None},
        "no text as name": RSA.published(kid=5),
        "a short key": rsa_key("odd", 1024).published(),
        "no type": RSA.published(kty=None, kid="odd"),
        "a secret": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "odd"},
        "nothing": {},
        **{f"no object but {odd!r}": odd for odd in ("text", 5, None, [])},
    }

    @pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
    async def test_that_are_odd_do_no_harm_beside_a_good_one(
        self, odd: Any, key_server: KeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        key_server.answer(jwks(odd, RSA.published()))
        issuer = self.issuer(key_server.url)
        for _ in range(3):
            await issuer.grant(token())
            assert issuer.fetching
            await issuer.fetching
            self.now += jwt_issuer.FRESH
        assert key_server.asked == 3
        [said] = [record for record in caplog.records if record.name == "access.jwt_issuer"]
        assert said.levelno == logging.WARNING and "number 1 (" in said.getMessage()

    @pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
    def test_that_are_odd_alone_are_none(self, odd: Any, key_server: KeyServer) -> None:
        key_server.answer(jwks(odd))
        with pytest.raises(KeysUnavailable):
            asyncio.run(self.issuer(key_server.url).grant(token()))

    @pytest.mark.parametrize(
        "members", [{"use": "enc"}, {"key_ops": ["encrypt"], "use": None}, {"alg": "RSA-OAEP"}]
    )
    def test_that_are_for_another_use_check_nothing(
        self, members: dict[str, Any], key_server: KeyServer
    ) -> None:
        key_server.answer(jwks(RSA.published(**members), EC.published()))
        with pytest.raises(InvalidToken):
            asyncio.run(self.issuer(key_server.url).grant(token()))

    def strangers(self, number: int) -> list[dict[str, Any]]:
        return [ec_key().published(kid=None) for _ in range(number)]

    @pytest.mark.parametrize("name", [None, "ec-1"])
    @pytest.mark.parametrize("before", [0, 1, jwt_issuer.MAX_TRIED - 1])
    def test_that_a_token_does_not_tell_apart_are_tried_until_one_fits(
        self, name: str | None, before: int, key_server: KeyServer
    ) -> None:
        members = [*self.strangers(before), EC.published(kid=None), *self.strangers(1)]
        named = [{**member, "kid": name} if name else member for member in members]
        key_server.answer(jwks(RSA.published(), *named))
        secret = token(EC, header={} if name else {"kid": None})
        assert asyncio.run(self.issuer(key_server.url).grant(secret)).name == "jwt:pipeline"

    def test_that_a_token_does_not_tell_apart_are_tried_up_to_a_number(
        self, key_server: KeyServer
    ) -> None:
        key_server.answer(jwks(*self.strangers(jwt_issuer.MAX_TRIED), EC.published(kid=None)))
        with pytest.raises(InvalidToken):
            asyncio.run(self.issuer(key_server.url).grant(token(EC, header={"kid": None})))

    async def test_that_trickle_hold_nobody_beyond_the_limit_and_others_not_at_all(
        self, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        monkeypatch.setattr(jwt_issuer, "FETCH_SECONDS", 0.2)
        self.now += jwt_issuer.RETRY
        trickle = Trickle()
        async with asyncio.timeout(60), answering(trickle) as issuer.keys_url:
            threads = threading.enumerate()
            secret = token(STRANGER, header={"kid": "new"})
            waiting = [asyncio.create_task(issuer.grant(secret)) for _ in range(3)]
            await trickle.asked.wait()
            await issuer.grant(token())
            assert not any(task.done() for task in waiting)
            assert threading.enumerate() == threads
            ends = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(end) for end in ends] == [InvalidToken] * 3
            await trickle.left.wait()

    async def test_are_had_by_others_although_the_one_that_asked_first_has_left(
        self, key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)
        first, second = (asyncio.create_task(issuer.grant(token())) for _ in range(2))
        await asyncio.sleep(0)  # both wait now
        first.cancel()
        assert (await second).name == "jwt:pipeline"
        assert first.cancelled()
        assert key_server.asked == 1

    def test_are_fetched_again_when_a_fetch_ended_with_its_loop(
        self, key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)

        async def leave() -> None:
            trickle = Trickle()
            async with answering(trickle) as issuer.keys_url:
                call = asyncio.create_task(issuer.grant(token()))
                await trickle.asked.wait()
                call.cancel()

        asyncio.run(leave())
        issuer.keys_url = key_server.url
        self.now += jwt_issuer.RETRY
        assert asyncio.run(issuer.grant(token())).name == "jwt:pipeline"

    async def test_are_fetched_for_the_first_token_after_a_quiet_day(
        self, key_server: KeyServer
    ) -> None:
        issuer = self.issuer(key_server.url)
        await issuer.grant(token())
        self.now += jwt_issuer.STALE
        await issuer.grant(token())
        assert key_server.asked == 2

    async def test_that_cannot_be_had_are_worth_asking_for_again_when_the_answer_says(
        self, key_server: KeyServer
    ) -> None:
        key_server.answer(b"", 500)
        authentication = Authentication(None, self.issuer(key_server.url))
        headers = [(b"authorization", f"Bearer {token()}".encode())]
        for waited, said in [(0.0, jwt_issuer.RETRY), (12.5, jwt_issuer.RETRY - 12)]:
            self.now += waited
            with pytest.raises(AccessDenied) as caught:
                await authentication.grant(headers)
            assert dict(caught.value.headers)["Retry-After"] == f"{said:.0f}"
        key_server.publish(RSA)
        self.now += jwt_issuer.RETRY - 12
        await authentication.grant(headers)

    async def test_are_not_taken_for_had_by_answers_that_only_announce_one(self) -> None:
        async def hint(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # RFC 8297, RFC 2518 section 10.1; RFC 9110 section 15.2: any number of them, and unknown ones too
            for head in (b"103 Early Hints\r\nLink: </x>", b"102 Processing", b"199 New"):
                writer.write(b"HTTP/1.1 %s\r\n\r\n" % head)
                await writer.drain()
            body = jwks(RSA.published())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        async with answering(hint) as url:
            assert (await self.issuer(url).grant(token())).name == "jwt:pipeline"

    @pytest.mark.parametrize("code", [202, 203, 206, 404, 503])
    def test_are_had_by_a_whole_good_answer_alone(self, code: int, key_server: KeyServer) -> None:
        key_server.answer(jwks(RSA.published()), code)
        with pytest.raises(OSError, match=str(code)):
            fetch(key_server.url)

    async def test_are_not_had_when_the_answer_is_cut(self) -> None:
        async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            body = jwks(RSA.published())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) + 1) + body)

        async with answering(cut) as url:
            with pytest.raises(KeysUnavailable):
                await self.issuer(url).grant(token())

    def test_are_not_blown_up_by_an_answer_that_is_compressed_unasked(
        self, key_server: KeyServer
    ) -> None:
        sent = gzip.compress(bytes(jwt_issuer.MAX_JWKS * 4))
        key_server.answer(sent, **{"Content-Encoding": "gzip"})
        assert fetch(key_server.url) == sent

    def test_are_not_asked_of_a_proxy_that_the_environment_names(
        self, key_server: KeyServer, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
        assert b"rsa-1" in fetch(key_server.url)

    async def test_are_fetched_with_trust_that_is_read_once(
        self, key_server: KeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[ssl.SSLContext] = []
        make = ssl.create_default_context

        def counted(*arguments: Any, **more: Any) -> ssl.SSLContext:
            made.append(make(*arguments, **more))
            return made[-1]

        monkeypatch.setattr(ssl, "create_default_context", counted)
        issuer = self.issuer(key_server.url)
        for _ in range(2):
            await issuer.grant(token())
            self.now += jwt_issuer.STALE
        assert (key_server.asked, len(made)) == (2, 1)

    def test_are_not_had_by_a_redirect(self, key_server: KeyServer) -> None:
        key_server.answer(b"", 302, Location="http://127.0.0.1:1/")
        with pytest.raises(OSError, match="302"):
            fetch(key_server.url)

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
            fetch(url)
        assert key_server.asked == 0
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        assert b"rsa-1" in fetch(url)

    def test_are_not_had_when_they_are_endless(self, key_server: KeyServer) -> None:
        key_server.answer(b" " * (jwt_issuer.MAX_JWKS + 1))
        with pytest.raises(OSError, match="bytes"):
            fetch(key_server.url)


def test_a_token_that_cannot_be_checked_is_not_called_bad(
    gateway: Make, key_server: KeyServer
) -> None:
    key_server.answer(b"", 500)
    client = gateway(**SETTINGS, GATEWAY_JWKS_URL=key_server.url)
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
        ({"GATEWAY_JWKS_URL": "https://issuer.example:99999/keys"}, "https"),
        ({"GATEWAY_JWKS_URL": "https://[issuer/keys"}, "https"),
    ],
)
def test_an_issuer_that_is_not_safe_stops_the_start(
    changes: dict[str, str], said: str, gateway: Make
) -> None:
    whole = {**SETTINGS, "GATEWAY_JWKS_URL": "https://issuer.example/keys", **changes}
    with pytest.raises(ValueError, match="GATEWAY_JW") as caught:
        gateway(**whole)
    assert said in str(caught.value) and "SECRET" not in str(caught.value)


def test_an_issuer_alone_protects_an_open_address(gateway: Make) -> None:
    gateway(**SETTINGS, GATEWAY_HOST="0.0.0.0", GATEWAY_JWKS_URL="https://issuer.example/keys")


def test_a_bad_setting_is_said_by_the_class_itself() -> None:
    with pytest.raises(SettingsError, match="JWKS_URL"):
        JwtIssuer(ISSUER, AUDIENCE, "ftp://issuer.example", ["RS256"])


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
