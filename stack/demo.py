"""`python -m stack demo`: two jobs through the REST service, one to its results, one cancelled.

Runs against the stack that answers on the configured port, or starts one for as long as it takes. A job at Mistral
costs money, so unless the upstream is known to be the sandbox, DEMO_WITH_REAL_KEY=1 must agree to it.
"""

from __future__ import annotations

import time
import uuid

from stack import job, rest
from stack.config import Settings
from stack.processes import serve
from stack.screen import Screen

_CANCELLED_REQUESTS = 200
_REFUSAL = (
    "so the demo's two jobs might be real and paid for.\n"
    "  To create them all the same: DEMO_WITH_REAL_KEY=1 make demo"
)


def demonstrate(settings: Settings, screen: Screen) -> str:
    """Shows the demo on the running stack or on one of its own; returns what went wrong, or an empty string."""
    agreed = bool(settings.environment.get("DEMO_WITH_REAL_KEY"))
    if rest.answers(settings.rest):
        if not agreed and not _on_sandbox(settings):
            return f"{settings.rest.url} does not forward to the sandbox, {_REFUSAL}"
        return _show(settings, screen)
    if not agreed and not settings.sandboxed:
        return f"A key is set, {_REFUSAL}"
    screen.say("\n  No gateway is running: starting one for the demo\n")
    outcome = serve(settings, screen, lambda: _show(settings, screen))
    return "The demo was stopped before its end" if outcome is None else outcome


def _on_sandbox(settings: Settings) -> bool:
    """True when a request to the running service shows up in the sandbox's ledger."""
    mark = uuid.uuid4().hex
    try:
        rest.call(settings.rest, "GET", f"{rest.JOBS}?demo_probe={mark}")
        _, ledger = rest.exchange(settings.sandbox, "GET", "/sandbox/ledger")
        return mark.encode() in ledger
    except rest.CallFailed:
        return False


def _show(settings: Settings, screen: Screen) -> str:
    """Shows both jobs' lives; returns what went wrong, or an empty string."""
    endpoint, pace = settings.rest, job.SANDBOX_PACE if settings.sandboxed else job.REAL_PACE
    screen.say(f"\n  Demo through {endpoint.url}{rest.JOBS}\n")
    try:
        finished, results = job.finish(endpoint, screen, pace)
        for line in results:
            screen.say(f"     {line}")
        if finished["status"] != "SUCCESS" or len(results) != job.REQUESTS:
            return f"The demo failed: expected {job.REQUESTS} results of a job that ends as SUCCESS"

        created = job.create(endpoint, screen, _CANCELLED_REQUESTS)
        asked = rest.call(endpoint, "POST", f"{rest.JOBS}/{created['id']}/cancel")
        screen.say(f"  cancel    {asked['status']}")
        status = job.watch(endpoint, created, screen, _CANCELLED_REQUESTS, pace)["status"]
        if status != "CANCELLED":
            return f"The demo failed: a job that was cancelled at once ended as {status}"

        screen.say("  list      the newest jobs")
        for listed in rest.call(endpoint, "GET", f"{rest.JOBS}?page_size=5")["data"]:
            at = time.strftime("%H:%M:%S", time.localtime(listed["created_at"]))
            counted = f"{listed['completed_requests']}/{listed['total_requests']}"
            screen.say(f"     {at}  {listed['id']}  {listed['status']:<22}  {counted:>8}")
    except rest.CallFailed as failure:
        return f"The demo failed: {failure}"
    return ""
