"""The steps from a table to a table, of which the command and the functions for notebooks are both made: read and check, estimate,
find or begin the run, carry it out, join, and once more for what failed.

Nothing here prints or asks. `Place` is where jobs are made and runs are kept, `Work` a table whose requests were checked, and
`BatchRun` a run that can be gone on with, looked at or stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from platformdirs import user_data_path

from . import tables
from .api import BatchAPI, Trouble
from .check import Checked, check
from .chunks import FILE, INLINE, plan
from .config import Settings
from .engine import PENDING, Engine, cancel, has_jobs
from .errors import (
    JOB_FAILED,
    NONE_SUCCEEDED,
    OVER_LIMIT,
    SOME_FAILED,
    BatchError,
    InputError,
    program,
)
from .estimate import Bill, Estimate, estimate, scaled
from .join import Join, again
from .lines import Form, Lines
from .results import outcomes
from .runs import Chunk, Run, Runs
from .sources import open_source
from .takes import Take
from .tokens import Sample


@dataclass(frozen=True)
class Place:
    """The API at which jobs are made, and the folder of the runs."""

    api: BatchAPI
    runs: Runs


def place(url: str = "", report: Callable[[Trouble], None] = lambda _: None) -> Place:
    """The place that the environment names, at `url` instead when that is given; InputError when it is none."""
    settings = Settings.from_env()
    url = url or settings.url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InputError(
            "the URL must be like http://127.0.0.1:8080, without a user; a token is given by MISTRAL_BATCH_TOKEN"
        )
    home = Path(settings.home) if settings.home else user_data_path("mistral-batch") / "runs"
    return Place(BatchAPI(url, settings.token, report=report), Runs(home))


@dataclass(frozen=True)
class Work:
    """The requests of a table, read once and checked; nothing was sent. `path` is its file, None of a table in memory.

    `digest` is that of the table before it was checked.
    """

    path: Path | None
    digest: str
    lines: Lines
    checked: Checked
    sample: Sample

    @property
    def terms(self) -> dict[str, Any]:
        """The members that all of its creates have. InputError when no model is named, without which every request fails."""
        if not self.lines.model:
            raise InputError(
                f"neither an option nor the first request of {self.lines.source.name} names a model: --model does (model= in Python)"
            )
        return {"endpoint": self.lines.endpoint, "model": self.lines.model}

    @property
    def jobs(self) -> int:
        """How many jobs they will be, at least."""
        checked = self.checked
        if checked.requests <= INLINE.requests and checked.size <= INLINE.size:
            return 1
        return max(-(-checked.requests // FILE.requests), -(-checked.size // FILE.size))

    def estimate(self) -> Estimate:
        """What they will take and cost."""
        return estimate(self.checked, self.sample, self.lines.model, self.lines.endpoint)


def read(table: Any, form: Form) -> Work:
    """The work that a path or table is; its `checked` says what is wrong with it. InputError when it cannot be read at all."""
    lines = Lines(open_source(table), form)
    sample = Sample()
    path = Path(table).resolve() if isinstance(table, str | Path) else None
    digest = lines.source.digest()
    return Work(path, digest, lines, check(lines, sample.add), sample)


def good(table: Any, form: Form) -> Work:
    """As `read`; InputError with the first faults, when there are any."""
    work = read(table, form)
    if faults := work.checked.faults:
        told = "\n".join(f"  {fault.place}: {fault.what}" for fault in faults[:10])
        raise InputError(f"{work.lines.source.name} cannot be sent:\n{told}")
    return work


class Busy(BatchError):
    """Another process is at the run."""

    def __init__(self) -> None:
        super().__init__(f"another process is at this run; to look on: {program()} watch RUN")


class BatchRun:
    """A run at its API. Each method returns when it is done; BatchError, and what it had come to stays."""

    def __init__(self, run: Run, api: BatchAPI, lines: Lines | None = None) -> None:
        self.run = run
        self.api = api
        self._lines = lines

    @property
    def name(self) -> str:
        """By which it is found again."""
        return self.run.manifest.name

    @property
    def lines(self) -> Lines:
        """Its table's requests; InputError when the table is not here."""
        if self._lines is None:
            manifest = self.run.manifest
            if not manifest.source:
                raise InputError(
                    f"{self.name} was made of a table in memory: run it from Python with the same table,"
                    " which buys nothing twice"
                )
            source = open_source(Path(manifest.source))
            self._lines = Lines(source, msgspec.convert(manifest.options["form"], Form))
        return self._lines

    def submit(self) -> None:
        """Has jobs made of all requests for which there is room."""
        with self.run.lock(_give_up):
            for engine in self._engines():
                engine.go(wait=False)

    def watch(
        self, changed: Callable[[], None] = lambda: None, busy: Callable[[], None] = lambda: None
    ) -> None:
        """Has sent what was not, waits for every job, and saves the results; while another process does so, only looks on.

        `changed` is told whenever it has come further, `busy` every second of looking on.
        """
        with self.run.lock(busy):
            for engine in self._engines(lambda _: changed()):
                engine.go()

    def _engines(self, changed: Callable[[Chunk], None] = lambda _: None) -> Iterator[Engine]:
        """For each attempt of which there is anything to send or fetch."""
        manifest = self.run.manifest
        if not manifest.attempts or not manifest.attempts[-1].planned:
            plan(self.run, 1, _all(self.lines, manifest.requests))
        for attempt in manifest.attempts:
            if not attempt.settled:
                yield Engine(self.api, self.run, attempt, manifest.options["pending"], changed)

    def joined(self, takes: Sequence[Take] = ()) -> Join:
        """The rows with what came of them; without `takes` those of the command before, or what the endpoint's answers are about."""
        texts = self.run.manifest.options.get("take", [])
        digest = self.run.manifest.digest
        return Join(self.run, self.lines, takes or list(map(Take.parse, texts)), digest=digest)

    def results(self, take: Mapping[str, str] | None = None) -> Any:
        """The rows as a pyarrow table, in order, with columns for what is taken of each answer, `error` and `attempt`.

        `take` maps columns to paths in an answer's body, such as choices[0].message.content. Waits when the run is not over.
        ResultsError when an answer is there twice, or for an id that was not asked for.
        """
        if not self.run.settled:
            self.watch()
        return tables.table(self.joined(takes((take or {}).items())))

    def estimate_retry(self, everything: bool = False) -> Estimate:
        """What a retry will take and cost."""
        sample, terms = Sample(), self.run.manifest.terms
        for line in again(self.run, everything):
            sample.add(line)
        return estimate(sample, sample, terms["model"], terms["endpoint"])

    def retry(self, everything: bool = False, changed: Callable[[], None] = lambda: None) -> None:
        """Sends what failed and may succeed as a further attempt, and waits for it; with `everything` all that failed."""
        with self.run.lock(_give_up):
            lines = again(self.run, everything)
            plan(self.run, len(self.run.manifest.attempts) + 1, lines)
        self.watch(changed)

    def cancel(self) -> int:
        """Asks every job that has not ended to stop, and has no further ones made; how many were asked."""
        return cancel(self.api, self.run)

    def bill(self) -> Bill:
        """What all results that there are took, those of earlier attempts too."""
        bill = Bill()
        for outcome in outcomes(self.run):
            if outcome.usage or not outcome.error:
                answer = outcome.answer if isinstance(outcome.answer, dict) else {}
                named = answer.get("model") or self.run.manifest.terms.get("model", "")
                bill.add(named, outcome.usage)
        return bill

    def exit_code(self, requests: int, answered: int) -> int:
        """What it means, as `errors` has it, that of so many requests so many have an answer."""
        if answered == requests:
            return 0
        if not self.run.all_sent:
            return OVER_LIMIT  # why else was it not sent?
        if any(chunk.status == "FAILED" for chunk in self.run.manifest.attempts[-1].chunks):
            return JOB_FAILED
        return SOME_FAILED if answered else NONE_SUCCEEDED


