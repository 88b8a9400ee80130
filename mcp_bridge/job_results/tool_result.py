"""A job as the result of a tool call: with the results that the call wants, or with what to do to have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_bridge.canonical import LARGE
from mcp_bridge.job_results import notes
from mcp_bridge.job_results.order import HeldRows
from mcp_bridge.job_results.page import ResultPage
from mcp_bridge.job_results.view import View, read_job
from mcp_bridge.rest_client import Answer
from mcp_bridge.results import Results, data_result
from mcp_bridge.shortening import NoPart, without
from mcp_bridge.tools import CallableTool


def with_results(
    results: Results, view: View, headers: Mapping[str, str], rows: HeldRows | ResultPage
) -> dict[str, Any]:
    """The result of a call that wants results: of all `rows` in their order, or a page that was made of them."""
    try:
        shown = view.shown(rows) if isinstance(rows, ResultPage) else view.held(rows)
    except NoPart as error:
        return results.no_part(view.tool, view.asked, error)
    said = [without(results.secret, note) for note in view.notes]
    return data_result(shown, results.notes(view.tool, view.asked, headers) + said)


def next_step(tool: CallableTool, answer: Answer) -> str:
    """What to do next, after an answer that shows a job without its results. ValueError for what is no JSON."""
    hints = tool.operation.hints
    if not hints.results or len(answer.content) >= LARGE or not answer.content.strip():
        return ""
    job = read_job(hints, answer.content)
    return notes.without_results(tool, job) if job else ""
