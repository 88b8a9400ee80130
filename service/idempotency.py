"""Sending a request that must not be carried out twice: claim its key, send once, record the outcome, replay it.

Knows neither what the request does nor how its traces can be found; a `Recovery` does (see `job_recovery`). The rules, with the
proof that a stateless gateway could not keep them: docs/adr/0006-at-most-once.md. After the Idempotency-Key draft
(draft-ietf-httpapi-idempotency-key-header-07).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import Protocol

import msgspec
from msgspec import Raw

from openapi.json_text import UNREADABLE, read_json
from telemetry.shared_number import shared_number

from .problems import Problem
from .request_context import current
from .retry_queue import RetryQueue
from .store import Record, Store, StoreUnavailable
from .translation import Answer, UpstreamRequest
from .upstream import Upstreams
from .upstream_connection import CancellableRequest, Deadline

POLLS = (0.3, 1.0, 3.0)
"""Seconds before each search for a lost outcome, within the request that lost it."""

RESERVE = 5.0
"""Seconds of a request's time that are kept for those searches; also how much later than its time a request may end."""

RETRY = 5
"""Seconds after which a caller may repeat for whom the store failed and nothing was sent."""

UNCONFIRMED = 3.0
"""Seconds after which a claim that nobody confirmed is forgotten: before its caller is back, and after the store's client has
repeated what was not answered."""

PAUSE = 0.2
"""Seconds between two tries to record an outcome."""

REPEAT = "Repeat with the same Idempotency-Key: the gateway looks for it and never sends it blindly again."
LOOK_FIRST = "Look for it before you make it anew."

log = logging.getLogger("gateway.idempotency")


class Recovery(Protocol):
    """How the outcome of one operation's requests is found when their answer was lost."""

    settle: float
    """Seconds after a request's time is over, when one whose outcome cannot be found may be sent again."""

    advice: str
    """What a caller can do about an unknown outcome; a sentence."""

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` in the form in which its outcome can be found by `tag`."""

    def recognises(self, answer: Answer) -> bool:
        """True when `answer`, a success, says what the outcome is."""

    def find(self, tag: str, since: float, deadline: Deadline) -> Answer | None:
        """The answer to the tagged request made after `since` (wall-clock seconds), as if it had not been lost; None: there is none.

        Raises Problem when the upstream cannot be asked before the deadline, or does not show everything.
        """


@dataclass(frozen=True)
class _Exchange:
    """A request on its way; `recovery` None: its outcome cannot be found when its answer is lost."""

    request: UpstreamRequest
    cancellable: CancellableRequest
    deadline: Deadline  # of all that is done for it; sending ends before, so that time is left
    recovery: Recovery | None


class Idempotency:
    """Sends requests of operations that are not idempotent. Thread-safe, and safe across workers that share the store.

    Of its times, in seconds, `timeout` is that of a whole request, and `expiry` how long a key is remembered.
    """

    def __init__(
        self,
        upstream: Upstreams,
        store: Store,
        recoveries: Mapping[str, Recovery],
        *,
        timeout: float,
        expiry: float,
    ) -> None:
        self.upstream = upstream
        self.store = store
        self.recoveries = recoveries
        self.timeout = timeout
        self.expiry = expiry
        self.reserve = min(RESERVE, timeout / 3)
        self.lease = timeout + RESERVE
        self.retries = RetryQueue(expiry)
        self._failed = shared_number()

    @property
    def store_failed(self) -> bool:
        """Whether the store failed when it was last needed, by whichever worker that shares this."""
        return self._failed.value != 0

    def probe_store(self) -> None:
        """Finds out whether a store that failed works again, since it may be long until a request needs it."""
        with contextlib.suppress(StoreUnavailable):
            self.store.check()
            self._failed.value = 0

    def send(self, request: UpstreamRequest, cancellable: CancellableRequest) -> Answer:
        """The answer to `request`, from the upstream or from the record of an earlier one with the same idempotency key."""
        recovery = self.recoveries.get(request.operation.id)
        exchange = _Exchange(request, cancellable, cancellable.deadline, recovery)
        if request.key is None:
            return self._send_unkeyed(exchange)
        try:
            return self._send_keyed(exchange, request.key)
        except StoreUnavailable as error:
            self._failed.value = 1
            log.error("the store of idempotency keys failed: %s", error)
            raise Problem(
                "idempotency-store-unavailable",
                "This call sent nothing.",
                headers=[("Retry-After", f"{RETRY}")],
            ) from error

    def _send_unkeyed(self, exchange: _Exchange) -> Answer:
        try:
            return self._send(exchange, exchange.request)
        except Problem as problem:
            if exchange.recovery is None or not problem.outcome_unknown:
                raise
            advice = (
                f"{exchange.recovery.advice} With an Idempotency-Key a call can be repeated safely."
            )
            raise outcome_unknown(problem, advice, keyed=False) from problem

    def _send_keyed(self, exchange: _Exchange, key: str) -> Answer:
        claim = self._new_claim(exchange, key)
        found = self._claim(claim)
        if found is None:
            self._failed.value = 0
            return self._send_claimed(exchange, claim)
        if self.store_failed:
            self.probe_store()  # finding a record has not shown that one can be stored
        if found.fingerprint != claim.fingerprint:
            current().idempotency = "mismatch"
            if not found.fingerprint.startswith(_FORM):
                raise Problem(
                    "outcome-still-unknown",
                    "Another version of the gateway keeps this key, so that its request cannot be compared with this one.",
                )
            raise Problem("idempotency-key-reused", "Use a new key for another request.")
        if found.state == "done":
            current().idempotency = "replayed"
            age = max(0, int(claim.claimed_at - found.claimed_at))
            answer = _replay(found)
            return replace(answer, headers=(*answer.headers, ("Age", str(age))))
        if found.state == "claimed" and found.lease_until > claim.claimed_at:
            raise _in_progress(found.lease_until - claim.claimed_at)
        return self._reconcile(exchange, claim, found)

    def _new_claim(self, exchange: _Exchange, key: str) -> Record:
        # The upstream is part of it: what one created, another does not have.
        operation = exchange.request.operation
        scope = (
            self.upstream.base_urls[operation.namespace],
            current().caller.name,
            operation.id,
            key,
        )
        now = self.store.now()
        # Never forgotten before it is certain that the request is not under way, or may be sent again.
        least = 2 * self.lease + (exchange.recovery.settle if exchange.recovery else 0.0)
        return Record(
            id=hashlib.sha256("\0".join(scope).encode()).hexdigest(),
            owner=uuid.uuid4().hex,
            fingerprint=_fingerprint(exchange.request),
            tag=secrets.token_hex(20) if exchange.recovery else "",
            state="claimed",
            claimed_at=now,
            lease_until=now + self.lease,
            expires=now + max(self.expiry, least),
        )

    def _claim(self, claim: Record) -> Record | None:
        """As the store's `insert`; None only when the claim is certain to be there, so that its request may be sent.

        A store that loses answers may carry a claim out that nobody knows of, now or later. So it gets one first that it
        forgets by itself, and only who was told that it is there makes it last.
        """
        if not self.store.loses_answers:
            return self.store.insert(claim)
        brief = _changed(claim, expires=claim.claimed_at + UNCONFIRMED)
        found = self.store.insert(brief)
        if found is None and not self._take_over(claim, brief, None):
            raise StoreUnavailable("a claim was not confirmed in time")
        return found

    def _take_over(self, record: Record, present: Record, before: Record | None) -> bool:
        """Stores `record` in the place of `present`; says whether it was.

        When that fails, nobody has it: `before` is put back (None: nothing was there).
        """
        try:
            return self.store.replace(record, present.owner)
        except StoreUnavailable:
            self.retries.add(partial(self._put_back, before, present, record))
            raise

    def _put_back(self, before: Record | None, present: Record, record: Record) -> None:
        # In this order: once `present` is not there, `record` cannot take its place any more, however late it comes.
        for one in (present, record):
            if before is None:
                self.store.delete(one)
            else:
                self.store.replace(before, one.owner)

    def _send_claimed(
        self, exchange: _Exchange, claim: Record, earlier: Record | None = None
    ) -> Answer:
        """Sends the request that has `claim`, and records the outcome; `earlier` was not found, and this is it again."""
        ctx, recovery = current(), exchange.recovery
        exchange.cancellable.deadline = exchange.deadline.before(self.reserve)
        if exchange.cancellable.deadline.expired:
            self._release_claim(claim, earlier)
            raise StoreUnavailable("claiming a key took all the time that there was")
        try:
            marked = recovery.mark(exchange.request, claim.tag) if recovery else exchange.request
            answer = self._send(exchange, marked)
        except Problem as problem:
            if not problem.outcome_unknown:
                self._release_claim(claim, earlier)
                raise
            found = self._poll_for_outcome(exchange, claim)
            if found is None:
                ctx.idempotency = "unknown"
                self._now_or_later(self.store.replace, _unknown_since(claim), claim.owner)
                advice = REPEAT if recovery else LOOK_FIRST
                raise outcome_unknown(problem, advice, keyed=recovery is not None) from problem
            answer = found
        ctx.idempotency = ctx.idempotency or "first"
        done = self._record(exchange, claim, answer)
        return replace(answer, headers=(*answer.headers, _expiry(done)))

    def _send(self, exchange: _Exchange, request: UpstreamRequest) -> Answer:
        """The upstream's answer; Problem also for a success that does not say what the outcome is."""
        answer = self.upstream.send(request, exchange.cancellable)
        # Without a key nothing is kept: whatever came whole passes.
        understood = (
            exchange.recovery.recognises
            if exchange.recovery and exchange.request.key
            else _is_object
        )
        if exchange.recovery and not understood(answer):
            raise Problem(
                "upstream-bad-response",
                "The upstream's success does not say what came of it.",
                upstream_status=answer.status,
            )
        return answer

    def _poll_for_outcome(self, exchange: _Exchange, claim: Record) -> Answer | None:
        """The answer that was lost, if it turns up while the request's time lasts."""
        if not exchange.recovery:
            return None
        for pause in POLLS:
            if exchange.deadline.left() < pause + 0.2:
                return None
            time.sleep(pause)
            with contextlib.suppress(Problem):
                answer = exchange.recovery.find(claim.tag, claim.claimed_at, exchange.deadline)
                if answer is not None:
                    current().idempotency = "reconciled"
                    reconciled = ("Gateway-Reconciled", "true")
                    return replace(answer, headers=(*answer.headers, reconciled))
        return None

    def _reconcile(self, exchange: _Exchange, claim: Record, found: Record) -> Answer:
        """Finds the outcome of an earlier request that is not recorded; sends again only after the settle window."""
        exchange.cancellable.sent_before = True
        taken = _changed(found, state="claimed", lease_until=claim.lease_until)
        if not self._take_over(taken, found, _unknown_since(found)):
            raise _in_progress()
        # One that was sent without a tag cannot be told from one that was not sent, whatever the contract says now.
        recovery = exchange.recovery if taken.tag else None
        if recovery is None:
            advice = exchange.recovery.advice if exchange.recovery else LOOK_FIRST
            detail = f"It cannot be found here. {advice}"
            raise self._still_unknown(taken, detail, math.inf)
        try:
            answer = recovery.find(taken.tag, taken.claimed_at, exchange.deadline)
        except Problem as problem:
            detail = f"The upstream cannot be asked for it now ({problem.slug}): {problem.detail}"
            raise self._still_unknown(taken, detail, 5) from problem
        if answer is not None:
            current().idempotency = "reconciled"
            return _replay(self._record(exchange, taken, answer))
        wait = taken.claimed_at + self.lease + recovery.settle - claim.claimed_at
        if wait > 0:
            raise self._still_unknown(taken, "It may still turn up.", wait)
        if exchange.deadline.left() < self.timeout / 2:
            raise self._still_unknown(taken, "There was no time left to send it again.", 1)
        again = _changed(taken, claimed_at=claim.claimed_at, expires=claim.expires)
        if not self._take_over(again, taken, _unknown_since(taken)):
            raise _in_progress()
        current().idempotency = "resent"
        log.warning(
            "request %s: a call that was not seen in %.0f seconds is sent again with the same tag",
            current().request_id,
            claim.claimed_at - taken.claimed_at,
        )
        return self._send_claimed(exchange, again, earlier=taken)

    def _still_unknown(self, taken: Record, detail: str, wait: float) -> Problem:
        """The problem of a repeated request; `wait` seconds until repeating makes sense, infinite: it makes none."""
        current().idempotency = "unknown"
        self._now_or_later(self.store.replace, _unknown_since(taken), taken.owner)
        return Problem(
            "outcome-still-unknown",
            detail,
            retryable=wait < math.inf,
            headers=[("Retry-After", f"{math.ceil(min(wait, 60))}")] if wait < math.inf else (),
        )

    def _release_claim(self, claim: Record, earlier: Record | None) -> None:
        """Frees the key, since nothing was carried out; not that of an earlier request, which perhaps was."""
        current().idempotency = "released"
        if earlier is None:
            self._now_or_later(self.store.delete, claim)
        else:
            self._now_or_later(self.store.replace, _unknown_since(earlier), claim.owner)

    def _record(self, exchange: _Exchange, claim: Record, answer: Answer) -> Record:
        """The record of `answer`, stored if the store lets it within the time that is reserved for that.

        If not, the next request with the key finds the outcome, unless it has no tag.
        """
        done = _changed(
            claim,
            state="done",
            lease_until=0.0,
            status=answer.status,
            content_type=answer.content_type,
            body=bytes(answer.body),
        )
        until = Deadline(min(self.reserve, exchange.deadline.left()))
        while not self._best_effort(self.store.replace, done, claim.owner) and not until.expired:
            time.sleep(PAUSE)
        return done

    def _now_or_later(self, operation: Callable[..., object], *arguments: object) -> None:
        """Runs a store operation, again and again if it fails: nobody would wait for what a key then seems to be."""
        if not self._best_effort(operation, *arguments):
            self.retries.add(partial(operation, *arguments))

    def _best_effort(self, operation: Callable[..., object], *arguments: object) -> bool:
        """Runs a store operation whose failure must not hide an outcome that is known; False when it failed."""
        try:
            operation(*arguments)
        except StoreUnavailable as error:
            self._failed.value = 1
            log.error("an outcome could not be recorded: %s", error)
            return False
        return True


def outcome_unknown(problem: Problem, advice: str, *, keyed: bool) -> Problem:
    """The problem of a request whose answer was lost by `problem`; `keyed`: repeating it is safe."""
    return Problem(
        "create-outcome-unknown",
        f"It was sent once, and its answer was lost ({problem.slug}). {advice}",
        retryable=keyed,
        upstream_status=problem.upstream_status,
        upstream=problem.upstream,
    )


def _in_progress(wait: float = 1.0) -> Problem:
    """`wait`: seconds until the first call has certainly ended, though its worker was killed."""
    current().idempotency = "in-progress"
    return Problem(
        "idempotency-in-progress",
        "Repeat with the same key for its answer, which may be there sooner than Retry-After says: that is when it has certainly ended.",
        headers=[("Retry-After", f"{math.ceil(wait)}")],
    )


def _is_object(answer: Answer) -> bool:
    try:
        read_json(answer.body, dict[str, Raw])
    except UNREADABLE:
        return False
    return True


def _changed(record: Record, **changes: object) -> Record:
    return msgspec.structs.replace(record, owner=uuid.uuid4().hex, **changes)


def _unknown_since(record: Record) -> Record:
    return _changed(record, state="unknown", lease_until=0.0)


def _replay(record: Record) -> Answer:
    headers = (("Idempotency-Replayed", "true"), _expiry(record))
    return Answer(record.status, record.content_type, record.body, headers)


def _expiry(record: Record) -> tuple[str, str]:
    return "Idempotency-Expires", formatdate(record.expires, usegmt=True)


_FORM = "2:"
"""Begins fingerprints that are made as here: others do not say that a request is another one."""


def _fingerprint(request: UpstreamRequest) -> str:
    """A digest of what is asked for, byte for byte: the same JSON in other bytes is another request."""
    asked = (request.operation.id, request.target, sorted(request.headers.items()))
    digest = hashlib.sha256(msgspec.json.encode(asked))
    digest.update(request.body or b"")
    return _FORM + digest.hexdigest()
