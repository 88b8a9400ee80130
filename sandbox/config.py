"""The sandbox's settings: one frozen object, read from `SANDBOX_*` variables.

Where Mistral documents no behaviour, the behaviour is a setting with the likeliest default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from environment import variables


class SettingsError(ValueError):
    """A `SANDBOX_*` variable holds something that cannot be used."""


def digest(key: str) -> str:
    """The hexadecimal SHA-256 of an API key: all that the sandbox keeps of one."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_digests(text: str) -> str:
    """`key=workspace/user,...` with each key replaced by its digest; a lone `key` likewise."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    return ",".join(digest(key.strip()) + equals + rest for key, equals, rest in pairs)


def option(default: Any, help: str, *, choices: tuple[Any, ...] = (), secret: bool = False) -> Any:
    """A dataclass field whose metadata carry what docs/sandbox.md says about it."""
    return field(
        default=default,
        repr=not secret,
        metadata={"help": help, "choices": choices, "parse": key_digests if secret else None},
    )


DEMO_KEYS = "demo-colleague=default/colleague,demo-stranger=elsewhere/stranger"


@dataclass(frozen=True)
class Settings:
    """All settings; the variable of `speed` is `SANDBOX_SPEED`. Times are seconds."""

    host: str = option("127.0.0.1", "Address to listen on.")
    port: int = option(8081, "Port to listen on; 0 takes a free one, named in the ready line.")
    threads: int = option(256, "Requests handled at once; a hanging answer holds one.")
    speed: float = option(
        10.0, "Job seconds per real second; 0 stops the clock, so that only `advance` moves it."
    )
    seed: int = option(
        -1, "Makes ids, timings, failures and the order of results repeatable; -1 draws one."
    )
    demo: bool = option(False, "Load the demonstration jobs at start.")

    keys: str = option(
        key_digests(DEMO_KEYS),
        "Keys with a place of their own: `key=workspace/user,...`; any other key is the "
        "user `default` of the workspace `default`.",
        secret=True,
    )
    strict_keys: bool = option(False, "Answer 401 to keys that `SANDBOX_KEYS` does not name.")
    revoked_keys: str = option(
        key_digests("demo-revoked"), "Keys that get 401, separated by commas.", secret=True
    )
    rate_limit: int = option(0, "Requests per minute and key, more get 429; 0 sets no limit.")

    queue_seconds: float = option(15.0, "Job seconds that a job stays QUEUED.")
    run_seconds: float = option(40.0, "Job seconds that every job stays RUNNING.")
    request_seconds: float = option(0.1, "Job seconds RUNNING in addition for each request.")
    cancel_seconds: float = option(10.0, "Job seconds from CANCELLATION_REQUESTED to CANCELLED.")
    failure_percent: float = option(0.0, "Share of the requests that fail, in percent.")
    models: str = option(
        "", "Known models, separated by commas; empty: all whose name lacks the prefix `unknown`."
    )
    list_lag_seconds: float = option(0.0, "Real seconds until a new job appears in the list.")

    trial_requests: int = option(0, "Free trial: jobs with more requests get 402; 0 is no trial.")
    pending_limit: int = option(
        1_000_000, "Unfinished requests per workspace; a job that exceeds it waits, QUEUED."
    )
    max_body_bytes: int = option(
        64 * 1024 * 1024, "Largest upload or request body; above it 413 (Mistral: 512 MB files)."
    )
    retention_hours: float = option(
        0.0, "Job hours after which result files are gone (404); 0 keeps them."
    )

    both_inputs: str = option(
        "refuse", "A job with `input_files` and `requests`.", choices=("refuse", "accept")
    )
    unknown_members: str = option(
        "ignore", "Unknown members of a create body and its requests.", choices=("ignore", "refuse")
    )
    missing_model: str = option(
        "fail", "Requests for which neither job nor body name a model.", choices=("fail", "accept")
    )
    unknown_file_status: int = option(404, "Status for an unknown input file.", choices=(404, 422))
    wrong_purpose_status: int = option(
        422, "Status for an input file whose purpose is not `batch`.", choices=(404, 422)
    )
    cancel_finished_status: int = option(
        200, "Answer to cancelling a finished job.", choices=(200, 400, 409)
    )
    inline_input_file: bool = option(True, "Give inline jobs a generated input file.")
    partial_results: bool = option(
        False, "Keep the results of what a cancelled, timed-out or failed job completed."
    )
    error_loc: str = option(
        "body", "First elements of `loc` in a 422 answer, separated by dots (say `body.data`)."
    )
    ledger_entries: int = option(10_000, "Received requests that the ledger remembers.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Settings from the environment.

        Raises:
            SettingsError: a value of the wrong type, or not among the choices.
        """
        values = {}
        for item in fields(cls):
            text = variables(environ).get(variable(item.name))
            if text is not None and text != "":
                values[item.name] = _parse(item.name, text, item.default, item.metadata)
        return cls(**values)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "SANDBOX_" + name.upper()


def _parse(name: str, text: str, default: Any, metadata: Mapping[str, Any]) -> Any:
    parse: Callable[[str], Any] = metadata["parse"] or (
        _boolean if isinstance(default, bool) else type(default)
    )
    try:
        value = parse(text)
    except ValueError as error:
        kind = type(default).__name__
        raise SettingsError(f"{variable(name)} must be of type {kind}") from error
    if isinstance(value, int | float) and not value >= min(default, 0):
        raise SettingsError(f"{variable(name)} must not be negative")
    choices = metadata["choices"]
    if choices and value not in choices:
        raise SettingsError(f"{variable(name)} must be one of {', '.join(map(str, choices))}")
    return value


def _boolean(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]
