"""Carries an attempt of a run out: each chunk becomes one job, is waited for, and its results are saved; and nothing twice.

Where a chunk stands is written down after each step, and each step is safe to be done again: a file that was uploaded is looked for
by its name, a job by its metadata, and a create at the gateway has the chunk's own key. So what was broken off goes on here, after a
crash or from another machine.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .api import WAIT, BatchAPI, Job, Refused, Unclear
from .chunks import content, is_inline
from .runs import FINAL, Attempt, Chunk, Run, mark, written

Found = dict[str, Any]
"""What was found out about a chunk, by the names of its members."""

PENDING = 500_000
"""Requests that may be under way at a time, unless said otherwise: half of what Mistral lets a workspace have."""

WATCHERS = 8
"""Threads that wait for jobs and save their results."""

FIRST_WAIT = 5
"""Seconds of a job's first wait; each further one is as much longer, up to WAIT, so that a bar moves early."""

PAUSES = (2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds between looks at a job where the API does not wait itself."""

UNCLEAR = (1.0, 4.0, 15.0, 40.0)
"""Seconds between looks for a job whose create was not answered."""

ANEW = (
    "what is there was paid: the same command looks for it once more, and buys it anew with --again"
)

HELD = ("idempotency-key-reused", "outcome-still-unknown")
"""A gateway's problems with a key: another machine sent the same chunk, in a file of its own, or there is no telling any more."""


class Engine:
    """One attempt of `run`, on `api`; its process has the run's lock. `changed` is told of a chunk whenever it has come further.

    At most `pending` requests are under way at a time; a chunk that has more goes alone.
    """

    def __init__(
        self,
        api: BatchAPI,
        run: Run,
        attempt: Attempt,
        pending: int = PENDING,
        changed: Callable[[Chunk], None] = lambda _: None,
    ) -> None:
        self.api = api
        self.run = run
        self.attempt = attempt
        self.pending = pending
        self.changed = changed
        self.over = False
        self.looks: dict[int, int] = {}
        self.due: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self.seen: queue.SimpleQueue[tuple[Chunk, Found | BaseException]] = queue.SimpleQueue()

    def go(self, wait: bool = True) -> None:
        """Returns when all chunks have been fetched; without `wait` when those are sent for which there is room.

        What is lost is looked for once more. Refused when no more can be created, once those that were are fetched; FilesRefused
        before anything is sent; other APIErrors, NotWritten and ChunkDamaged at once. Whatever it is, it can be gone on with.
        """
        chunks = self.attempt.chunks
        waiting = deque(chunk for chunk in chunks if not chunk.sent)
        running = [chunk for chunk in chunks if chunk.job_id and (not chunk.fetched or chunk.lost)]
        if waiting and not is_inline(self.attempt):
            self.api.check_files()
        _ = self.api.keeps_keys  # siblings know it from here
        stopped: Refused | None = None
        threads = [
            threading.Thread(target=self._work, name="watcher", daemon=True)
            for _ in range(min(WATCHERS, len(waiting) + len(running)) if wait else 0)
        ]
        for thread in threads:
            thread.start()
        for chunk in running:
            self.due.put(chunk)
        under_way = len(running)
        try:
            while waiting or under_way:
                while waiting and not stopped and self._has_room(waiting[0]):
                    if self.run.cancelled(self.attempt.number).exists():
                        self._drop(waiting)
                        break
                    try:
                        self._submit(waiting[0])
                    except Refused as error:
                        stopped = error
                        break
                    self.due.put(waiting.popleft())
                    under_way += 1
                if not under_way or not wait:
                    break
                chunk, found = self.seen.get()
                if isinstance(found, BaseException):
                    raise found
                _note(chunk, found)
                self.run.save()
                self.changed(chunk)
                if chunk.fetched:
                    under_way -= 1
                else:
                    self.due.put(chunk)
        finally:
            self.over = True
            for _ in threads:
                self.due.put(None)
        for thread in threads:
            thread.join()
        if stopped:
            raise stopped

    def _has_room(self, chunk: Chunk) -> bool:
        """True when there may be so many more requests under way."""
        pending = sum(
            max(each.requests - each.done, 0)
            for each in self.attempt.chunks
            if each.job_id and not each.final and not each.fetched
        )
        return not pending or pending + chunk.requests <= self.pending

    def _drop(self, waiting: deque[Chunk]) -> None:
        """Has what was not sent when the run was cancelled never be."""
        for chunk in waiting:
            chunk.status, chunk.fetched = "CANCELLED", True
        self.run.save()
        while waiting:
            self.changed(waiting.popleft())

    def _submit(self, chunk: Chunk) -> None:
        """Makes the chunk's job, unless there is one."""
        metadata = self.run.metadata(self.attempt, chunk)
        job = self._find(metadata) or self._create(chunk, metadata)
        _note(chunk, {"job_id": str(job["id"]), **_seen(job)})
        self.run.save()
        if self.run.cancelled(self.attempt.number).exists():  # meanwhile
            self.api.cancel_job(chunk.job_id)
        self.changed(chunk)

    def _create(self, chunk: Chunk, metadata: dict[str, str]) -> Job:
        terms = self.run.manifest.terms
        body: dict[str, Any] = {**terms, "metadata": {**terms.get("metadata", {}), **metadata}}
        if is_inline(self.attempt):
            with content(self.run, chunk).open("rb") as lines:
                body["requests"] = [json.loads(line) for line in lines]
        else:
            body["input_files"] = [self._uploaded(chunk)]
        try:
            return self.api.create_job(body, self.run.key(self.attempt, chunk))
        except Unclear as error:
            if found := self._look_for(metadata):
                return found
            raise Unclear(
                f"{error}. Perhaps there is a job, which does not show yet: run the same command again in a few minutes"
            ) from error
        except Refused as error:
            if error.kind in HELD and (found := self._look_for(metadata)):
                return found
            raise

    def _uploaded(self, chunk: Chunk) -> str:
        """The id of the chunk's file. It is looked for even when it is known, since files do not stay for ever."""
        place = f"{self.attempt.number}.{chunk.number}"
        name = f"{self.run.manifest.name}-{place}-{chunk.digest[:16]}.jsonl"
        path = content(self.run, chunk)
        chunk.file_id = self.api.find_file(name, chunk.size) or self.api.upload(path, name)
        self.run.save()
        return chunk.file_id

    def _find(self, metadata: dict[str, str]) -> Job | None:
        return next(iter(self.api.find_jobs(metadata)), None)

    def _look_for(self, metadata: dict[str, str]) -> Job | None:
        for pause in UNCLEAR:
            if found := self._find(metadata):
                return found
            self.api.sleep(pause)
        return self._find(metadata)

    def _work(self) -> None:
        """A thread: looks at chunks that are due, one after the other; the thread that began it notes what was found."""
        api = self.api.sibling()
        while (chunk := self.due.get()) and not self.over:
            try:
                found = self._look(api, chunk)
            except BaseException as error:
                self.seen.put((chunk, error))
            else:
                self.seen.put((chunk, found))
        api.session.close()

    def _look(self, api: BatchAPI, chunk: Chunk) -> Found:
        """Waits for the chunk's job for a while, and saves its results when it has ended."""
        looks = self.looks[chunk.number] = self.looks.get(chunk.number, 0) + 1
        if looks > 1 and not api.keeps_keys:
            api.sleep(PAUSES[min(looks, len(PAUSES)) - 1])
        began = time.monotonic()
        try:
            job = api.get_job(chunk.job_id, wait=min(WAIT, FIRST_WAIT * looks))
        except Refused as error:
            if error.status != 404:
                raise
            return {"fetched": True, "lost": f"job {chunk.job_id} is gone; {ANEW}"}
        found = _seen(job)
        if found["status"] in FINAL and not self.over:
            saved, lost = self._fetch(api, chunk, job)
            return {**found, "saved": saved, "lost": lost, "fetched": True}
        if found["status"] == chunk.status and time.monotonic() - began < 1:
            api.sleep(1.0)  # what is there does not wait
        return found

    def _fetch(self, api: BatchAPI, chunk: Chunk, job: Job) -> tuple[list[str], str]:
        """The files that all results that there are were saved in, and what of them is lost."""
        saved, lost = [], []
        for member in ("output_file", "error_file"):
            if file_id := job.get(member):
                name = f"{self.attempt.number}.{chunk.number}-{member}.jsonl"
                try:
                    with written(self.run.folder / name) as target:
                        api.download(str(file_id), target)
                    saved.append(name)
                except Refused as error:
                    inline = is_inline(self.attempt)  # these are in the job as well
                    if error.status not in (404, 410) and not (inline and error.status == 403):
                        raise
                    lost.append(f"{member} {file_id} cannot be had: {error}; {ANEW}")
        counts = {name: _results(self.run.folder / name) for name in saved}
        completed, succeeded, failed = (
            int(job.get(f"{kind}_requests") or 0) for kind in ("completed", "succeeded", "failed")
        )
        there, said = sum(counts.values()), max(completed, succeeded + failed)
        had = saved or not is_inline(self.attempt)
        if job["status"] == "SUCCESS" and had and not lost and there < said:
            saved = [name for name in saved if counts[name]]
            lost.append(f"the files have {there:,} of {said:,} results; {ANEW}")
        if is_inline(self.attempt) and (lost or not saved):
            rows = api.get_job(chunk.job_id, inline=True).get("outputs") or []
            if rows:
                name = f"{self.attempt.number}.{chunk.number}-outputs.jsonl"
                with written(self.run.folder / name) as target:
                    target.writelines(json.dumps(row).encode() + b"\n" for row in rows)
                return [name], ""
        return saved, "; ".join(lost)


def _results(path: Path) -> int:
    """How many lines of a file may be results; 0 when there is any other, as of a page of HTML."""
    with path.open("rb") as lines:
        begins = [line.lstrip()[:1] == b"{" for line in lines if not line.isspace()]
    return len(begins) if all(begins) else 0


def has_jobs(api: BatchAPI, identity: str) -> bool:
    """True when there are jobs of the run of this identity, whoever made them."""
    return any(True for _ in api.find_jobs(mark(identity)))


def cancel(api: BatchAPI, run: Run) -> int:
    """Has no more be sent of the run's last attempt, and asks for the end of all of the run's jobs; how many were asked.

    For this it needs no lock, while another process carries the run out. What there is by then is fetched by `go`.
    """
    attempts = run.manifest.attempts
    if not run.finished:
        run.cancelled(attempts[-1].number if attempts else 1).touch()
    known = {chunk.job_id for each in attempts for chunk in each.chunks if chunk.job_id}
    ended = {chunk.job_id for each in attempts for chunk in each.chunks if chunk.final}
    for job in api.find_jobs(
        mark(run.manifest.identity)
    ):  # also those whose making was not written down any more
        (ended if job["status"] in FINAL else known).add(str(job["id"]))
    for job_id in known - ended:
        api.cancel_job(job_id)
    return len(known - ended)


def _seen(job: Job) -> Found:
    """What a chunk has of its job."""
    errors = [each.get("message") for each in job.get("errors") or [] if isinstance(each, dict)]
    return {
        "status": str(job["status"]),
        "why": "; ".join(str(message) for message in errors if message),
        "done": int(job.get("completed_requests") or 0),
        "failed": int(job.get("failed_requests") or 0),
    }


def _note(chunk: Chunk, found: Found) -> None:
    for member, value in found.items():
        setattr(chunk, member, value)
