"""Results that do not come with their job: the bridge reads them from the files that it names, and what it tells of jobs without any."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from msgspec import Raw

from mcp_bridge.job_results.places import Row
from mcp_bridge.job_results.rows import ResultRows
from mcp_bridge.job_results.source import MOST_FILES
from mcp_bridge.shortening import MOST
from openapi.contract import load
from tests.mcp_bridge.job import chat, failed, job
from tests.mcp_bridge.rest import Rest
from tests.support.api import JOB_ID, changed_document

pytestmark = pytest.mark.anyio
Make = Callable[..., AbstractAsyncContextManager[Client]]
OUTPUT, ERRORS, INPUT = (f"{digit * 8}-1111-4111-8111-111111111111" for digit in "abc")
NAMES = ["r10", "r2", "b", "r1", "bad-1", "bad-2"]
ROWS = [chat(name) for name in ("r1", "b", "r10", "r2")]
FAILED = [failed("bad-2", "no"), failed("bad-1", {"message": "no"})]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Shelf:
    """A REST service with one job and its files, each a content or the HTTP status in its place."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        self.job = job(None, output_file=OUTPUT, error_file=ERRORS, input_files=[INPUT], total_requests=6, completed_requests=6)  # fmt: skip
        self.inline: list[Any] | bytes | int | None = None
        self.files: dict[str, bytes | int] = {
            OUTPUT: lines(ROWS),
            ERRORS: lines(FAILED),
            INPUT: lines([{"custom_id": name, "body": {}} for name in NAMES]),
        }
        rest.on_arrival = self._choose

    def _choose(self) -> None:
        path = self.rest.last.path.split("/")
        if "files" in path:
            self._answer(self.files.get(path[-2], 404))
        elif self.rest.last.query == [("inline", "true")] and self.inline is not None:
            rows = self.inline
            self._answer(rows if isinstance(rows, bytes | int) else job_text({**self.job, "outputs": rows}))  # fmt: skip
        else:
            self._answer(job_text(self.job))

    def _answer(self, content: bytes | int) -> None:
        if isinstance(content, int):
            kind = "upstream-answer-too-large" if content == 502 else "upstream-failed"
            problem = {"type": f"/problems#{kind}", "title": "No.", "status": content, "retryable": content >= 500}  # fmt: skip
            self.rest.answers(problem, content)
        else:
            self.rest.answers(content)

    @property
    def read(self) -> list[str]:
        """The files that were read, in this order."""
        paths = [arrived.path.split("/") for arrived in self.rest.arrived]
        return [path[-2] for path in paths if "files" in path]


def job_text(members: dict[str, Any]) -> bytes:
    return json.dumps(members).encode()


@pytest.fixture
def shelf(rest: Rest) -> Shelf:
    return Shelf(rest)


async def call(client: Client, **arguments: Any) -> dict[str, Any]:
    made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, **arguments})
    assert not made.is_error, made.content
    assert made.structured_content
    return made.structured_content


async def all_of(client: Client, **arguments: Any) -> list[Any]:
    found: list[Any] = []
    start: int | None = 0
    while start is not None:
        page = await call(client, inline=True, **arguments, **{"from": start})
        found += page["outputs"]
        assert page["next_from"] in (None, len(found))
        start = page["next_from"]
    return found


def names(page: dict[str, Any]) -> list[str]:
    return [row["custom_id"] for row in page["outputs"]]


