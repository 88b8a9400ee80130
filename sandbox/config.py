"""The sandbox's settings, from `SANDBOX_*` variables.

Where Mistral documents no behaviour, the behaviour is a setting with the likeliest default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from environment import read_settings, setting


def digest(key: str) -> str:
    """The hexadecimal SHA-256 of an API key: all that the sandbox keeps of one."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_digests(text: str) -> str:
    """`key=workspace/user,...` with each key replaced by its digest; a lone `key` likewise."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    return ",".join(digest(key.strip()) + equals + rest for key, equals, rest in pairs)


DEMO_KEYS = key_digests("demo-colleague=default/colleague,demo-stranger=elsewhere/stranger")


@dataclass(frozen=True)
class Settings:
    """What one sandbox runs with. Times are seconds, of keys there are digests only."""

    # A table: one row, one line.
    # fmt: off
    host: str = setting("SANDBOX_HOST", "127.0.0.1", "Address to listen on.")
    port: int = setting("SANDBOX_PORT", 8081, "Port to listen on; 0 takes a free one, named in the ready line.")
    threads: int = setting("SANDBOX_THREADS", 256, "Requests handled at once; a hanging answer holds one.")
    speed: float = setting("SANDBOX_SPEED", 10.0, "Job seconds per real second; 0 stops the clock, so that only `advance` moves it.")
    seed: int = setting("SANDBOX_SEED", -1, "Makes ids, timings, failures and the order of results repeatable; -1 draws one.")
    demo: bool = setting("SANDBOX_DEMO", False, "Load the demonstration jobs at start.")
    keys: str = setting("SANDBOX_KEYS", DEMO_KEYS, "Keys with a place of their own: `key=workspace/user,...`; any other key is the user `default` of the workspace `default`.", secret=True)
    strict_keys: bool = setting("SANDBOX_STRICT_KEYS", False, "Answer 401 to keys that `SANDBOX_KEYS` does not name.")
    revoked_keys: str = setting("SANDBOX_REVOKED_KEYS", key_digests("demo-revoked"), "Keys that get 401, separated by commas.", secret=True)
    rate_limit: int = setting("SANDBOX_RATE_LIMIT", 0, "Requests per minute and key, more get 429; 0 sets no limit.")
    queue_seconds: float = setting("SANDBOX_QUEUE_SECONDS", 15.0, "Job seconds that a job stays QUEUED.")
    run_seconds: float = setting("SANDBOX_RUN_SECONDS", 40.0, "Job seconds that every job stays RUNNING.")
    request_seconds: float = setting("SANDBOX_REQUEST_SECONDS", 0.01, "Job seconds RUNNING in addition for each request.")
    cancel_seconds: float = setting("SANDBOX_CANCEL_SECONDS", 10.0, "Job seconds from CANCELLATION_REQUESTED to CANCELLED.")
    failure_percent: float = setting("SANDBOX_FAILURE_PERCENT", 0.0, "Share of the requests that fail, in percent.")
    models: str = setting("SANDBOX_MODELS", "", "Known models, separated by commas; empty: all whose name lacks the prefix `unknown`.")
    list_lag_seconds: float = setting("SANDBOX_LIST_LAG_SECONDS", 0.0, "Real seconds until a new job appears in the list.")
    trial_requests: int = setting("SANDBOX_TRIAL_REQUESTS", 0, "Free trial: jobs with more requests get 402; 0 is no trial.")
    max_body_bytes: int = setting("SANDBOX_MAX_BODY_BYTES", 64 << 20, "Largest body of a request that is no upload; above it 413.")
    max_file_bytes: int = setting("SANDBOX_MAX_FILE_BYTES", 512 << 20, "Largest file of an upload; above it 413, before the rest is read (Mistral: 512 MB).")
    purposes: str = setting("SANDBOX_PURPOSES", "fine-tune,batch,ocr,audio,agentic_safety", "Purposes that an upload may have, separated by commas; any other is a 422.")
    same_file: str = setting("SANDBOX_SAME_FILE", "new", "An upload with name, purpose and content of a file that is there: a `new` file, or the `old` one comes back.", choices=("new", "old"))
    ranges: bool = setting("SANDBOX_RANGES", False, "Answer a `Range` of a download with 206 or 416; otherwise it is ignored.")
    content_redirect: int = setting("SANDBOX_CONTENT_REDIRECT", 0, "Redirect downloads with this status to a signed address; 0: do not.", choices=(0, 302, 307))
    retention_hours: float = setting("SANDBOX_RETENTION_HOURS", 0.0, "Job hours after which result files are gone (404); 0 keeps them.")
    both_inputs: str = setting("SANDBOX_BOTH_INPUTS", "refuse", "A job with `input_files` and `requests`.", choices=("refuse", "accept"))
    unknown_members: str = setting("SANDBOX_UNKNOWN_MEMBERS", "ignore", "Unknown members of a create body and its requests.", choices=("ignore", "refuse"))
    missing_model: str = setting("SANDBOX_MISSING_MODEL", "fail", "Requests for which neither job nor body name a model.", choices=("fail", "accept"))
    unknown_file_status: int = setting("SANDBOX_UNKNOWN_FILE_STATUS", 404, "Status for an unknown input file.", choices=(404, 422))
    wrong_purpose_status: int = setting("SANDBOX_WRONG_PURPOSE_STATUS", 422, "Status for an input file whose purpose is not `batch`.", choices=(404, 422))
    cancel_finished_status: int = setting("SANDBOX_CANCEL_FINISHED_STATUS", 200, "Answer to cancelling a finished job.", choices=(200, 400, 409))
    inline_input_file: bool = setting("SANDBOX_INLINE_INPUT_FILE", True, "Give inline jobs a generated input file.")
    partial_results: bool = setting("SANDBOX_PARTIAL_RESULTS", True, "Keep the results of what a cancelled, timed-out or failed job completed; otherwise it has none.")
    error_loc: str = setting("SANDBOX_ERROR_LOC", "body", "First elements of `loc` in a 422 answer, separated by dots (say `body.data`).")
    ledger_entries: int = setting("SANDBOX_LEDGER_ENTRIES", 10_000, "Received requests that the ledger remembers.")
    # fmt: on

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings in `environ` (None: the process's); SettingsError for one that cannot be used."""
        values = read_settings(cls, environ)
        for name in values.keys() & {"keys", "revoked_keys"}:
            values[name] = key_digests(values[name])
        return cls(**values)

    @property
    def body_loc(self) -> tuple[str, ...]:
        """Where the members of a request body are, as 422 answers say it."""
        return tuple(self.error_loc.split("."))
