"""`python -m stack.demo`: two jobs through the REST service, one to its results, one cancelled.

Runs against the stack that answers on the configured port, or starts one for as long as it takes. A
job at Mistral costs money, so unless the upstream is known to be the sandbox, DEMO_WITH_REAL_KEY=1
must agree to it.
"""

from __future__ import annotations

import signal
import sys
import time
import uuid

from stack import job, rest
from stack.config import BadSetting, Door, Settings, from_env
from stack.parent import END_WITH_PARENT, end_with_parent
from stack.processes import Processes, serve
from stack.screen import Screen

_REQUESTS = 8
_CANCELLED_REQUESTS = 200
_REFUSAL = (
    "so the demo's two jobs might be real and paid for.\n"
    "  To create them all the same: DEMO_WITH_REAL_KEY=1 make demo"
)


def main() -> int:
    """Shows the demo; returns the exit code: 0 when every step succeeded, 1 otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until processes run, Ctrl-C simply ends this one
    if END_WITH_PARENT in sys.argv:
        end_with_parent(signal.SIGTERM)
    screen = Screen(hold=True)
    try:
        settings = from_env()
    except BadSetting as error:
        fault = str(error)
    else:
        fault = _demonstrate(settings, screen)
    screen.say(f"\n  {fault or 'Done.'}")
    return 1 if fault else 0


def _demonstrate(settings: Settings, screen: Screen) -> str:
    """Shows the demo on the running stack or on one of its own; returns what went wrong, or ""."""
    agreed = bool(settings.environment.get("DEMO_WITH_REAL_KEY"))
    if rest.answers(settings.rest):
        if not agreed and not _on_sandbox(settings):
            return f"{settings.rest.url} does not forward to the sandbox, {_REFUSAL}"
        return _live_through(settings, screen)
    if not agreed and not settings.sandboxed:
        return f"A key is set, {_REFUSAL}"
    screen.say("\n  No gateway is running: starting one for the demo\n")
    outcome = ["The demo was stopped before its end"]

    def follow(processes: Processes) -> None:
        try:
            outcome[0] = _live_through(settings, screen)
        finally:
            processes.terminate()

    return serve(settings, screen, follow) or outcome[0]


def _on_sandbox(settings: Settings) -> bool:
    """True when a request to the running service shows up in the sandbox's ledger."""
    mark = uuid.uuid4().hex
    try:
        rest.call(settings.rest, "GET", f"{rest.JOBS}?demo_probe={mark}")
        return mark in rest.text(settings.sandbox, "/sandbox/ledger")
    except rest.CallFailed:
        return False


def _live_through(settings: Settings, screen: Screen) -> str:
    """Shows both jobs' lives; returns what went wrong, or ""."""
    pace = job.SANDBOX_PACE if settings.sandboxed else job.REAL_PACE
    screen.say(f"\n  Demo through {settings.rest.url}{rest.JOBS}\n")
    try:
        _finish_one(settings.rest, screen, pace)
        _cancel_one(settings.rest, screen, pace)
        _list(settings.rest, screen)
    except rest.CallFailed as failure:
        return f"The demo failed: {failure}"
    return ""


def _finish_one(door: Door, screen: Screen, pace: job.Pace) -> None:
    created = job.create(door, _REQUESTS)
    screen.say(f"  1  create    job {created['id']}, {_REQUESTS} requests")
    finished = job.watch(door, created, screen, _REQUESTS, pace)
    results = job.results(door, finished)
    screen.say(f"  2  results   {job.tally(finished)}")
    for custom_id, answer in results:
        screen.say(f"     {custom_id:<12}{answer}")
    if finished["status"] != "SUCCESS" or len(results) != _REQUESTS:
        raise rest.CallFailed(f"expected {_REQUESTS} results of a job that ends as SUCCESS")


def _cancel_one(door: Door, screen: Screen, pace: job.Pace) -> None:
    created = job.create(door, _CANCELLED_REQUESTS)
    screen.say(f"  3  create    job {created['id']}, {_CANCELLED_REQUESTS} requests")
    asked = job.cancel(door, created)
    screen.say(f"  4  cancel    {asked['status']}")
    finished = job.watch(door, created, screen, _CANCELLED_REQUESTS, pace)
    if finished["status"] != "CANCELLED":
        raise rest.CallFailed(f"a job that was cancelled at once ended as {finished['status']}")


def _list(door: Door, screen: Screen) -> None:
    screen.say("  5  list      the newest jobs")
    for listed in job.newest(door, 5):
        created = time.strftime("%H:%M:%S", time.localtime(listed["created_at"]))
        counted = f"{listed['completed_requests']}/{listed['total_requests']}"
        screen.say(f"     {created}  {listed['id']}  {listed['status']:<22}  {counted:>8}")


if __name__ == "__main__":
    sys.exit(main())
