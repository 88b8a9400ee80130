"""The work: what is asked, what is answered, and how large it is."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

JOB_ID = "7c3e1f0a-52d4-4b7e-9a61-0f2c8d5b9e14"
JOBS_PATH = "/v1/batch/jobs"
JOB_PATH = f"{JOBS_PATH}/{JOB_ID}"
MCP_PATH = "/mcp"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
"""Versions of MCP."""

JOB_BYTES = 610
LIST_BYTES = 92 * 1024
SIZES = (10, 100, 1_000, 10_000)
"""Numbers of inline requests in a create; each is about 1.5 KB."""

FILES_PATH = "/v1/files"
LINES, QUICK_LINES = 1_000_000, 100_000
"""Requests in a file that is uploaded; in a download are as many bytes."""

LINE_BYTES = 536
"""So that a million are 511 MiB: what Mistral takes at most."""

PIECE = 1 << 20
"""Bytes that client and upstream send and receive at a time."""

CONTENT = random.Random(0).randbytes(PIECE)  # noqa: S311 - content, no secret
"""What a download is made of, again and again."""


@dataclass(frozen=True)
class Request:
    """One HTTP request. `keyed`: each time it is sent, it has an `Idempotency-Key` of its own."""

    path: str
    method: str = "GET"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    keyed: bool = False


GET_JOB = Request(JOB_PATH)
LIST_JOBS = Request(JOBS_PATH)


def create_job(body: bytes, *, keyed: bool = False) -> Request:
    """The request that creates a job."""
    return Request(JOBS_PATH, "POST", body, {"Content-Type": "application/json"}, keyed)


def create_body(requests: int) -> bytes:
    """A create with so many inline requests, as an SDK writes it."""
    text = "Summarise the following complaint in one sentence for a support agent. " * 19
    return json.dumps(
        {
            "endpoint": "/v1/chat/completions",
            "model": "mistral-small-latest",
            "metadata": {"job_type": "testing"},
            "requests": [
                {
                    "custom_id": f"request-{number}",
                    "body": {
                        "messages": [{"role": "user", "content": f"{number}: {text}"}],
                        "max_tokens": 100,
                        "temperature": 0.2,
                    },
                }
                for number in range(requests)
            ],
        }
    ).encode()


def batch_lines(count: int) -> Iterator[bytes]:
    """A file of so many batch requests, in pieces of whole lines; each line has LINE_BYTES."""
    text = "Summarise the following complaint in one sentence for a support agent. " * 5
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 100}
    line = json.dumps({"custom_id": "request-0000000", "body": body})
    line = line.replace('agent. "', "agent. " + "x" * (LINE_BYTES - 1 - len(line)) + '"')
    before, after = line.split("0000000")
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        yield "".join(f"{before}{number:07}{after}\n" for number in numbers).encode()


FORM = {"Content-Type": "multipart/form-data; boundary=bench"}
FORM_BEGIN = b"""--bench\r
Content-Disposition: form-data; name="purpose"\r
\r
batch\r
--bench\r
Content-Disposition: form-data; name="file"; filename="requests.jsonl"\r
Content-Type: application/octet-stream\r
\r
"""
FORM_END = b"\r\n--bench--\r\n"
"""The form of an upload, as the Python SDK writes it, around the file."""


def file_id(size: int) -> str:
    """The id of a file of so many bytes."""
    return str(UUID(int=size))


def file_size(file_id: str) -> int:
    """How many bytes the file of this id has."""
    return UUID(file_id).int


def content_path(file_id: str) -> str:
    """Where the content of the file of this id is."""
    return f"{FILES_PATH}/{file_id}/content"


def file(size: int) -> dict[str, Any]:
    """What the upstream says of an upload of so many bytes, the form around it included."""
    return {
        "id": file_id(size), "object": "file", "bytes": size, "created_at": 1_790_000_000,
        "filename": "requests.jsonl", "purpose": "batch", "sample_type": "batch_request",
        "source": "upload",
    }  # fmt: skip


def tool_call(version: str, tool: str, arguments: Mapping[str, Any]) -> Request:
    """The call of `tool` as one HTTP request, in the form of one version of MCP ("Streamable HTTP")."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
    }
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if version == MODERN:
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": tool}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return Request(MCP_PATH, "POST", json.dumps(message).encode(), headers)


def tool_contents(body: bytes) -> list[Any]:
    """Structured content and texts, parsed, of a result, which is JSON or an event stream with one message; without the bridge's note."""
    text = body.decode()
    if not text.startswith("{"):
        text = next(line[5:] for line in text.splitlines() if line.startswith("data:"))
    result = json.loads(text).get("result", {})
    texts = [json.loads(each["text"]) for each in result.get("content", [])]
    contents = [result.get("structuredContent"), *texts]
    for content in contents:
        if isinstance(content, dict):
            content.pop("_note", None)
    return contents


_JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "batch",
    "input_files": ["e2b7c3f4-9a0d-4c8e-8f51-6d3b2a1c0e97"],
    "metadata": {"job_type": "testing"},
    "endpoint": "/v1/chat/completions",
    "model": "mistral-small-latest",
    "agent_id": None,
    "output_file": None,
    "error_file": None,
    "errors": [],
    "status": "RUNNING",
    "created_at": 1_790_000_000,
    "total_requests": 1_000,
    "completed_requests": 250,
    "succeeded_requests": 248,
    "failed_requests": 2,
    "started_at": 1_790_000_060,
    "completed_at": None,
}


def _padded(job: dict[str, Any], size: int) -> bytes:
    """`job` as JSON of exactly `size` bytes."""
    job = {**job, "metadata": {**job["metadata"], "note": ""}}
    spare = size - len(json.dumps(job))
    job["metadata"]["note"] = "x" * spare
    return json.dumps(job).encode()


JOB = _padded(_JOB, JOB_BYTES)
LIST = json.dumps(
    {
        "data": [json.loads(_padded(_JOB, LIST_BYTES // 100 - 2)) for _ in range(100)],
        "object": "list",
        "total": 100,
    }
).encode()