class TestFiles:
    async def test_have_the_results_that_did_not_come_with_the_job(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        async with bridge() as client:
            page = await call(client, inline=True)
            of_failed = await call(client, only="failed", count=1)
        assert names(page) == NAMES
        assert page["summary"] == {"succeeded": 4, "failed": 2, "errors": [{"error": "no", "count": 2, "example": "bad-1"}]}  # fmt: skip
        assert "_note" not in page and page["status"] == "SUCCESS"
        assert of_failed["outputs"] == [{"custom_id": "bad-1", "error": "no"}]
        assert "Shows 1 to 1 of 2 failed results, in the order of the input" in of_failed["_note"]

    async def test_are_not_read_when_the_job_has_its_results(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        shelf.inline = [*FAILED, *ROWS]
        async with bridge() as client:
            assert names(await call(client, inline=True)) == NAMES
        assert shelf.read == [INPUT]

    @pytest.mark.parametrize("inline", ["too many bytes", "too many rows", 502])
    async def test_have_the_results_that_are_too_many_to_come_with_the_job(
        self, bridge: Make, shelf: Shelf, inline: Any
    ) -> None:
        too_many = {"too many bytes": [chat("x", "x" * 300_000)], "too many rows": b'{"id":"1","outputs":[%b{}]}' % (b"{}," * MOST)}  # fmt: skip
        shelf.inline = too_many.get(inline, inline)
        async with bridge(max_answer=200_000 if inline == "too many bytes" else 64 << 20) as client:
            assert names(await call(client, inline=True)) == NAMES

    async def test_are_shown_as_they_stand_when_they_are_too_many_to_be_put_in_order(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        many = [chat(f"r{number * 7919 % 1000}", "x" * 300) for number in range(1000)]
        shelf.files[OUTPUT] = lines(many)
        async with bridge(max_answer=200_000) as client:
            found = await all_of(client)
            assert [row["custom_id"] for row in found] == [row["custom_id"] for row in [*many, *FAILED]]  # fmt: skip
            page = await call(client, only="failed")
            assert names(page) == ["bad-2", "bad-1"]
            assert page["summary"]["succeeded"] == 1000 and page["summary"]["failed"] == 2
            assert shelf.read[-2:] == [ERRORS, OUTPUT]
            assert "in the order of their files" in (await call(client, count=5))["_note"]
            part = await call(client, part="outputs.999.answer", **{"from": 290})
            assert part["_part"] == {"of": "outputs.999.answer", "from": 290, "value": "x" * 10, "next_from": None}  # fmt: skip
            made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "part": "outputs.1002"})  # fmt: skip
            assert made.is_error and "outputs has 1002 items" in str(made.content)
            some = await call(client, custom_ids=["r5", "bad-1", "nobody"])
        assert names(some) == ["r5", "bad-1"] and "custom_id nobody." in some["_note"]

    @pytest.mark.parametrize("kept", [ROWS, FAILED])
    async def test_have_what_did_not_come_with_the_job_when_it_counts_more(
        self, bridge: Make, shelf: Shelf, kept: list[Any]
    ) -> None:
        shelf.inline = kept
        async with bridge() as client:
            page = await call(client, inline=True)
            shelf.files[OUTPUT] = shelf.files[ERRORS] = 404
            alone = await call(client, inline=True)
        assert names(page) == NAMES and page["summary"]["failed"] == 2
        assert sorted(names(alone)) == sorted(row["custom_id"] for row in kept)

    async def test_that_are_gone_leave_it_open_what_was_in_them(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        shelf.files[ERRORS] = 404
        async with bridge() as client:
            page = await call(client, only="failed")
            shelf.files[OUTPUT] = 404
            nothing = await call(client, inline=True)
        assert "None of them" not in page["_note"]
        assert "their file was deleted; the summary counts the others alone." in page["_note"]
        assert nothing["outputs"] is None and "summary" not in nothing

    async def test_of_an_input_that_went_between_two_pages_say_to_begin_again(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        async with bridge() as client:
            first = await call(client, count=3)
            shelf.files[INPUT] = 404
            again = await call(client, count=3)
            second = await call(client, count=3, **{"from": 3})
        assert "begin again" not in first["_note"] + again["_note"]
        assert "begin again with from 0." in second["_note"]

    async def test_of_which_there_are_very_many_are_not_all_read_or_named(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        shelf.job["output_file"] = [f"{number:08}{OUTPUT[8:]}" for number in range(500)]
        shelf.job["input_files"] = [f"{number:08}{INPUT[8:]}" for number in range(500)]
        async with bridge() as client:
            with suppress(RuntimeError):  # the client expects one id
                await call(client, inline=True)
        assert OUTPUT not in shelf.read and len(shelf.read) == MOST_FILES + 1

    @pytest.mark.parametrize("gone", [OUTPUT, ERRORS])
    async def test_that_are_gone_are_told_and_the_others_shown(
        self, bridge: Make, shelf: Shelf, gone: str
    ) -> None:
        shelf.files[gone] = 404
        async with bridge() as client:
            page = await call(client, inline=True)
        kept = [name for name in NAMES if name.startswith("bad") != (gone == ERRORS)]
        assert names(page) == kept
        assert f"that {'failed' if gone == ERRORS else 'succeeded'} are gone" in page["_note"]
        assert "ended as" not in page["_note"]

    @pytest.mark.parametrize("file", [OUTPUT, ERRORS, INPUT])
    @pytest.mark.parametrize("status", [429, 503])
    async def test_that_cannot_be_had_now_fail_the_call_since_a_page_would_miss_some(
        self, bridge: Make, shelf: Shelf, file: str, status: int
    ) -> None:
        shelf.files[file] = status
        async with bridge() as client:
            made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "inline": True})
        assert made.is_error and f"HTTP {status}" in str(made.content)

    @pytest.mark.parametrize("status", [400, 403, 404])
    async def test_of_an_input_that_is_no_more_leave_the_order_to_the_ids(
        self, bridge: Make, shelf: Shelf, status: int
    ) -> None:
        shelf.files[INPUT] = status
        async with bridge() as client:
            page = await call(client, count=5)
        assert names(page) == ["b", "bad-1", "bad-2", "r1", "r2"]
        assert "ordered by custom_id; go on with from 5." in page["_note"]

    async def test_of_several_inputs_give_one_order(self, bridge: Make, shelf: Shelf) -> None:
        second = "d" * 8 + INPUT[8:]
        shelf.job["input_files"] = [second, INPUT]
        shelf.files[second] = lines([{"custom_id": "r2", "body": {}}, {"custom_id": None}, {}])
        async with bridge() as client:
            assert names(await call(client, inline=True)) == ["r2", *NAMES[:1], *NAMES[2:]]

    async def test_of_other_forms_of_lines_are_read(self, bridge: Make, shelf: Shelf) -> None:
        shelf.files[OUTPUT] = b"\xef\xbb\xbf" + json.dumps(chat("r1")).encode() + b"\r\n\r\n  \n" + json.dumps(chat("r2")).encode()  # fmt: skip
        shelf.files[ERRORS] = b"not JSON\n" + json.dumps({**chat("odd"), "x": "\ud83d"}).encode()
        async with bridge() as client:
            page = await call(client, inline=True)
        assert names(page) == ["r2", "r1", "odd", None]
        assert page["outputs"][0] == {"custom_id": "r2", "answer": "It is a good one."}
        assert "not JSON" in page["outputs"][3]["error"] and "error" in page["outputs"][2]

    async def test_with_a_line_that_is_too_long_have_all_others(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        shelf.files[OUTPUT] = lines([chat("r1"), chat("r10", "x" * 3_000_000), chat("r2")])
        async with bridge(max_answer=4_000_000) as client:
            page = await call(client, inline=True)
        assert names(page) == ["r2", "r1", "bad-1", "bad-2", None]

    async def test_that_take_too_long_say_what_reads_them(
        self, bridge: Make, shelf: Shelf, rest: Rest
    ) -> None:
        choose = rest.on_arrival

        def hold() -> None:
            choose()
            rest.hold = asyncio.Event() if "files" in rest.last.path else None

        rest.on_arrival = hold
        async with bridge(timeout=1) as client:
            made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "inline": True})
        said = str(made.content)
        assert made.is_error and f"read-file reads them by lines, from the files {OUTPUT} and {ERRORS}." in said  # fmt: skip

    async def test_that_take_too_long_are_named_without_the_bridge_s_own_token_and_not_all(
        self, bridge: Make, shelf: Shelf, rest: Rest
    ) -> None:
        token = "sk-a-token-of-the-bridge"
        shelf.job["output_file"] = [f"{token}-{number}" for number in range(50)]
        choose = rest.on_arrival

        def hold() -> None:
            choose()
            rest.hold = asyncio.Event() if "files" in rest.last.path else None

        rest.on_arrival = hold
        async with bridge(timeout=1, rest_token=token) as client:
            made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "inline": True})
        said = str(made.content)
        assert made.is_error and "***-9 and 11 more." in said and token not in said

    async def test_that_nobody_waits_for_any_more_are_read_no_further(
        self, bridge: Make, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go, readers = threading.Event(), []
        read = ResultRows.row

        def held(reader: ResultRows, text: Raw, failed: bool | None = None) -> Row:
            readers.append(reader)
            go.wait(20)
            return read(reader, text, failed)

        monkeypatch.setattr(ResultRows, "row", held)
        async with bridge(timeout=1) as client:
            late = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "inline": True})
            go.set()
            await call(client, inline=True)  # in the same thread, after it
        assert late.is_error and readers.count(readers[0]) == 1 and len(readers) > 6

    async def test_without_an_operation_that_reads_them_are_told_of(
        self, bridge: Make, shelf: Shelf, tmp_path: Path
    ) -> None:
        def change(document: dict[str, Any]) -> None:
            del document["paths"]["/v1/files/{file-id}/content"]["get"]

        contract = load(changed_document(tmp_path, change))
        async with bridge(contract=contract) as client:
            page = await call(client, inline=True)
        assert page["outputs"] is None and "summary" not in page
        assert page["_note"] == "Its results are in files, which no tool of this caller reads."


