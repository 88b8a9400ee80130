"""The command `mistral-batch`: its words and options, what it asks, and its exit codes. Data goes to standard output, all else to
standard error."""

from __future__ import annotations

import functools
import inspect
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from environment import SettingsError, run_command

from . import screens, steps, tables
from .api import Trouble
from .engine import PENDING
from .errors import BAD_INPUT, FAILED, BatchError, InputError, OverLimit, program
from .estimate import keep_limits
from .join import Join, answered
from .lines import Form
from .screens import say
from .steps import BatchRun, Work
from .summary import Summary
from .takes import Take

INTERRUPTED = 130
"""As shells have it for Ctrl-C."""


class Commands(TyperGroup):
    """Ends with a sentence and its exit code whatever a command could not do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (BatchError, SettingsError, OSError) as error:
            if not isinstance(error.__cause__ or error, BrokenPipeError):  # `| head` has enough
                say(str(error))
            code = BAD_INPUT if isinstance(error, SettingsError) else FAILED
            raise typer.Exit(getattr(error, "exit_code", code)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a table to a table with Mistral's batch jobs, and nothing is bought twice.",
)

Table = Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl, .csv, .tsv or .parquet")]
Name = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or how it begins")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="Where the rows go: .jsonl, .csv or .parquet; without it as JSONL to standard output")]  # fmt: skip
Takes = Annotated[list[str] | None, typer.Option("--take", metavar="NAME=PATH", help="A column from each answer, say label=choices[0].message.content; may be repeated")]  # fmt: skip
Strict = Annotated[bool, typer.Option("--strict", help="Write nothing unless every row has an answer")]  # fmt: skip
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
AsJSON = Annotated[bool, typer.Option("--json", help="As JSON")]
URL = Annotated[str, typer.Option("--url", help="The gateway, or https://api.mistral.ai; else MISTRAL_BATCH_URL")]  # fmt: skip
Pending = Annotated[int, typer.Option("--pending", min=1, help="Requests that may be under way at a time")]  # fmt: skip
MaxCost = Annotated[float | None, typer.Option("--max-cost", min=0, metavar="DOLLARS", help="Send nothing that may cost more")]  # fmt: skip
MaxRequests = Annotated[int | None, typer.Option("--max-requests", min=0, help="Send nothing that has more requests")]  # fmt: skip
Again = Annotated[bool, typer.Option("--again", help="Buy it anew, although there is a run of the same requests")]  # fmt: skip

FORM: dict[str, Any] = {
    "model": Annotated[str, typer.Option("--model", "-m", help="The model of every request")],
    "endpoint": Annotated[str, typer.Option("--endpoint", help="Such as /v1/embeddings; else /v1/chat/completions, or as the requests say")],
    "id": Annotated[str, typer.Option("--id", metavar="COLUMN", help="The column with each row's id; else rows are numbered")],
    "prompt": Annotated[str, typer.Option("--prompt", metavar="TEMPLATE", help="What each row asks; {column} is the row's value, {{ a brace")],
    "system": Annotated[str, typer.Option("--system", metavar="TEMPLATE", help="What comes before the prompt")],
    "max_tokens": Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer")],
    "body": Annotated[Path | None, typer.Option("--body", metavar="FILE", help="JSON for the body of each request, of any endpoint; {column} in its strings")],
}  # fmt: skip
"""The options of a form, by its members."""


def with_form(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with the options of a form in place of its parameter `form`."""

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in FORM}
        if path := chosen["body"]:
            chosen["body"] = _template(path)
        command(form=Form(**chosen), **given)

    signature = inspect.signature(command, eval_str=True)
    defaults = {"max_tokens": None, "body": None}
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, ""), annotation=kind
        )
        for name, kind in FORM.items()
    ]
    others = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if name != "form"
    ]
    with_options.__signature__ = signature.replace(parameters=[*others, *options])  # type: ignore[attr-defined]
    return with_options


def _template(path: Path) -> dict[str, Any]:
    try:
        template = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no file of JSON in UTF-8: {error}") from error
    if not isinstance(template, dict):
        raise InputError(f"{path} must have a JSON object, as the body of a request is one")
    return template


@app.command()
@with_form
def check(table: Table, form: Form, as_json: AsJSON = False) -> None:
    """Say all that is wrong with a table, with its lines; nothing is sent."""
    work = steps.read(table, form)
    if as_json:
        _print_json(msgspec.to_builtins(work.checked))
    else:
        screens.show(screens.checked(work.checked))
    raise typer.Exit(BAD_INPUT if work.checked.faults else 0)


