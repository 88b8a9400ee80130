"""A tokens' issuer for tests: its key server on loopback, and its tokens. Not a test module."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

ISSUER = "https://issuer.example/"
AUDIENCE = "https://gw.example"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1", "use": "sig"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"})


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

    def publish(self, *keys: Any) -> None:
        self.answer(json.dumps(KeySet(list(keys)).as_dict(private=False)).encode())

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.answers = (status, headers, body)


def token(key: Any = RSA, header: dict[str, Any] | None = None, **claims: Any) -> str:
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
    algorithm = "ES256" if isinstance(key, ECKey) else "RS256"
    named = {"alg": algorithm, "kid": key.kid, **(header or {})}
    return jwt.encode(
        {name: value for name, value in named.items() if value is not None},
        {name: value for name, value in whole.items() if value is not None},
        key,
        algorithms=["RS256", "RS512", "ES256"],
    )
