"""The bridge's settings: read and checked here; `python -m mcp_bridge.settings` shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from access import AccessSettings
from access.files import content, open_plain
from environment import SettingsError, read_settings, setting
from openapi.contract import DEFAULT_DOCUMENT, Contract, load
from telemetry import logs


@dataclass(frozen=True, kw_only=True)
class Settings(AccessSettings):
    """What one bridge runs with. Times are in seconds, sizes in bytes, lists comma-separated."""

    # A table: one row, one line.
    # fmt: off
    host: str = setting("BRIDGE_HOST", "127.0.0.1", "Address to listen on")
    port: int = setting("BRIDGE_PORT", 9090, "Port to listen on, instead of the capability's; 0: a free one, named in the log")
    rest_url: str = setting("BRIDGE_REST_URL", "http://127.0.0.1:8080", "The REST service, when not on this host at the capability's port")
    rest_token: str = setting("BRIDGE_REST_TOKEN", "", "The bridge's own bearer token for the REST service", secret=True)
    rest_token_file: str = setting("BRIDGE_REST_TOKEN_FILE", "", "File that holds that token, instead; read at the start")
    openapi: str = setting("GATEWAY_OPENAPI", str(DEFAULT_DOCUMENT), "Derived OpenAPI document to serve")
    timeout: float = setting("BRIDGE_TIMEOUT", 50.0, "Limit for one call; many MCP clients give up after 60")
    result_limit: int = setting("BRIDGE_RESULT_LIMIT", 60_000, "Size of one result, in letters of English: digits, punctuation and other scripts count more; the rest is cut, with a note")
    max_body: int = setting("GATEWAY_MAX_BODY", 32 << 20, "Largest message, the same as the REST service's body")
    max_answer: int = setting("GATEWAY_MAX_ANSWER", 64 << 20, "Largest answer of the REST service, the same as its upstream's")
    allowed_hosts: tuple[str, ...] = setting("BRIDGE_ALLOWED_HOSTS", (), "Names, beside loopback's, that a Host header may have: NAME or NAME:PORT; *: any, with tokens")
    allowed_origins: tuple[str, ...] = setting("BRIDGE_ALLOWED_ORIGINS", (), "Web pages that may call: SCHEME://HOST[:PORT], PORT * for any; empty: none")
    log_level: str = setting("BRIDGE_LOG_LEVEL", "info", "Least level logged on standard error: debug, info, warning, error", choices=logs.LEVELS)
    log_format: str = setting("BRIDGE_LOG_FORMAT", "auto", "Form of log lines: json, text, or auto: text on a terminal", choices=logs.FORMATS)
    audit_log: str = setting("BRIDGE_AUDIT_LOG", "stderr", "Where a line for each changing call goes: stderr, off or a file")
    tokens_file: str = setting("BRIDGE_TOKENS_FILE", "", "File of the callers' tokens, in the REST service's form; may be the same file")
    jwt_issuer: str = setting("BRIDGE_JWT_ISSUER", "", "Issuer (iss) whose JWTs are accepted too")
    jwt_audience: str = setting("BRIDGE_JWT_AUDIENCE", "", "Audience (aud) that such a JWT must name: the endpoint's URL")
    jwks_url: str = setting("BRIDGE_JWKS_URL", "", "Where the issuer's public keys are (JWKS)")
    jwt_algorithms: str = setting("BRIDGE_JWT_ALGORITHMS", "RS256,ES256", "Signature algorithms that are accepted")
    rate_limit: str = setting("BRIDGE_RATE_LIMIT", "", "How often one caller may call, say 100/minute; empty: no limit")
    # fmt: on

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in `environ` (None: the process's), empty ones at their defaults or the document's ports.

        Raises SettingsError for a bad one, ContractError when the document cannot be used.
        """
        values = read_settings(cls, environ)
        contract = load(Path(values.get("openapi", DEFAULT_DOCUMENT)))
        values.setdefault("port", contract.ports["mcp"])
        values.setdefault("rest_url", f"http://127.0.0.1:{contract.ports['rest']}")
        settings = cls(**values)
        if settings.rest_token_file:
            settings = replace(settings, rest_token=_token(settings))
        _check_rest(settings)
        if not settings.timeout:
            raise SettingsError("BRIDGE_TIMEOUT must be above 0, or no call has an answer")
        vars(settings)["contract"] = contract  # the cached property, which would read it again
        return settings

    @cached_property
    def contract(self) -> Contract:
        """What there is to call; ContractError when the document cannot be used."""
        return load(Path(self.openapi))


def log_to_stderr(settings: Settings) -> None:
    """Starts logging; standard output belongs to the protocol. SettingsError for an audit log that cannot be written."""
    if settings.audit_log == "stdout":
        raise SettingsError("BRIDGE_AUDIT_LOG: standard output belongs to the protocol")
    logs.add_secrets(settings.rest_token)
    logs.start(["mcp_bridge"], settings.log_level, settings.log_format)
    try:
        logs.start_audit(settings.audit_log)
    except OSError as error:
        raise SettingsError(f"BRIDGE_AUDIT_LOG cannot be written: {error.strerror}") from error


def _check_rest(settings: Settings) -> None:
    """Refuses what no request to the REST service can be sent with; the value, which may be a secret, is not repeated."""
    try:
        parts = urlsplit(settings.rest_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    # aiohttp sends the user of a URL, if there is one, in place of the token.
    if not usable or not re.fullmatch(r"[^?#@\s]+", settings.rest_url):
        form = "http(s)://host[:port][/path], without user, query or fragment"
        raise SettingsError(f"BRIDGE_REST_URL must be {form}; its token is BRIDGE_REST_TOKEN")
    if not re.fullmatch(r"[!-~]*", settings.rest_token):
        name = "BRIDGE_REST_TOKEN_FILE" if settings.rest_token_file else "BRIDGE_REST_TOKEN"
        raise SettingsError(f"{name} must be one word of ASCII, without blanks or line breaks")


def _token(settings: Settings) -> str:
    """The content of the token's file."""
    if settings.rest_token:
        raise SettingsError("BRIDGE_REST_TOKEN and BRIDGE_REST_TOKEN_FILE are both set; unset one")
    try:
        with open_plain(Path(settings.rest_token_file)) as opened:
            return content(opened).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise SettingsError(f"BRIDGE_REST_TOKEN_FILE cannot be read: {reason}") from error
