"""Sending a call that must not be carried out twice: claim its key, send once, record, replay.

Knows neither what the call does nor how its traces can be found; a `Recovery` does (see `batch_jobs`). The rules, with the
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import Protocol

import msgspec
from msgspec import Raw

from openapi.json_text import UNREADABLE, read_json
from telemetry.shared_number import SharedNumber

from .later import Later
from .problems import Problem
from .request_context import current
from .store import Record, Store, StoreUnavailable
from .translation import Answer, UpstreamRequest
from .upstream import Upstream
from .upstream_connection import Exchange

LOOKS = (0.3, 1.0, 3.0)
"""Seconds before each look for a call whose outcome is unknown, within the request that made it."""

RESERVE = 5.0
"""Seconds of a request's time that are kept for those looks; also how much later than its time a request may end."""

RETRY = 5
"""Seconds after which a caller may repeat for whom the store failed and nothing was sent."""

UNCONFIRMED = 3.0
"""Seconds after which a claim that nobody confirmed is forgotten: before its caller is back, and after the store's client has
repeated what was not answered."""

PAUSE = 0.2
"""Seconds between two tries to record an outcome."""

log = logging.getLogger("gateway.idempotency")


class Recovery(Protocol):
    """How one operation's calls are found again when their answer was lost."""

    settle: float
    """Seconds after a call's time is over, when one that cannot be found may be sent again; infinite: never."""

    repeatable: bool
    """True when carrying the call out twice does no more than once; it can then be found without a tag."""

    advice: str
    """What a caller can do about an unknown outcome; a sentence."""

    def mark(self, request: UpstreamRequest, tag: str) -> UpstreamRequest:
        """`request` in the form in which it can be found again by `tag`."""

    def recognises(self, answer: Answer) -> bool:
        """True when `answer`, a success, says what came of the call."""

    def find(self, request: UpstreamRequest, tag: str, since: float, limit: float) -> Answer | None:
        """The answer to the call made after `since` (wall-clock seconds), as if it had not been lost; None: it is not there.

        Takes at most `limit` seconds; raises Problem when the upstream cannot be asked, or does not show everything.
        """


