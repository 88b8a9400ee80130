"""What is fine, doubtful and wrong with the settings and around them; `python -m service doctor` prints it.

Nothing is changed by looking, and one fault does not keep the others from being found. What is doubtful may work.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

import certifi

from access.authentication import Authentication
from access.listen import in_brackets
from environment import SettingsError, redact_store, redact_url
from telemetry import logs

from .app import admission
from .config import LONGEST, Settings, check_base_url
from .edge import open_context
from .problems import Problem
from .redis_store import RedisStore
from .sqlite_store import look_at_file
from .store import StoreUnavailable, is_redis
from .translation import Inputs, build_request
from .upstream import Upstreams
from .upstream_connection import CancellableRequest, Deadline

OK, DOUBT, WRONG = "ok", "doubt", "wrong"

Finding = tuple[str, str, str]
"""Verdict, what was looked at, and what is to be said of it."""

_PATIENCE = 5.0  # seconds for each thing that is asked


def findings(ask_upstream: bool) -> Iterator[Finding]:
    """What there is to say of this process's environment. `ask_upstream`: also send a request with the key."""
    try:
        settings, faults = Settings.examine()
    except SettingsError as error:  # without a contract there is nothing to look at
        yield WRONG, "settings", str(error)
        return
    for fault in faults:
        yield WRONG, "settings", fault
    if not faults:
        yield OK, "settings", _served(settings)
    examinations: dict[str, Callable[[Settings], Iterator[tuple[str, str]]]] = {
        "time limits": _time_limits,
        "tokens": _tokens,
        "key": _key,
        "store": _store,
        "audit log": _audit_log,
        "traces": _traces,
        "upstream": partial(_upstreams, ask=ask_upstream),
    }
    for name, examine in examinations.items():
        try:
            for verdict, text in examine(settings):
                yield verdict, name, text
        except (SettingsError, OSError, StoreUnavailable, ValueError) as error:
            if str(error) not in faults:
                yield WRONG, name, str(error)


def _served(settings: Settings) -> str:
    count = settings.workers or os.cpu_count() or 1
    return (
        f"{len(settings.contract.operations)} operations of {settings.contract.title}, at"
        f" {in_brackets(settings.host)}:{settings.port} by {count} worker{'s' if count > 1 else ''}, for {', '.join(sorted({*settings.base_urls.values()}))}"
    )


