"""The create request as pydantic models, as a FastAPI gateway would declare it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class BatchRequest(BaseModel):
    """One request of a job."""

    custom_id: str | None = None
    body: dict[str, Any]


class CreateBatchJob(BaseModel):
    """A job to create."""

    model_config = ConfigDict(extra="allow")

    endpoint: str
    model: str | None = None
    agent_id: str | None = None
    requests: list[BatchRequest] | None = Field(default=None, max_length=10_000)
    input_files: list[str] | None = None
    metadata: dict[str, str] | None = None
    timeout_hours: int = Field(default=24, ge=1, le=168)