@app.command()
@with_form
def estimate(
    table: Table,
    form: Form,
    pilot: Annotated[int, typer.Option("--pilot", metavar="N", min=0, help="Buy N of the requests, drawn at random, and scale what they took")] = 0,
    as_json: AsJSON = False,
    url: URL = "",
) -> None:  # fmt: skip
    """Say how many requests and tokens a table is, and what they may cost; nothing is sent, but for a pilot."""
    work = _checked(table, form)
    found = steps.pilot(work, steps.place(url, _report), pilot) if pilot else work.estimate()
    if as_json:
        _print_json(msgspec.to_builtins(found))
    else:
        screens.show(screens.estimated(found, work.jobs))


@app.command()
@with_form
def run(
    table: Table,
    form: Form,
    out: Out = None,
    take: Takes = None,
    yes: Yes = False,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    pending: Pending = PENDING,
    strict: Strict = False,
    again: Again = False,
    url: URL = "",
) -> None:
    """Check a table, estimate, ask, have it carried out, and join the answers to its rows.

    The same command again goes on where it was broken off, and buys nothing twice.
    """
    rows = Rows(out, take, strict, table)
    work = _checked(table, form)
    batch = _begun(work, yes, max_cost, max_requests, pending, again, url, rows.take)
    if not batch.run.settled:
        _watch(batch)
    rows.deliver(batch)


@app.command()
@with_form
def submit(
    table: Table,
    form: Form,
    yes: Yes = False,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    pending: Pending = PENDING,
    again: Again = False,
    url: URL = "",
) -> None:
    """As run, without waiting for the end: have jobs made of all requests for which there is room."""
    batch = _begun(_checked(table, form), yes, max_cost, max_requests, pending, again, url)
    with _interruptible(batch):
        batch.submit()
    say(f"To wait for it: {program()} watch {batch.name}")
    print(batch.name)


@app.command()
def watch(name: Name) -> None:
    """Wait until a run is over, and send what of it was not sent."""
    batch = _named(name)
    if not batch.run.settled:
        _watch(batch)
    say(f"To have the rows: {program()} results {batch.name} -o FILE")
    raise typer.Exit(batch.exit_code(*answered(batch.run)))


@app.command()
def results(name: Name, out: Out = None, take: Takes = None, strict: Strict = False) -> None:
    """Join the answers of a run to the rows of its table; waits for the run when it is not over."""
    rows, batch = Rows(out, take, strict), _named(name)
    if not batch.run.settled:
        _watch(batch)
    rows.deliver(batch)


@app.command()
def retry(
    name: Name,
    out: Out = None,
    take: Takes = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what would fail again, or was paid and cannot be read")] = False,
    yes: Yes = False,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    strict: Strict = False,
) -> None:  # fmt: skip
    """Send what failed and may succeed once more, as a further attempt, and join the later answers."""
    rows, batch = Rows(out, take, strict), _named(name)
    if not batch.run.all_sent and (max_cost, max_requests) != (None, None):
        raise OverLimit(
            f"{batch.name} was not sent whole, and that comes first, past the limits of a retry; nothing was sent."
            f" To send the rest: {program()} watch {batch.name}"
        )
    if not batch.run.settled:
        broken_off = not batch.run.finished
        _watch(batch)
        if broken_off and len(batch.run.manifest.attempts) > 1:  # the same command was broken off
            rows.deliver(batch)
    failed = _read(batch.joined(rows.takes))
    number = failed.failed if everything else failed.again
    if number:
        left = f" ({failed.never:,} left out: they would fail again, or were paid and cannot be read; --all sends them too)"
        said = screens.plural(number, "request")
        say(f"{said} again{left if number < failed.failed else ''}.")
        estimated = batch.estimate_retry(everything)
        say(screens.estimated(estimated))
        keep_limits(estimated, max_requests, max_cost)
        _ask(yes)
        with _interruptible(batch), screens.Watch(batch.run) as watch:
            batch.retry(everything, watch)
    elif failed.failed:
        say("Nothing that failed may succeed; --all sends it all the same.")
    rows.deliver(batch)


@app.command()
def cancel(name: Name) -> None:
    """Ask the jobs of a run to stop; what they did until then is kept."""
    batch = _named(name)
    asked = batch.cancel()
    say(f"{screens.plural(asked, 'job')} asked to stop; what was done: {program()} results {name}")


@app.command("ls")
def list_runs(as_json: AsJSON = False) -> None:
    """List the runs that were begun here, the newest last."""
    found = [screens.described(run) for run in steps.place().runs]
    if as_json:
        _print_json(found)
    else:
        screens.table(found, "name", "began", "state", "requests", "done", "failed", "model")


@app.command()
def show(name: Name, as_json: AsJSON = False) -> None:
    """Show a run: where it stands, and its jobs."""
    run = _named(name).run
    found = screens.described(run)
    jobs = screens.jobs(run)
    if as_json:
        _print_json(found | {"jobs": jobs})
    else:
        screens.show("\n".join(f"{key:<10} {value}" for key, value in found.items()))
        screens.table(jobs, "attempt", "job", "state", "requests", "done", "failed", "note")