class TestJobs:
    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"status": "FAILED"}, "It ended as FAILED without results."),
            ({"status": "CANCELLED", "total_requests": 0}, "It ended as CANCELLED without results."),
        ],
    )  # fmt: skip
    async def test_without_results_say_why(
        self, bridge: Make, shelf: Shelf, members: Any, said: str
    ) -> None:
        shelf.job |= {"output_file": None, "error_file": None, **members}
        async with bridge() as client:
            page = await call(client, inline=True)
        assert said in page["_note"]
        assert (page["outputs"], page["next_from"]) == ([], None)
        assert page["summary"] == {"succeeded": 0, "failed": 0, "errors": []}

    @pytest.mark.parametrize("arguments", [{"inline": True}, {"only": "failed"}, {"custom_ids": ["r1"]}, {"from": 3}, {"full": True}])  # fmt: skip
    async def test_that_are_not_final_have_no_results_yet_and_count_none(
        self, bridge: Make, shelf: Shelf, arguments: Any
    ) -> None:
        shelf.job |= {"status": "RUNNING", "completed_requests": 3, "succeeded_requests": 3}
        async with bridge() as client:
            page = await call(client, **arguments)
        assert page["outputs"] is None and not {"summary", "next_from"} & page.keys()
        assert "RUNNING: 3 of 6 requests done." in page["_note"]
        assert page["_note"].endswith("Results come when it is final.")
        assert shelf.read == []

    @pytest.mark.parametrize("place", ["outputs", "outputs.0", "outputs[0].answer"])
    async def test_that_are_not_final_have_no_part_of_their_results(
        self, bridge: Make, shelf: Shelf, place: str
    ) -> None:
        shelf.job |= {"status": "RUNNING"}
        async with bridge() as client:
            made = await client.call_tool("get-batch-job", {"job_id": JOB_ID, "part": place})
        assert made.is_error and "in its result: Results come when it is final." in str(made.content)  # fmt: skip

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"total_requests": 4, "succeeded_requests": 2}, "It ended as FAILED: 2 of its 4 requests have results (2 succeeded, 0 failed): call with inline true"),
            ({"total_requests": 2, "failed_requests": 1}, "It ended as FAILED: 1 of its 2 requests has a result (all 1 failed): call with inline true"),
            ({"completed_requests": 0, "output_file": None, "error_file": None}, "It ended as FAILED without results."),
        ],
    )  # fmt: skip
    async def test_that_ended_early_say_so_before_their_results_are_asked_for(
        self, bridge: Make, shelf: Shelf, members: Any, said: str
    ) -> None:
        shelf.job |= {"status": "FAILED", **members}
        async with bridge() as client:
            assert (await call(client))["_note"].startswith(said)

    async def test_with_one_result_of_two_say_so_in_the_singular(
        self, bridge: Make, shelf: Shelf
    ) -> None:
        shelf.job |= {"status": "FAILED", "total_requests": 2, "completed_requests": 1}
        shelf.inline = [chat("a")]
        async with bridge() as client:
            page = await call(client, inline=True)
        assert page["_note"] == "It ended as FAILED: 1 of its 2 requests has a result; the other was not run."  # fmt: skip

    @pytest.mark.parametrize("inline", [True, False])
    async def test_that_ended_early_say_how_many_results_there_are(
        self, bridge: Make, shelf: Shelf, inline: bool
    ) -> None:
        shelf.job |= {"status": "TIMEOUT_EXCEEDED", "total_requests": 300}
        shelf.inline = [*ROWS, *FAILED] if inline else None
        async with bridge() as client:
            page = await call(client, inline=True)
        assert "It ended as TIMEOUT_EXCEEDED: 6 of its 300 requests have results; the others were not run." in page["_note"]  # fmt: skip
        assert names(page) == NAMES

    @pytest.mark.parametrize(
        ("succeeded", "failures", "said"),
        [
            (962, 38, '962 succeeded, 38 failed: call with inline true for a summary and the results, with only "failed" for those alone.'),
            (10, 0, "10 succeeded, 0 failed: call with inline true for a summary and the results."),
            (0, 38, "All 38 failed: call with inline true for a summary and the results."),
            (0, 0, ""),
        ],
    )  # fmt: skip
    async def test_that_are_final_say_how_their_results_are_had(
        self, bridge: Make, shelf: Shelf, succeeded: int, failures: int, said: str
    ) -> None:
        shelf.job |= {"succeeded_requests": succeeded, "failed_requests": failures}
        async with bridge() as client:
            assert (await call(client)).get("_note", "") == said
        assert shelf.read == []