@dataclass(frozen=True)
class Call:
    """One request on its way. Its time is over at `deadline` (monotonic seconds); `recovery` None: it cannot be found again."""

    request: UpstreamRequest
    exchange: Exchange
    recovery: Recovery | None
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until its time is over."""
        return self.deadline - time.monotonic()


class Idempotency:
    """Sends the calls of operations that are not idempotent. Thread-safe, and safe across workers that share the store.

    Of its times, in seconds, `timeout` is that of a whole request, and `expiry` how long a key is remembered.
    """

    def __init__(
        self,
        upstream: Upstream,
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
        self.later = Later(expiry)
        self._failed = SharedNumber()

    @property
    def store_failed(self) -> bool:
        """Whether the store failed when it was last needed, by whichever worker that shares this."""
        return self._failed.value != 0

    def look_again(self) -> None:
        """Finds out whether a store that failed works again, since it may be long until a call needs it."""
        with contextlib.suppress(StoreUnavailable):
            self.store.check()
            self._failed.value = 0

    def send(self, request: UpstreamRequest, exchange: Exchange) -> Answer:
        """The answer to `request`, from the upstream or from the record of an earlier call with the same key."""
        recovery = self.recoveries.get(request.operation.id)
        deadline = time.monotonic() + self.timeout
        call = Call(request, exchange, recovery, deadline)
        if request.key is None:
            return self._send_unkeyed(call)
        try:
            return self._send_keyed(call)
        except StoreUnavailable as error:
            self._failed.value = 1
            log.error("the store of idempotency keys failed: %s", error)
            raise Problem(
                "idempotency-store-unavailable",
                "This call sent nothing.",
                headers=[("Retry-After", f"{RETRY}")],
            ) from error

    def _send_unkeyed(self, call: Call) -> Answer:
        recovery = call.recovery
        reserve = self.reserve if recovery and recovery.repeatable else 0
        try:
            return self._sent(call, call.request, call.left - reserve)
        except Problem as problem:
            if recovery is None or not problem.outcome_unknown:
                raise
            if not recovery.repeatable:
                advice = f"{recovery.advice} With an Idempotency-Key a call can be repeated safely."
                raise _outcome_unknown(problem, advice, keyed=False) from problem
            answer = self._look(call, "", time.time())
            if answer is None:
                raise
            return answer

    def _send_keyed(self, call: Call) -> Answer:
        claim = self._claim(call)
        found = self._insert(claim)
        if found is None:
            self._failed.value = 0
            return self._carry_out(call, claim)
        if self.store_failed:
            self.look_again()  # finding a record has not shown that one can be stored
        if found.fingerprint != claim.fingerprint:
            current().idempotency = "mismatch"
            raise Problem("idempotency-key-reused", "Use a new key for another request.")
        if found.state == "done":
            current().idempotency = "replayed"
            return _replay(found)
        if found.state == "claimed" and found.lease_until > claim.claimed_at:
            raise _in_progress(call)
        return self._settle(call, claim, found)

    def _insert(self, claim: Record) -> Record | None:
        """As the store's `insert`; None only when the claim is certain to be there, so that its call may be sent.

        A store that loses answers may carry a claim out that nobody knows of, now or later. So it gets one first that it
        forgets by itself, and only who was told that it is there makes it last.
        """
        if not self.store.loses_answers:
            return self.store.insert(claim)
        brief = _changed(claim, expires=claim.claimed_at + UNCONFIRMED)
        found = self.store.insert(brief)
        if found is None and not self._take(claim, brief, None):
            raise StoreUnavailable("a claim was not confirmed in time")
        return found

    def _take(self, record: Record, held: Record, before: Record | None) -> bool:
        """Stores `record` in the place of `held`; says whether it was. When that fails, nobody holds it: `before` is put back."""
        try:
            return self.store.replace(record, held.owner)
        except StoreUnavailable:
            self.later.add(partial(self._put_back, before, held, record))
            raise

    def _put_back(self, before: Record | None, held: Record, record: Record) -> None:
        # In this order: once `held` is not there, `record` cannot take its place any more, however late it comes.
        for one in (held, record):
            if before is None:
                self.store.delete(one)
            else:
                self.store.replace(before, one.owner)

    def _carry_out(self, call: Call, claim: Record, earlier: Record | None = None) -> Answer:
        """Sends the call that holds `claim`, and records what became of it; `earlier` was not found, and this is it again."""
        try:
            marked = call.recovery.mark(call.request, claim.tag) if call.recovery else call.request
            answer = self._sent(call, marked, call.left - self.reserve)
        except Problem as problem:
            if not problem.outcome_unknown:
                self._free(call, claim, earlier)
                raise
            found = self._look(call, claim.tag, claim.claimed_at)
            if found is None and call.recovery and call.recovery.repeatable:
                self._free(call, claim, None)
                raise
            if found is None:
                raise self._unknown(call, claim, problem) from problem
            answer = found
        ctx = current()
        ctx.idempotency = ctx.idempotency or "first"
        done = self._record(call, claim, answer)
        return replace(answer, headers=(*answer.headers, _expiry(done)))

    def _settle(self, call: Call, claim: Record, found: Record) -> Answer:
        """Finds out what became of an earlier call whose outcome is not recorded; sends again only after the settle window."""
        taken = _changed(found, state="claimed", lease_until=claim.lease_until)
        if not self._take(taken, found, _unknown_since(found)):
            raise _in_progress(call)
        recovery = call.recovery
        try:
            answer = (
                recovery.find(call.request, taken.tag, taken.claimed_at, call.left)
                if recovery
                else None
            )
        except Problem as problem:
            said = f"The upstream cannot be asked for it now ({problem.slug}): {problem.detail}"
            raise self._still_unknown(call, taken, said, 5) from problem
        if answer is not None:
            current().idempotency = "reconciled"
            return _replay(self._record(call, taken, answer))
        # One that was sent without a tag cannot be told from one that was not sent, whatever is configured now.
        settle = recovery.settle if recovery and taken.tag else math.inf
        wait = taken.claimed_at + self.lease + settle - claim.claimed_at
        if wait > 0:
            said = (
                "It may still turn up."
                if wait < math.inf
                else f"It cannot be found here. {_advice(call)}"
            )
            raise self._still_unknown(call, taken, said, wait)
        if call.left < self.timeout / 2:
            raise self._still_unknown(call, taken, "There was no time left to send it again.", 1)
        again = _changed(taken, claimed_at=claim.claimed_at, expires=claim.expires)
        if not self._take(again, taken, _unknown_since(taken)):
            raise _in_progress(call)
        current().idempotency = "resent"
        log.warning(
            "request %s: a call that was not seen in %.0f seconds is sent again with the same tag",
            current().request_id,
            claim.claimed_at - taken.claimed_at,
        )
        return self._carry_out(call, again, earlier=taken)

    def _sent(self, call: Call, request: UpstreamRequest, limit: float) -> Answer:
        """The upstream's answer; Problem also for a success that does not say what came of it."""
        answer = self.upstream.send(request, call.exchange, limit)
        # Without a key nothing is kept: whatever came whole passes.
        understood = call.recovery.recognises if call.recovery and call.request.key else _is_object
        if call.recovery and not understood(answer):
            raise Problem(
                "upstream-bad-response",
                "The upstream's success does not say what came of it.",
                upstream_status=answer.status,
            )
        return answer

    def _look(self, call: Call, tag: str, since: float) -> Answer | None:
        """The answer that was lost, if it turns up while the request's time lasts."""
        for pause in LOOKS if call.recovery else ():
            if call.recovery is None or call.left < pause + 0.2:
                return None
            time.sleep(pause)
            with contextlib.suppress(Problem):
                answer = call.recovery.find(call.request, tag, since, call.left)
                if answer is not None:
                    current().idempotency = "reconciled"
                    reconciled = ("Gateway-Reconciled", "true")
                    return replace(answer, headers=(*answer.headers, reconciled))
        return None

    def _free(self, call: Call, claim: Record, earlier: Record | None) -> None:
        """Frees the key, since nothing was carried out; not that of an earlier call, which perhaps was."""
        current().idempotency = "released"
        if earlier is None:
            self._now_or_later(self.store.delete, claim)
        else:
            self._now_or_later(self.store.replace, _unknown_since(earlier), claim.owner)

    def _unknown(self, call: Call, claim: Record, problem: Problem) -> Problem:
        """What the caller is told when the outcome is not known; the record says so too."""
        current().idempotency = "unknown"
        self._now_or_later(self.store.replace, _unknown_since(claim), claim.owner)
        repeat = "Repeat with the same Idempotency-Key: the gateway looks for it and never sends it blindly again."
        findable = _findable(call)
        return _outcome_unknown(problem, repeat if findable else _advice(call), keyed=findable)

    def _still_unknown(self, call: Call, taken: Record, detail: str, wait: float) -> Problem:
        """As `_unknown`, for a repeated call; `wait` seconds until repeating makes sense, infinite: it makes none."""
        current().idempotency = "unknown"
        self._now_or_later(self.store.replace, _unknown_since(taken), taken.owner)
        return Problem(
            "outcome-still-unknown",
            detail,
            retryable=wait < math.inf,
            headers=[("Retry-After", f"{math.ceil(min(wait, 60))}")] if wait < math.inf else (),
        )

    def _record(self, call: Call, claim: Record, answer: Answer) -> Record:
        """The record of `answer`, stored if the store lets it within the time that is reserved for that.

        If not, the next call with the key finds the outcome, unless it has no tag.
        """
        done = _changed(
            claim,
            state="done",
            lease_until=0.0,
            status=answer.status,
            content_type=answer.content_type,
            body=bytes(answer.body),
        )
        until = time.monotonic() + min(self.reserve, call.left)
        while not self._quietly(self.store.replace, done, claim.owner) and time.monotonic() < until:
            time.sleep(PAUSE)
        return done

    def _now_or_later(self, operation: Callable[..., object], *arguments: object) -> None:
        """Runs a store operation, again and again if it fails: nobody would wait for what a key then seems to be."""
        if not self._quietly(operation, *arguments):
            self.later.add(partial(operation, *arguments))

    def _quietly(self, operation: Callable[..., object], *arguments: object) -> bool:
        """Runs a store operation whose failure must not hide an outcome that is known; False when it failed."""
        try:
            operation(*arguments)
        except StoreUnavailable as error:
            self._failed.value = 1
            log.error("an outcome could not be recorded: %s", error)
            return False
        return True

    def _claim(self, call: Call) -> Record:
        request = call.request
        # The upstream is part of it: what one created, another does not have.
        scope = (
            self.upstream.base_url,
            current().caller.name,
            request.operation.id,
            request.key or "",
        )
        now = self.store.now()
        return Record(
            id=hashlib.sha256("\0".join(scope).encode()).hexdigest(),
            owner=uuid.uuid4().hex,
            fingerprint=_fingerprint(request),
            tag=secrets.token_hex(20) if _findable(call) else "",
            state="claimed",
            claimed_at=now,
            lease_until=now + self.lease,
            expires=self._expires(call, now),
        )

    def _expires(self, call: Call, now: float) -> float:
        """When a key is forgotten: never before it is certain that its call is not under way, or may be sent again."""
        settle = call.recovery.settle if call.recovery else 0.0
        least = 2 * self.lease + (settle if settle < math.inf else 0.0)
        return now + max(self.expiry, least)


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


