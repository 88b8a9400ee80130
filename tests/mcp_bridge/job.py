"""Jobs with results as the REST service answers them, and what tool calls are shown of them. Not a test module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from mcp_bridge.arguments import read_call
from mcp_bridge.job_results.order import HeldRows
from mcp_bridge.job_results.tool_result import with_results
from mcp_bridge.job_results.view import View, read_job
from mcp_bridge.results import Results
from mcp_bridge.shortening import weigh
from mcp_bridge.tools import CallableTool
from tests.support.api import JOB_ID

LIMIT = 60_000
SECRET = "bridge/token+1"


def chat(name: str | None, text: Any = "It is a good one.", **choice: Any) -> dict[str, Any]:
    """The row of a request that was answered."""
    message = {"role": "assistant", "tool_calls": None, "content": text, "prefix": False}
    choice = {"index": 0, "finish_reason": "stop", "message": message, **choice}
    body = {"id": "a" * 32, "object": "chat.completion", "usage": {}, "choices": [choice]}
    response = {"status_code": 200, "body": body}
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": None}


def embedding(name: str, *vectors: list[float]) -> dict[str, Any]:
    """The row of a request for embeddings."""
    data = [
        {"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(vectors)
    ]
    response = {"status_code": 200, "body": {"object": "list", "data": data}}
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": None}


def failed(name: str | None, error: Any, response: Any = None) -> dict[str, Any]:
    """The row of a request that failed."""
    return {"id": f"row-{name}", "custom_id": name, "response": response, "error": error}


def job(rows: Any, **members: Any) -> dict[str, Any]:
    """A job that is final, with those results."""
    total = len(rows or ())
    return {
        "id": JOB_ID, "object": "batch", "input_files": [], "endpoint": "/v1/chat/completions",
        "output_file": None, "error_file": None, "errors": [], "outputs": rows,
        "status": "SUCCESS", "created_at": 1, "started_at": 2, "completed_at": 3,
        "total_requests": total, "completed_requests": total, **members,
    }  # fmt: skip


def result(
    tool: CallableTool, answer: Any, limit: int = LIMIT, /, **arguments: Any
) -> dict[str, Any]:
    """The result of a call that wants results of the job that is answered, in the order of their ids."""
    asked = read_call(tool, {"job_id": JOB_ID, "inline": True, **arguments}, "anybody")
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    found = read_job(tool.operation.hints, content)
    assert found
    results = Results(limit, SECRET)
    view = View(tool, asked, found, results.limit, results.secret)
    rows = HeldRows(view.reader)
    rows.add_all(found.rows or [])
    rows.sort()
    made = with_results(results, view, {}, rows)
    if not made["isError"]:
        Draft202012Validator(tool.output_schema).validate(made["structuredContent"])
        assert json.loads(made["content"][0]["text"]) == made["structuredContent"]
        assert weigh(made["content"][0]["text"]) < limit + 700
        assert SECRET not in made["content"][0]["text"]
    return made


def shown(tool: CallableTool, answer: Any, limit: int = LIMIT, /, **arguments: Any) -> Any:
    """The data of such a result."""
    made = result(tool, answer, limit, **arguments)
    assert made["isError"] is False, made
    return made["structuredContent"]


def pages(
    tool: CallableTool, answer: Any, limit: int = LIMIT, /, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """The data of calls that go on where the last one ended, each with a result at least."""
    start: int | None = 0
    while start is not None:
        page = shown(tool, answer, limit, **arguments, **{"from": start})
        assert page["next_from"] is None or page["next_from"] == start + len(page["outputs"])
        assert page["outputs"] or page["next_from"] is None
        yield page
        start = page["next_from"]


def rest_of(
    tool: CallableTool, answer: Any, place: str, limit: int = LIMIT, /, **arguments: Any
) -> Any:
    """All of a text or list within the results, by as many calls as it takes."""
    pieces: list[Any] = []
    start: int | None = 0
    while start is not None:
        call = {**arguments, "part": place, "from": start}
        part = shown(tool, answer, limit, **call)["_part"]
        assert (part["of"], part["from"]) == (place, start)
        assert part["next_from"] is None or part["next_from"] > start
        pieces.append(part["value"])
        start = part["next_from"]
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    return [item for piece in pieces for item in piece]
