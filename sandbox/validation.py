"""What Mistral refuses with 422: create bodies, lines of input files, forms, queries, ids.

Names and limits are those of Mistral's OpenAPI. pydantic checks them, in whose words Mistral's own
answers are (schema ValidationError: rows of type, loc, msg, input).
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from sandbox.answers import Invalid
from sandbox.jobs import STATUSES
from sandbox.results import BODIES

Endpoint = Enum("Endpoint", {name: name for name in BODIES})  # type: ignore[misc]
Status = Enum("Status", {name: name for name in STATUSES})  # type: ignore[misc]
Key = Annotated[str, Field(min_length=1, max_length=32)]
Value = Annotated[str, Field(min_length=1, max_length=512)]
# Parameters of which all values count.
LISTS = ("status", "sample_type", "source", "mimetypes")


class Line(TypedDict):
    """One request, inline or a line of an input file."""

    custom_id: NotRequired[str | None]
    body: dict[str, Any]


class Create(TypedDict, total=False):
    """The body of a create."""

    endpoint: Required[Endpoint]
    input_files: list[uuid.UUID] | None
    requests: Annotated[list[Line], Field(max_length=10_000)] | None
    model: str | None
    agent_id: str | None
    metadata: dict[Key, Value] | None
    timeout_hours: Annotated[int, Field(ge=1, le=168)]


class Page(TypedDict, total=False):
    """Which part of a list is asked for."""

    page: Annotated[int, Field(ge=0)]
    page_size: Annotated[int, Field(ge=1)]


class JobsQuery(Page, total=False):
    """Which jobs are listed; any other parameter is a member of the metadata filter."""

    order_by: Literal["created", "-created"]
    status: list[Status]
    model: str
    agent_id: str
    created_after: datetime
    created_by_me: bool


class JobQuery(TypedDict, total=False):
    """How a job is shown."""

    inline: bool


class FilesQuery(Page, total=False):
    """Which files are listed."""

    sample_type: list[str]
    source: list[Literal["upload", "repository", "mistral"]]
    purpose: str
    mimetypes: list[str]
    search: str
    include_total: bool


class Upload(TypedDict, total=False):
    """The fields beside an uploaded file; `expiry` is job hours."""

    purpose: str
    visibility: Literal["workspace", "user"]
    expiry: Annotated[int, Field(ge=1, le=1_000_000)]


class LinkQuery(TypedDict, total=False):
    """For how many job hours a signed address is good."""

    expiry: Annotated[int, Field(ge=1, le=168)]


class Advance(TypedDict):
    """Job seconds, up to ten years: times stay dates that can be written."""

    seconds: Annotated[float, Field(ge=0, le=10 * 365 * 86400)]


def parse_json(text: str | bytes) -> Any:
    """The value of JSON; raises ValueError or RecursionError for anything else, NaN and Infinity too."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _decoder.decode(text)


def is_line(value: Any) -> bool:
    """Whether a value is surely a Line: quicker than `checked`, which says what is wrong with others."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("body"), dict)
        and isinstance(value.get("custom_id"), str | None)
    )


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_not_json)  # costs more than a short text
_adapter = cache(TypeAdapter)  # costs a millisecond


def checked(form: Any, value: Any, *loc: str | int, refuse_unknown: bool = False) -> Any:
    """`value` in the types of `form`, without what that does not name; `loc` is where it stands.

    Raises Invalid when it is not of that form.
    """
    extra: Literal["forbid", "ignore"] = "forbid" if refuse_unknown else "ignore"
    try:
        return _adapter(form).validate_python(value, extra=extra)
    except ValidationError as error:
        rows = error.errors(include_url=False, include_context=False)
        raise Invalid([{**row, "loc": [*loc, *row["loc"]]} for row in rows]) from error


def checked_query(form: Any, values: Any) -> Any:
    """As `checked`, for a werkzeug MultiDict of query parameters; of several values the last counts, unless all do."""
    every = {name: values.getlist(name) for name in values}
    given = {name: texts if name in LISTS else texts[-1] for name, texts in every.items()}
    return checked(form, given, "query")


def path_id(text: str, name: str) -> str:
    """The id in a path, in canonical form; raises Invalid when it is no UUID."""
    return str(checked(uuid.UUID, text, "path", name))
