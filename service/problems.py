"""Problems (RFC 9457): the table of every kind of failure, and the exception that one is; `edge` makes answers of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from openapi.validation import MAX_VIOLATIONS, Violation
from serving.problems import DOCUMENTATION, TITLES

MAX_TEXT = 500


@dataclass(frozen=True)
class Kind:
    """A row of the table. `retryable` holds unless the failure itself knows better; `advice` says what a caller can do.

    `keeps_status`: the answer's status is the upstream's own, and `status` the least of those.
    """

    status: int
    source: str
    title: str
    advice: str
    retryable: bool = False
    keeps_status: bool = False

    @property
    def status_shown(self) -> str:
        """The status for people."""
        return f"{self.status // 100}xx, kept" if self.keeps_status else str(self.status)


# A table: one row, one line.
# fmt: off
PROBLEMS: dict[str, Kind] = {
    "misdirected-request": Kind(421, "gateway", TITLES["misdirected-request"], "Use a Host that the gateway knows, or have GATEWAY_ALLOWED_HOSTS extended."),
    "cross-origin": Kind(403, "gateway", TITLES["cross-origin"], "Call from a program, or have GATEWAY_ALLOWED_ORIGINS extended."),
    "unauthenticated": Kind(401, "gateway", TITLES["unauthenticated"], "Send Authorization: Bearer with a token of this gateway; its operator makes them."),
    "insufficient-scope": Kind(403, "gateway", TITLES["insufficient-scope"], "Use a token with the scope that detail names."),
    "too-many-requests": Kind(429, "gateway", TITLES["too-many-requests"], "Repeat after Retry-After seconds; nothing was sent upstream.", retryable=True),
    "issuer-unreachable": Kind(503, "gateway", TITLES["issuer-unreachable"], "Repeat after Retry-After seconds; nothing was sent upstream.", retryable=True),
    "malformed-request": Kind(400, "gateway", TITLES["malformed-request"], "Correct what detail names; nothing was done upstream."),
    "validation-failed": Kind(422, "gateway", "The request breaks the contract", "Correct every place in errors; nothing was done upstream."),
    "not-found": Kind(404, "gateway", TITLES["not-found"], "Check the path, without a trailing slash."),
    "method-not-allowed": Kind(405, "gateway", TITLES["method-not-allowed"], "Use a method that the Allow header lists."),
    "content-too-large": Kind(413, "gateway", TITLES["content-too-large"], "Send less, or have the limit raised that detail names."),
    "request-timeout": Kind(408, "gateway", "The body did not come in time", "Send it again, at 64 KiB a second or more; nothing was done upstream.", retryable=True),
    "unsupported-media-type": Kind(415, "gateway", TITLES["unsupported-media-type"], "Send the Content-Type that detail names, uncompressed."),
    "overloaded": Kind(503, "gateway", "The gateway is busy", "Repeat after Retry-After seconds; nothing was sent upstream.", retryable=True),
    "gateway-unavailable": Kind(502, "gateway", "The proxy in front got no complete answer from the gateway", "Repeat only if retryable; otherwise look whether it was carried out."),
    "internal-error": Kind(500, "gateway", TITLES["internal-error"], "Report it with the request_id; the log has the cause under that id."),
    "create-outcome-unknown": Kind(504, "upstream", "Whether the call was carried out is unknown", "Look for it, or repeat with the same Idempotency-Key."),
    "outcome-still-unknown": Kind(409, "gateway", "Whether the first call was carried out is still unknown", "Repeat with the same key later.", retryable=True),
    "idempotency-in-progress": Kind(409, "gateway", "The first call with this key is under way", "Repeat after Retry-After for its answer.", retryable=True),
    "idempotency-key-reused": Kind(422, "gateway", "The key belongs to another request", "Use a new key for another request."),
    "idempotency-store-unavailable": Kind(503, "gateway", "The key cannot be claimed now", "Repeat later; nothing was sent upstream.", retryable=True),
    "upstream-rejected": Kind(400, "upstream", "The upstream rejected the request", "Read upstream, its own error; the status is its own too.", keeps_status=True),
    "rate-limited": Kind(429, "upstream", "The upstream limits the rate", "Repeat after Retry-After; when retryable is false, never.", retryable=True),
    "upstream-failed": Kind(500, "upstream", "The upstream failed", "Repeat only if retryable; otherwise look whether it was carried out.", keeps_status=True),
    "upstream-refused-key": Kind(502, "upstream", "The upstream refused the gateway's key", "Nothing a caller can do: the operator must renew it."),
    "upstream-bad-response": Kind(502, "upstream", "The upstream's answer is unusable", "As for upstream-failed: it may have been carried out."),
    "upstream-redirected": Kind(502, "upstream", "The upstream keeps the content elsewhere", "Nothing a caller can do: redirects are never followed. Its operator must know."),
    "upstream-answer-too-large": Kind(502, "upstream", "The upstream's answer is too large", "Ask for less at a time, such as a smaller page."),
    "upstream-unreachable": Kind(502, "upstream", "The upstream cannot be reached", "Repeat later; nothing was sent upstream.", retryable=True),
    "upstream-timeout": Kind(504, "upstream", "The upstream did not answer in time", "As for upstream-failed: it may have been carried out."),
}
# fmt: on


log = logging.getLogger("gateway.errors")


def log_failure(request_id: str, error: BaseException) -> None:
    """Logs an error that is no Problem, which is a fault of the gateway's: callers learn no more of it than their request's id."""
    log.error("request %s failed", request_id, exc_info=error)


class Problem(Exception):
    """A failure that the caller is told about. `slug` is a row of PROBLEMS; the rest is this failure's own."""

    def __init__(
        self,
        slug: str,
        detail: str = "",
        *,
        status: int | None = None,
        retryable: bool | None = None,
        violations: Sequence[Violation] = (),
        listed: int = MAX_VIOLATIONS,
        upstream_status: int | None = None,
        upstream: Any = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(slug, detail)
        self.slug = slug
        self.kind = PROBLEMS[slug]
        self.status = status or self.kind.status
        self.retryable = self.kind.retryable if retryable is None else retryable
        self.detail = detail or _summary(violations)
        self.violations = violations[:listed]
        self.upstream_status = upstream_status
        self.upstream = upstream
        self.headers = tuple(headers)

    @property
    def outcome_unknown(self) -> bool:
        """True when the upstream may have carried the request out all the same."""
        refused = 400 <= (self.upstream_status or 0) < 500 and self.upstream_status != 408
        return (
            self.kind.source == "upstream" and self.slug != "upstream-unreachable" and not refused
        )

    def document(self, instance: str, request_id: str, root: str = "") -> dict[str, Any]:
        """The problem's members; absent ones are left out. `root` is the path before that of the page of problems."""
        members = {
            "type": f"{root}{DOCUMENTATION}#{self.slug}",
            "title": self.kind.title,
            "status": self.status,
            "detail": self.detail[:MAX_TEXT],
            "instance": instance[:MAX_TEXT],
            "request_id": request_id,
            "source": self.kind.source,
            "retryable": self.retryable,
            "upstream_status": self.upstream_status,
            "errors": [
                {"pointer": f.pointer[:MAX_TEXT], "detail": f.detail[:MAX_TEXT]}
                for f in self.violations
            ],
            "upstream": self.upstream,
        }
        return {name: value for name, value in members.items() if value is not None and value != []}


class Overloaded(Problem):
    """The gateway can take no more requests now; a moment later it may. Nothing was sent upstream."""

    def __init__(self, detail: str) -> None:
        super().__init__("overloaded", detail, headers=[("Retry-After", "1")])


def _summary(violations: Sequence[Violation]) -> str:
    if len(violations) > MAX_VIOLATIONS:
        return f"more than {MAX_VIOLATIONS} faults, listed in errors; the first {MAX_VIOLATIONS} are listed."
    if len(violations) > 1:
        return f"{len(violations)} faults, listed in errors."
    return "".join(f"{only.pointer} {only.detail}" for only in violations)
