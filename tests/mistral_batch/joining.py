"""Runs whose jobs have ended, with results as a test says. Not a test module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_batch.chunks import Limits, plan
from mistral_batch.lines import Form, Lines
from mistral_batch.runs import Run, Runs
from mistral_batch.sources import open_source

CHAT = "/v1/chat/completions"
PROMPT = Form(model="m", id="id", prompt="{text}")
"""How rows with `id` and `text` are asked."""


def answer(custom_id: str, content: Any = "fine", **usage: int) -> dict[str, Any]:
    """A line of an output file, as of a chat."""
    body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    if usage:
        body["usage"] = usage
    return result(custom_id, body)


def result(custom_id: str, body: Any, status: int = 200) -> dict[str, Any]:
    """A line of results with a response."""
    response = {"status_code": status, "body": body}
    return {"id": "batch-1", "custom_id": custom_id, "response": response, "error": None}


def failure(custom_id: str, error: Any = "boom", status: int | None = None) -> dict[str, Any]:
    """A line of an error file: as text without a response, or with a status and the error as its body too."""
    response = None if status is None else {"status_code": status, "body": error}
    return {"id": "batch-1", "custom_id": custom_id, "response": response, "error": error}


def rows(*ids: str) -> list[dict[str, Any]]:
    """A table in memory."""
    return [{"id": each, "text": f"text of {each}"} for each in ids]


def begun(home: Path, table: Any, form: Form = PROMPT, per_job: int = 2) -> tuple[Run, Lines]:
    """A run of a table, whose first attempt is planned in jobs of so many requests."""
    lines = Lines(open_source(table), form)
    requests = [line for batch in lines.source.batches() for line in lines.of(batch)]
    digest = hashlib.sha256(b"\n".join(requests)).hexdigest()
    terms = {"endpoint": lines.endpoint, "model": lines.model}
    run = Runs(home).begin(
        digest, terms, "http://127.0.0.1:1", source="a table", digest="", options={}
    )
    plan(run, 1, requests, Limits(per_job, 1 << 30))
    return run, lines


def end(
    run: Run,
    *files: Iterable[Mapping[str, Any] | bytes],
    chunk: int = 1,
    attempt: int = 1,
    status: str = "SUCCESS",
    why: str = "",
) -> list[Path]:
    """Has a job end with these results, each of which is a file; where they are."""
    (known,) = (c for a in run.manifest.attempts if a.number == attempt for c in a.chunks if c.number == chunk)  # fmt: skip
    known.status, known.why, known.fetched = status, why, True
    known.job_id = known.job_id or "0" * 8
    for number, lines in enumerate(files):
        name = f"{attempt}.{chunk}-{number}.jsonl"
        text = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)  # fmt: skip
        (run.folder / name).write_bytes(text)
        known.saved.append(name)
    return [run.folder / name for name in known.saved]


def sent_again(run: Run, number: int, ids: Sequence[str], per_job: int = 2) -> None:
    """Plans another attempt of these requests."""
    known = {
        json.loads(line)["custom_id"]: line
        for chunk in run.manifest.attempts[0].chunks
        for line in (run.folder / chunk.content).read_bytes().splitlines()
    }
    plan(run, number, [known[each] for each in ids], Limits(per_job, 1 << 30))
