"""Who may call, for the REST service and the MCP bridge alike; imports neither of them, nor the contract.

`admission` is the ASGI layer that both have. It asks `origins` whether a foreign web page sent the request,
`authentication` who calls (by `token_file` or `jwt_issuer`), and `rate_limit` whether they call too often (by
`redis_window` where several hosts count together). `files` reads what is read while requests wait. `listen` refuses to
listen to the world without tokens.
"""

from __future__ import annotations

from collections.abc import Iterable


class AccessDenied(Exception):
    """A request that may not come in. `slug` is a row of the service's problems, `headers` go with the answer."""

    def __init__(
        self, slug: str, status: int, detail: str, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(slug, detail)
        self.slug = slug
        self.status = status
        self.detail = detail
        self.headers = tuple(headers)


class AccessSettings:
    """The settings of a process that say who may call it; empty ones are not set. README.md says what each means."""

    host: str
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    tokens_file: str
    jwt_issuer: str
    jwt_audience: str
    jwks_url: str
    jwt_algorithms: str
    rate_limit: str

    @property
    def protected(self) -> bool:
        """True when callers need tokens."""
        return bool(self.tokens_file or self.jwt_issuer)
