"""What a call is told of the results that it is shown: how many there are, where to go on, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcp_bridge.job_results.error_groups import listed
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.shortening import NAMED, Shortening, compact, weigh
from mcp_bridge.tools import CallableTool

if TYPE_CHECKING:
    from mcp_bridge.job_results.view import Job, View


NOT_FINAL = "Results come when it is final."

FEW = 3
"""Numbers of each list by which it is known what it is, for a caller who is told how to see more results at once."""


def of_page(view: View, page: ResultPage) -> list[str]:
    """Sentences on a page of results."""
    return [
        *_lacking(view),
        "" if view.gone or view.unread or view.asked.part else _outcome(view),
        _window(view, page),
        *of_part(view, page, page.shortening),
        _numbers(view, page),
        _unnamed(view, page),
        _missing(view, page),
        _reordered(view),
    ]


def of_cuts(cuts: Sequence[str]) -> str:
    """What was left out, each with its place."""
    more = f"; and {len(cuts) - NAMED} places more" if len(cuts) > NAMED else ""
    return f"Shortened: {'; '.join(cuts[:NAMED])}{more}."


def of_part(view: View, page: ResultPage, shortening: Shortening | None) -> list[str]:
    """Sentences on what is shown in part."""
    notes = [of_cuts(shortening.cuts)] if shortening and shortening.cuts else []
    if shortening and shortening.next:
        names = view.tool.names_by_use
        notes.append(
            f"For the rest of it, call with {_at(names, shortening.next)}, all else as now."
        )
        others = [each for each in shortening.ends if each != shortening.next]
        if others:
            kind = (
                "1 other place has" if len(others) == 1 else f"{len(others)} other places have each"
            )
            notes.append(f"{kind} a rest of its own, had with {_at(names, others[0])}.")
    if page.form.cut:
        least, most = min(page.form.cut), max(page.form.cut)
        lengths = f"{least}" if least == most else f"{least} to {most}"
        kept = view.selection.numbers
        notes.append(f"Lists of numbers are cut to their first {kept}, of {lengths}.")
    return notes


def _at(names: Mapping[str, str], end: tuple[str, int]) -> str:
    """The arguments that show what is at a place, from where it was cut."""
    place, after = end
    return f'{names["part"]} "{place}"' + (f" and {names['from']} {after}" if after else "")


def without_results(tool: CallableTool, job: Job) -> str:
    """What to do next, for a call that is shown a job and did not ask for its results; empty when it is not final."""
    results, progress = tool.operation.hints.results, tool.operation.hints.progress
    if not (job.final and results) or job.rows is not None:
        return ""
    names = {each.target: name for name, each in tool.arguments.items()}
    asking = " and ".join(
        f"{names[name]} {compact(value)}" for name, value in results.asked.items() if name in names
    )
    if not progress:
        return f"For a summary and its results, call with {asking}."
    succeeded, failed = job.number(progress.succeeded) or 0, job.number(progress.failed) or 0
    total, done = job.number(progress.total), job.number(progress.done)
    if not succeeded and not failed:
        files = results.files and (
            job.ids(results.files.succeeded) or job.ids(results.files.failed)
        )
        known = done == 0 or total == 0
        return f"It ended as {job.state} without results." if known and not files else ""
    only = tool.names_by_use.get("only", "only")
    alone = f', with {only} "failed" for those alone' if failed and succeeded else ""
    how = f"{succeeded} succeeded, {failed} failed" if succeeded else f"All {failed} failed"
    if total and succeeded + failed < total:
        some = _some(succeeded + failed, total, progress.unit)
        how = f"It ended as {job.state}: {some} ({how[0].lower()}{how[1:]})"
    return f"{how}: call with {asking} for a summary and the results{alone}."


def _outcome(view: View) -> str:
    """How the job ended, when not all of it has results; or that it did not end yet."""
    job, progress = view.job, view.tool.operation.hints.progress
    found = view.found
    total = job.number(progress.total) if progress else None
    if not job.final:
        return "More results may come until it is final." if found else NOT_FINAL
    if not found:
        return f"It ended as {job.state} without results."
    if not progress or not total or found >= total:
        return ""
    one, several = (
        ("was not run", "were not run") if found == view.done else ("has none", "have none")
    )
    rest = f"the other {one}" if total - found == 1 else f"the others {several}"
    return f"It ended as {job.state}: {_some(found, total, progress.unit)}; {rest}."


def _some(found: int, total: int, unit: str) -> str:
    return f"{found} of its {total} {unit} {'has a result' if found == 1 else 'have results'}"


def _lacking(view: View) -> list[str]:
    """Which results cannot be shown, whatever is asked for."""
    alone = "; the summary counts the others alone" if view.found else ""
    notes = [
        f"The results that {kind} are gone: their file was deleted{alone}."
        for kind in dict.fromkeys(view.gone)
    ]
    if view.unread:
        which = "More" if view.found else "Its"
        notes.append(f"{which} results are in files, which no tool of this caller reads{alone}.")
    return notes


def _window(view: View, page: ResultPage) -> str:
    only = f"{page.selection.only} " if page.selection.only else ""
    first, shown, total = page.selection.first, len(page.shown), page.total
    if not total:
        known = view.found and not (view.gone or view.unread)
        return f"None of them {view.selection.only}." if known and only and not page.missing else ""
    if not shown:
        return f"There are {total} {only}results, none from {first} on."
    if shown == total:
        return ""
    order = f", {view.order}" if view.order else ""
    last = f"Shows {first + 1} to {first + shown} of {total} {only}results{order}"
    after = page.next_from
    return f"{last}; go on with {view.tool.names_by_use['from']} {after}." if after else f"{last}."


def _missing(view: View, page: ResultPage) -> str:
    if not page.missing or (not view.found and not view.job.final):
        return ""
    several = " Give several ids as a list." if any("," in name for name in page.missing) else ""
    return f"No result has {view.reader.id_name} {listed(page.missing, NAMED)}.{several}"


def _numbers(view: View, page: ResultPage) -> str:
    """How to see more at once, where lists of numbers take most of the room and it was not enough."""
    name = view.tool.names_by_use.get("numbers")
    counted = len(page.shown) == page.selection.count or page.next_from is None
    if not name or page.selection.numbers is not None or (counted and not page.shortening):
        return ""
    room = weigh(compact(page.shown))
    if 2 * sum(weigh(compact(each)) for each in _lists(page.shown)) < room:
        return ""
    return (
        f"Lists of numbers take most of the room: with {name} {FEW} only the first {FEW} of each are"
        " shown, and much more of all else at once."
    )


def _lists(value: Any) -> Iterator[list[Any]]:
    """The lists of many numbers within a value."""
    if isinstance(value, dict):
        value = [*value.values()]
    if not isinstance(value, list):
        return
    if len(value) > 2 * FEW and all(isinstance(each, int | float) for each in value):
        yield value
        return
    for each in value:
        yield from _lists(each)


def _unnamed(view: View, page: ResultPage) -> str:
    """That some results belong to nobody knows which request."""
    if not page.unnamed:
        return ""
    have = "result has" if page.unnamed == 1 else "results have"
    return f"{page.unnamed} {have} no {view.reader.id_name} here, so that nothing tells what each is an answer to."


def _reordered(view: View) -> str:
    if not view.reordered or not (view.selection.first or view.asked.part):
        return ""
    return (
        "Its input cannot be read any more: if an earlier page was in the order of the input,"
        f" begin again with {view.tool.names_by_use['from']} 0."
    )
