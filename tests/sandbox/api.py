"""The sandbox under Flask's test client, with its clock standing still."""

from __future__ import annotations

import io
from typing import Any

from sandbox.app import create_app
from sandbox.config import Settings, key_digests
from tests.support.api import JOBS

CHAT = "/v1/chat/completions"


class Api:
    """A sandbox of its own; answers are (status, JSON). With speed 0 only `advance` passes time."""

    def __init__(self, **settings: Any) -> None:
        for name in ("keys", "revoked_keys"):
            if name in settings:
                settings[name] = key_digests(settings[name])
        self.app = create_app(Settings(**{"speed": 0.0, "seed": 1, **settings}))
        self.client = self.app.test_client()

    def call(self, method: str, path: str, *, key: str | None = "k", **options: Any) -> Any:
        """A whole answer."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self.client.open(path, method=method, headers=headers, **options)

    def json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        response = self.call(method, path, **options)
        return response.status_code, response.json

    def create(self, texts: list[str] | None = None, **members: Any) -> Any:
        """A new job with one chat request for each text."""
        key = members.pop("key", "k")
        status, job = self.json("POST", JOBS, json=body(texts, **members), key=key)
        assert status == 200, job
        return job

    def get(self, job: dict[str, Any], **query: str) -> Any:
        """The job now."""
        status, now = self.json("GET", f"{JOBS}/{job['id']}", query_string=query)
        assert status == 200, now
        return now

    def list(self, key: str = "k", **query: Any) -> list[str]:
        """The ids on a page of the list."""
        status, page = self.json("GET", JOBS, query_string=query, key=key)
        assert status == 200, page
        return [job["id"] for job in page["data"]]

    def advance(self, seconds: float) -> None:
        """Let job seconds pass."""
        status, answer = self.json("POST", "/sandbox/clock/advance", json={"seconds": seconds})
        assert status == 200, answer

    def finish(self, job: dict[str, Any], **query: str) -> Any:
        """The job after an hour."""
        self.advance(3600)
        return self.get(job, **query)

    def upload(self, content: bytes, name: str = "in.jsonl", **fields: str) -> tuple[int, Any]:
        """The answer to an upload."""
        data = {"purpose": "batch", **fields, "file": (io.BytesIO(content), name)}
        return self.json("POST", "/v1/files", data=data)


def body(texts: list[str] | None = None, **members: Any) -> dict[str, Any]:
    """A create body; members that are None are left out."""
    requests = [
        {"custom_id": str(n), "body": {"messages": [{"role": "user", "content": text}]}}
        for n, text in enumerate(texts if texts is not None else ["one", "two", "three"])
    ]
    whole = {"endpoint": CHAT, "model": "mistral-small-latest", "requests": requests} | members
    return {name: value for name, value in whole.items() if value is not None}
