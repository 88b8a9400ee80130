"""What the requests of a job answer: output lines with a plausible body per endpoint.

Lines are computed when somebody reads them, always the same ones for the same job.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sandbox.jobs import MESSAGES, Failure, Job, Request, completion_order

Body = dict[str, Any]


def lines(job: Job, completed: int, moment: int, *, failed: bool | None = None) -> Iterator[Body]:
    """The output lines of the first `completed` requests in order of completion.

    `failed` None gives all of them, True those of the error file, False those of the output file;
    `moment` is the Unix time that their bodies name.
    """
    failures = {failure.index: failure for failure in job.plan.failures}
    for index in completion_order(job.id, job.plan.total)[:completed]:
        failure = failures.get(index)
        if failed is None or failed == (failure is not None):
            yield _line(job, index, failure, moment)


def jsonl(rows: Iterable[Body]) -> bytes:
    """Rows as the bytes of a JSON Lines file."""
    return b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)


def _line(job: Job, index: int, failure: Failure | None, moment: int) -> Body:
    dice = random.Random(f"{job.id}/{index}")  # noqa: S311 (no secret)
    request = job.requests[index]
    name = uuid.UUID(int=dice.getrandbits(128), version=4)
    line: Body = {
        "id": f"batch-{job.id[:8]}-{index + 1}-{name}",
        "custom_id": request.custom_id,
    }
    if failure is None:
        body = BODIES[job.endpoint](request.body, _model(job, request), dice, moment)
        return line | {"response": {"status_code": 200, "body": body}, "error": None}
    message = MESSAGES[failure.kind]
    # Live errors are seen in both forms: a bare string, and an object.
    if failure.kind == 0:
        return line | {"response": None, "error": message}
    error = {"object": "error", "message": message, "type": "invalid_request_error", "code": "3000"}
    return line | {"response": {"status_code": 422, "body": error}, "error": error}


def _model(job: Job, request: Request) -> str:
    """The job's model wins over the one in a request's body."""
    return job.model or request.body.get("model") or request.body.get("agent_id") or "sandbox-model"


def _chat(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    text = f"Sandbox answer to: {_prompt(body)}"
    message = {"role": "assistant", "tool_calls": None, "content": text, "prefix": False}
    return {
        "id": f"{dice.getrandbits(128):032x}",
        "object": "chat.completion",
        "created": moment,
        "model": model,
        "usage": _usage(_prompt(body), text),
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }


def _embeddings(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    texts = _inputs(body)
    size = body.get("output_dimension")
    size = size if isinstance(size, int) and 0 < size <= 3072 else 1024
    return {
        "id": f"{dice.getrandbits(128):032x}",
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": _vector(text, size), "index": index}
            for index, text in enumerate(texts)
        ],
        "model": model,
        "usage": _usage(" ".join(texts), ""),
    }


def _vector(text: str, size: int) -> list[float]:
    # As bytes: JSON may hold half a surrogate pair, which is no text that could be encoded.
    dice = random.Random(text.encode(errors="surrogatepass"))  # noqa: S311 (no secret)
    return [round(dice.uniform(-0.1, 0.1), 6) for _ in range(size)]


CATEGORIES = (
    "sexual",
    "hate_and_discrimination",
    "violence_and_threats",
    "dangerous_and_criminal_content",
    "selfharm",
    "health",
    "financial",
    "law",
    "pii",
)


def _moderations(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    def result() -> Body:
        scores = {name: round(dice.uniform(0, 0.1), 6) for name in CATEGORIES}
        return {"categories": dict.fromkeys(CATEGORIES, False), "category_scores": scores}

    return _judgement(body, model, dice, result)


def _classifications(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    def result() -> Body:
        share = round(dice.uniform(0.5, 1), 6)
        return {"intent": {"scores": {"question": share, "statement": round(1 - share, 6)}}}

    return _judgement(body, model, dice, result)


def _judgement(body: Body, model: str, dice: random.Random, result: Callable[[], Body]) -> Body:
    return {
        "id": f"{dice.getrandbits(128):032x}",
        "model": model,
        "usage": _usage(" ".join(_inputs(body)), ""),
        "results": [result() for _ in _inputs(body)],
    }


def _ocr(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    count = dice.randint(1, 3)
    pages = [
        {
            "index": index,
            "markdown": f"# Sandbox page {index + 1}\n\nNothing was read.",
            "images": [],
            "dimensions": {"dpi": 200, "height": 2200, "width": 1700},
        }
        for index in range(count)
    ]
    usage = {"pages_processed": count, "doc_size_bytes": dice.randint(10_000, 900_000)}
    return {"pages": pages, "model": model, "document_annotation": None, "usage_info": usage}


def _conversations(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    text = f"Sandbox answer to: {_prompt(body)}"
    now = datetime.fromtimestamp(moment, UTC).isoformat()
    output = {
        "object": "entry",
        "type": "message.output",
        "created_at": now,
        "completed_at": now,
        "id": f"msg_{dice.getrandbits(128):032x}",
        "model": model,
        "role": "assistant",
        "content": text,
    }
    return {
        "object": "conversation.response",
        "conversation_id": f"conv_{dice.getrandbits(128):032x}",
        "outputs": [output],
        "usage": _usage(_prompt(body), text),
    }


def _transcriptions(body: Body, model: str, dice: random.Random, moment: int) -> Body:
    text = "Sandbox transcription: nothing was heard."
    usage = _usage("", text) | {"prompt_audio_seconds": dice.randint(1, 600)}
    return {"model": model, "text": text, "language": "en", "segments": [], "usage": usage}


# Mistral's OpenAPI, schema ApiEndpoint: all ten.
BODIES: dict[str, Callable[[Body, str, random.Random, int], Body]] = {
    "/v1/chat/completions": _chat,
    "/v1/embeddings": _embeddings,
    "/v1/fim/completions": _chat,
    "/v1/moderations": _moderations,
    "/v1/chat/moderations": _moderations,
    "/v1/ocr": _ocr,
    "/v1/classifications": _classifications,
    "/v1/chat/classifications": _classifications,
    "/v1/conversations": _conversations,
    "/v1/audio/transcriptions": _transcriptions,
}


def _inputs(body: Body) -> list[str]:
    """The texts of an `input` member: one text or conversation, or a list of them."""
    value = body.get("input", "")
    # One conversation is a list of messages.
    many = isinstance(value, list) and not any(
        isinstance(item, dict) and "role" in item for item in value
    )
    return [str(item) for item in value] if many else [str(value)]


def _prompt(body: Body) -> str:
    """The last thing the user said, shortened."""
    messages = body.get("messages") or body.get("inputs") or body.get("prompt") or ""
    last = messages[-1] if isinstance(messages, list) and messages else messages
    content = last.get("content", "") if isinstance(last, dict) else last
    return str(content)[:200]


def _usage(prompt: str, answer: str) -> Body:
    """Token counts at the usual four characters for each."""
    asked, answered = len(prompt) // 4 + 1, len(answer) // 4
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }
