"""Calls that failed, as a model is told of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_bridge.asked import Asked
from mcp_bridge.failures import KINDS, NO_QUOTA, Failures
from mcp_bridge.rest_client import Answer, RestRequest
from mcp_bridge.tools import CallableTool
from service.problems import PROBLEMS

Tools = dict[str, CallableTool]
JOB = "0bd383e8-2853-4521-aa4c-1a119bb1993a"
CALL = Asked(RestRequest("GET", f"/v1/batch/jobs/{JOB}", {}, None), ids=(("job_id", JOB),))
CHECKS = "list-batch-jobs or get-batch-job"
SECRET = "bridge/token+1"


def problem(slug: str, **more: Any) -> dict[str, Any]:
    kind = PROBLEMS[slug]
    return {
        "type": f"https://example/problems#{slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": "A detail.",
        "source": kind.source,
        "retryable": kind.retryable,
        "request_id": "r-1",
        **more,
    }


def said(
    tool: CallableTool, answer: Any, status: int = 0, asked: Asked = CALL, **headers: str
) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    answered = Answer(status or answer["status"], names, content)
    made = Failures("Mistral", SECRET).refused(tool, asked, answered)
    assert made["isError"] is True and "structuredContent" not in made
    (block,) = made["content"]
    return str(block["text"])


class TestTheBridgesOwnToken:
    @pytest.mark.parametrize("member", ["title", "detail", "upstream", "request_id"])
    def test_is_in_no_failure(self, tools: Tools, member: str) -> None:
        answer = problem("upstream-rejected", type="/problems#new")
        answer = answer | {member: f"Bearer {SECRET}"}
        text = said(tools["get-batch-job"], answer, Retry_After=SECRET)
        assert SECRET not in text and "***" in text

    def test_is_not_even_halved(self, tools: Tools) -> None:
        answer = problem("upstream-rejected", upstream={"m": "x" * 485 + SECRET})
        assert SECRET[:4] not in said(tools["get-batch-job"], answer)


class TestFailure:
    @pytest.mark.parametrize("slug", PROBLEMS)
    @pytest.mark.parametrize("name", ["get-batch-job", "create-batch-job"])
    def test_of_every_kind_says_what_whose_fault_and_what_next(
        self, tools: Tools, slug: str, name: str
    ) -> None:
        text = said(tools[name], problem(slug))
        assert text.startswith(f"{name} failed: ") and "Request id: r-1." in text
        assert f"(HTTP {PROBLEMS[slug].status}.)" in text
        next_steps = ("The same call can work", "The same call would fail", "may have taken effect")
        assert sum(step in text for step in next_steps) == 1
        assert "\n" not in text

    @pytest.mark.parametrize("slug", PROBLEMS)
    def test_of_every_kind_speaks_of_nothing_that_a_model_does_not_have(
        self, tools: Tools, slug: str
    ) -> None:
        assert slug in KINDS
        detail = "The upstream gave GET /v1/x up. It needs GATEWAY_KEY (GATEWAY_KEY)."
        passed = KINDS[slug].detailed
        answer = problem(slug, detail="It is so (GATEWAY_KEY)." if passed else detail)
        for name in ("get-batch-job", "create-batch-job", "read-file", "list-files"):
            text = said(tools[name], answer, asked=Asked(CALL.request))
            assert ("It is so." in text) == passed
            for word in ("pstream", "REST", "GATEWAY_", "/v1", "GET ", "Idempotency-Key", "{}"):
                assert word not in text

    def test_of_a_kind_that_is_not_known_has_its_own_words(self, tools: Tools) -> None:
        answer = problem("upstream-failed", type="/problems#new", title="A {} {new} one")
        text = said(tools["get-batch-job"], answer)
        assert text.startswith("get-batch-job failed: A Mistral {new} one. A detail. (HTTP 500.)")

    def test_for_want_of_a_thing_names_the_argument_and_its_value(self, tools: Tools) -> None:
        words = problem("upstream-rejected", status=404, upstream={"detail": "Not Found"})
        for answer in (words, problem("not-found")):
            text = said(tools["get-batch-job"], answer)
            assert text.startswith(f'get-batch-job failed: Nothing was found for job_id "{JOB}".')
            assert "Check the ids in the arguments." in text and "would fail again" in text
        assert "Mistral said: Not Found." in said(tools["get-batch-job"], words)

    def test_for_want_of_one_of_several_names_them_all(self, tools: Tools) -> None:
        several = Asked(CALL.request, ids=(("input_files", "a"), ("input_files", "b")))
        answer = problem("upstream-rejected", status=404)
        text = said(tools["create-batch-job"], answer, asked=several)
        assert 'One of these was not found: input_files "a", input_files "b".' in text

    def test_for_want_of_what_nothing_names_is_for_the_operator(self, tools: Tools) -> None:
        for slug in ("upstream-rejected", "not-found"):
            answer = problem(slug, status=404)
            text = said(tools["list-batch-jobs"], answer, asked=Asked(CALL.request))
            who = "The gateway" if slug == "not-found" else "Mistral"
            assert f"failed: {who} knows no such call." in text and "operator can help" in text

    def test_for_want_of_a_quota_says_that_no_repeat_helps(self, tools: Tools) -> None:
        for retryable in (True, False):
            answer = problem("rate-limited", retryable=retryable)
            assert (NO_QUOTA in said(tools["get-batch-job"], answer)) is not retryable

    def test_for_its_size_says_how_to_ask_for_less(self, tools: Tools) -> None:
        answer = problem("upstream-answer-too-large")
        for name, less in (("list-batch-jobs", "smaller page_size"), ("get-file", "Ask for less")):
            assert less in said(tools[name], answer)

    def test_names_what_the_provider_answered_where_the_gateway_answers_otherwise(
        self, tools: Tools
    ) -> None:
        told = problem("upstream-refused-key", upstream_status=401)
        assert "(HTTP 502; Mistral answered 401.)" in said(tools["get-batch-job"], told)
        same = problem("upstream-rejected", status=404, upstream_status=404)
        assert "(HTTP 404.)" in said(tools["get-batch-job"], same)

    def test_names_nobody_where_the_document_names_no_provider(self, tools: Tools) -> None:
        failures = Failures("the provider")
        answer = Answer(500, {}, json.dumps(problem("upstream-failed", upstream="x")).encode())
        text = failures.refused(tools["get-batch-job"], CALL, answer)["content"][0]["text"]
        assert "failed: The provider failed. The provider said: x." in text

    def test_of_the_arguments_names_each_fault_by_its_argument(self, tools: Tools) -> None:
        faults = [
            {"pointer": "/body/timeout_hours", "detail": "must be at most 168"},
            {"pointer": "/body/requests/3/body", "detail": "is required"},
            {"pointer": "/query/page", "detail": "must be at least 0"},
            {"pointer": "/body/requests/1/custom_id", "detail": "repeats that of /body/requests/0"},
            {"pointer": "/query/purpose", "detail": "must be batch (GATEWAY_FILE_PURPOSES)"},
        ]
        text = said(tools["create-batch-job"], problem("validation-failed", errors=faults))
        assert (
            "A detail. timeout_hours must be at most 168. requests.3.body is required. page must"
            in text
        )
        assert "requests.1.custom_id repeats that of requests.0. purpose must be batch. " in text
        assert "arguments need a change" in text

    def test_of_a_file_s_lines_names_them_and_how_many_there_are(self, tools: Tools) -> None:
        faults = [
            {"pointer": f"/file/line/{line}", "detail": "It is not JSON: x."}
            for line in range(1, 101)
        ]
        detail = "250 faults in the file, by its lines; the first 100 are in errors."
        answer = problem("validation-failed", detail=detail, errors=faults)
        text = said(tools["upload-file"], answer)
        assert (
            f"upload-file failed: {detail} line 1: It is not JSON: x. line 2: It" in text
            and "line 100: It" in text
        )
        assert "would fail again" in text and "may have taken effect" not in text

    def test_of_an_upload_whose_answer_was_lost_says_where_to_look(self, tools: Tools) -> None:
        text = said(tools["upload-file"], problem("upstream-timeout"))
        assert "before any repeat, check with list-files or get-file." in text

    def test_that_time_heals_says_when(self, tools: Tools) -> None:
        text = said(tools["get-batch-job"], problem("rate-limited"), Retry_After="7")
        assert "The same call can work in 7 seconds." in text

    def test_that_a_date_heals_says_the_date(self, tools: Tools) -> None:
        date = "Wed, 25 Nov 2026 08:00:00 GMT"
        text = said(tools["get-batch-job"], problem("overloaded"), Retry_After=date)
        assert f"The same call can work after {date}." in text

    def test_after_which_a_creation_may_have_happened_says_where_to_look(
        self, tools: Tools
    ) -> None:
        text = said(tools["create-batch-job"], problem("upstream-timeout"))
        assert "may have taken effect" in text and f"check with {CHECKS}." in text
        assert "same arguments" in text

    def test_that_may_have_happened_and_can_be_repeated_says_that_it_acts_once(
        self, tools: Tools
    ) -> None:
        for slug in ("create-outcome-unknown", "outcome-still-unknown"):
            text = said(tools["create-batch-job"], problem(slug, retryable=True, status=504))
            assert "The same call can work soon, and does not act twice." in text
        for name, slug in (("create-batch-job", "rate-limited"), ("get-batch-job", "overloaded")):
            assert "The same call can work soon." in said(tools[name], problem(slug))

    @pytest.mark.parametrize("upstream", [200, 302, 408, 500])
    def test_of_an_unknown_outcome_does_not_say_that_it_would_fail_again(
        self, tools: Tools, upstream: int
    ) -> None:
        unknown = problem("create-outcome-unknown", retryable=False, upstream_status=upstream)
        text = said(tools["create-batch-job"], unknown)
        assert "may have taken effect" in text and "would fail again" not in text

    def test_of_a_refused_creation_does_not_send_to_look(self, tools: Tools) -> None:
        for status, upstream in ((400, 400), (502, 401)):
            answer = problem("upstream-refused-key", status=status, upstream_status=upstream)
            assert "may have taken effect" not in said(tools["create-batch-job"], answer)

    def test_has_the_upstream_s_words_once(self, tools: Tools) -> None:
        words = {"message": "Unknown model."}
        bare = problem("upstream-rejected", detail="Refused.", upstream=words)
        told = problem(
            "upstream-rejected", detail="The upstream said: Unknown model.", upstream=words
        )
        for answer in (bare, told):
            text = said(tools["get-batch-job"], answer)
            assert "refused it. Mistral said: Unknown model. (HTTP" in text
            assert text.count("Unknown model.") == 1

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ({"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "No."}]}}, "body.x: No."),
            ("Too late", "Too late."),
            ({"limit": float("inf")}, '{"limit": Infinity}.'),
            ([], None), ({}, None), (None, None),
        ],
    )  # fmt: skip
    def test_has_the_upstream_s_words_in_whatever_form(
        self, tools: Tools, words: Any, expected: str | None
    ) -> None:
        text = said(tools["create-batch-job"], problem("upstream-rejected", upstream=words))
        assert ("Mistral said: " in text) == (expected is not None)
        assert f"Mistral said: {expected} (HTTP" in text or expected is None

    def test_has_none_of_the_upstream_s_words_that_are_nested_too_deeply(
        self, tools: Tools
    ) -> None:
        content = b'{"title": "T", "type": "/problems#upstream-rejected", "upstream": %b}' % (
            b'{"detail":' * 950 + b"1" + b"}" * 950
        )
        assert "HTTP 400" in said(tools["create-batch-job"], content, status=400)

    def test_has_no_more_of_the_upstream_s_words_than_a_model_can_take(self, tools: Tools) -> None:
        answer = problem("upstream-rejected", upstream={"message": "x" * 50_000})
        assert len(said(tools["get-batch-job"], answer)) < 1500

    def test_has_no_more_of_any_member_than_a_model_can_take(self, tools: Tools) -> None:
        for member in ("title", "detail", "request_id"):
            answer = problem("upstream-rejected", **{member: "x" * 1_000_000})
            assert len(said(tools["get-batch-job"], answer)) < 20_000

    @pytest.mark.parametrize(
        "content",
        [b"", b"<html>Bad Gateway</html>", b"[]", b'{"detail": 1}', b"\xff\xfe", b"[" * 100_000],
    )
    def test_that_is_no_problem_document_is_told_all_the_same(
        self, tools: Tools, content: bytes
    ) -> None:
        text = said(tools["get-batch-job"], content, status=502)
        assert text.startswith("get-batch-job failed: ") and "HTTP 502" in text
        assert "html" not in text

    def test_that_is_no_problem_document_blames_only_whom_its_status_blames(
        self, tools: Tools
    ) -> None:
        tool = tools["create-batch-job"]
        assert "arguments are not at fault" in said(tool, b"", status=302)
        assert "can work in 7 seconds" in said(tool, b"", status=429, Retry_After="7")

    @pytest.mark.parametrize("errors", [[1, {"pointer": 2}, None], 5, "x", {"a": 1}])
    def test_with_members_of_wrong_types_is_told_all_the_same(
        self, tools: Tools, errors: Any
    ) -> None:
        answer = {
            "title": 5, "status": 422, "detail": ["x"], "errors": errors,
            "upstream_status": "401", "retryable": "yes", "upstream": "text", "request_id": 7,
        }  # fmt: skip
        assert "HTTP 422" in said(tools["create-batch-job"], answer)
