"""The routes of Mistral's Batch and Files APIs, and the Flask application that holds them.

Paths, parameters and shapes follow Mistral's OpenAPI document; errors have the forms that its live
API is reported to use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException

from sandbox import files
from sandbox.admin import admin
from sandbox.callers import Caller
from sandbox.config import Settings
from sandbox.faults import RATE_LIMITED, Faults, quota_headers
from sandbox.jobs import Job
from sandbox.ledger import Ledger
from sandbox.state import Refused, State
from sandbox.validation import (
    Create,
    FilesQuery,
    Invalid,
    JobQuery,
    JobsQuery,
    LinkQuery,
    Upload,
    checked,
    checked_query,
    path_id,
    row,
)
from sandbox.wire import Wire

v1 = Blueprint("v1", __name__, url_prefix="/v1")


def create_app(settings: Settings | None = None) -> Flask:
    """The sandbox as a WSGI application; `app.extensions["sandbox"]` is its State."""
    settings = settings or Settings()
    app = Flask(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # Mistral's API does not redirect
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    state, ledger, faults = State(settings), Ledger(settings.ledger_entries), Faults()
    app.extensions |= {"sandbox": state, "ledger": ledger, "faults": faults}
    app.register_blueprint(v1)
    app.register_blueprint(admin)
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(Invalid, _invalid)
    app.register_error_handler(HTTPException, _http_error)
    app.before_request(_admit)
    app.after_request(_add_quota)
    wire = Wire(app.wsgi_app, ledger, faults, settings.max_body_bytes)
    app.wsgi_app = wire  # type: ignore[method-assign,assignment]
    return app


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; everything that succeeds is exactly 200."""
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, headers, mimetype="application/json")


def _state() -> State:
    return current_app.extensions["sandbox"]  # type: ignore[no-any-return]


def _caller() -> Caller:
    return g.caller  # type: ignore[no-any-return]


def _admit() -> None:
    """Refuse a caller without a usable key, with too many requests, or with too long a body."""
    if "sandbox.entry" not in request.environ:  # the side door
        return
    callers = _state().callers
    caller = callers.identify(request.headers.get("Authorization"))
    if caller is None:
        raise Refused(401, {"detail": "Unauthorized"})
    g.caller = caller
    request.environ["sandbox.entry"].update(workspace=caller.workspace, user=caller.user)
    g.remaining = callers.remaining(caller)
    if g.remaining is not None and g.remaining < 0:
        raise Refused(429, RATE_LIMITED, {"Retry-After": "60"})
    if request.environ.get("sandbox.too_long"):
        raise Refused(413, {"detail": "Request body too large"})


def _add_quota(response: Response) -> Response:
    remaining = g.get("remaining")
    if remaining is not None:
        limit = _state().settings.rate_limit
        response.headers.update(quota_headers(limit, max(remaining, 0)))
    return response


def _refused(error: Refused) -> Response:
    return answer(error.body, error.status, error.headers)


def _invalid(error: Invalid) -> Response:
    return answer({"detail": error.rows}, 422)


def _http_error(error: HTTPException) -> Response:
    """404, 405 and the like in Mistral's form; `Allow` is kept."""
    kept = {name: value for name, value in error.get_headers() if name == "Allow"}
    return answer({"detail": error.name}, error.code or 500, kept)


# Batch jobs


@v1.post("/batch/jobs")
def create_job() -> Response:
    """Create a job; the ledger learns its id."""
    state, raw = _state(), request.get_data()
    body = _json_body(raw)
    settings = state.settings
    loc = _loc(settings)
    form = checked(Create, body, *loc, refuse_unknown=settings.unknown_members == "refuse")
    body["timeout_hours"] = form.get("timeout_hours", 24)
    inputs = [name for name in ("input_files", "requests") if body.get(name)]
    if not inputs or (len(inputs) == 2 and settings.both_inputs == "refuse"):
        raise Invalid([row("value_error", loc, "Provide either input_files or requests", None)])
    lag = request.environ.get("sandbox.list_lag", settings.list_lag_seconds)
    job = state.create(_caller(), body, raw, lag)
    request.environ["sandbox.entry"]["job_id"] = job.id
    return answer(state.view(job))