@app.command()
def cost(name: Name, as_json: AsJSON = False) -> None:
    """Say what the answers of a run took, all attempts together, and what that costs."""
    charges = _named(name).bill().charges()
    if as_json:
        _print_json(msgspec.to_builtins(charges))
    else:
        screens.show(screens.billed(charges))


class Rows:
    """Where the rows of a run go, as the options say; they are examined before anything is sent."""

    def __init__(
        self, out: Path | None, take: list[str] | None, strict: bool, table: Path | None = None
    ) -> None:
        self.out = out
        self.take = take or []
        self.takes = list(map(Take.parse, self.take))
        self.strict = strict
        tables.examine(out, table)

    def deliver(self, batch: BatchRun) -> None:
        """Writes the rows, says what came of them, and ends with the exit code for it."""
        rows, written = batch.joined(self.takes), self.out
        if self.strict and _read(rows).failed:
            written = None
            say("Nothing was written: by --strict every row must have an answer.")
        else:
            tables.write(self.out, rows)
        say(screens.summed(rows.summary, batch.run, written))
        raise typer.Exit(batch.exit_code(rows.summary.rows, rows.summary.answered))


def _read(rows: Join) -> Summary:
    """What came of the rows, which are not written."""
    for _ in rows:
        pass
    return rows.summary


def _checked(table: Path, form: Form) -> Work:
    """The work; with faults these are told, and it ends."""
    work = steps.read(table, form)
    if work.checked.faults:
        say(screens.checked(work.checked))
        raise typer.Exit(BAD_INPUT)
    return work


def _begun(
    work: Work,
    yes: bool,
    max_cost: float | None,
    max_requests: int | None,
    pending: int,
    again: bool,
    url: str,
    take: Sequence[str] = (),
) -> BatchRun:
    """The run of the work: that which was begun before, or when its price is agreed to a new one."""
    place = steps.place(url, _report)
    if found := steps.find(work, place, again):
        say(f"Found run {found.name}: {screens.state(found.run)}.")
    if not (found and found.run.all_sent):
        estimated = work.estimate()
        say(screens.estimated(estimated, work.jobs))
        keep_limits(estimated, max_requests, max_cost)
    if not (found and found.run.finished) and not place.api.keeps_keys:
        say(
            f"{place.api.url} is no gateway: there a create whose answer is lost may be bought twice."
        )
    if not found:
        _ask(yes)
    return steps.begin(work, place, pending=pending, take=take, again=again)


def _ask(yes: bool) -> None:
    """Returns when it was agreed to; where nobody can be asked, that takes --yes."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        say("Nothing was sent: there is no terminal to ask at; add --yes to go on without asking.")
        raise typer.Exit(BAD_INPUT)
    code = FAILED
    try:
        sys.stderr.write("Go on? [Y/n] ")
        sys.stderr.flush()
        answer = sys.stdin.readline() or "no"  # at the end of the input
    except KeyboardInterrupt:
        answer, code = "no", INTERRUPTED
        say()
    if answer.strip().lower() not in ("", "y", "yes"):
        say("Nothing was sent.")
        raise typer.Exit(code)


def _named(name: str) -> BatchRun:
    return steps.named(name, _report)


def _watch(batch: BatchRun) -> None:
    """Returns when all is over that there is; ends with an OverLimit when nothing of it could be sent."""
    try:
        with _interruptible(batch), screens.Watch(batch.run) as watch:
            batch.watch(watch, watch.look_on)
    except OverLimit as error:
        if not batch.run.was_sent:
            raise
        say(str(error))


@contextmanager
def _interruptible(batch: BatchRun) -> Iterator[None]:
    """Ctrl-C ends it with what to do; a second one at once."""
    try:
        yield
    except KeyboardInterrupt as error:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        say(f"\nWhat was sent goes on. To watch again: {program()} watch {batch.name}")
        if batch.api.is_gateway:
            say("(The same command does that too: nothing is bought twice.)")
        raise typer.Exit(INTERRUPTED) from error


def _report(trouble: Trouble) -> None:
    say(f"{trouble.sentence}; again in {trouble.pause:g} s")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def main() -> int:
    """The command; its exit code."""
    try:
        return run_command(lambda: app() or 0)
    except Exception as error:  # whatever nobody thought of
        with NamedTemporaryFile("w", prefix="mistral-batch-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        what = f"{type(error).__name__}: {error}"[:300]
        say(
            f"A fault of mistral-batch itself: {what}. {file.name} says where; what was done is kept."
        )
        return FAILED
