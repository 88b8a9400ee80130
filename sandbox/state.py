"""Everything the sandbox knows: jobs, files, callers, clock; and the rules for changing it.

All of it is in memory and guarded by one lock where more than one step must hold together.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sandbox import jobs
from sandbox.callers import Caller, Callers
from sandbox.clock import Clock
from sandbox.config import Settings
from sandbox.files import File, parse_input
from sandbox.jobs import FAIL_MARK, OUTCOME, Job, Progress, Request, has_results, progress
from sandbox.results import jsonl, lines


class Refused(Exception):
    """The answer is an error: its status, JSON body and further headers."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"refused with {status}")
        self.status, self.body, self.headers = status, body, headers or {}


def not_found() -> Refused:
    """What Mistral answers for an id that is unknown, or belongs to another workspace."""
    return Refused(404, {"detail": "Not Found"})


class State:
    """The sandbox's whole state; `reset` makes it new."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seed = secrets.randbelow(2**31) if settings.seed < 0 else settings.seed
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget all jobs and files, set the clock to now, start the same random numbers again."""
        self.clock = Clock(self.settings.speed)
        self.callers = Callers(self.settings)
        self.jobs: dict[str, Job] = {}
        self.workspaces: dict[str, list[Job]] = defaultdict(list)
        self.files: dict[str, File] = {}
        self.results: dict[str, Job] = {}
        self.links: dict[str, tuple[str, float]] = {}
        # Requests by workspace, since none were pending at the latest look.
        self._asked: Counter[str] = Counter()
        self._dice = random.Random(self.seed)  # noqa: S311 (no secret)

    def new_id(self) -> str:
        """A version 4 UUID from the seed."""
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))

    # Jobs

    def create(self, caller: Caller, body: dict[str, Any], raw: bytes, lag: float = 0.0) -> Job:
        """A new job from a valid body; it is listed after `lag` real seconds.

        Raises:
            Refused: an input file is unknown or unfit, or the job is too big for the trial.
        """
        inputs = [self._input_file(caller, name) for name in body.get("input_files") or []]
        requests, reasons = self._requests(inputs, body)
        if 0 < self.settings.trial_requests < len(requests):
            text = "You cannot launch batch jobs this big with your free trial."
            raise Refused(402, {"detail": text})
        contents = [raw, *(file.content for file in inputs)]
        with self.lock:
            job = self._new_job(
                caller,
                body,
                requests,
                reasons + self._model_faults(body),
                marked=any(FAIL_MARK.encode() in content for content in contents),
            )
            if lag > 0:
                job.listed = self.clock.tick(self.clock.wall(job.created) + lag)
            job.input_files = [file.id for file in inputs]
            if not inputs and self.settings.inline_input_file:
                job.input_files = [self._inline_file(job).id]
            self.add(job)
        return job

    def add(self, job: Job) -> None:
        """Make a job visible, after all others."""
        self.jobs[job.id] = job
        self.workspaces[job.workspace].append(job)
        self.results[job.output_file] = self.results[job.error_file] = job

    def _new_job(
        self,
        caller: Caller,
        body: dict[str, Any],
        requests: Sequence[Request],
        reasons: list[str],
        marked: bool,
    ) -> Job:
        now, job_id = self.clock.now(), self.new_id()
        metadata = body.get("metadata")
        plan = jobs.plan(
            job_id,
            requests,
            settings=self.settings,
            timeout_hours=int(body.get("timeout_hours", 24)),
            has_model=bool(body.get("model") or body.get("agent_id")),
            outcome=(metadata or {}).get(OUTCOME),
            reasons=reasons,
            wait=self._wait(caller.workspace, len(requests), now),
            marked=marked,
        )
        return Job(
            id=job_id,
            workspace=caller.workspace,
            user=caller.user,
            created=now,
            endpoint=body["endpoint"],
            plan=plan,
            requests=requests,
            output_file=self.new_id(),
            error_file=self.new_id(),
            model=body.get("model"),
            agent_id=body.get("agent_id"),
            metadata=metadata,
            cancel_seconds=self.settings.cancel_seconds,
        )

    def _wait(self, workspace: str, weight: int, now: float) -> float:
        """Job seconds until `weight` more requests fit under the workspace's pending limit."""
        limit, until = self.settings.pending_limit, now
        self._asked[workspace] += weight
        if self._asked[workspace] <= limit:  # so there is no need to look
            return 0.0
        pending = sorted(
            (job.created + job.plan.finish, job.plan.total)
            for job in self.workspaces[workspace]
            if job.cancelled is None and now < job.created + job.plan.finish < math.inf
        )
        if not pending:
            self._asked[workspace] = weight
        left = sum(total for _, total in pending)
        for end, total in pending:
            if left == 0 or left + weight <= limit:
                break
            left, until = left - total, end
        return until - now

    def _requests(
        self, inputs: Sequence[File], body: dict[str, Any]
    ) -> tuple[list[Request], list[str]]:
        requests = [
            Request(item.get("custom_id"), item["body"]) for item in body.get("requests") or []
        ]
        reasons: list[str] = []
        for file in inputs:
            found, faults = parse_input(file.content)
            requests += found
            reasons += faults
        names = [request.custom_id for request in requests if request.custom_id is not None]
        if len(names) != len(set(names)):
            reasons.append("Duplicate custom_id")
        return requests, reasons

    def _model_faults(self, body: dict[str, Any]) -> list[str]:
        model, known = body.get("model"), self.settings.models
        if not model:
            return []
        unknown = model not in known.split(",") if known else model.startswith("unknown")
        return [f"Unknown model: {model}"] if unknown else []

    def job(self, caller: Caller, job_id: str) -> Job:
        """A job of the caller's workspace; raises Refused (404) for any other id."""
        job = self.jobs.get(job_id)
        if job is None or job.workspace != caller.workspace:
            raise not_found()
        return job

    def progress(self, job: Job) -> Progress:
        """How far a job is now."""
        return progress(job, self.clock.now())

    def view(self, job: Job, *, inline: bool = False) -> dict[str, Any]:
        """A job as clients see it now; `inline` adds the output lines once it is finished."""
        now, keep = self.progress(job), self.settings.partial_results
        seen = jobs.view(job, now, self.clock.wall, keep)
        if inline and has_results(now, keep):
            seen["outputs"] = list(lines(job, now.completed, seen["completed_at"]))
        return seen

    def cancel(self, job: Job) -> None:
        """Ask for a job's end; again is no change; raises Refused as configured when finished."""
        with self.lock:
            status = self.progress(job).status
            if status in ("QUEUED", "RUNNING"):
                job.cancelled = self.clock.now() - job.created
            elif status in jobs.TERMINAL and self.settings.cancel_finished_status != 200:
                text = f"Job is already {status}"
                raise Refused(self.settings.cancel_finished_status, {"detail": text})

    def delete(self, job: Job) -> None:
        """Forget a job; its files stay."""
        with self.lock:
            if self.jobs.pop(job.id, None):
                self.workspaces[job.workspace].remove(job)

    # Files

    def upload(self, caller: Caller, content: bytes, hours: int | None, **fields: str) -> File:
        """Keep an uploaded file, for a number of job hours or for good."""
        now = self.clock.now()
        return self._keep(
            File(
                id=self.new_id(),
                workspace=caller.workspace,
                user=caller.user,
                source="upload",
                sample_type="batch_request" if fields["purpose"] == "batch" else "instruct",
                read=lambda: content,
                created=now,
                expires=None if hours is None else now + hours * 3600,
                **fields,
            )
        )

    def file(self, caller: Caller, file_id: str) -> File:
        """A file that the caller may see; raises Refused (404) for any other id."""
        file = self._file(file_id)
        if file is None or not self._visible(file, caller):
            raise not_found()
        return file

    def all_files(self, caller: Caller) -> list[File]:
        """The files that the caller may see, newest first."""
        found = [self._file(name) for name in [*self.files, *self.results.keys() - self.files]]
        seen = [file for file in found if file is not None and self._visible(file, caller)]
        return sorted(seen, key=lambda file: -file.created)

    def remove(self, file: File) -> None:
        """Delete a file."""
        self.files.pop(file.id, None)
        self.results.pop(file.id, None)

    def link(self, file: File, hours: int) -> str:
        """A token that opens a file without a key for a number of job hours."""
        token = secrets.token_urlsafe(16)
        self.links[token] = (file.id, self.clock.now() + hours * 3600)
        return token

    def linked(self, token: str) -> File:
        """The file that a token opens; raises Refused (404)."""
        file_id, expires = self.links.get(token, ("", 0.0))
        file = self._file(file_id)
        if file is None or self.clock.now() >= expires:
            raise not_found()
        return file

    def _file(self, file_id: str) -> File | None:
        file = self.files.get(file_id) or self._result_file(file_id)
        expired = file and file.expires is not None and self.clock.now() >= file.expires
        return None if expired else file

    def _visible(self, file: File, caller: Caller) -> bool:
        mine = file.visibility == "workspace" or file.user == caller.user
        return file.workspace == caller.workspace and mine

    def _keep(self, file: File) -> File:
        self.files[file.id] = file
        return file

    def _input_file(self, caller: Caller, file_id: str) -> File:
        file = self._file(str(uuid.UUID(file_id)))
        if file is None or not self._visible(file, caller):
            raise self._bad_file(self.settings.unknown_file_status, file_id, "Not Found")
        if file.purpose != "batch":
            status = self.settings.wrong_purpose_status
            raise self._bad_file(status, file_id, "The purpose of the file is not batch")
        return file

    def _bad_file(self, status: int, file_id: str, message: str) -> Refused:
        if status == 404:
            return Refused(404, {"detail": message})
        loc = [*self.settings.error_loc.split("."), "input_files"]
        row = {"type": "value_error", "loc": loc, "msg": message, "input": file_id}
        return Refused(422, {"detail": [row]})

    def _inline_file(self, job: Job) -> File:
        """Mistral is said to turn inline requests into an input file of its own."""

        def read() -> bytes:
            return jsonl({"custom_id": row.custom_id, "body": row.body} for row in job.requests)

        file_id = self.new_id()
        return self._keep(self._mistral_file(job, file_id, "batch_request", job.created, read))

    def _result_file(self, file_id: str) -> File | None:
        job = self.results.get(file_id)
        if job is None:
            return None
        now, failed = self.progress(job), file_id == job.error_file
        if not has_results(now, self.settings.partial_results):
            return None
        if (now.failed if failed else now.completed - now.failed) == 0 or now.ended is None:
            return None
        kind = "batch_error" if failed else "batch_result"
        ended = job.created + now.ended
        read = partial(self._render, job, now.completed, int(self.clock.wall(ended)), failed)
        file = self._mistral_file(job, file_id, kind, ended, read)
        if self.settings.retention_hours:
            file.expires = ended + self.settings.retention_hours * 3600
        return self._keep(file)

    @staticmethod
    def _render(job: Job, completed: int, moment: int, failed: bool) -> bytes:
        return jsonl(lines(job, completed, moment, failed=failed))

    @staticmethod
    def _mistral_file(
        job: Job, file_id: str, kind: str, created: float, read: Callable[[], bytes]
    ) -> File:
        return File(
            id=file_id,
            workspace=job.workspace,
            user=job.user,
            filename=f"{kind}_{job.id}.jsonl",
            purpose="batch",
            sample_type=kind,
            source="mistral",
            mimetype="application/jsonl",
            read=read,
            created=created,
        )
