"""Names: which known one a wrong name stands for, and how little is looked at to find it."""

from __future__ import annotations

import pytest

from openapi.names import Names, is_slip, near_name

NAMES = Names(
    {
        "page": {"x-aliases": ["offset", "page_number"]},
        "page_size": {"x-aliases": ["limit", "page"]},
        "status": {"x-unlike": ["stats"]},
        "created_after": {},
    }
)


@pytest.mark.parametrize(
    ("given", "known"),
    [("statuss", "status"), ("staus", "status"), ("stotus", "status"), ("satus", "status"), ("sttaus", "status"),
     ("creatdafer", "createdafter"), ("craetedaftre", "createdafter"), ("createdafteriq", "createdafter"), ("v2", "v1")],
)  # fmt: skip
def test_a_slip_of_the_keyboard_or_two_in_a_long_name_is_one(given: str, known: str) -> None:
    assert is_slip(given, known)


@pytest.mark.parametrize(
    ("given", "known"),
    [("sttus1", "status"), ("tatus", "status"), ("substatus", "status"), ("statuscode", "status"), ("age", "page"),
     ("parentid", "agentid"), ("createdby", "createdbyme"), ("createdfor", "createdafter"), ("requestid", "requests"),
     ("border", "orderby"), ("creatfer", "createdafter"), ("", "id"), ("xx", "id")],
)  # fmt: skip
def test_what_begins_otherwise_or_differs_more_is_none(given: str, known: str) -> None:
    assert not is_slip(given, known)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PageSize", "page_size"), ("page-size", "page_size"), ("page[size]", "page_size"), ("filter[page_size][eq]", "page_size"),
     ("limit", "page_size"), ("offset[]", "page"), ("pageNumber", "page"), ("page", "page"), ("limt", None), ("ofset", None),
     ("stats", None), ("stats[]", None), ("stat", None), ("", None), ("[]", None), ("a" * 10_000, None),
     ("a" * 200 + "[page]", None), ("[a" * 5 + "[page]", None)],
)  # fmt: skip
def test_a_name_stands_for_the_one_with_its_letters_its_alias_or_a_slip(
    name: str, meant: str | None
) -> None:
    assert NAMES.meant(name) == meant


def test_names_without_schemas_are_known_by_their_letters_and_slips() -> None:
    tools = ["get-batch-job", "list-batch-jobs"]
    assert near_name("get_batch_job", tools) == "get-batch-job"
    assert near_name("getBatchJobs", tools) == "get-batch-job"
    assert near_name("delete-batch-job", tools) is None