async def test_another_document_s_results_are_shown_by_its_own_hints(
    bridge: Make, rest: Rest, tmp_path: Path
) -> None:
    def change(document: dict[str, Any]) -> None:
        operation = document["paths"]["/v1/batch/jobs/{job-id}"]["get"]
        del operation["x-progress"], operation["x-state"]
        operation["x-results"] = {
            "member": "items",
            "id": "about.key",
            "answers": ["made.*.text", "made"],
            "errors": ["trouble"],
        }

    contract = load(changed_document(tmp_path, change))
    items = [
        {"about": {"key": "k10"}, "made": [{"text": "ten"}]},
        {"about": {"key": "k9"}, "made": [], "trouble": {"reason": "late"}},
        {"about": {"key": "k1"}, "made": {"x": [0.5, 0.25]}},
    ]
    rest.answers({"id": "1", "items": items})
    async with bridge(contract=contract) as client:
        tool = next(t for t in (await client.list_tools()).tools if t.name == "get-batch-job")
        page = await call(client, numbers=1, count=2)
        picked = await call(client, keys=["k10"])
    assert {"keys", "only", "numbers"} <= tool.input_schema["properties"].keys()
    assert page["items"] == [{"key": "k1", "answer": {"x": [0.5]}}, {"key": "k9", "error": "late"}]
    assert page["summary"]["failed"] == 1 and page["next_from"] == 2
    assert picked["items"] == [{"key": "k10", "answer": "ten"}]
