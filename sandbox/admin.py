"""The admin API under `/sandbox`: look into the sandbox and set it up. It needs no key."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Blueprint, request

from sandbox import demo
from sandbox.answers import HTTPError
from sandbox.faults import BadFault, parse_rule
from sandbox.state import state
from sandbox.validation import Advance, checked

BANNER = "a stand-in for Mistral's Batch and Files APIs: it reaches no model and costs nothing"

admin = Blueprint("admin", __name__)


@admin.get("/")
@admin.get("/sandbox/state")
def overview() -> dict[str, Any]:
    """What this is, and how it stands."""
    return {
        "banner": BANNER,
        "seed": state.seed,
        "speed": state.clock.speed,
        "now": state.clock.wall(state.clock.now()),
        "jobs": Counter(state.progress(job).status for job in list(state.jobs.values())),
        "files": len(state.files),
        "requests": len(state.ledger.entries()),
        "faults": len(state.faults.rules),
    }


@admin.get("/sandbox/ledger")
def ledger() -> list[Any]:
    """The received requests, oldest first; `?method=` and `?path=` choose among them."""
    wanted = {name: request.args[name] for name in ("method", "path") if name in request.args}
    rows = state.ledger.entries()
    return [row for row in rows if all(row[name] == text for name, text in wanted.items())]


@admin.delete("/sandbox/ledger")
def clear_ledger() -> list[Any]:
    """Forgets the received requests."""
    state.ledger.clear()
    return []


@admin.post("/sandbox/reset")
def reset() -> dict[str, Any]:
    """As at the start: without further jobs, files, entries, rules, advance of the clock."""
    state.reset()
    if state.settings.demo:
        demo.load(state)
    return overview()


@admin.post("/sandbox/clock/advance")
def advance() -> dict[str, Any]:
    """Moves the clock by `{"seconds": n}` job seconds."""
    state.clock.advance(checked(Advance, _body(), "body")["seconds"])
    return overview()


@admin.get("/sandbox/faults")
def faults() -> list[Any]:
    """The rules in force."""
    return [rule.view() for rule in state.faults.rules]


@admin.post("/sandbox/faults")
def add_faults() -> list[Any]:
    """Puts a rule, or a list of rules, in force."""
    body = _body()
    try:
        rules = [parse_rule(given) for given in (body if isinstance(body, list) else [body])]
    except BadFault as error:
        raise HTTPError(422, {"detail": str(error)}) from error
    state.faults.add(rules)
    return faults()


@admin.delete("/sandbox/faults")
def clear_faults() -> list[Any]:
    """Ends all rules."""
    state.faults.clear()
    return []


@admin.post("/sandbox/demo")
def load_demo() -> dict[str, Any]:
    """Loads the demonstration jobs; again is no change."""
    demo.load(state)
    return overview()


def _body() -> Any:
    return request.get_json(force=True, silent=True)
