"""The query: what callers write in other ways is understood where it can mean one thing only, and refused with the right name otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from responses import RequestsMock
from starlette.testclient import TestClient

from tests.conftest import UPSTREAM
from tests.support.api import JOB_ID

JOBS = f"{UPSTREAM}/v1/batch/jobs"
FILES = f"{UPSTREAM}/v1/files"
EMPTY = {"object": "list", "total": 0, "data": []}


def errors(client: TestClient, target: str) -> list[dict[str, str]]:
    """What is wrong with it: it is refused, and nothing is sent."""
    answer = client.get(target)
    assert answer.status_code == 422
    found: list[dict[str, str]] = answer.json()["errors"]
    return found


def sent(mistral: RequestsMock, client: TestClient, target: str) -> str:
    """The query as it is sent upstream."""
    for url in (JOBS, FILES, f"{JOBS}/{JOB_ID}"):
        mistral.get(url, json=EMPTY)
    assert client.get(target).status_code == 200
    return str(mistral.calls[-1].request.url).partition("?")[2]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        *((name, "page_size") for name in ("page_sise", "pageSize", "page-size", "PAGE_SIZE", "PageSize", "page_sizes", "page size")),
        *((name, "page_size") for name in ("limit", "per_page", "perPage", "size", "maxResults", "$top", "page[size]", "limits")),
        *((name, "page") for name in ("Page", "pages", "pgae", "offset", "skip", "cursor", "after", "pageToken", "page[number]")),
        *((name, "page") for name in ("after_id", "before_id", "next_token", "nextToken", "next", "marker", "startAt", "start_index")),
        *((name, "status") for name in ("status[]", "status[0]", "Status", "statuses", "filter[status]", "state", "staus", "status[in]")),
        *((name, "order_by") for name in ("orderBy", "order", "sort", "sort_by", "sort[created]", "order_byy")),
        *((name, "created_after") for name in ("since", "created_at", "createdAfter", "created[gte]", "created_after[]", "created_afer")),
        *((name, "created_after") for name in ("created_until", "created_time", "createTime", "creatd_afer")),
        *((name, "created_by_me") for name in ("createdByMe", "created_by_m", "mine")),
        *((name, "model") for name in ("models", "Model", "model_id", "modle", "filter[model]")),
        *((name, "agent_id") for name in ("agentId", "agent_di", "agentsid")),
        *((name, "metadata") for name in ("metadata[]", "metadata[a][b]", "meta_data", "metdata")),
    ],
)  # fmt: skip
def test_a_name_that_looks_like_a_parameter_of_the_list_is_no_filter_but_refused_with_the_right_one(
    name: str, right: str, client: TestClient
) -> None:
    [error] = errors(
        client, str(client.build_request("GET", "/v1/batch/jobs", params={name: "1"}).url)
    )
    assert error["pointer"] == f"/query/{name}"
    assert f"did you mean {right}?" in error["detail"]


@pytest.mark.parametrize(
    ("name", "right"),
    [("limit", "page_size"), ("sample_type[]", "sample_type"), ("mimeType", "mimetypes"), ("q", "search")],
)  # fmt: skip
def test_the_list_of_files_knows_the_same_words(name: str, right: str, client: TestClient) -> None:
    [error] = errors(client, f"/v1/files?{name}=1")
    assert f"did you mean {right}?" in error["detail"]


@pytest.mark.parametrize("name", ["inline", "Inline"])
def test_a_parameter_of_another_operation_of_the_same_api_is_no_filter(
    name: str, client: TestClient
) -> None:
    [error] = errors(client, f"/v1/batch/jobs?{name}=1")
    assert "GET /v1/batch/jobs/{job-id}," in error["detail"]
    assert f"metadata[{name}]" in error["detail"]


# Names that people give to metadata, of which many begin or end as a parameter does.
FILTERS = [
    "project",
    "job_type",
    "team",
    "stage",
    "env",
    "run_id",
    "name",
    "parent_id",
    "agent",
    "agent_name",
    "agents",
    "agency",
    "age",
    "page_id",
    "pageant",
    "stats",
    "status_code",
    "status_id",
    "substatus",
    "border",
    "orders",
    "order_id",
    "created_by",
    "created_for",
    "author",
    "count",
    "from",
    "first",
    "start",
    "end",
    "priority",
    "date",
    "version",
    "user_id",
    "batch_id",
    "job_id",
    "job-id",
    "customer",
    "customer_id",
    "source",
    "type",
    "kind",
    "region",
    "tenant",
    "owner",
    "model_type",
    "language",
    "tag",
    "tags",
    "title",
    "state_id",
    "limited",
    "size_gb",
    "sorted",
    "metric",
    "meta",
    "file_id",
    "request_id",
    "trace_id",
    "experiment",
    "dataset",
    "split",
    "seed",
    "note",
]


def test_any_other_name_is_a_filter(mistral: RequestsMock, client: TestClient) -> None:
    query = "&".join(f"{name}=a" for name in FILTERS)
    assert sent(mistral, client, f"/v1/batch/jobs?{query}") == query


@pytest.mark.parametrize("given", ["metadata[limit]", "metadata%5Blimit%5D", "metadata.limit"])
def test_a_filter_with_the_name_of_a_parameter_is_given_in_brackets_and_sent_as_the_sdks_send_it(
    given: str, mistral: RequestsMock, client: TestClient
) -> None:
    assert sent(mistral, client, f"/v1/batch/jobs?{given}=a&page=1") == "limit=a&page=1"


@pytest.mark.parametrize(
    "query",
    [
        *("metadata[status]=a", "metadata=a", "metadata=%7B%22project%22:%22a%22%7D"),
        *("metadata[metadata]=a", "metadata.metadata=a", "metadata.metadata[a]=a"),
    ],
)
def test_a_filter_that_would_be_sent_as_something_else_is_refused(
    query: str, client: TestClient
) -> None:
    assert errors(client, f"/v1/batch/jobs?{query}")


@pytest.mark.parametrize(
    ("query", "body", "warned"),
    [
        ("team=a&t%C3%A9l=1&x%0A=1&team=b", EMPTY, "team, t%C3%A9l, x%0A"),
        ("metadata[limit]=a&page=0", EMPTY, "limit"),
        ("a=1&b=1&c=1&d=1&e=1&f=1", EMPTY, "a, b, c, d, e and others"),
        ("team=a", {**EMPTY, "total": 3}, ""),
        ("team=a", {**EMPTY, "total": 1, "data": [{"id": "a" * 2000}]}, ""),
        ("model=a&status=SUCCESS", EMPTY, ""),
    ],
)
def test_a_list_with_nothing_in_it_names_what_was_taken_for_a_filter(
    query: str, body: Any, warned: str, mistral: RequestsMock, client: TestClient
) -> None:
    mistral.get(JOBS, json=body)
    answer = client.get(f"/v1/batch/jobs?{query}")
    assert answer.json() == body
    assert answer.headers.get("gateway-warning", "").rpartition(": ")[2] == warned


@pytest.mark.parametrize(
    ("given", "upstream"),
    [
        *((text, "true") for text in ("true", "True", "TRUE", "1", "yes", "on", "t", "Y")),
        *((text, "false") for text in ("false", "False", "FALSE", "0", "no", "OFF", "f", "n")),
    ],
)
def test_a_truth_value_is_understood_as_mistral_does_and_sent_in_one_form(
    given: str, upstream: str, mistral: RequestsMock, client: TestClient
) -> None:
    """pydantic 2, "Booleans"; Python's requests and the like write True."""
    assert sent(mistral, client, f"/v1/batch/jobs/{JOB_ID}?inline={given}") == f"inline={upstream}"


