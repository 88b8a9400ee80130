"""The side door under `/sandbox`: look into the sandbox and set it up. It needs no key."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from sandbox import demo
from sandbox.faults import BadFault, Faults, parse_rule
from sandbox.ledger import Ledger
from sandbox.state import Refused, State
from sandbox.validation import Advance, checked

BANNER = "a stand-in for Mistral's Batch and Files APIs: it reaches no model and costs nothing"

admin = Blueprint("admin", __name__)


def _state() -> State:
    return current_app.extensions["sandbox"]  # type: ignore[no-any-return]


def _ledger() -> Ledger:
    return current_app.extensions["ledger"]  # type: ignore[no-any-return]


def _faults() -> Faults:
    return current_app.extensions["faults"]  # type: ignore[no-any-return]


@admin.get("/")
@admin.get("/sandbox/state")
def state() -> Response:
    """What this is, and how it stands."""
    state = _state()
    counts = Counter(state.progress(job).status for job in list(state.jobs.values()))
    return jsonify(
        banner=BANNER,
        seed=state.seed,
        speed=state.clock.speed,
        now=state.clock.wall(state.clock.now()),
        jobs=counts,
        files=len(state.files),
        requests=len(_ledger().entries()),
        faults=len(_faults().rules),
    )


@admin.get("/sandbox/ledger")
def ledger() -> Response:
    """The received requests, oldest first; `?method=` and `?path=` choose among them."""
    wanted = {name: request.args[name] for name in ("method", "path") if name in request.args}
    rows = _ledger().entries()
    return jsonify([row for row in rows if all(row[key] == wanted[key] for key in wanted)])


@admin.delete("/sandbox/ledger")
def clear_ledger() -> Response:
    """Forget the received requests."""
    _ledger().clear()
    return jsonify([])


@admin.post("/sandbox/reset")
def reset() -> Response:
    """Be as at the start: without further jobs, files, entries, rules, advance of the clock."""
    _state().reset()
    if _state().settings.demo:
        demo.load(_state())
    _ledger().clear()
    _faults().clear()
    return state()


@admin.post("/sandbox/clock/advance")
def advance() -> Response:
    """Move the clock by `{"seconds": n}` job seconds."""
    _state().clock.advance(checked(Advance, _body(), "body")["seconds"])
    return state()


@admin.get("/sandbox/faults")
def faults() -> Response:
    """The rules in force."""
    return jsonify([rule.view() for rule in _faults().rules])


@admin.post("/sandbox/faults")
def add_faults() -> Response:
    """Put a rule, or a list of rules, in force."""
    body = _body()
    try:
        rules = [parse_rule(given) for given in (body if isinstance(body, list) else [body])]
    except BadFault as error:
        raise Refused(422, {"detail": str(error)}) from error
    _faults().add(rules)
    return faults()


@admin.delete("/sandbox/faults")
def clear_faults() -> Response:
    """End all rules."""
    _faults().clear()
    return faults()


@admin.post("/sandbox/demo")
def load_demo() -> Response:
    """Load the demonstration jobs; again is no change."""
    demo.load(_state())
    return state()


@admin.get("/sandbox/download/<token>")
def download(token: str) -> Response:
    """A file by a signed address."""
    return Response(_state().linked(token).content, mimetype="application/octet-stream")


def _body() -> Any:
    return request.get_json(force=True, silent=True)
