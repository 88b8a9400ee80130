"""What a call is told of the results that it is shown: how many there are, where to go on, and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_bridge.job_results.error_groups import listed
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.shortening import NAMED, Shortening
from mcp_bridge.tools import CallableTool

if TYPE_CHECKING:
    from mcp_bridge.job_results.view import Job, View


def of_page(view: View, page: ResultPage) -> list[str]:
    """Sentences on a page of results."""
    return [
        "" if view.gone else _ended(view),
        _window(view, page),
        *of_part(view, page, page.shortening),
        _missing(view, page),
    ]


def of_part(view: View, page: ResultPage, shortening: Shortening | None) -> list[str]:
    """Sentences on what is shown in part."""
    cuts = shortening.cuts if shortening else []
    notes = [f"Shortened: {'; '.join(cuts[:NAMED])}."] if cuts else []
    if shortening and shortening.next:
        names, (place, after) = _names(view.tool), shortening.next
        given = f'{names["part"]} "{place}"' + (f" and {names['from']} {after}" if after else "")
        notes.append(f"For the rest of it, call with {given}, all else as now.")
    if page.form.cut:
        least, most = min(page.form.cut), max(page.form.cut)
        lengths = f"{least}" if least == most else f"{least} to {most}"
        kept = view.selection.numbers
        notes.append(f"Lists of numbers are cut to their first {kept}, of {lengths}.")
    return notes


def without_results(tool: CallableTool, job: Job) -> str:
    """What to do next, for a call that is shown a job and did not ask for its results; empty when it is not final."""
    results, progress = tool.operation.hints.results, tool.operation.hints.progress
    if not (job.final and results) or job.rows is not None:
        return ""
    names = {each.target: name for name, each in tool.arguments.items()}
    asking = " and ".join(
        f"{names[name]} {str(value).lower()}"
        for name, value in results.asked.items()
        if name in names
    )
    succeeded = job.number(progress.succeeded) or 0 if progress else 0
    failed = job.number(progress.failed) or 0 if progress else 0
    if not progress:
        return f"For a summary and its results, call with {asking}."
    if not succeeded and not failed:
        return ""
    only = _names(tool).get("only", "only")
    alone = f', with {only} "failed" for those alone' if failed and succeeded else ""
    how = f"{succeeded} succeeded, {failed} failed" if succeeded else f"All {failed} failed"
    return f"{how}: call with {asking} for a summary and the results{alone}."


def _ended(view: View) -> str:
    """How the job ended, when not all of it has results; or that it did not end yet."""
    job, progress = view.job, view.tool.operation.hints.progress
    found = view.groups.succeeded + view.groups.failed
    total = job.number(progress.total) if progress else None
    done = job.number(progress.done) if progress else None
    if not job.final:
        return "Results come when it is final." if not found else ""
    if not found:
        return f"It ended as {job.state} without results."
    if not progress or not total or found >= total:
        return ""
    rest = "were not run" if found == done else "have none"
    return f"It ended as {job.state}: {found} of its {total} {progress.unit} have results; the others {rest}."


def _window(view: View, page: ResultPage) -> str:
    only = f"{page.selection.only} " if page.selection.only else ""
    first, shown, total = page.selection.first, len(page.shown), page.total
    if not total:
        known = view.groups.succeeded + view.groups.failed
        return f"None of them {view.selection.only}." if known and only and not page.missing else ""
    if not shown:
        return f"There are {total} {only}results, none from {first} on."
    if shown == total:
        return ""
    order = f", {view.order}" if view.order else ""
    last = f"Shows {first + 1} to {first + shown} of {total} {only}results{order}"
    after = page.next_from
    return f"{last}; go on with {_names(view.tool)['from']} {after}." if after else f"{last}."


def _missing(view: View, page: ResultPage) -> str:
    if not page.missing:
        return ""
    return f"No result has {view.reader.id_name} {listed(page.missing, NAMED)}."


def _names(tool: CallableTool) -> dict[str, str]:
    """The arguments' names by what they are for."""
    return {each.location: name for name, each in tool.arguments.items()}