def test_values_of_files_that_are_known_are_told_apart_and_spelt_as_they_are(
    mistral: RequestsMock, client: TestClient
) -> None:
    query = sent(mistral, client, "/v1/files?sample_type=BATCH_RESULT,batch_error&source=new")
    wanted = "sample_type=batch_result&sample_type=batch_error&source=new"
    assert query == f"{wanted}&purpose=batch"


@pytest.mark.parametrize(
    ("given", "upstream"),
    [
        ("page=0.0&page_size=20.0", "page=0&page_size=20"),
        ("page_size=2e1", "page_size=20"),
        ("page_size=%2020&page=+2", "page_size=20&page=2"),
        ("created_by_me=yes%20&order_by=%20Created", "created_by_me=true&order_by=created"),
        ("status=success&status=Failed", "status=SUCCESS&status=FAILED"),
        ("status=SUCCESS,FAILED&page=1", "status=SUCCESS&status=FAILED&page=1"),
        ("status=success,%20failed&status=RUNNING", "status=SUCCESS&status=FAILED&status=RUNNING"),
        ("order_by=-Created", "order_by=-created"),
        ("created_after=2026-01-02T03:04:05+02:00", "created_after=2026-01-02T03%3A04%3A05%2B02%3A00"),
        ("created_after=2026-01-02+03:04:05+0200", "created_after=2026-01-02%2003%3A04%3A05%2B0200"),
        ("created_after=2026-01-02+03:04:05", "created_after=2026-01-02%2003%3A04%3A05"),
    ],
)  # fmt: skip
def test_a_value_that_means_one_thing_only_is_sent_in_its_usual_form(
    given: str, upstream: str, mistral: RequestsMock, client: TestClient
) -> None:
    assert sent(mistral, client, f"/v1/batch/jobs?{given}") == upstream


@pytest.mark.parametrize(
    "query",
    [
        *(f"page_size={text}" for text in ("20.5", "1e400", "5 5", "+-20", "0x10", "1_0", "true", "", "null")),
        *(f"created_by_me={text}" for text in ("2", "", "None", "1.0", "ja")),
        *(f"status={text}" for text in ("DONE", "", "SUCCESS,", "SUCCESS;FAILED", "SUCCESS,SUCCES")),
        *("model=", "model=%20", "agent_id=+", "created_after=", "created_after=2026-01-02T03:04:05++02:00", "order_by="),
    ],
)  # fmt: skip
def test_a_value_that_may_mean_nothing_is_refused_at_its_place(
    query: str, client: TestClient
) -> None:
    [error] = errors(client, f"/v1/batch/jobs?{query}")
    assert error["pointer"].startswith(f"/query/{query.partition('=')[0]}")


def test_a_name_of_many_brackets_is_looked_at_in_a_few_parts_only(
    monkeypatch: pytest.MonkeyPatch, mistral: RequestsMock, client: TestClient
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr("openapi.names.letters", lambda name: looked_at.append(name) or name)
    name = "%5Ba" * 2000
    assert sent(mistral, client, f"/v1/batch/jobs?{name}=1") == f"{name}=1"
    assert len(looked_at) <= 6 and max(map(len, looked_at)) <= 200
