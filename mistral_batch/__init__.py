"""From a table to a table with Mistral's batch jobs, and nothing is bought twice: the command `mistral-batch`, and the same as functions.

    sources (text_files, arrow) a table's rows     outcomes  what a line of a job's results says
    lines (templates)  the request of a row        join      a row for every row, with its answer
    check       what is wrong, before it is sent   tables    where the rows go
    sample, tokens, prices, estimate               steps     check, submit, watch, results, retry: what the command
    chunks      the requests, cut into jobs                  and the functions are both made of
    runs        a run on disk                      cli, screens  the command, and what it shows
    engine      carries a run out                  api       Mistral's contract, at the gateway or at Mistral
    config      its settings

It speaks Mistral's contract alone: nothing here imports the gateway. In a notebook:

    run = mistral_batch.run(table, prompt="Positive or negative? {text}", id="review", model="mistral-small-latest")
    run.results()  # a pyarrow table
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import steps
from .check import Checked
from .engine import PENDING
from .errors import BatchError, InputError, OverLimit, ResultsError
from .estimate import Estimate, keep_limits
from .lines import Form
from .steps import BatchRun as Run

__all__ = [
    "BatchError", "InputError", "OverLimit", "ResultsError", "Run",
    "cancel", "check", "estimate", "results", "retry", "run", "runs", "submit", "watch",
]  # fmt: skip


def check(table: Any, **form: Any) -> Checked:
    """What is wrong with the requests of `table`, a path or a table in memory; nothing is sent.

    `form` says how a row becomes a request, as the members of `mistral_batch.lines.Form` do: `prompt`, `system`, `id`, `model`,
    `endpoint`, `max_tokens`, `body`.
    """
    return steps.read(table, Form(**form)).checked


def estimate(table: Any, **form: Any) -> Estimate:
    """What the requests of `table` will take and may cost; InputError when they cannot be sent. `form` as for `check`."""
    return steps.good(table, Form(**form)).estimate()


def submit(table: Any, **options: Any) -> Run:
    """As `run`, without waiting: the run, with jobs made of all requests for which there is room."""
    begun = _begun(table, **options)
    begun.submit()
    return begun


def run(table: Any, *, progress: bool = False, **options: Any) -> Run:
    """The run of the requests of `table`, a path or a table in memory, when it is over; nothing is bought twice.

    Options are those of `check`, and `max_cost` (dollars) and `max_requests`, beyond which nothing is sent (OverLimit); `pending`, how
    many requests may be under way at a time; `again`, to buy anew what was bought; `url`, when it is not MISTRAL_BATCH_URL. The
    token is MISTRAL_BATCH_TOKEN. With `progress` standard error says how far it is. InputError for what cannot be sent, with its
    lines; APIError for what the API refuses.
    """
    return watch(_begun(table, **options), progress=progress)


def watch(run: Run | str, *, progress: bool = False) -> Run:
    """The run, or that of this name, when it is over."""
    begun = _run(run)
    if not progress:
        begun.watch()
        return begun
    from .screens import Watch  # with rich, which nobody else needs

    with Watch(begun.run) as shown:
        begun.watch(shown, shown.look_on)
    return begun


def results(run: Run | str, take: Mapping[str, str] | None = None) -> Any:
    """The rows of the run's table with their answers, as a pyarrow table; `take` as for `Run.results`."""
    return _run(run).results(take)


def retry(run: Run | str, *, everything: bool = False) -> Run:
    """The run, when what failed and may succeed was sent once more and is over; with `everything` all that failed."""
    begun = _run(run)
    begun.retry(everything)
    return begun


def cancel(run: Run | str) -> int:
    """Asks the run's jobs to stop; how many were asked."""
    return _run(run).cancel()


def runs() -> list[str]:
    """The names of all runs that were begun here, oldest first."""
    return [each.manifest.name for each in steps.place().runs]


def _begun(
    table: Any,
    *,
    max_cost: float | None = None,
    max_requests: int | None = None,
    pending: int = PENDING,
    again: bool = False,
    url: str = "",
    **form: Any,
) -> Run:
    work, place = steps.good(table, Form(**form)), steps.place(url)
    found = steps.find(work, place, again)
    if not (found and found.run.all_sent):
        keep_limits(work.estimate(), max_requests, max_cost)
    return steps.begin(work, place, pending=pending, again=again)


def _run(run: Run | str) -> Run:
    return run if isinstance(run, Run) else steps.named(run)