def _findable(call: Call) -> bool:
    """True when the call can be found by a tag, or by what it asks for."""
    return call.recovery is not None and call.recovery.settle < math.inf


def _advice(call: Call) -> str:
    return call.recovery.advice if call.recovery else "Look for it before you make it anew."


def _in_progress(call: Call) -> Problem:
    current().idempotency = "in-progress"
    return Problem(
        "idempotency-in-progress",
        "Repeat with the same key for its answer.",
        headers=[("Retry-After", "1")],
    )


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
    digest = hashlib.sha256(request.target.encode())
    for piece in _pieces(request.body or b""):
        digest.update(b"\0")
        digest.update(piece)
    return digest.hexdigest()


def _pieces(body: bytes | bytearray) -> Iterator[bytes | bytearray]:
    """A JSON object in its one canonical form; in pieces, since a large one is built from many small ones."""
    try:
        members = msgspec.json.decode(body, type=dict[str, Raw])
    except (msgspec.MsgspecError, RecursionError):
        yield body
        return
    for name in sorted(members):
        yield msgspec.json.encode(name)
        member = members[name]
        if memoryview(member)[0] == 0x5B:  # an array
            yield b"["
            yield from map(_canonical, msgspec.json.decode(member, type=list[Raw]))
            yield b"]"
        else:
            yield _canonical(member)


def _canonical(text: Raw) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(text), order="deterministic")
    except (msgspec.MsgspecError, RecursionError):  # what only the upstream can read
        return bytes(text)