def _json_body(raw: bytes) -> Any:
    if request.mimetype != "application/json":
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Invalid([row("model_attributes_type", _loc(_state().settings), message, None)])
    try:
        return json.loads(raw, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refused(400, {"detail": "Cannot parse request body"}) from error


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _loc(settings: Settings) -> tuple[str, ...]:
    return tuple(settings.error_loc.split("."))


@v1.get("/batch/jobs")
def list_jobs() -> Response:
    """One page of the caller's jobs with the number of all that match."""
    query = checked_query(JobsQuery, request.args)
    state, tests = _state(), _job_tests(query)
    found = state.workspaces[_caller().workspace].copy()
    if tests:
        found = [job for job in found if all(test(job) for test in tests)]
    if query.get("order_by") != "created":
        found.reverse()
    data = [state.view(job) for job in _page(found, query)]
    return answer({"data": data, "object": "list", "total": len(found)})


def _page(rows: list[Any], query: dict[str, Any]) -> list[Any]:
    page, size = query.get("page", 0), query.get("page_size", 100)
    return rows[page * size : (page + 1) * size]


def _job_tests(query: dict[str, Any]) -> list[Callable[[Job], bool]]:
    """What a job must fulfil to be listed; as few tests as the query needs."""
    state, values, caller = _state(), request.args, _caller()
    now, wall = state.clock.now(), state.clock.wall
    tests: list[Callable[[Job], bool]] = []
    if any(job.listed > now for job in state.workspaces[caller.workspace][-1000:]):
        tests.append(lambda job: job.listed <= now)
    if "model" in values:
        tests.append(lambda job: job.model == values["model"])
    if "agent_id" in values:
        tests.append(lambda job: job.agent_id == values["agent_id"])
    if query.get("created_by_me"):
        tests.append(lambda job: job.user == caller.user)
    if after := query.get("created_after"):
        moment = (after if after.tzinfo else after.replace(tzinfo=UTC)).timestamp()
        tests.append(lambda job: wall(job.created) > moment)
    if statuses := values.getlist("status"):
        tests.append(lambda job: state.progress(job).status in statuses)
    # Mistral's OpenAPI explodes the filter: each pair is a query parameter of its own.
    wanted = {name: values.getlist(name) for name in values.keys() - JobsQuery.__annotations__}
    if wanted:
        tests.append(
            lambda job: all(
                (job.metadata or {}).get(name) in texts for name, texts in wanted.items()
            )
        )
    return tests


@v1.get("/batch/jobs/<job_id>")
def get_job(job_id: str) -> Response:
    """One job, with its output lines when `inline` is true and it is finished."""
    query = checked_query(JobQuery, request.args)
    return answer(_state().view(_job(job_id), inline=query.get("inline", False)))


@v1.post("/batch/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> Response:
    """Ask for the end of a job."""
    job = _job(job_id)
    _state().cancel(job)
    return answer(_state().view(job))


@v1.delete("/batch/jobs/<job_id>")
def delete_job(job_id: str) -> Response:
    """Forget a job."""
    job = _job(job_id)
    _state().delete(job)
    return answer({"id": job.id, "object": "batch", "deleted": True})


def _job(job_id: str) -> Job:
    job = _state().job(_caller(), path_id(job_id, "job_id"))
    request.environ["sandbox.entry"]["job_id"] = job.id
    return job


# Files


@v1.post("/files")
def upload_file() -> Response:
    """Keep an uploaded file."""
    upload = request.files.get("file")
    if upload is None:
        loc = (*_loc(_state().settings), "file")
        raise Invalid([row("missing", loc, "Field required", None)])
    form = checked(Upload, request.form.to_dict(), *_loc(_state().settings))
    purpose = form.get("purpose", "fine-tune")
    filename = upload.filename or "file"
    wrong = files.wrong_type(filename, purpose)
    if wrong:
        message = f"Received file with mimetype {wrong}, only jsonl files are currently supported"
        raise Refused(422, {"detail": "Invalid file format.", "message": message})
    file = _state().upload(
        _caller(),
        upload.read(),
        form.get("expiry"),
        filename=filename,
        purpose=purpose,
        visibility=form.get("visibility", "workspace"),
        mimetype=upload.mimetype or "application/octet-stream",
    )
    return answer(file.view(_state().clock.wall))


@v1.get("/files")
def list_files() -> Response:
    """One page of the files that the caller may see."""
    query = checked_query(FilesQuery, request.args)
    filters = {
        "sample_type": query.get("sample_type"),
        "source": query.get("source"),
        "purpose": query.get("purpose"),
        "mimetype": query.get("mimetypes"),
    }
    found = [
        file
        for file in _state().all_files(_caller())
        if query.get("search", "") in file.filename
        and all(not allowed or getattr(file, name) in allowed for name, allowed in filters.items())
    ]
    data = [file.view(_state().clock.wall) for file in _page(found, query)]
    total = len(found) if query.get("include_total", True) else None
    return answer({"data": data, "object": "list", "total": total})


@v1.get("/files/<file_id>")
def get_file(file_id: str) -> Response:
    """What is known of a file."""
    return answer({**_file(file_id).view(_state().clock.wall), "deleted": False})


@v1.delete("/files/<file_id>")
def delete_file(file_id: str) -> Response:
    """Delete a file."""
    file = _file(file_id)
    _state().remove(file)
    return answer({"id": file.id, "object": "file", "deleted": True})


@v1.get("/files/<file_id>/content")
def download_file(file_id: str) -> Response:
    """The bytes of a file."""
    return Response(_file(file_id).content, mimetype="application/octet-stream")


@v1.get("/files/<file_id>/url")
def sign_file(file_id: str) -> Response:
    """An address that gives the file without a key, for `expiry` job hours."""
    hours = checked_query(LinkQuery, request.args).get("expiry", 24)
    token = _state().link(_file(file_id), hours)
    return answer({"url": f"{request.host_url}sandbox/download/{token}"})


def _file(file_id: str) -> files.File:
    return _state().file(_caller(), path_id(file_id, "file_id"))