def _time_limits(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.timeout >= LONGEST:
        yield (
            DOUBT,
            f"GATEWAY_TIMEOUT ({settings.timeout:g} s) is not below {LONGEST:g} s. With it, raise BRIDGE_TIMEOUT,"
            " nginx's proxy_read_timeout and the time until a stopping process is killed (docs/deployment.md, Time limits)",
        )


def _tokens(settings: Settings) -> Iterator[tuple[str, str]]:
    admission(settings)
    scopes = settings.contract.scopes
    found = Authentication.from_settings(settings, prefix="GATEWAY_", scopes=scopes)
    if found is None:
        yield DOUBT, "none are asked for: whoever reaches the port, also through a proxy, may call"
        return
    if found.token_file:
        entries = found.token_file.entries
        expired = sum(entry.expires <= time.time() for entry in entries)
        text = f"{len(entries)}, in {settings.tokens_file}"
        yield (
            OK if len(entries) > expired else DOUBT,
            text + (f"; {expired} expired" * bool(expired)),
        )
    if found.issuer:
        keys = redact_url(settings.jwks_url)
        try:
            _connected(settings.jwks_url)
        except OSError as error:
            yield WRONG, f"the issuer's keys at {keys} cannot be had: {error.strerror or error}"
        else:
            yield OK, f"JWTs of {redact_url(settings.jwt_issuer)}, with keys at {keys}"


def _key(settings: Settings) -> Iterator[tuple[str, str]]:
    for upstream in settings.contract.upstreams.values():
        settings.read_credentials(upstream.authentication)
    files = ", ".join(map(str, settings.credential_files))
    yield OK, f"is set{f', in {files}' if files else ''}"


def _store(settings: Settings) -> Iterator[tuple[str, str]]:
    shown = redact_store(settings.store)
    if not is_redis(settings.store):
        yield OK, f"{shown} {look_at_file(Path(settings.store))}"
        return
    store = RedisStore(settings.store)
    try:
        store.check()
    except StoreUnavailable as error:
        raise StoreUnavailable(f"{shown} cannot be written ({error})") from error
    yield OK, f"{shown} can be written"
    for doubt in store.doubts():
        yield DOUBT, f"{shown}: {doubt}"


def _audit_log(settings: Settings) -> Iterator[tuple[str, str]]:
    target = settings.audit_log
    if target in ("stdout", "stderr"):
        yield OK, f"goes to {target}"
    elif target == "off":
        yield DOUBT, "is off: nobody will know who created what"
    else:
        path = Path(target)
        try:
            if path.exists():
                os.close(logs.open_file(path))
            else:
                with TemporaryFile(dir=path.parent):
                    pass
        except OSError as error:
            raise SettingsError(f"{target} cannot be written: {error.strerror}") from error
        yield OK, f"goes to {target}"


def _traces(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.tracing:
        yield (
            (OK, f"go to {settings.tracing}")
            if _has_exporter()
            else (
                WRONG,
                "OTEL_* variables ask for them, but OpenTelemetry is not installed: pip install -r requirements-otel.lock"
                " (docs/observability.md, Traces)",
            )
        )


def _has_exporter() -> bool:
    try:
        return bool(find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp"))
    except ModuleNotFoundError:
        return False


def _upstreams(settings: Settings, ask: bool) -> Iterator[tuple[str, str]]:
    # What is refused was said with the settings, and may have a password where none is looked for.
    refused = {url for url in settings.base_urls.values() if _is_refused(url)}
    seen = set(refused)
    for namespace, url in settings.base_urls.items():
        if url not in seen:
            seen.add(url)
            try:
                yield OK, _connected(url, settings.ca_file or certifi.where())
            except OSError as error:
                yield WRONG, f"{url} cannot be reached: {error.strerror or error}"
                continue
            if doubt := settings.base_url_doubts.get(url):
                yield DOUBT, doubt
            if ask and not refused:
                yield _asked(namespace, url, settings)


def _is_refused(url: str) -> bool:
    try:
        check_base_url(url)
    except SettingsError:
        return True
    return False


def _connected(url: str, cafile: str | None = None) -> str:
    """That `url` accepts connections; `cafile` None: with a certificate by the system's authorities. OSError when not."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((host, port), timeout=_PATIENCE) as plain:
        if parts.scheme == "http":
            return f"{url} accepts connections"
        context = ssl.create_default_context(cafile=cafile)
        with context.wrap_socket(plain, server_hostname=host) as secure:
            return f"{url} accepts connections, {secure.version()}"


def _asked(namespace: str, url: str, settings: Settings) -> tuple[str, str]:
    """Sends the first reading operation that needs no input."""
    operation = next(
        (
            o
            for o in settings.contract.operations.values()
            if o.namespace == namespace and o.safe and not any(p.required for p in o.parameters)
        ),
        None,
    )
    if operation is None:
        return DOUBT, f"{url} has nothing that can be asked without knowing more"
    open_context()
    request = build_request(operation, Inputs())
    try:
        answer = Upstreams(settings).send(request, CancellableRequest(Deadline(_PATIENCE)))
    except Problem as problem:
        if problem.upstream_status == 404:
            return WRONG, (
                f"{url}{operation.upstream_path} is not there (404): the path of GATEWAY_UPSTREAM_URL is wrong, which says"
                " nothing of the key"
            )
        return WRONG, f"{operation.id} at {url}: {problem.detail}"
    except SettingsError as error:
        return WRONG, f"{url} was not asked: {error}"
    return OK, f"{operation.id} at {url} was answered with {answer.status}"
