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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .api import WAIT, BatchAPI, Job, NoMoney, Refused, Unclear
from .runs import Attempt, Chunk, Run

WATCHERS = 8
"""Threads that wait for jobs and save their results."""

PAUSES = (2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds between looks at a job where the API does not wait itself."""

UNCLEAR = (1.0, 4.0, 15.0, 40.0)
"""Seconds between looks for a job whose create was not answered."""


@dataclass(frozen=True)
class Terms:
    """What all jobs of a run are created with: the members of the create but for what is in it, and what else is asked for."""

    body: dict[str, Any]
    inline: bool
    pending: int
    """Requests that may be under way at a time; a chunk that has more goes alone."""


class Engine:
    """One attempt of `run`, on `api`. `changed` is told of a chunk whenever it has come further."""

    def __init__(
        self,
        api: BatchAPI,
        run: Run,
        attempt: Attempt,
        terms: Terms,
        changed: Callable[[Chunk], None] = lambda _: None,
    ) -> None:
        self.api = api
        self.run = run
        self.attempt = attempt
        self.terms = terms
        self.changed = changed
        self.looks: dict[int, int] = {}
        self.due: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self.seen: queue.SimpleQueue[tuple[Chunk, Callable[[], None]]] = queue.SimpleQueue()

    def go(self) -> None:
        """Returns when all chunks have been fetched. NoMoney when no more can be created, once those that were are fetched; APIError."""
        waiting = deque(chunk for chunk in self.attempt.chunks if not chunk.job_id)
        running = [chunk for chunk in self.attempt.chunks if chunk.job_id and not chunk.fetched]
        stopped: NoMoney | None = None
        for _ in range(min(WATCHERS, len(self.attempt.chunks))):
            threading.Thread(target=self._work, name="watcher", daemon=True).start()
        for chunk in running:
            self.due.put(chunk)
        under_way = len(running)
        try:
            while waiting or under_way:
                while waiting and not stopped and self._has_room(waiting[0]):
                    chunk = waiting.popleft()
                    try:
                        self._submit(chunk)
                    except NoMoney as error:
                        stopped = error
                        break
                    self.due.put(chunk)
                    under_way += 1
                if not under_way:
                    break
                chunk, settle = self.seen.get()
                settle()  # raises what went wrong
                self.run.save()
                self.changed(chunk)
                if chunk.fetched:
                    under_way -= 1
                else:
                    self.due.put(chunk)
        finally:
            for _ in range(WATCHERS):
                self.due.put(None)
        if stopped:
            raise stopped

    def _has_room(self, chunk: Chunk) -> bool:
        """True when there may be so many more requests under way."""
        pending = sum(
            max(each.requests - each.done, 0)
            for each in self.attempt.chunks
            if each.job_id and not each.final
        )
        return not pending or pending + chunk.requests <= self.terms.pending

    def _submit(self, chunk: Chunk) -> None:
        """Makes the chunk's job, unless there is one."""
        metadata = self.run.metadata(self.attempt, chunk)
        job = self._find(metadata)
        if job is None:
            content = self.run.folder / chunk.content
            body = {
                **self.terms.body,
                "metadata": {**self.terms.body.get("metadata", {}), **metadata},
            }
            if self.terms.inline:
                body["requests"] = [json.loads(line) for line in content.open("rb")]
            else:
                body["input_files"] = [self._uploaded(chunk, content)]
            job = self._create(body, self.run.key(self.attempt, chunk), metadata)
        chunk.job_id = str(job["id"])
        _note(chunk, job)
        self.run.save()
        self.changed(chunk)

    def _uploaded(self, chunk: Chunk, content: Path) -> str:
        if not chunk.file_id:
            name = f"{self.run.manifest.name}-{self.attempt.number}.{chunk.number}-{chunk.digest[:16]}.jsonl"
            chunk.file_id = self.api.find_file(name) or self.api.upload(content, name)
            self.run.save()
        return chunk.file_id

    def _create(self, body: dict[str, Any], key: str, metadata: dict[str, str]) -> Job:
        try:
            return self.api.create_job(body, key)
        except Unclear:
            if found := self._look_for(metadata):
                return found
            raise
        except Refused as error:
            # Another machine sent the same chunk, with a file of its own.
            reused = isinstance(error.body, dict) and str(error.body.get("type", "")).endswith(
                "#idempotency-key-reused"
            )
            if reused and (found := self._look_for(metadata)):
                return found
            raise

    def _find(self, metadata: dict[str, str]) -> Job | None:
        return next(iter(self.api.find_jobs(metadata)), None)

    def _look_for(self, metadata: dict[str, str]) -> Job | None:
        for pause in UNCLEAR:
            if found := self._find(metadata):
                return found
            self.api.sleep(pause)
        return self._find(metadata)

    def _work(self) -> None:
        """A thread: looks at chunks that are due, one after the other; what it found is settled by the thread that began it."""
        api = self.api.sibling()
        while chunk := self.due.get():
            try:
                settle = self._look(api, chunk)
            except BaseException as error:
                settle = _raiser(error)
            self.seen.put((chunk, settle))

    def _look(self, api: BatchAPI, chunk: Chunk) -> Callable[[], None]:
        if chunk.final:
            saved, lost = self._fetch(api, chunk)

            def fetched() -> None:
                chunk.saved, chunk.lost, chunk.fetched = saved, lost, True

            return fetched
        looks = self.looks[chunk.number] = self.looks.get(chunk.number, 0) + 1
        if not api.keeps_keys and looks > 1:
            api.sleep(PAUSES[min(looks, len(PAUSES)) - 1])
        began = time.monotonic()
        job = api.get_job(chunk.job_id, wait=WAIT)
        if str(job.get("status")) == chunk.status and time.monotonic() - began < 1:
            api.sleep(1.0)  # what is there does not wait
        return lambda: _note(chunk, job)

    def _fetch(self, api: BatchAPI, chunk: Chunk) -> tuple[list[str], str]:
        """The files that the results were saved in, and what of them is lost."""
        saved, lost = [], []
        job = api.get_job(chunk.job_id)
        for member in ("output_file", "error_file"):
            file_id = job.get(member)
            if not file_id:
                continue
            name = f"{self.attempt.number}.{chunk.number}-{member}.jsonl"
            try:
                api.download(str(file_id), self.run.folder / name)
                saved.append(name)
            except Refused as error:
                if error.status != 404:
                    raise
                lost.append(f"{member} {file_id} is gone")
        if not saved and job.get("total_requests"):
            name = f"{self.attempt.number}.{chunk.number}-outputs.jsonl"
            rows = api.get_job(chunk.job_id, inline=True).get("outputs") or []
            if rows:
                _write_lines(self.run.folder / name, map(json.dumps, rows))
                saved, lost = [name], []
        return saved, "; ".join(lost)


def _note(chunk: Chunk, job: Job) -> None:
    chunk.status = str(job.get("status"))
    chunk.done = int(job.get("completed_requests") or 0)
    chunk.failed = int(job.get("failed_requests") or 0)


def _raiser(error: BaseException) -> Callable[[], None]:
    def settle() -> None:
        raise error

    return settle


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as target:
        target.writelines(f"{line}\n" for line in lines)
    part.replace(path)
