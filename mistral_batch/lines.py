"""What a row asks: its `custom_id` and its request line in Mistral's form, from the options `--prompt`, `--body` and the like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from .sources import Batch, Source


class Form(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a row becomes a request. Without `prompt` and `body` rows are requests already, in Mistral's form (or OpenAI's).

    `id` is the column with the `custom_id`, else the rows are numbered; `{column}` in `prompt`, `system` and in strings of `body`
    stands for the row's value, `{{` for a brace.
    """

    endpoint: str = ""
    model: str = ""
    id: str = ""
    prompt: str = ""
    system: str = ""
    max_tokens: int | None = None
    body: dict[str, Any] | None = None


class Lines:
    """The requests of `source` by `form`; InputError for a form that the source's columns do not fit.

    `endpoint` and `model` are those of the job: the form's, else the first request's, else (endpoint) /v1/chat/completions.
    """

    def __init__(self, source: Source, form: Form) -> None:
        self.source = source
        self.form = form
        self.endpoint = ""
        self.model = ""

    def ids(self, batch: Batch) -> list[str]:
        """The `custom_id` of each row."""
        raise NotImplementedError

    def of(self, batch: Batch) -> Iterator[bytes]:
        """The request line of each row, without a line end. InputError for a row that cannot be one, with its place."""
        raise NotImplementedError
