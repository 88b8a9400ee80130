"""What the command shows: on standard error how far a run is, what it is about to do and what came of it; on standard output what was asked for."""

from __future__ import annotations

import math
import re
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from environment import variables

from .check import Checked
from .errors import program
from .estimate import Charge, Estimate, Range
from .prices import NoPrice, price
from .runs import Chunk, Run
from .summary import Summary

KINDS = 10
"""Kinds of errors that are shown."""

EVERY = 60.0
"""Seconds between lines that say how far a run is, where there is no terminal."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

CONSOLE = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(text: str = "") -> None:
    """A line, or some, for people, on standard error."""
    CONSOLE.print(plain(text))


def show(text: str) -> None:
    """The same on standard output."""
    print(plain(text))


def plain(text: str) -> str:
    """Without what would steer a terminal: texts of tables, models and places may have it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def is_live() -> bool:
    """True on a terminal that can show a bar, which CI's are not."""
    return sys.stderr.isatty() and not CONSOLE.is_dumb_terminal and not variables().get("CI")


def size(count: float) -> str:
    """Bytes, short: `84.2 MB`."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def count(number: float) -> str:
    """A number of tokens, short: `11.9 M`."""
    if number >= 1e6:
        return f"{number / 1e6:,.2f} M"
    return f"{number / 1e3:,.1f} k" if number >= 1e4 else f"{number:,.0f}"


def left(seconds: float) -> str:
    """A time that is left, short: `7 min left`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def checked(found: Checked) -> str:
    """What a check found: a line on the table, and one for each fault."""
    asked = plural(found.requests, "request")
    lines = [f"{found.name}   {asked} · {size(found.size)} · {found.endpoint}"]
    width = max((len(fault.place) for fault in found.faults), default=0)
    lines += [f"  {fault.place:<{width}}   {fault.what}" for fault in found.faults]
    if found.faults:
        if found.more:
            lines.append(f"  and {found.more:,} more")
        lines.append(f"{plural(len(found.faults) + found.more, 'fault')}; nothing was sent.")
    return "\n".join(lines)


