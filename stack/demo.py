"""`python -m stack demo`: two jobs through the REST service, one to its results, one cancelled.

Runs against the stack that answers on the configured port, or starts one for as long as it takes. A job at Mistral
costs money, so unless the upstream is known to be the sandbox, DEMO_WITH_REAL_KEY=1 must agree to it.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress

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
    agreed = bool(settings.given.get("DEMO_WITH_REAL_KEY"))
    called = job.upstreams(settings.contract)
    if not called:
        return f"The demo is one of Mistral's batch jobs, of which {settings.contract.source} has not every call"
    if settings.protected(settings.rest) and not settings.rest.token:
        return "The REST service wants a token; BRIDGE_REST_TOKEN=... gives the demo one"
    who = rest.stranger(settings.rest)
    if who == "":
        if not agreed and (reason := _doubt(settings)):
            return reason
        return _show(settings, screen)
    if not agreed and called - {*settings.stood_in}:
        return f"A key is set, {_REFUSAL}"
    screen.say("\n  No gateway is running: starting one for the demo\n")
    if who:
        screen.say(f"  ({settings.rest.url} is {who})\n")
    # Where a stack that starts meanwhile does not want to be.
    own = settings.on_free_ports()
    outcome = serve(own, screen, lambda: _show(own, screen))
    return "The demo was stopped before its end" if outcome is None else outcome


def _doubt(settings: Settings) -> str:
    """Why a job on the running service may not be one of the sandbox; empty when it is: a request to it shows up in the ledger."""
    mark = uuid.uuid4().hex
    try:
        rest.call(settings.rest, "GET", f"{rest.JOBS}?demo_probe={mark}")
    except rest.CallFailed as failure:
        hint = "" if settings.rest.token else "; BRIDGE_REST_TOKEN=... make demo gives it a token"
        return f"The demo cannot use the gateway at {settings.rest.url}: {failure}{hint}"
    with suppress(rest.CallFailed):
        if mark.encode() in rest.exchange(settings.sandbox, "GET", "/sandbox/ledger").content:
            return ""
    return (
        f"{settings.rest.url} does not forward to the sandbox at {settings.sandbox.url}, {_REFUSAL}"
    )


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
            # 0 of a job that was stopped before Mistral had counted.
            counted = f"{listed['completed_requests']}/{listed['total_requests'] or '-'}"
            screen.say(f"     {at}  {listed['id']}  {listed['status']:<22}  {counted:>8}")
    except rest.CallFailed as failure:
        return f"The demo failed: {failure}"
    return ""
