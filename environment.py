"""Settings as dataclass fields that environment variables set: read, checked, and reported without what is secret.

The REST service, the MCP bridge, the sandbox, `make run` and `mistral-batch` each have a dataclass of such fields in their `config`,
whose `from_env` calls `read_settings`. This module alone reads the process's environment, and never when it is imported.
A variable that looks like a setting and is none stops the start, as it may be what keeps others out, misspelt.
"""

from __future__ import annotations

import os
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REDACTED = "***"
LARGEST = 1 << 40

_NAMES = {
    "GATEWAY_": """
        ALLOWED_HOSTS ALLOWED_ORIGINS AUDIT_LOG CA_FILE CHECK_FILES CONNECT_TIMEOUT DOCS
        FILE_PURPOSES HOST JWKS_URL JWT_ALGORITHMS JWT_AUDIENCE JWT_ISSUER KEY_EXPIRY LOG_FORMAT
        LOG_LEVEL MAX_ANSWER MAX_BODY MAX_FILE OPENAPI PORT QUEUE RATE_LIMIT READ_TIMEOUT
        ROOT_PATH SETTLE SIGNED_URLS STORE THREADS TIMEOUT TOKENS_FILE TRACE_UPSTREAM TRANSFERS
        UPSTREAM_URL WAITERS WAIT_LIMIT
    """,
    "BRIDGE_": """
        ALLOWED_HOSTS ALLOWED_ORIGINS AUDIT_LOG HOST JWKS_URL JWT_ALGORITHMS JWT_AUDIENCE JWT_ISSUER
        LOG_FORMAT LOG_LEVEL PORT RATE_LIMIT REST_TOKEN REST_TOKEN_FILE REST_URL RESULT_LIMIT
        TIMEOUT TOKENS_FILE
    """,
    "SANDBOX_": """
        BOTH_INPUTS CANCEL_FINISHED_STATUS CANCEL_SECONDS CONTENT_REDIRECT DEMO ERROR_LOC
        FAILURE_PERCENT HOST INLINE_INPUT_FILE KEYS LEDGER_ENTRIES LIST_LAG_SECONDS MAX_BODY_BYTES
        MAX_FILE_BYTES MISSING_MODEL MODELS PARTIAL_RESULTS PORT PURPOSES QUEUE_SECONDS RANGES
        RATE_LIMIT REQUEST_SECONDS RETENTION_HOURS REVOKED_KEYS RUN_SECONDS SAME_FILE SEED SPEED
        STRICT_KEYS THREADS TRIAL_REQUESTS UNKNOWN_FILE_STATUS UNKNOWN_MEMBERS WRONG_PURPOSE_STATUS
    """,
    "MISTRAL_BATCH_": "HOME TOKEN URL",
    "WEB_": "CONCURRENCY",
}
"""Every setting of every process, by how it begins: they may share an environment, but do not import each other. A test
compares it with their tables."""

NAMES = frozenset(prefix + word for prefix, words in _NAMES.items() for word in words.split())

PREFIXES = ("GATEWAY_", "BRIDGE_", "SANDBOX_", "MISTRAL_BATCH_")
"""How names begin that are nobody else's."""

_CREDENTIAL = re.compile(r"[A-Z][A-Z0-9_]{0,60}_(KEY|TOKEN|USERNAME|PASSWORD|SECRET)(_FILE)?")
"""How variables are named that hold credentials, which no list here has."""

_LARGEST_DOTENV = 1 << 20  # bytes; what is beyond is not looked at

_LINK = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+)=.*"
    r"|\w+_PORT(_\w+)?=(tcp|udp|sctp)://.*|\w+_NAME=/.*",
    re.DOTALL,
)
"""What Kubernetes and Docker set for a service that happens to be called gateway, bridge or sandbox
(kubernetes.io/docs/concepts/services-networking/service, Environment variables; docs.docker.com, Legacy container links)."""


class SettingsError(ValueError):
    """A setting, or the file that it names, cannot be used; the message says which, why and what to do, never a secret."""


def setting(
    env: str, default: Any, help: str, *, choices: Iterable[Any] = (), secret: bool = False
) -> Any:
    """A dataclass field that the environment variable `env` sets; its type is the default's, of lists a tuple of texts.

    `choices` are the values that it may have: words (in any case) or numbers. One that may hold a secret is not shown
    with the others, neither by `repr` nor by `report`.
    """
    metadata = {"env": env, "help": help, "choices": tuple(choices)}
    return field(default=default, metadata=metadata, repr=not secret)


def variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Where settings are read from: `environ`, or this process's environment when that is None; less service links."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if not _is_link(name, value)}


def _is_link(name: str, value: str) -> bool:
    return name.startswith(PREFIXES) and _LINK.fullmatch(f"{name}={value}") is not None


def read_settings(settings: type[Any], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The fields of the dataclass `settings` that `environ` (None: the process's) sets, by name, with their values.

    An empty variable is as one that is not set. Raises SettingsError with everything that cannot be used.
    """
    values, faults = examine_settings(settings, environ)
    if faults:
        raise SettingsError("; ".join(faults))
    return values


def examine_settings(
    settings: type[Any], environ: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """What `read_settings` returns, without values that cannot be used, and what is wrong with each of these."""
    environ = variables(environ)
    values, faults = {}, [str(name) for name in misspelt(_names(settings), environ)]
    for entry in fields(settings):
        if text := _text(entry, environ):
            try:
                values[entry.name] = _value(entry, text)
            except SettingsError as error:
                faults.append(str(error))
    return values, faults


@dataclass(frozen=True)
class Misspelt:
    """A variable that is set and is no setting; `near` is the one that may be meant, or empty."""

    name: str
    near: str = ""

    def __str__(self) -> str:
        where = f"{self.near} is" if self.near else "README.md and docs/sandbox.md have all"
        return f"{self.name} is no setting; {where}"


def _names(settings: type[Any]) -> set[str]:
    return {entry.metadata["env"] for entry in fields(settings) if "env" in entry.metadata}


def misspelt(own: Set[str], environ: Mapping[str, str]) -> list[Misspelt]:
    """The variables of `environ` that begin as a process's `own` and are no settings, and all others that nearly are one.

    What begins as another process's alone may be somebody else's, such as SANDBOX_ID.
    """
    prefixes = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in own)]
    known = NAMES | own
    found = []
    for name in sorted(environ.keys() - known):
        upper = name.upper().replace("-", "_")
        near = get_close_matches(upper, known, 1, 0.9)
        prefix = next(filter(upper.startswith, prefixes), "")
        if prefix and not near:  # by what follows, since the rest is alike anyway
            words = [n.removeprefix(prefix) for n in known if n.startswith(prefix)]
            close = get_close_matches(upper.removeprefix(prefix), words, 1, 0.6)
            near = [prefix + word for word in close]
        if environ[name].strip() and (prefix or near):
            found.append(Misspelt(name, *near))
    return found


def _text(entry: Any, environ: Mapping[str, str]) -> str:
    """What the variable of the field `entry` says; empty when there is none."""
    return environ.get(entry.metadata.get("env", ""), "").strip()


_SWITCH = {
    **dict.fromkeys(("on", "1", "true", "yes"), True),
    **dict.fromkeys(("off", "0", "false", "no"), False),
}

_READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    tuple: (lambda text: tuple(filter(None, map(str.strip, text.split(",")))), "a list"),
    bool: (lambda text: _SWITCH[text.lower()], "on or off"),
    int: (int, "a whole number"),
    float: (float, "a number"),
}


def _value(entry: Any, text: str) -> Any:
    name, default = entry.metadata["env"], entry.default
    if choices := {str(choice): choice for choice in entry.metadata["choices"]}:
        if text.lower() not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}")
        return choices[text.lower()]
    read, expected = _READERS[type(default)]
    try:
        value = read(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{name} must be {expected}") from error
    if isinstance(value, int | float) and not min(default, 0) <= value < LARGEST:
        raise SettingsError(f"{name} must be {min(default, 0):g} or more and not endless")
    return value


@dataclass(frozen=True)
class SettingReport:
    """One setting's value, as it may be shown, and its source: `environment` or `default`."""

    name: str
    value: str
    source: str


def report(
    settings: type[Any],
    environ: Mapping[str, str] | None = None,
    redactions: Mapping[str, Callable[[str], str]] | None = None,
) -> list[SettingReport]:
    """Every setting of the dataclass `settings` with the value that `environ` (None: the process's) gives it, redacted.

    `redactions` maps variables to what redacts their values. Of other secrets the length is shown, and URLs in the rest
    lose what may be credentials.
    """
    environ = variables(environ)
    reports = []
    for entry in fields(settings):
        if name := entry.metadata.get("env"):
            redact = (redactions or {}).get(name, redact_url if entry.repr else redact_secret)
            text = _text(entry, environ)
            value = text or _written(entry.default)
            source = "environment" if text else "default"
            reports.append(SettingReport(name, redact(value) if value else "(empty)", source))
    for wrong in misspelt(_names(settings), environ):
        reports.append(SettingReport(wrong.name, "(not used)", str(wrong)))
    return reports


def _written(value: object) -> str:
    """A default as somebody would write it into the environment."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(reports: Iterable[SettingReport]) -> str:
    """The reports as aligned lines: name, value, source."""
    reports = list(reports)
    width = max(len(row.name) for row in reports)
    return "\n".join(f"{row.name:<{width}}  {row.value}  ({row.source})" for row in reports)


def dotenv_note(folder: Path = Path()) -> str:
    """What to say when a file `.env` in `folder` sets what this process's environment does not; empty otherwise."""
    content = _start_of(folder / ".env")
    unknown = [name for name in dict.fromkeys(_set_in(content)) if not os.environ.get(name)]
    if not unknown:
        return ""
    note = f".env sets {', '.join(unknown)}, but only make run and make demo read it, and mistral-batch-gateway run"
    if any(mark in content for mark in (b"\r", b"\0", BOM_UTF8)):
        return note  # no shell would read it as they do
    return f"{note}; to have it here: set -a; . ./.env; set +a"


def _start_of(path: Path) -> bytes:
    """What is in a plain file, up to a limit; empty for all others: opening a pipe would wait."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_LARGEST_DOTENV)
    except OSError:
        return b""


def _set_in(content: bytes) -> Iterator[str]:
    """The settings and credentials that the lines of `content` name with a value.

    No other name is shown: what stands before an = may be a piece of a secret of several lines.
    """
    for line in content.replace(b"\0", b"").decode("utf-8-sig", "ignore").splitlines():
        name, _, value = line.strip().removeprefix("export ").partition("=")
        name = name.strip()
        if value.strip() and (name in NAMES or _CREDENTIAL.fullmatch(name)):
            yield name


def run_command(main: Callable[[], int]) -> int:
    """The exit status of a command: what `main` returns, or 1, without a word, when nobody reads its output to the end."""
    try:
        try:
            status = main()
        finally:  # also when argparse ends it
            sys.stdout.flush()
    except BrokenPipeError:
        # What Python still holds of it would fail again at the end (docs.python.org/3/library/signal.html, SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def redact_secret(secret: str) -> str:
    """The length alone: enough to recognise a mistake, too little to use."""
    return f"{len(secret)} characters, not shown"


def redact_url(text: str) -> str:
    """A text that may have URLs in it, without what may be credentials in them: users, queries and fragments.

    Also where slashes are missing or turned round. A path of a file may have an @.
    """
    if not text.startswith(("/", "./", "../")) or text.startswith("//"):
        text = re.sub(r"(?s)\A((?:[\w+.-]+:)?[/\\]{2})?.*@", rf"\1{REDACTED}@", text)
    return re.sub(r"(?s)([?#]).*", rf"\1{REDACTED}", text)


def redact_store(location: str) -> str:
    """A store's file, or of its URL the scheme, host, port and database; *** when these cannot be told apart.

    A password with a / or ? in it ends a URL's host early; what it leaves behind has an @, or is no database.
    """
    if "://" not in location and "@" not in location:
        return location
    try:
        parts = urlsplit(location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return REDACTED
    whole = bool(host) and "@" not in parts.path + parts.query + parts.fragment
    if not (whole and re.fullmatch(r"(/[0-9]*)?", parts.path)):
        return REDACTED
    address = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{address}{f':{port}' if port else ''}{parts.path}"


def redact_path(text: str) -> str:
    """A file's path, unless it is none and may be the secret itself, put into the wrong variable."""
    try:
        exists = Path(text).exists()
    except OSError:  # too long for a name
        exists = False
    return text if exists or "/" in text else redact_secret(text)
