"""`python -m stack`: sandbox (without a key), REST service and MCP bridge, until Ctrl-C; `python -m stack demo`: see `stack.demo`.

What a newcomer sees of the first: readiness, addresses and, on the sandbox, a sample job from creation to results.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

from environment import SettingsError, redact_url
from openapi.contract import Contract
from stack import demo, job, rest
from stack.config import Settings, from_env
from stack.processes import END_WITH_PARENT, end_with_parent, serve
from stack.screen import Screen


def main(arguments: list[str] | None = None, prog: str = "") -> int:
    """Runs or demonstrates the stack; returns the exit code: 1 when something went wrong, 0 otherwise.

    `prog` is what people typed, when that was neither make nor `python -m stack`.
    """
    parser = argparse.ArgumentParser(
        prog=prog or "python -m stack",
        description="Runs sandbox (without a key), REST service and MCP bridge, until Ctrl-C. Settings come from the environment and from .env here.",
    )
    if not prog:
        text = "show two jobs' lives instead"
        parser.add_argument("show", nargs="?", choices=["demo"], help=text)
    parser.add_argument(END_WITH_PARENT, action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until processes run, Ctrl-C simply ends this one
    if chosen.end_with_parent:
        end_with_parent(signal.SIGTERM)
    demonstrates = getattr(chosen, "show", None) == "demo"
    show, end = (demo.demonstrate, "Done.") if demonstrates else (run, "Stopped.")
    screen = Screen(buffer_logs=True)
    try:
        fault = show(from_env(command=prog or "make run"), screen)
    except SettingsError as error:
        fault = str(error)
    screen.say(f"\n  {fault or end}")
    return 1 if fault else 0


def run(settings: Settings, screen: Screen) -> str:
    """Runs the stack until it is stopped; returns what went wrong, or an empty string."""
    screen.say(f"\n  {settings.contract.title}, upstream: {'; '.join(_upstreams(settings))}\n")
    if settings.from_file:  # some may be what a process then refuses
        screen.say(f"  from .env: {', '.join(settings.from_file)}\n")
    if settings.overridden:
        screen.say("  note: without a key, GATEWAY_UPSTREAM_URL is not used\n")
    return serve(settings, screen, lambda: _introduce(settings, screen)) or ""


def _upstreams(settings: Settings) -> Iterator[str]:
    """What is called, each once."""
    if settings.sandboxed:
        yield "the embedded sandbox (no key is set, so nothing is sent to Mistral)"
    others = [name for name in settings.contract.upstreams if name not in settings.stood_in]
    keys = {settings.upstream_urls[name]: settings.keys(name) for name in others}
    for url, variables in keys.items():
        yield f"{redact_url(url)}, with {', '.join(variables)}" if variables else redact_url(url)


def _introduce(settings: Settings, screen: Screen) -> None:
    contract, rest_url, mcp_url = settings.contract, settings.rest.url, f"{settings.bridge.url}/mcp"
    curl = "curl"
    client: dict[str, Any] = {"type": "http", "url": mcp_url}
    if settings.protected(settings.rest):
        curl += " -H 'Authorization: Bearer TOKEN'"
    if settings.protected(settings.bridge):
        client |= {"headers": {"Authorization": "Bearer TOKEN"}}
    name = "mistral-batch" if job.upstreams(contract) else contract.mcp_name
    shown = _shown(contract)
    screen.say(f"""
  REST         {rest_url}{shown}
  Swagger UI   {rest_url}/docs
  MCP          {mcp_url}
""")
    if shown:
        query = "?page_size=3" if shown == rest.JOBS else ""
        screen.say(f"  try it       {curl} '{rest_url}{shown}{query}'")
    screen.say(f"  MCP client   {json.dumps({'mcpServers': {name: client}})}\n")
    sample = not (why := reason_for_no_sample(settings))
    if sample:
        try:
            _, results = job.finish(settings.rest, screen, job.SANDBOX_PACE)
            screen.say(f"     first result: {results[0] if results else 'none'}")
        except rest.CallFailed as failure:
            screen.say(f"  The sample job failed: {failure}")
    else:
        screen.say(f"  {why}.")
    screen.say("".join(f"\n  {note}" for note in notes(settings)))
    screen.say("\n  Serving; Ctrl-C stops everything. Log lines follow.\n")
    # After the sample the screen is worth keeping; without one, what the start had to say is.
    screen.release(show=not sample)


def _shown(contract: Contract) -> str:
    """The path of an operation that can be tried as it is; empty when there is none."""
    if job.upstreams(contract):
        return rest.JOBS
    for operation in contract.operations.values():
        asks = operation.path_variables or any(each.required for each in operation.parameters)
        if operation.method == "GET" and not asks and not operation.body:
            return operation.path
    return ""


def reason_for_no_sample(settings: Settings) -> str:
    """Why no sample job can or should be created, without a stop at its end; empty when one should."""
    called = job.upstreams(settings.contract)
    if not called:
        return "No sandbox and no sample job: they are of Mistral's batch jobs, and this document is of another API"
    real = sorted({settings.upstream_urls[name] for name in called - {*settings.stood_in}})
    if real:
        return f"No sample job was created: with a key, jobs are for {redact_url(real[0])} to do, and may be paid for"
    if settings.protected(settings.rest) and not settings.rest.token:
        return (
            "No sample job was created: the REST service wants a token, and BRIDGE_REST_TOKEN gives none; the bridge has none either."
            " GATEWAY_TOKENS_FILE, BRIDGE_TOKENS_FILE and BRIDGE_REST_TOKEN belong together (docs/security.md, Tokens)"
        )
    return ""


def notes(settings: Settings) -> Iterator[str]:
    """What is not as in production, unless it was set."""
    if settings.sandboxed and not settings.given.get("GATEWAY_STORE"):
        yield "Idempotency keys end with this run, as the sandbox's jobs do; GATEWAY_STORE=FILE keeps them."
    if settings.environment["GATEWAY_AUDIT_LOG"] == "off":
        yield "No audit log is written; GATEWAY_AUDIT_LOG=stderr shows it."


if __name__ == "__main__":
    sys.exit(main())
