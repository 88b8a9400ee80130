"""The service's settings.

Every field of `Settings` that a user can set names its environment variable and its meaning in its metadata;
the README's table and `.env.example` are checked against them.
"""

from __future__ import annotations

import errno
import re
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import environment
from access import AccessSettings, listen
from environment import (
    SettingReport,
    SettingsError,
    examine_settings,
    redact_path,
    redact_secret,
    redact_store,
    redact_url,
    setting,
    variables,
)
from openapi.contract import DEFAULT_DOCUMENT, Authentication, Contract, ContractError, load
from telemetry import logs, metrics, spans

from . import upstream_key
from .job_recovery import check_recoveries
from .store import is_redis, open_store

MEBIBYTE = 1 << 20
YEAR = 366 * 86400

LONGEST = 50.0
"""Seconds: what the files in deploy/ are made for, and the bridge waits. GATEWAY_TIMEOUT is to be below."""


@dataclass(frozen=True, kw_only=True)
class Settings(AccessSettings):
    """What one gateway process runs with. Times are in seconds, sizes in bytes."""

    # A table: one row, one line.
    # fmt: off
    host: str = setting("GATEWAY_HOST", "127.0.0.1", "Address to listen on")
    port: int = setting("GATEWAY_PORT", 0, "Port to listen on; 0: the capability's (8080)")
    openapi: str = setting("GATEWAY_OPENAPI", str(DEFAULT_DOCUMENT), "Derived OpenAPI document to serve")
    upstream_url: str = setting("GATEWAY_UPSTREAM_URL", "", "Base URL of the upstream API; NAMESPACE=URL, separated by commas, where there are several; empty: the capability's baseUri")
    ca_file: str = setting("GATEWAY_CA_FILE", "", "PEM file of the authorities that may sign the upstream's certificate; empty: certifi's")
    connect_timeout: float = setting("GATEWAY_CONNECT_TIMEOUT", 5.0, "Limit for connecting upstream")
    read_timeout: float = setting("GATEWAY_READ_TIMEOUT", 40.0, "Limit for each wait for upstream bytes")
    timeout: float = setting("GATEWAY_TIMEOUT", 45.0, "Limit for a whole upstream exchange, repeats included")
    threads: int = setting("GATEWAY_THREADS", 256, "Upstream calls that one worker makes at a time, files apart")
    queue: int = setting("GATEWAY_QUEUE", 256, "Requests that may wait for a thread, a second at most; more are answered 503")
    max_body: int = setting("GATEWAY_MAX_BODY", 32 * MEBIBYTE, "Largest request body")
    max_file: int = setting("GATEWAY_MAX_FILE", 513 * MEBIBYTE, "Largest upload: a file of 512 MiB and the form around it")
    transfers: int = setting("GATEWAY_TRANSFERS", 16, "Files that one worker passes on at a time, up and down; more are answered 503")
    file_purposes: tuple[str, ...] = setting("GATEWAY_FILE_PURPOSES", ("batch",), "Purposes whose files callers may upload, list, read and delete")
    check_files: str = setting("GATEWAY_CHECK_FILES", "on", "Whether batch files are checked line by line while they are uploaded: on or off", choices=("on", "off"))
    signed_urls: str = setting("GATEWAY_SIGNED_URLS", "off", "Whether callers get signed URLs of files, which no revoked token ends: on or off", choices=("on", "off"))
    max_answer: int = setting("GATEWAY_MAX_ANSWER", 64 * MEBIBYTE, "Largest upstream answer")
    store: str = setting("GATEWAY_STORE", ".run/gateway.sqlite3", "Store of idempotency keys: a SQLite file, or a redis:// URL for several hosts", secret=True)
    wait_limit: float = setting("GATEWAY_WAIT_LIMIT", 45.0, "Longest wait for a final state that `Prefer: wait` gets, 50 at most; 0: none")
    waiters: int = setting("GATEWAY_WAITERS", 1000, "Callers that may wait for a final state in one worker; more are answered 503")
    key_expiry: float = setting("GATEWAY_KEY_EXPIRY", 86400.0, "How long an Idempotency-Key is remembered")
    settle: float = setting("GATEWAY_SETTLE", 600.0, "After how long a lost create that cannot be found may be sent again with its key")
    log_level: str = setting("GATEWAY_LOG_LEVEL", "info", "Least level logged: debug, info (a line a request), warning, error", choices=logs.LEVELS)
    log_format: str = setting("GATEWAY_LOG_FORMAT", "auto", "Form of log lines: json, text, or auto: text on a terminal", choices=logs.FORMATS)
    audit_log: str = setting("GATEWAY_AUDIT_LOG", "stdout", "Where a line for each changing call goes: stdout, stderr, off or a file")
    trace_upstream: bool = setting("GATEWAY_TRACE_UPSTREAM", True, "Continue the caller's trace upstream by a traceparent header")
    tokens_file: str = setting("GATEWAY_TOKENS_FILE", "", "File of the callers' tokens, made by `python -m service token`; read again when it changes")
    jwt_issuer: str = setting("GATEWAY_JWT_ISSUER", "", "Issuer (iss) whose JWTs are accepted too")
    jwt_audience: str = setting("GATEWAY_JWT_AUDIENCE", "", "Audience (aud) that such a JWT must name")
    jwks_url: str = setting("GATEWAY_JWKS_URL", "", "Where the issuer's public keys are (JWKS)")
    jwt_algorithms: str = setting("GATEWAY_JWT_ALGORITHMS", "RS256,ES256", "Signature algorithms that are accepted")
    allowed_hosts: tuple[str, ...] = setting("GATEWAY_ALLOWED_HOSTS", (), "Names, beside loopback's, that a Host header may have: NAME or NAME:PORT; *: any, with tokens")
    allowed_origins: tuple[str, ...] = setting("GATEWAY_ALLOWED_ORIGINS", (), "Web pages that may call: SCHEME://HOST[:PORT]; empty: none")
    rate_limit: str = setting("GATEWAY_RATE_LIMIT", "", "How often one caller may call, say 100/minute; empty: no limit")
    docs: str = setting("GATEWAY_DOCS", "auto", "Who sees /docs and the document: on (everybody), off (callers with a token), or auto: on when listening on loopback", choices=("on", "off", "auto"))
    root_path: str = setting("GATEWAY_ROOT_PATH", "", "Path under which a proxy offers the gateway, such as /batch, whether it takes it off or leaves it on; empty: none")
    workers: int = setting("WEB_CONCURRENCY", 0, "Worker processes; 0: one per core")
    # fmt: on

    tracing: str = ""
    """Where OpenTelemetry's own variables want spans to go: otlp, console, or empty for nowhere."""
    contract: Contract = field(repr=False)
    read_credentials: Callable[[Authentication], Mapping[str, str]] = field(repr=False)
    """Reads the fields of an authentication (such as `token`) and their values, which are secret, from the variables that
    were set at the start and their files' present content; SettingsError."""
    credential_files: tuple[Path, ...] = field(repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings that `environ` (None: the process's) gives; SettingsError with everything that cannot be used, the
        upstream's key included.
        """
        settings, faults = cls.examine(environ)
        for upstream in settings.contract.upstreams.values() if not faults else ():
            settings.read_credentials(upstream.authentication)
        if faults:
            raise SettingsError("; ".join(faults))
        return settings

    @classmethod
    def examine(cls, environ: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
        """The settings, with defaults for those that are no values, and what is wrong with each but the key.

        SettingsError when there is no contract.
        """
        environ = variables(environ)
        values, faults = examine_settings(cls, environ)
        contract = contract_of(environ)
        settings = cls(
            **{**values, "port": values.get("port") or contract.ports["rest"]},
            tracing=spans.wanted(environ),
            contract=contract,
            read_credentials=partial(upstream_key.read_credentials, contract, dict(environ)),
            credential_files=upstream_key.credential_files(contract, environ),
        )
        return settings, [*faults, *_faults(settings)]

    @cached_property
    def base_urls(self) -> dict[str, str]:
        """Where upstream paths are appended, without a slash at the end, by the upstream's namespace; SettingsError."""
        return _base_urls(self.contract, self.upstream_url)

    @cached_property
    def base_url_doubts(self) -> dict[str, str]:
        """A sentence about each base URL that does not end as the capability's own does, which mostly has a version at its end."""
        doubts: dict[str, str] = {}
        for namespace, url in self.base_urls.items():
            own, given = (
                urlsplit(each).path for each in (self.contract.upstreams[namespace].base_url, url)
            )
            if own and not (given.endswith(own) and not given.removesuffix(own).endswith(own)):
                doubts[url] = (
                    f"GATEWAY_UPSTREAM_URL does not end with one {own}, as the capability's own URL does"
                )
        return doubts

    @property
    def docs_open(self) -> bool:
        """True when everybody may see the pages for people."""
        return self.docs == "on" or (self.docs == "auto" and listen.is_loopback(self.host))


def report(environ: Mapping[str, str] | None = None) -> list[SettingReport]:
    """Every setting, the key's variables included, with its value and its source."""
    environ = variables(environ)
    settings = environment.report(Settings, environ, {"GATEWAY_STORE": redact_store})
    try:
        contract = contract_of(environ)
    except SettingsError:
        return settings
    plain_names = upstream_key.credential_variables(contract)
    keys = [
        SettingReport(name, redact(environ[name]), "environment")
        for plain in plain_names
        for name, redact in ((plain, redact_secret), (f"{plain}_FILE", redact_path))
        if environ.get(name)
    ]
    missing = [SettingReport(name, "(not set)", "default") for name in plain_names[:1] if not keys]
    return [*settings, *keys, *missing]


def contract_of(environ: Mapping[str, str] | None = None) -> Contract:
    """The contract that `environ` names; SettingsError when it cannot be used."""
    document = variables(environ).get("GATEWAY_OPENAPI", "").strip()
    try:
        contract = load(Path(document or DEFAULT_DOCUMENT))
        check_recoveries(contract)
        return contract
    except ContractError as error:
        raise SettingsError(str(error)) from error


def settings_or_exit() -> Settings:
    """The environment's settings; for a process's start: prints what is wrong and exits with 2 when there is anything.

    gunicorn's configuration and the application it loads both ask; they are read and checked once.
    """
    try:
        return _settings_of(frozenset(variables().items()))
    except SettingsError as error:
        refuse_start(str(error))


@lru_cache(maxsize=1)
def _settings_of(environ: frozenset[tuple[str, str]]) -> Settings:
    return Settings.from_env(dict(environ))


def start_logging(settings: Settings) -> None:
    """Starts the logs of this process as `settings` say; exits with 2 when the audit log cannot be written."""
    lost = metrics.lines_dropped
    logs.start(
        ["gateway"],
        settings.log_level,
        settings.log_format,
        on_lost=lost.labels("log").inc,
    )
    try:
        logs.start_audit(settings.audit_log, lost.labels("audit").inc)
    except OSError as error:
        refuse_start(f"GATEWAY_AUDIT_LOG: {settings.audit_log} cannot be written: {error.strerror}")


def refuse_start(message: str) -> NoReturn:
    """Prints why the process cannot start, and exits with 2."""
    note = environment.dotenv_note()
    print(f"gateway: cannot start: {message}{note and f' ({note})'}", file=sys.stderr)
    sys.exit(2)


def _faults(settings: Settings) -> Iterator[str]:
    """What is wrong with values that can be read."""
    yield from _wrong_numbers(settings)
    for check in (_check_base_urls, _check_ca_file, _check_store, _check_host, _check_root):
        try:
            check(settings)
        except SettingsError as error:
            yield str(error)


def _wrong_numbers(settings: Settings) -> Iterator[str]:
    if not 0 < settings.connect_timeout <= settings.read_timeout <= settings.timeout:
        yield (
            "GATEWAY_CONNECT_TIMEOUT, GATEWAY_READ_TIMEOUT and GATEWAY_TIMEOUT must be above 0 and in ascending order,"
            " so that the best-worded failure comes first"
        )
    if settings.wait_limit > LONGEST:
        yield (
            f"GATEWAY_WAIT_LIMIT must be at most {LONGEST:g}: bridge, gunicorn and nginx wait no longer"
            " (docs/deployment.md, Time limits)"
        )
    if settings.wait_limit % 1:
        yield "GATEWAY_WAIT_LIMIT must be whole seconds, as those of Prefer: wait are (RFC 7240)"
    if settings.waiters < 1:
        yield "GATEWAY_WAITERS must be at least 1; GATEWAY_WAIT_LIMIT=0 is for no waits"
    if settings.settle < settings.timeout:
        yield "GATEWAY_SETTLE must be at least GATEWAY_TIMEOUT: a create under way must not be sent again"
    if settings.key_expiry > YEAR:
        yield f"GATEWAY_KEY_EXPIRY must be at most {YEAR}, which is a year"
    if settings.threads < 1:
        yield "GATEWAY_THREADS must be at least 1"
    if settings.port > 65535:
        yield "GATEWAY_PORT must be at most 65535"


def _check_root(settings: Settings) -> None:
    if not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*", settings.root_path):
        raise SettingsError(
            "GATEWAY_ROOT_PATH must be a path such as /batch, without a slash at its end"
        )


def _base_urls(contract: Contract, given: str) -> dict[str, str]:
    """By namespace: what `given`, the value of GATEWAY_UPSTREAM_URL, says, else the capability's own."""
    declared = {name: upstream.base_url for name, upstream in contract.upstreams.items()}
    if not given:
        return declared
    if "=" not in given.partition("://")[0]:
        if len(set(declared.values())) > 1:
            raise SettingsError(
                "GATEWAY_UPSTREAM_URL: there are several upstreams; name each: NAMESPACE=URL, separated by commas, for "
                + ", ".join(declared)
            )
        return dict.fromkeys(declared, given.rstrip("/"))
    for entry in given.split(","):
        name, _, url = entry.strip().partition("=")
        if name not in declared:
            raise SettingsError(
                f"GATEWAY_UPSTREAM_URL: an entry begins with none of the upstreams' namespaces: {', '.join(declared)}"
            )
        declared[name] = url.rstrip("/")
    return declared


def _check_base_urls(settings: Settings) -> None:
    for url in settings.base_urls.values():
        check_base_url(url)


def check_base_url(url: str) -> None:
    """Refuses a base URL that is empty, a template, or would carry the key over an open network."""
    if not url or "{" in url:
        raise SettingsError(
            f"the capability's baseUri is {'a template: ' + redact_url(url) if url else 'empty'}; set GATEWAY_UPSTREAM_URL to the API's base URL"
        )
    form = (
        "GATEWAY_UPSTREAM_URL must be http(s)://host[:port][/path], without user, query or fragment"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(form) from error
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not re.fullmatch(r"[!-~]+", url)
    ):
        raise SettingsError(form)
    if parts.scheme == "http" and not listen.is_loopback(parts.hostname):
        raise SettingsError(
            f"GATEWAY_UPSTREAM_URL: plain http to {parts.hostname} would send the key unencrypted; use https"
        )


def _check_store(settings: Settings) -> None:
    location = settings.store
    if "://" in location:
        try:
            if not is_redis(location):
                raise ValueError
            open_store(location)
        except ValueError as error:  # its text may show a part of the password
            raise SettingsError(
                "GATEWAY_STORE must be the path of a file, or redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]"
            ) from error
    elif Path(location).is_dir():
        raise SettingsError(f"GATEWAY_STORE: {location} is a folder; name a file in it")


def _check_host(settings: Settings) -> None:
    listen.check(
        settings.host, protected=settings.protected, chosen_by="GATEWAY_HOST", prefix="GATEWAY_"
    )


def _check_ca_file(settings: Settings) -> None:
    path = settings.ca_file
    if not path:
        return
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe's reader would wait
            raise OSError(errno.EINVAL, "it is no plain file")
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise SettingsError(
            f"GATEWAY_CA_FILE: {path} cannot be read as PEM: {error.strerror}"
        ) from error
