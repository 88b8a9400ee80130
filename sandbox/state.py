"""Everything the sandbox knows: jobs, files, keys, clock, ledger, faults; and the rules for changing it.

All of it but the bytes of large files is in memory; one lock guards it where more than one step must hold together.
"""

from __future__ import annotations

import random
import secrets
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from flask import current_app
from werkzeug.local import LocalProxy

from sandbox import jobs
from sandbox.answers import HTTPError, Invalid, not_found, violation
from sandbox.api_keys import ApiKeys, Caller
from sandbox.clock import Clock
from sandbox.config import Settings
from sandbox.content import Content
from sandbox.faults import Faults
from sandbox.files import JSONL, File, sample_type
from sandbox.input_files import Chain, InputFile
from sandbox.jobs import FAIL_MARK, Draft, Job, Progress, Request
from sandbox.ledger import Ledger
from sandbox.results import jsonl, lines


class State:
    """The sandbox's whole state; `reset` makes it new."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seed = secrets.randbelow(2**31) if settings.seed < 0 else settings.seed
        self.lock = threading.RLock()
        self.ledger = Ledger(settings.ledger_entries)
        self.faults = Faults()
        self.reset()

    def reset(self) -> None:
        """Forgets everything, sets the clock to now, starts the same random numbers again."""
        self.clock = Clock(self.settings.speed)
        self.api_keys = ApiKeys(self.settings)
        self.jobs: dict[str, Job] = {}
        self.workspaces: dict[str, list[Job]] = defaultdict(list)
        self.files: dict[str, File] = {}
        self.results: dict[str, Job] = {}
        self.signed: dict[str, tuple[str, float]] = {}
        self.ledger.clear()
        self.faults.clear()
        self._rng = random.Random(self.seed)  # noqa: S311 (no secret)

    def new_id(self) -> str:
        """A version 4 UUID from the seed."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    # Jobs

    def create(self, caller: Caller, body: dict[str, Any], raw: bytes, lag: float = 0.0) -> Job:
        """A new job from a valid body, whose bytes are `raw`; it is listed after `lag` real seconds.

        Raises HTTPError when an input file is unknown or unfit, or the job is too big for the trial.
        """
        inputs = [self._input_file(caller, name) for name in body.get("input_files") or []]
        draft = self._draft(body, raw, inputs)
        if 0 < self.settings.trial_requests < len(draft.requests):
            text = "You cannot launch batch jobs this big with your free trial."
            raise HTTPError(402, {"detail": text})
        with self.lock:
            now, job_id = self.clock.now(), self.new_id()
            job = Job(
                id=job_id,
                workspace=caller.workspace,
                user=caller.user,
                created=now,
                endpoint=body["endpoint"],
                plan=jobs.plan(job_id, draft, self.settings),
                requests=draft.requests,
                output_file=self.new_id(),
                error_file=self.new_id(),
                input_files=[file.id for file in inputs],
                model=body.get("model"),
                agent_id=body.get("agent_id"),
                metadata=body.get("metadata"),
                cancel_seconds=self.settings.cancel_seconds,
            )
            if lag > 0:
                job.listed = self.clock.tick(self.clock.wall(now) + lag)
            if not inputs and self.settings.inline_input_file:
                job.input_files = [self._inline_file(job).id]
            self.add(job)
        return job

    def _draft(self, body: dict[str, Any], raw: bytes, inputs: list[File]) -> Draft:
        given = [
            Request(item.get("custom_id"), item["body"]) for item in body.get("requests") or []
        ]
        found = [InputFile(file.content) for file in inputs]
        reasons = [reason for each in found for reason in each.reasons]
        ids = [hash(request.custom_id) for request in given if request.custom_id is not None]
        for each in found:
            ids += each.ids
        if len(ids) != len(set(ids)):
            reasons.append("Duplicate custom_id")
        if model := body.get("model"):
            known = self.settings.models
            if model not in known.split(",") if known else model.startswith("unknown"):
                reasons.append(f"Unknown model: {model}")
        marked = FAIL_MARK.encode() in raw or any(each.marked for each in found)
        return Draft(body, Chain([given, *found]), reasons, marked)

    def add(self, job: Job) -> None:
        """Makes a job visible, after all others."""
        self.jobs[job.id] = job
        self.workspaces[job.workspace].append(job)
        self.results[job.output_file] = self.results[job.error_file] = job

    def job(self, caller: Caller, job_id: str) -> Job:
        """A job of the caller's workspace; raises HTTPError (404) for any other id."""
        job = self.jobs.get(job_id)
        if job is None or job.workspace != caller.workspace:
            raise not_found()
        return job

    def progress(self, job: Job) -> Progress:
        """How far a job is now."""
        return jobs.progress(job, self.clock.now())

    def view(self, job: Job, *, inline: bool = False) -> dict[str, Any]:
        """A job as clients see it, with its output lines when `inline`, once it is finished."""
        now, partial = self.progress(job), self.settings.partial_results
        seen = jobs.view(job, now, self.clock.wall, partial)
        if inline and now.has_results(partial):
            seen["outputs"] = list(lines(job, now.completed, seen["completed_at"]))
        return seen

    def cancel(self, job: Job) -> None:
        """Asks for a job's end; again is no change; raises HTTPError as configured when finished."""
        with self.lock:
            status = self.progress(job).status
            if status in ("QUEUED", "RUNNING"):
                job.cancelled = self.clock.now() - job.created
            elif status in jobs.TERMINAL and self.settings.cancel_finished_status != 200:
                text = f"Job is already {status}"
                raise HTTPError(self.settings.cancel_finished_status, {"detail": text})

    def delete(self, job: Job) -> None:
        """Forgets a job; its files stay."""
        with self.lock:
            if self.jobs.pop(job.id, None):
                self.workspaces[job.workspace].remove(job)

    # Files

    def upload(self, caller: Caller, content: Content, hours: int | None, **fields: str) -> File:
        """Keeps an uploaded file, for a number of job hours or for good, or finds the one that it is, as configured."""
        now = self.clock.now()
        new = File(
            id="",
            workspace=caller.workspace,
            user=caller.user,
            source="upload",
            sample_type=sample_type(fields["purpose"]),
            read=lambda: content,
            created=now,
            expires=None if hours is None else now + hours * 3600,
            **fields,
        )
        with self.lock:
            for file in self.all_files(caller) if self.settings.same_file == "old" else []:
                if file.source == "upload" and _identity(file) == _identity(new):
                    return file
            new.id = self.new_id()
            return self._keep(new)

    def file(self, caller: Caller, file_id: str) -> File:
        """A file that the caller may see; raises HTTPError (404) for any other id."""
        file = self._file(file_id)
        if file is None or not _visible(file, caller):
            raise not_found()
        return file

    def all_files(self, caller: Caller) -> list[File]:
        """The files that the caller may see, newest first."""
        found = [self._file(name) for name in [*self.files, *self.results.keys() - self.files]]
        seen = [file for file in found if file is not None and _visible(file, caller)]
        return sorted(seen, key=lambda file: -file.created)

    def remove(self, file: File) -> None:
        """Deletes a file."""
        self.files.pop(file.id, None)
        self.results.pop(file.id, None)

    def sign(self, file: File, hours: int) -> str:
        """A token that opens a file without a key for a number of job hours."""
        token = secrets.token_urlsafe(16)
        self.signed[token] = (file.id, self.clock.now() + hours * 3600)
        return token

    def signed_file(self, token: str) -> File:
        """The file that a token opens; raises HTTPError (404)."""
        file_id, expires = self.signed.get(token, ("", 0.0))
        file = self._file(file_id)
        if file is None or self.clock.now() >= expires:
            raise not_found()
        return file

    def _file(self, file_id: str) -> File | None:
        file = self.files.get(file_id) or self._result_file(file_id)
        if file and file.expires is not None and self.clock.now() >= file.expires:
            self.files.pop(file_id, None)  # and with it the bytes
            return None
        return file

    def _keep(self, file: File) -> File:
        self.files[file.id] = file
        return file

    def _input_file(self, caller: Caller, file_id: str) -> File:
        file = self._file(str(uuid.UUID(file_id)))
        if file is None or not _visible(file, caller):
            status, message = self.settings.unknown_file_status, "Not Found"
        elif file.purpose != "batch":
            status = self.settings.wrong_purpose_status
            message = "The purpose of the file is not batch"
        else:
            return file
        if status == 404:
            raise HTTPError(404, {"detail": message})
        loc = (*self.settings.body_loc, "input_files")
        raise Invalid([violation("value_error", loc, message, file_id)])

    def _inline_file(self, job: Job) -> File:
        """Mistral is said to turn inline requests into an input file of its own."""

        def read() -> Iterable[bytes]:
            return jsonl({"custom_id": row.custom_id, "body": row.body} for row in job.requests)

        return self._keep(_mistral_file(job, self.new_id(), "batch_request", job.created, read))

    def _result_file(self, file_id: str) -> File | None:
        job = self.results.get(file_id)
        if job is None:
            return None
        now, failed = self.progress(job), file_id == job.error_file
        if now.ended is None or not now.has_results(self.settings.partial_results):
            return None
        if not (now.failed if failed else now.succeeded):
            return None
        ended = job.created + now.ended
        moment = int(self.clock.wall(ended))

        def read() -> Iterable[bytes]:
            return jsonl(lines(job, now.completed, moment, failed=failed))

        kind = "batch_error" if failed else "batch_result"
        file = _mistral_file(job, file_id, kind, ended, read)
        if self.settings.retention_hours:
            file.expires = ended + self.settings.retention_hours * 3600
        return self._keep(file)


def _identity(file: File) -> tuple[str, ...]:
    """What two uploads have in common when they are of one file."""
    return file.filename, file.purpose, file.visibility, file.content.sha256


def _visible(file: File, caller: Caller) -> bool:
    mine = file.visibility == "workspace" or file.user == caller.user
    return file.workspace == caller.workspace and mine


def _mistral_file(
    job: Job, file_id: str, kind: str, created: float, read: Callable[[], Iterable[bytes]]
) -> File:
    return File(
        id=file_id,
        workspace=job.workspace,
        user=job.user,
        filename=f"{kind}_{job.id}.jsonl",
        purpose="batch",
        sample_type=kind,
        source="mistral",
        mimetype=JSONL,
        read=read,
        created=created,
    )


state: State = LocalProxy(lambda: current_app.extensions["sandbox"])  # type: ignore[assignment]
"""The state of the application that answers the request at hand."""
