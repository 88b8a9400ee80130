"""`python -m stack`: sandbox (without a key), REST service and MCP bridge, until Ctrl-C; `python -m stack demo`: see `stack.demo`.

What a newcomer sees of the first: readiness, addresses and, on the sandbox, a sample job from creation to results.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator

from environment import SettingsError
from stack import demo, job, rest
from stack.config import Settings, from_env
from stack.processes import END_WITH_PARENT, end_with_parent, serve
from stack.screen import Screen


def main() -> int:
    """Runs or demonstrates the stack; returns the exit code: 1 when something went wrong, 0 otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until processes run, Ctrl-C simply ends this one
    if END_WITH_PARENT in sys.argv:
        end_with_parent(signal.SIGTERM)
    show, end = (demo.demonstrate, "Done.") if "demo" in sys.argv else (run, "Stopped.")
    screen = Screen(buffer_logs=True)
    try:
        fault = show(from_env(), screen)
    except SettingsError as error:
        fault = str(error)
    screen.say(f"\n  {fault or end}")
    return 1 if fault else 0


def run(settings: Settings, screen: Screen) -> str:
    """Runs the stack until it is stopped; returns what went wrong, or an empty string."""
    upstream = settings.environment.get("GATEWAY_UPSTREAM_URL") or "Mistral, with your key"
    if settings.sandboxed:
        upstream = "the embedded sandbox (no key is set, so nothing is sent to Mistral)"
    screen.say(f"\n  Mistral batch gateway, upstream: {upstream}\n")
    if settings.overridden:
        screen.say("  note: without a key, GATEWAY_UPSTREAM_URL is not used\n")
    return serve(settings, screen, lambda: _introduce(settings, screen)) or ""


def _introduce(settings: Settings, screen: Screen) -> None:
    rest_url, mcp_url = settings.rest.url, f"{settings.bridge.url}/mcp"
    client = {"mcpServers": {"mistral-batch": {"type": "http", "url": mcp_url}}}
    screen.say(f"""
  REST         {rest_url}{rest.JOBS}
  Swagger UI   {rest_url}/docs
  MCP          {mcp_url}

  try it       curl '{rest_url}{rest.JOBS}?page_size=3'
  MCP client   {json.dumps(client)}
""")
    if settings.sandboxed:
        try:
            _, results = job.finish(settings.rest, screen, job.SANDBOX_PACE)
            screen.say(f"     first result: {results[0] if results else 'none'}")
        except rest.CallFailed as failure:
            screen.say(f"  The sample job failed: {failure}")
    else:
        screen.say("  No sample job was created: with a key, jobs are real and paid for.")
    screen.say("".join(f"\n  {note}" for note in notes(settings)))
    screen.say("\n  Serving; Ctrl-C stops everything. Log lines follow.\n")
    # After the sample the screen is worth keeping; with a key, what the start had to say is.
    screen.release(show=not settings.sandboxed)


def notes(settings: Settings) -> Iterator[str]:
    """What is not as in production, unless it was set."""
    if settings.sandboxed and not settings.environment.get("GATEWAY_STORE"):
        yield "Idempotency keys end with this run, as the sandbox's jobs do; GATEWAY_STORE=FILE keeps them."
    if settings.environment["GATEWAY_AUDIT_LOG"] == "off":
        yield "No audit log is written; GATEWAY_AUDIT_LOG=stderr shows it."


if __name__ == "__main__":
    sys.exit(main())
