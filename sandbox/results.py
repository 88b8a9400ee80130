"""What the requests of a job answer: output lines with a plausible body per endpoint.

Lines are computed when somebody reads them, always the same ones for the same job.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.jobs import MESSAGES, Failure, Job, completion_order

Body = dict[str, Any]

_encoder = json.JSONEncoder(separators=(",", ":"))


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


def jsonl(rows: Iterable[Body]) -> Iterator[bytes]:
    """Rows as the lines of a JSON Lines file."""
    return (_encoder.encode(row).encode() + b"\n" for row in rows)


def _line(job: Job, index: int, failure: Failure | None, moment: int) -> Body:
    rng = random.Random(f"{job.id}/{index}")  # noqa: S311 (no secret)
    request = job.requests[index]
    name = uuid.UUID(int=rng.getrandbits(128), version=4)
    line: Body = {
        "id": f"batch-{job.id[:8]}-{index + 1}-{name}",
        "custom_id": request.custom_id,
    }
    if failure is None:
        # The job's model wins over the one in a request's body.
        named = job.model or request.body.get("model") or request.body.get("agent_id")
        body = BODIES[job.endpoint](Question(request.body, named or "sandbox-model", rng, moment))
        return line | {"response": {"status_code": 200, "body": body}, "error": None}
    message = MESSAGES[failure.kind]
    # Live errors are seen in both forms: a bare string, and an object.
    if failure.kind == 0:
        return line | {"response": None, "error": message}
    error = {"object": "error", "message": message, "type": "invalid_request_error", "code": "3000"}
    return line | {"response": {"status_code": 422, "body": error}, "error": error}


CHARACTERS = 4
"""Of a token, as usual."""


@dataclass(frozen=True)
class Question:
    """What one request asks, and what its answer is filled with; `moment` is a Unix time."""

    body: Body
    model: str
    rng: random.Random
    moment: int

    def new_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.rng.getrandbits(128):032x}"

    @property
    def prompt(self) -> str:
        """The last thing the user said, shortened."""
        body = self.body
        messages = body.get("messages") or body.get("inputs") or body.get("prompt") or ""
        last = messages[-1] if isinstance(messages, list) and messages else messages
        return str(last.get("content", "") if isinstance(last, dict) else last)[:200]

    @property
    def reply(self) -> str:
        """What a model would say, cut at `max_tokens`."""
        return self._said if self.most is None else self._said[: self.most * CHARACTERS]

    @property
    def finish_reason(self) -> str:
        """Why the reply ends."""
        return "stop" if self.reply == self._said else "length"

    @property
    def most(self) -> int | None:
        """Tokens that the reply may have."""
        limit = self.body.get("max_tokens")
        return limit if isinstance(limit, int) and limit >= 0 else None

    @property
    def _said(self) -> str:
        return f"Sandbox answer to: {self.prompt}"

    @property
    def inputs(self) -> list[str]:
        """The texts of an `input` member: one text or conversation (a list of messages), or a list of them."""
        value = self.body.get("input", "")
        messages = isinstance(value, list) and any(
            isinstance(m, dict) and "role" in m for m in value
        )
        return list(map(str, value)) if isinstance(value, list) and not messages else [str(value)]

    def usage(self, prompt: str, reply: str = "") -> Body:
        """Token counts at CHARACTERS for each."""
        asked, answered = len(prompt) // CHARACTERS + 1, len(reply) // CHARACTERS
        return {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }


def _chat(asked: Question) -> Body:
    message = {"role": "assistant", "tool_calls": None, "content": asked.reply, "prefix": False}
    return {
        "id": asked.new_id(),
        "object": "chat.completion",
        "created": asked.moment,
        "model": asked.model,
        "usage": asked.usage(asked.prompt, asked.reply),
        "choices": [{"index": 0, "finish_reason": asked.finish_reason, "message": message}],
    }


def _embeddings(asked: Question) -> Body:
    size = asked.body.get("output_dimension")
    size = size if isinstance(size, int) and 0 < size <= 3072 else 1024

    def vector(text: str) -> list[float]:
        # As bytes: JSON may hold half a surrogate pair, which is no text that could be encoded.
        rng = random.Random(text.encode(errors="surrogatepass"))  # noqa: S311 (no secret)
        return [round(rng.uniform(-0.1, 0.1), 6) for _ in range(size)]

    return {
        "id": asked.new_id(),
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector(text), "index": index}
            for index, text in enumerate(asked.inputs)
        ],
        "model": asked.model,
        "usage": asked.usage(" ".join(asked.inputs)),
    }


CATEGORIES = (
    *("sexual", "hate_and_discrimination", "violence_and_threats"),
    *("dangerous_and_criminal_content", "selfharm", "health", "financial", "law", "pii"),
)


def _moderation(rng: random.Random) -> Body:
    scores = {name: round(rng.uniform(0, 0.1), 6) for name in CATEGORIES}
    return {"categories": dict.fromkeys(CATEGORIES, False), "category_scores": scores}


def _classification(rng: random.Random) -> Body:
    share = round(rng.uniform(0.5, 1), 6)
    return {"intent": {"scores": {"question": share, "statement": round(1 - share, 6)}}}


def _each_input(result: Callable[[random.Random], Body]) -> Callable[[Question], Body]:
    """An answer with a result for each of the inputs."""
    return lambda asked: {
        "id": asked.new_id(),
        "model": asked.model,
        "usage": asked.usage(" ".join(asked.inputs)),
        "results": [result(asked.rng) for _ in asked.inputs],
    }


def _ocr(asked: Question) -> Body:
    pages = [
        {
            "index": index,
            "markdown": f"# Sandbox page {index + 1}\n\nNothing was read.",
            "images": [],
            "dimensions": {"dpi": 200, "height": 2200, "width": 1700},
        }
        for index in range(asked.rng.randint(1, 3))
    ]
    usage = {"pages_processed": len(pages), "doc_size_bytes": asked.rng.randint(10_000, 900_000)}
    return {"pages": pages, "model": asked.model, "document_annotation": None, "usage_info": usage}


def _conversations(asked: Question) -> Body:
    now = datetime.fromtimestamp(asked.moment, UTC).isoformat()
    output = {
        "object": "entry",
        "type": "message.output",
        "created_at": now,
        "completed_at": now,
        "id": f"msg_{asked.new_id()}",
        "model": asked.model,
        "role": "assistant",
        "content": asked.reply,
    }
    return {
        "object": "conversation.response",
        "conversation_id": f"conv_{asked.new_id()}",
        "outputs": [output],
        "usage": asked.usage(asked.prompt, asked.reply),
    }


def _transcriptions(asked: Question) -> Body:
    text = "Sandbox transcription: nothing was heard."
    usage = asked.usage("", text) | {"prompt_audio_seconds": asked.rng.randint(1, 600)}
    return {"model": asked.model, "text": text, "language": "en", "segments": [], "usage": usage}


# Mistral's OpenAPI, schema ApiEndpoint: all ten.
BODIES: dict[str, Callable[[Question], Body]] = {
    "/v1/chat/completions": _chat,
    "/v1/embeddings": _embeddings,
    "/v1/fim/completions": _chat,
    "/v1/moderations": _each_input(_moderation),
    "/v1/chat/moderations": _each_input(_moderation),
    "/v1/ocr": _ocr,
    "/v1/classifications": _each_input(_classification),
    "/v1/chat/classifications": _each_input(_classification),
    "/v1/conversations": _conversations,
    "/v1/audio/transcriptions": _transcriptions,
}
