"""The routes of Mistral's Batch and Files APIs: paths, parameters and shapes follow its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from typing import Any, Literal, cast
from urllib.parse import quote

from flask import Blueprint, abort, g, request
from werkzeug.datastructures import FileStorage
from werkzeug.formparser import FormDataParser
from werkzeug.http import dump_options_header
from werkzeug.wrappers import Response

from sandbox import files
from sandbox.answers import HTTPError, Invalid, json_answer, page, violation
from sandbox.content import Content, TooLarge
from sandbox.jobs import Job
from sandbox.state import state
from sandbox.validation import (
    Create,
    FilesQuery,
    JobQuery,
    JobsQuery,
    LinkQuery,
    Upload,
    checked,
    checked_query,
    parse_json,
    path_id,
)

v1 = Blueprint("v1", __name__, url_prefix="/v1")
blobs = Blueprint("blobs", __name__)


# Batch jobs


@v1.post("/batch/jobs")
def create_job() -> Response:
    """Creates a job; the ledger learns its id."""
    settings, raw, loc = state.settings, request.get_data(), state.settings.body_loc
    body = _json_body(raw)
    form = checked(Create, body, *loc, refuse_unknown=settings.unknown_members == "refuse")
    body["timeout_hours"] = form.get("timeout_hours", 24)
    inputs = [name for name in ("input_files", "requests") if body.get(name)]
    if not inputs or (len(inputs) == 2 and settings.both_inputs == "refuse"):
        message = "Provide either input_files or requests"
        raise Invalid([violation("value_error", loc, message, None)])
    lag = request.environ.get("sandbox.list_lag", settings.list_lag_seconds)
    job = state.create(g.caller, body, raw, lag)
    request.environ["sandbox.entry"]["job_id"] = job.id
    return json_answer(state.view(job))


def _json_body(raw: bytes) -> Any:
    if request.mimetype != "application/json":
        message = "Input should be a valid dictionary or object to extract fields from"
        loc = state.settings.body_loc
        raise Invalid([violation("model_attributes_type", loc, message, None)])
    try:
        return parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, {"detail": "Cannot parse request body"}) from error


@v1.get("/batch/jobs")
def list_jobs() -> Response:
    """One page of the caller's jobs with the number of all that match."""
    query = checked_query(JobsQuery, request.args)
    found = state.workspaces[g.caller.workspace].copy()
    if filters := _job_filters(query):
        found = [job for job in found if all(fits(job) for fits in filters)]
    if query.get("order_by") != "created":
        found.reverse()
    data = [state.view(job) for job in _page(found, query)]
    return json_answer({"data": data, "object": "list", "total": len(found)})


def _page(rows: list[Any], query: dict[str, Any]) -> list[Any]:
    page, size = query.get("page", 0), query.get("page_size", 100)
    return rows[page * size : (page + 1) * size]


def _job_filters(query: dict[str, Any]) -> list[Callable[[Job], bool]]:
    """What a job must fulfil to be listed; only the tests that the query needs."""
    values, caller = request.args, g.caller
    now, wall = state.clock.now(), state.clock.wall
    filters: list[Callable[[Job], bool]] = []
    if any(job.listed > now for job in state.workspaces[caller.workspace][-1000:]):
        filters.append(lambda job: job.listed <= now)
    if "model" in values:
        filters.append(lambda job: job.model == values["model"])
    if "agent_id" in values:
        filters.append(lambda job: job.agent_id == values["agent_id"])
    if query.get("created_by_me"):
        filters.append(lambda job: job.user == caller.user)
    if after := query.get("created_after"):
        moment = (after if after.tzinfo else after.replace(tzinfo=UTC)).timestamp()
        filters.append(lambda job: wall(job.created) > moment)
    if statuses := values.getlist("status"):
        filters.append(lambda job: state.progress(job).status in statuses)
    # Mistral's OpenAPI explodes the filter: each pair is a query parameter of its own.
    wanted = {name: values.getlist(name) for name in values.keys() - JobsQuery.__annotations__}
    if wanted:
        filters.append(
            lambda job: all(
                (job.metadata or {}).get(name) in texts for name, texts in wanted.items()
            )
        )
    return filters


@v1.get("/batch/jobs/<job_id>")
def get_job(job_id: str) -> Response:
    """One job, with its output lines when `inline` is true and it is finished."""
    query = checked_query(JobQuery, request.args)
    return json_answer(state.view(_job(job_id), inline=query.get("inline", False)))


@v1.post("/batch/jobs/<job_id>/cancel")
def cancel_job(job_id: str) -> Response:
    """Asks for the end of a job."""
    job = _job(job_id)
    state.cancel(job)
    return json_answer(state.view(job))


@v1.delete("/batch/jobs/<job_id>")
def delete_job(job_id: str) -> Response:
    """Forgets a job."""
    job = _job(job_id)
    state.delete(job)
    return json_answer({"id": job.id, "object": "batch", "deleted": True})


def _job(job_id: str) -> Job:
    job = state.job(g.caller, path_id(job_id, "job_id"))
    request.environ["sandbox.entry"]["job_id"] = job.id
    return job


# Files


