"""A tokens' issuer for tests: its key server on loopback, and its tokens. Not a test module."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import api_jws

ISSUER = "https://issuer.example/"
AUDIENCE = "https://gw.example"


class Key:
    """A key pair of an issuer's. `algorithm` signs with it, `kid` is its name."""

    def __init__(self, kid: str, private: Any, algorithm: str) -> None:
        self.kid = kid
        self.private = private
        self.algorithm = algorithm

    def sign(self, header: dict[str, Any], payload: bytes) -> str:
        """A token with this payload, whatever it is."""
        return api_jws.encode(payload, self.private, self.algorithm, header)

    def published(self, **members: Any) -> dict[str, Any]:
        """The key as its issuer publishes it; None leaves a member out."""
        algorithm = api_jws.get_algorithm_by_name(self.algorithm)
        plain = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        whole = {**plain, "kid": self.kid, "use": "sig", **members}
        return {name: value for name, value in whole.items() if value is not None}


def rsa_key(kid: str, bits: int = 2048) -> Key:
    return Key(kid, rsa.generate_private_key(65537, bits), "RS256")


def ec_key(kid: str = "") -> Key:
    return Key(kid, ec.generate_private_key(ec.SECP256R1()), "ES256")


RSA = rsa_key("rsa-1")
EC = ec_key("ec-1")
STRANGER = rsa_key("rsa-1")


class KeyServer:
    """An issuer's key server. `answers` is what it sends next: status, headers, body."""

    def __init__(self) -> None:
        self.asked = 0
        self.publish(RSA, EC)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                status, headers, body = server.answers
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/keys"

    def publish(self, *keys: Key) -> None:
        self.answer(json.dumps({"keys": [key.published() for key in keys]}).encode())

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.answers = (status, headers, body)


def token(key: Key = RSA, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A good token, but for what is given; None leaves a claim or header out, and times count from now."""
    now = int(time.time())
    times = {n: now + claims[n] for n in ("exp", "nbf") if isinstance(claims.get(n), int)}
    whole = (
        {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "pipeline",
            "exp": now + 300,
            "iat": now,
            "scope": "openid jobs:read",
        }
        | claims
        | times
    )
    named = {"kid": key.kid, **(header or {})}
    return key.sign(
        {name: value for name, value in named.items() if value is not None},
        json.dumps({name: value for name, value in whole.items() if value is not None}).encode(),
    )
