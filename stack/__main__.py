"""`python -m stack`: sandbox (without a key), REST service and MCP bridge, until Ctrl-C.

What a newcomer sees meanwhile: readiness, addresses and, on the sandbox, a sample job from creation
to results.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator

from stack import job, rest
from stack.config import BadSetting, Settings, from_env
from stack.parent import END_WITH_PARENT, end_with_parent
from stack.processes import serve
from stack.screen import Screen

_SAMPLE_REQUESTS = 8


def main() -> int:
    """Runs the stack; returns the exit code: 0 after a stop that was asked for, 1 otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until processes run, Ctrl-C simply ends this one
    if END_WITH_PARENT in sys.argv:
        end_with_parent(signal.SIGTERM)
    screen = Screen(hold=True)
    try:
        settings = from_env()
    except BadSetting as error:
        screen.say(f"  {error}")
        return 1
    screen.say(f"\n  Mistral batch gateway, upstream: {_upstream(settings)}\n")
    if settings.overridden:
        screen.say("  note: without a key, GATEWAY_UPSTREAM_URL is not used\n")
    fault = serve(settings, screen, lambda _: _introduce(settings, screen))
    screen.say(f"  {fault or 'Stopped.'}")
    return 1 if fault else 0


def _upstream(settings: Settings) -> str:
    if settings.sandboxed:
        return "the embedded sandbox (no key is set, so nothing is sent to Mistral)"
    return settings.environment.get("GATEWAY_UPSTREAM_URL") or "Mistral, with your key"


def _introduce(settings: Settings, screen: Screen) -> None:
    for line in _addresses(settings):
        screen.say(line)
    if settings.sandboxed:
        _show_sample(settings, screen)
    else:
        screen.say("  No sample job was created: with a key, jobs are real and paid for.")
    screen.say("\n  Serving; Ctrl-C stops everything. Log lines follow.\n")
    # After the sample the screen is worth keeping; with a key, what the start had to say is.
    screen.release(show=not settings.sandboxed)


def _addresses(settings: Settings) -> Iterator[str]:
    rest_url, mcp_url = settings.rest.url, f"{settings.bridge.url}/mcp"
    client = {"mcpServers": {"mistral-batch": {"type": "http", "url": mcp_url}}}
    yield ""
    yield f"  REST         {rest_url}{rest.JOBS}"
    yield f"  Swagger UI   {rest_url}/docs"
    yield f"  MCP          {mcp_url}"
    yield ""
    yield f"  try it       curl '{rest_url}{rest.JOBS}?page_size=3'"
    yield f"  MCP client   {json.dumps(client)}"
    yield ""


def _show_sample(settings: Settings, screen: Screen) -> None:
    door = settings.rest
    try:
        created = job.create(door, _SAMPLE_REQUESTS)
        screen.say(f"  Sample job {created['id']}")
        finished = job.watch(door, created, screen, _SAMPLE_REQUESTS, job.SANDBOX_PACE)
        results = job.results(door, finished)
    except rest.CallFailed as failure:
        screen.say(f"  The sample job failed: {failure}")
        return
    screen.say(f"    {job.tally(finished)}")
    for custom_id, answer in results[:1]:
        screen.say(f"    first result   {custom_id}: {answer}")


if __name__ == "__main__":
    sys.exit(main())