@v1.post("/files")
def upload_file() -> Response:
    """Keeps an uploaded file."""
    settings, loc = state.settings, state.settings.body_loc
    upload = request.environ["sandbox.entry"]["upload"]
    form, file_part = _upload_form()
    upload["purpose"] = form.get("purpose")
    if file_part is None:
        raise Invalid([violation("missing", (*loc, "file"), "Field required", None)])
    fields = checked(Upload, form, *loc)
    purposes: Any = Literal[tuple(settings.purposes.split(","))]
    purpose = fields.get("purpose", "fine-tune")
    if settings.purposes:
        checked(purposes, purpose, *loc, "purpose")
    filename = file_part.filename or "file"
    if wrong := files.wrong_type(filename, purpose):
        message = f"Received file with mimetype {wrong}, only jsonl files are currently supported"
        raise HTTPError(422, {"detail": "Invalid file format.", "message": message})
    content = cast(Content, file_part.stream)
    file = state.upload(
        g.caller,
        content,
        fields.get("expiry"),
        filename=filename,
        purpose=purpose,
        visibility=fields.get("visibility", "workspace"),
        mimetype=files.media_type(filename, file_part.mimetype),
    )
    upload.update(outcome="kept" if file.content is content else "same", file_id=file.id)
    return json_answer(file.view(state.clock.wall))


def _upload_form() -> tuple[dict[str, str], FileStorage | None]:
    """The fields of an upload and its file, whose bytes go to the disk while they come; of a repeated part the last."""
    body, upload = request.environ["sandbox.body"], request.environ["sandbox.entry"]["upload"]

    def content(filename: str | None = None, **_: Any) -> Any:
        upload["filename"] = filename
        body.content = Content(state.settings.max_file_bytes)
        return body.content

    parser = FormDataParser(cast(Any, content), max_form_memory_size=1 << 20, max_form_parts=100)
    length, options = request.content_length, request.mimetype_params
    try:
        _, form, parts = parser.parse(request.stream, request.mimetype, length, options)
    except TooLarge:
        abort(page(413))
    except OSError as error:
        raise HTTPError(507, {"detail": f"No room for the file: {error.strerror}"}) from error
    fields = {name: texts[-1] for name, texts in form.lists()}
    return fields, ([None, *parts.getlist("file")])[-1]


@v1.get("/files")
def list_files() -> Response:
    """One page of the files that the caller may see."""
    query = checked_query(FilesQuery, request.args)
    filters = {
        "sample_type": query.get("sample_type"),
        "source": query.get("source"),
        "purpose": [query["purpose"]] if "purpose" in query else None,
        "mimetype": query.get("mimetypes"),
    }
    found = [
        file
        for file in state.all_files(g.caller)
        if query.get("search", "") in file.filename
        and all(not allowed or getattr(file, name) in allowed for name, allowed in filters.items())
    ]
    data = [file.view(state.clock.wall) for file in _page(found, query)]
    total = len(found) if query.get("include_total", True) else None
    return json_answer({"data": data, "object": "list", "total": total})


@v1.get("/files/<file_id>")
def get_file(file_id: str) -> Response:
    """What is known of a file."""
    return json_answer({**_file(file_id).view(state.clock.wall), "deleted": False})


@v1.delete("/files/<file_id>")
def delete_file(file_id: str) -> Response:
    """Deletes a file."""
    file = _file(file_id)
    state.remove(file)
    return json_answer({"id": file.id, "object": "file", "deleted": True})


@v1.get("/files/<file_id>/content")
def download_file(file_id: str) -> Response:
    """The bytes of a file, or where they are, as configured."""
    file = _file(file_id)
    status = request.environ.get("sandbox.content_redirect", state.settings.content_redirect)
    if status:
        return Response("", status, {"Location": _signed(file, 1)})
    return _download(file)


@blobs.get("/blob/<token>")
def open_blob(token: str) -> Response:
    """The bytes of a file by a signed address, without a key."""
    return _download(state.signed_file(token))


def _download(file: files.File) -> Response:
    content, ranges = file.content, state.settings.ranges
    answer = Response(content.pieces(), content_type=files.UNKNOWN_TYPE)
    answer.content_length = content.size
    answer.headers["Content-Disposition"] = _attachment(file.filename)
    if not ranges:
        return answer
    answer.accept_ranges = "bytes"
    answer.set_etag(content.sha256)
    wanted = request.range
    if not wanted or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return answer
    if "If-Range" in request.headers and request.if_range.etag != content.sha256:
        return answer
    part = wanted.range_for_length(content.size)
    if part is None:
        unsatisfied = {"Content-Range": f"bytes */{content.size}", "Accept-Ranges": "bytes"}
        return Response("", 416, unsatisfied)
    answer.status_code = 206
    answer.response = content.pieces(*part)
    answer.content_length = part[1] - part[0]
    answer.headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{content.size}"
    return answer


def _attachment(filename: str) -> str:
    """The header for a file to be saved under its name, which may be any text (RFC 6266)."""
    if filename.isascii() and filename.isprintable():
        return dump_options_header("attachment", {"filename": filename})
    return dump_options_header("attachment", {"filename*": f"UTF-8''{quote(filename, safe='')}"})


@v1.get("/files/<file_id>/url")
def sign_file(file_id: str) -> Response:
    """An address that gives the file without a key, for `expiry` job hours."""
    hours = checked_query(LinkQuery, request.args).get("expiry", 24)
    return json_answer({"url": _signed(_file(file_id), hours)})


def _signed(file: files.File, hours: int) -> str:
    return f"{request.host_url}blob/{state.sign(file, hours)}"


def _file(file_id: str) -> files.File:
    return state.file(g.caller, path_id(file_id, "file_id"))
