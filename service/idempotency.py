"""Sending a call that must not be carried out twice: claim its key, send once, record, replay.

Knows neither what the call does nor how its traces can be found; a `Recovery` does (see `batch_jobs`). The rules, with the
proof that a stateless gateway could not keep them: docs/adr/0006-at-most-once.md. After the Idempotency-Key draft
(draft-ietf-httpapi-idempotency-key-header-07).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Protocol

import msgspec

from .context import Context
from .errors import Problem
from .exchange import Exchange
from .messages import Answer, UpstreamRequest
from .store import Record, Store, StoreUnavailable
from .upstream import Upstream

LOOKS = (0.3, 1.0, 3.0)
"""Seconds before each look for a call whose outcome is unknown, within the request that made it."""

RESERVE = 5.0
"""Seconds of a request's time that are kept for those looks."""

log = logging.getLogger("gateway.idempotency")


class Recovery(Protocol):
    """How one operation's calls are found again when their answer was lost."""

    settle: float
    """Seconds after which a call that cannot be found may be sent again."""

    advice: str
    """What a caller without a key can do about an unknown outcome; a sentence."""

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` in the form in which it can be found again by `tag`."""

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The answer to the call made after `since` (wall-clock seconds), as if it had not been lost; None when not seen.

        Takes at most `limit` seconds; raises Problem when the upstream cannot be asked.
        """


@dataclass(frozen=True)
class Limits:
    """Times in seconds: the whole request, how long a key is remembered."""

    timeout: float
    expiry: float


class Idempotency:
    """Sends the calls of operations that are not idempotent. Thread-safe, and safe across workers that share the store."""

    def __init__(
        self, upstream: Upstream, store: Store, recoveries: Mapping[str, Recovery], limits: Limits
    ) -> None:
        self.upstream = upstream
        self.store = store
        self.recoveries = recoveries
        self.limits = limits
        self.store_failed = False  # what the last claim met, for readiness

    def send(self, request: UpstreamRequest, exchange: Exchange, context: Context) -> Answer:
        """The answer to `request`, from the upstream or from the record of an earlier call with the same key."""
        if request.key is None:
            return self._send_once(request, exchange)
        try:
            return self._send_claimed(request, exchange, context)
        except StoreUnavailable as error:
            self.store_failed = True
            log.error("the store of idempotency keys failed: %s", error)
            raise Problem(
                "idempotency-store-unavailable",
                "Nothing was sent. Without the key the call would go through.",
                headers=[("Retry-After", "5")],
            ) from error

    def _send_once(self, request: UpstreamRequest, exchange: Exchange) -> Answer:
        try:
            return self.upstream.send(request, exchange)
        except Problem as problem:
            recovery = self.recoveries.get(request.operation.id)
            if recovery is None or not problem.outcome_unknown:
                raise
            raise _outcome_unknown(problem, recovery.advice, keyed=False) from problem

    def _send_claimed(
        self, request: UpstreamRequest, exchange: Exchange, context: Context
    ) -> Answer:
        begun = time.monotonic()
        claim = self._new_claim(request, context)
        found = self.store.insert(claim)
        self.store_failed = False
        if found is None:
            return self._first(request, exchange, context, claim, begun)
        if not hmac.compare_digest(found.fingerprint, claim.fingerprint):
            context.outcome = "mismatch"
            raise Problem("idempotency-key-reused", "Use a new key for another request.")
        if found.state == "done":
            context.outcome = "replayed"
            return _replay(found)
        if found.state == "claimed" and found.lease_until > time.time():
            context.outcome = "in-progress"
            raise Problem(
                "idempotency-in-progress",
                "Repeat with the same key for its answer.",
                headers=[("Retry-After", "1")],
            )
        return self._again(request, exchange, context, claim, found, begun)

    def _first(
        self,
        request: UpstreamRequest,
        exchange: Exchange,
        context: Context,
        claim: Record,
        begun: float,
    ) -> Answer:
        """Sends the call that holds `claim`, and records what became of it."""
        recovery = self.recoveries.get(request.operation.id)
        tag = self._tag(claim)
        marked = recovery.mark(request, tag) if recovery else request
        try:
            answer = self.upstream.send(
                marked, exchange, self.limits.timeout - min(RESERVE, self.limits.timeout / 3)
            )
        except Problem as problem:
            if not problem.outcome_unknown:
                context.outcome = "released"
                self._quietly(
                    self.store.delete, claim
                )  # nothing was carried out: the key is free for a corrected call
                raise
            seen = self._look(marked, claim, recovery, tag, begun, context)
            if seen is None:
                context.outcome = "unknown"
                self._quietly(
                    self.store.replace, _changed(claim, state="unknown", lease_until=0), claim.owner
                )
                raise _outcome_unknown(
                    problem,
                    "Repeat with the same Idempotency-Key: the gateway looks for it and never sends it blindly again.",
                    keyed=True,
                ) from problem
            answer = seen
        context.outcome = context.outcome or "first"
        return self._record(claim, answer)

    def _again(
        self,
        request: UpstreamRequest,
        exchange: Exchange,
        context: Context,
        claim: Record,
        found: Record,
        begun: float,
    ) -> Answer:
        """Finds out what became of an earlier call whose outcome is not recorded; sends again only after the settle window."""
        taken = _changed(found, owner=claim.owner, state="claimed", lease_until=claim.lease_until)
        if not self.store.replace(taken, found.owner):
            context.outcome = "in-progress"
            raise Problem(
                "idempotency-in-progress",
                "Another request is looking for its outcome.",
                headers=[("Retry-After", "1")],
            )
        recovery = self.recoveries.get(request.operation.id)
        try:
            answer = (
                recovery.find(request, self._tag(taken), found.claimed_at, self._remaining(begun))
                if recovery
                else None
            )
        except Problem:
            self._quietly(
                self.store.replace, _changed(taken, state="unknown", lease_until=0), taken.owner
            )
            raise
        if answer is not None:
            context.outcome = "reconciled"
            return _replay(self._done(taken, answer))
        settle = recovery.settle if recovery else found.expires - found.claimed_at
        age = time.time() - found.claimed_at
        if age < settle:
            context.outcome = "unknown"
            self._quietly(
                self.store.replace, _changed(taken, state="unknown", lease_until=0), taken.owner
            )
            wait = str(max(1, min(60, int(settle - age))))
            raise Problem(
                "outcome-still-unknown",
                "It may still turn up; repeat with the same key.",
                headers=[("Retry-After", wait)],
            )
        context.outcome = "resent"
        log.warning(
            "request %s: a call not seen for %d seconds is sent again with the same tag",
            context.request_id,
            age,
        )
        resent = _changed(taken, claimed_at=time.time())
        if not self.store.replace(resent, taken.owner):
            raise Problem(
                "idempotency-in-progress",
                "Another request took it over.",
                headers=[("Retry-After", "1")],
            )
        return self._first(request, exchange, context, resent, begun)

    def _look(
        self,
        request: UpstreamRequest,
        claim: Record,
        recovery: Recovery | None,
        tag: str,
        begun: float,
        context: Context,
    ) -> Answer | None:
        for pause in LOOKS if recovery else ():
            if recovery is None or self._remaining(begun) < pause + 0.2:
                return None
            time.sleep(pause)
            try:
                answer = recovery.find(request, tag, claim.claimed_at, self._remaining(begun))
            except Problem:
                continue
            if answer is not None:
                context.outcome = "reconciled"
                return replace(answer, headers=(*answer.headers, ("Gateway-Reconciled", "true")))
        return None

    def _remaining(self, begun: float) -> float:
        return self.limits.timeout - (time.monotonic() - begun)

    def _new_claim(self, request: UpstreamRequest, context: Context) -> Record:
        now = time.time()
        scope = "\0".join((context.caller.name, request.operation.id, request.key or ""))
        return Record(
            id=hashlib.sha256(scope.encode()).hexdigest(),
            owner=uuid.uuid4().hex,
            fingerprint=_fingerprint(request),
            state="claimed",
            claimed_at=now,
            lease_until=now + self.limits.timeout + RESERVE,
            expires=now + self.limits.expiry,
        )

    def _tag(self, record: Record) -> str:
        """The tag of a record's call: the same on every worker, and not to be guessed from outside."""
        digest = hmac.digest(self.store.secret(), record.id.encode(), "sha256")
        return base64.b32encode(digest).decode().lower()[:40]

    def _record(self, claim: Record, answer: Answer) -> Answer:
        """`answer`, recorded if the store lets it; if not, the next call with the key finds the outcome by its tag."""
        done = _done(claim, answer)
        self._quietly(self.store.replace, done, claim.owner)
        return replace(answer, headers=(*answer.headers, _expiry(done)))

    def _done(self, taken: Record, answer: Answer) -> Record:
        done = _done(taken, answer)
        self._quietly(self.store.replace, done, taken.owner)
        return done

    def _quietly(self, operation: object, *arguments: object) -> None:
        """Runs a store operation whose failure must not hide an outcome that is known."""
        try:
            operation(*arguments)  # type: ignore[operator]
        except StoreUnavailable as error:
            log.error("an outcome could not be recorded: %s", error)


def _changed(record: Record, **changes: object) -> Record:
    return msgspec.structs.replace(record, **changes)


def _done(record: Record, answer: Answer) -> Record:
    return _changed(
        record,
        state="done",
        lease_until=0,
        status=answer.status,
        content_type=answer.content_type,
        body=bytes(answer.body),
    )


def _replay(record: Record) -> Answer:
    headers = (("Idempotency-Replayed", "true"), _expiry(record))
    return Answer(record.status, record.content_type, record.body, headers)


def _expiry(record: Record) -> tuple[str, str]:
    return "Idempotency-Expires", formatdate(record.expires, usegmt=True)


def _outcome_unknown(problem: Problem, advice: str, *, keyed: bool) -> Problem:
    return Problem(
        "create-outcome-unknown",
        f"It was sent once, and its answer was lost ({problem.slug}). {advice}",
        retryable=keyed,
        upstream_status=problem.upstream_status,
        upstream=problem.upstream,
    )


def _fingerprint(request: UpstreamRequest) -> str:
    """A digest of what a call asks for: the same for the same JSON in another order or spacing."""
    body = bytes(request.body or b"")
    try:
        canonical = (
            msgspec.json.encode(msgspec.json.decode(body), order="deterministic") if body else b""
        )
    except msgspec.MsgspecError:  # numbers that only the upstream can read
        canonical = body
    return hashlib.sha256(request.target.encode() + b"\0" + canonical).hexdigest()