def plural(number: int, noun: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def estimated(found: Estimate, jobs: int = 0) -> str:
    """What requests will take and may cost: what is not known says why."""
    each = found.per_million
    rates = f"; {each.input:g} in, {each.output:g} out a million in a batch" if each else ""
    told = {
        "input": found.input and _tokens(found.input),
        "output": found.output and _tokens(found.output),
        "price": found.price
        and f"{_dollars(found.price)} ({found.model}{rates}; {found.price.source})",
    }
    lines = [f"{plural(found.requests, 'request')} in {plural(jobs, 'job')}"] if jobs else []
    lines += [
        f"  {name:<8} {text or f'unknown: {found.unknown[name]}'}" for name, text in told.items()
    ]
    return "\n".join([*lines, *(f"  {note}" for note in found.notes)])


def _tokens(found: Range) -> str:
    if found.likely is None:
        return f"at most {count(found.high)} tokens ({found.source.removeprefix('at most ')})"
    error = found.high - found.likely
    give = f", give or take {error / found.likely:.1%}" if error and found.likely else ""
    return f"{count(found.likely)} tokens ({found.source}{give})"


def _dollars(found: Range) -> str:
    low, high = dollars(found.low), dollars(found.high)
    return low if low == high else f"{low} to {high}"


def dollars(amount: float) -> str:
    """Cents for a sum, more places for a small one: `$1.02`, `$0.00031`."""
    if amount >= 1 or not amount:
        return f"${amount:,.2f}"
    return f"${amount:.{max(2, 1 - math.floor(math.log10(amount)))}f}"


def summed(summary: Summary, run: Run, out: Path | None) -> str:
    """What came of a run's rows, with the errors by their kinds, and what to do about them."""
    told = f"{plural(summary.answered, 'row')} ok"
    if summary.failed:
        told += f", {summary.failed:,} failed ({summary.again:,} may succeed again, {summary.never:,} cannot)"
    if out:
        told += f" -> {out}"
    if summary.tokens_in:
        told += f" · {count(summary.tokens_in)} in, {count(summary.tokens_out)} out"
        with suppress(NoPrice):
            told += f" · {dollars(price(run.manifest.terms.get('model', '')).of(summary.tokens_in, summary.tokens_out))}"
    lines = [told]
    for kind in summary.errors[:KINDS]:
        may = "may succeed" if kind.again else "cannot"
        lines.append(f"  {kind.count:,} x {kind.error[:200]} ({may})   e.g. {kind.example}")
    if others := len(summary.errors[KINDS:]):
        lines.append(f"  and {plural(others, 'other kind')} of errors")
    for column, meant in summary.renamed.items():
        lines.append(f"There is another column {column}; the new one is {meant}.")
    for column, number in summary.nothing.items():
        lines.append(f"{plural(number, 'answer')} had nothing for the column {column}.")
    if not run.finished:
        lines.append(f"To send the rest: {program()} watch {run.manifest.name}")
    elif summary.again:
        where = f" -o {shlex.quote(str(out))}" if out else ""
        lines.append(f"To redo the {summary.again:,}: {program()} retry {run.manifest.name}{where}")
    return "\n".join(lines)


def billed(charges: list[Charge]) -> str:
    """What results took, by model, and what that costs."""
    lines = []
    for each in charges:
        price = dollars(each.price) if each.price is not None else f"price unknown: {each.why}"
        used = f"{count(each.input)} tokens in, {count(each.output)} out"
        lines.append(f"{each.model}   {plural(each.results, 'answer')} · {used} · {price}")
        if each.without:
            lines.append(f"  {each.without:,} of them do not say what they took")
    return "\n".join(lines) or "There are no results yet."


class Watch:
    """Shows how far a run's last attempt is whenever it is called: a bar on a terminal, elsewhere a line a minute."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.began: tuple[float, int] | None = None
        self.said = 0.0
        self.looks_on = False
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(min(30, max(8, CONSOLE.width - 60))),
            TextColumn("{task.fields[rest]}", markup=False),
            console=CONSOLE,
        )
        self.task = self.bar.add_task("", total=None, rest="", visible=False)

    def __enter__(self) -> Watch:
        if is_live():
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:  # else it would print an empty line
            self.bar.stop()

    def look_on(self) -> None:
        """As a call, while another process is at the run."""
        if not self.looks_on:
            self.looks_on = True
            say("Another process carries it out; this one looks on.")
        self()

    def __call__(self) -> None:
        if not self.run.manifest.attempts:
            return  # another process still writes its chunks
        attempt = self.run.manifest.attempts[-1]
        total = sum(chunk.requests for chunk in attempt.chunks)
        done = sum(chunk.done for chunk in attempt.chunks)
        over = sum(chunk.fetched for chunk in attempt.chunks)
        now = time.monotonic()
        self.began = self.began or (now, done)
        jobs = f"job {min(over + 1, len(attempt.chunks))}/{len(attempt.chunks)}"
        rest = f"{done / max(total, 1):4.0%}  {done:,}/{total:,}"
        if failed := sum(chunk.failed for chunk in attempt.chunks):
            rest += f"  {failed:,} failed"
        if total > done > self.began[1]:
            pace = (done - self.began[1]) / (now - self.began[0])
            rest += f"  {left((total - done) / pace)}"
        self.bar.update(
            self.task, description=jobs, total=total, completed=done, rest=rest, visible=True
        )
        ended = over == len(attempt.chunks)
        if not self.bar.live.is_started and (ended or now - self.said >= EVERY or not self.said):
            self.said = now
            say(f"{time.strftime('%H:%M:%S')}  {jobs} {rest}")


def state(run: Run) -> str:
    """Where a run stands: `job 1 done, job 2 running`, or of many how many of them."""
    attempts = run.manifest.attempts
    if not attempts or not attempts[-1].planned:
        return "nothing was sent yet"
    chunks = attempts[-1].chunks
    states = [_state(chunk) for chunk in chunks]
    if len(chunks) <= 4:
        told = ", ".join(f"job {chunk.number} {_state(chunk)}" for chunk in chunks)
    else:
        told = ", ".join(f"{states.count(each):,} {each}" for each in dict.fromkeys(states))
        told = f"of {len(chunks):,} jobs {told}"
    return told if len(attempts) == 1 else f"attempt {attempts[-1].number}: {told}"


def _state(chunk: Chunk) -> str:
    if not chunk.sent:
        return "not sent"
    if chunk.lost:
        return "results lost"
    if chunk.fetched:
        return "done" if chunk.status == "SUCCESS" else chunk.status.lower().replace("_", " ")
    return "queued" if chunk.status == "QUEUED" else "running"


def described(run: Run) -> dict[str, Any]:
    """What a list of runs says of one."""
    manifest = run.manifest
    chunks = [chunk for attempt in manifest.attempts for chunk in attempt.chunks]
    first = manifest.attempts[0].chunks if manifest.attempts else []
    return {
        "name": manifest.name,
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.created_at)),
        "state": "over" if run.finished else state(run),
        "requests": sum(chunk.requests for chunk in first),
        "attempts": len(manifest.attempts),
        "done": sum(chunk.done for chunk in chunks),
        "failed": sum(chunk.failed for chunk in chunks),
        **manifest.terms,
        "url": manifest.url,
        "source": manifest.source,
        "folder": str(run.folder),
    }


def jobs(run: Run) -> list[dict[str, Any]]:
    """A run's jobs, those that are still to be made too."""
    return [
        {
            "attempt": attempt.number,
            "job": chunk.job_id,
            "state": _state(chunk),
            "requests": chunk.requests,
            "done": chunk.done,
            "failed": chunk.failed,
            "note": chunk.lost or chunk.why,
        }
        for attempt in run.manifest.attempts
        for chunk in attempt.chunks
    ]


def table(rows: list[dict[str, Any]], *heads: str) -> None:
    """These members of the rows, aligned under their names, on standard output: as wide as they are where no terminal is."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        number = head in ("requests", "attempts", "done", "failed")
        shown.add_column(head, overflow="fold", justify="right" if number else "left")
    for row in rows:
        values = (row.get(head, "") for head in heads)
        shown.add_row(*(f"{v:,}" if isinstance(v, int) else plain(v) for v in values))
    width = None if sys.stdout.isatty() else 1_000
    Console(highlight=False, markup=False, emoji=False, width=width).print(shown)