def find(work: Work, place: Place, again: bool = False) -> BatchRun | None:
    """The newest run of these requests here, unless nothing of it was sent; with `again` unless it is over."""
    found = place.runs.find(work.checked.digest, work.terms, place.api.url, again)
    if not found or not found.was_sent or (again and found.finished):
        return None
    return BatchRun(found, place.api, work.lines)


def begin(
    work: Work,
    place: Place,
    *,
    pending: int = PENDING,
    take: Sequence[str] = (),
    again: bool = False,
) -> BatchRun:
    """The run of these requests: that which there is, or a new one; with `again` a new one when that is over.

    It keeps what it was begun with last: its table, how many requests may be `pending`, and what is to be taken of answers.
    """
    source = str(work.path or "")
    options = {"form": msgspec.to_builtins(work.lines.form), "pending": pending, "take": [*take]}
    run = place.runs.begin(
        work.checked.digest, work.terms, place.api.url,
        source=source, digest=work.digest, options=options, again=again, has_jobs=partial(has_jobs, place.api),
    )  # fmt: skip
    with suppress(Busy), run.lock(_give_up):
        manifest = run.manifest
        manifest.source, manifest.digest = source, work.digest
        manifest.options = {**options, "take": [*take] or manifest.options["take"]}
        run.save()
    return BatchRun(run, place.api, work.lines)


def named(name: str, report: Callable[[Trouble], None] = lambda _: None) -> BatchRun:
    """The run of this name, or whose name alone begins so; NoSuchRun."""
    home = place()
    run = home.runs.named(name)
    return BatchRun(run, BatchAPI(run.manifest.url, home.api.token, report=report))


def pilot(
    work: Work, place: Place, count: int, changed: Callable[[], None] = lambda: None
) -> Estimate:
    """The estimate, after so many requests, drawn at random, were run, and what they took was scaled to all."""
    lines = work.sample.draw(count)  # the same ones each time
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    run = place.runs.begin(
        digest,
        work.terms,
        place.api.url,
        source="pilot",
        digest=digest,
        options={"form": {}, "pending": PENDING, "take": []},
    )
    with run.lock():
        attempt = plan(run, 1, lines)
        Engine(place.api, run, attempt, changed=lambda _: changed()).go()
    return scaled(work.estimate(), (outcome.usage for outcome in outcomes(run)))


def takes(pairs: Iterable[tuple[str, str]]) -> list[Take]:
    """What is taken of each answer: columns, with paths. InputError."""
    return [Take.parse(f"{name}={path}") for name, path in pairs]


def _all(lines: Lines, digest: str) -> Iterator[bytes]:
    """All request lines; InputError at their end when they are not those of this digest."""
    hashed = hashlib.sha256()
    for batch in lines.batches():
        for line in lines.of(batch):
            hashed.update(line + b"\n")
            yield line
    if hashed.hexdigest() != digest:
        raise InputError(f"{lines.source.name} has changed meanwhile; run the same command again")


def _give_up() -> None:
    raise Busy
